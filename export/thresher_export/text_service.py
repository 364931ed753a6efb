"""The companion of a text model, `NAME.text`: its input is a text, its outputs are the model's.

Requires: a version that was trained on tokens of the file that is logged with its run.
Does: publishes that tokenizer as version N of ``NAME.text``, a model of Triton's that makes tokens
of texts and asks version N of NAME, never another one.
Ensures: the tokenizer's digest is in a certificate, so a changed one is refused; labels, thresholds
and version numbers are those of NAME.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from thresher.certificate import CERTIFICATE_FILE, Certificate, file_digest
from thresher.config_pbtxt import copy_version
from thresher.decision import Decision
from thresher.errors import ConfigError, NotFoundError, PublishError
from thresher.evaluation import EvaluationSplit
from thresher.published_models import COMPANION_KEY, TEXT_SUFFIX, TOKENIZER_FILE, TOKENS_FILE
from thresher.registry import ModelVersion
from thresher.repository import ModelRepository

__all__ = ["TextService", "check_is_no_companion", "text_service"]

BACKEND = "tokenizer"
TEXT_INPUT = "text"
TOKENIZER_ASSET = f"assets/{TOKENIZER_FILE}"

_TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_INTEGERS = {pb.TYPE_INT32: "int32", pb.TYPE_INT64: "int64"}


def check_is_no_companion(repository: ModelRepository, name: str) -> None:
    """Raise PublishError where a name is that of a published model's companion."""
    model = name.removesuffix(TEXT_SUFFIX)
    if model != name and name in repository.companions(model):
        raise PublishError(
            f"{name} is what {model} is asked by with texts; register the model under another "
            f"name, or remove {repository.root / name}"
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TextService:
    """What a version's texts are made into tokens with."""

    version: ModelVersion
    tokenizer: Path
    max_length: int
    """The tokens that training kept of a text."""

    @property
    def name(self) -> str:
        """The model that takes texts."""
        return f"{self.version.name}{TEXT_SUFFIX}"

    def publish(
        self,
        repository: ModelRepository,
        config: Any,
        decision: Decision,
        certificate: Certificate,
    ) -> bool:
        """Publish the companion's version; return False where it was there already.

        It serves once the repository lets it follow the model (`align_companions`).

        Args:
            repository: Where the model itself is published.
            config: The model's own `ModelConfig`.
            decision: What the version decides.
            certificate: Of the model's version.

        Raises:
            ConfigError: If the model takes what no tokenizer gives.
            PublishError: If the repository refuses.
        """
        if not self._is_free(repository):
            raise PublishError(
                f"{repository.root / self.name} is another model, so there is no place for the "
                f"one that takes texts for {self.version.name}. Remove it, or export without text"
            )
        with repository.staging(self.name) as staged:
            (staged / TOKENIZER_FILE).write_bytes(self.tokenizer.read_bytes())
            (staged / TOKENS_FILE).write_text(json.dumps(self._tokens(config), indent=1) + "\n")
            files = {file: file_digest(staged / file) for file in (TOKENIZER_FILE, TOKENS_FILE)}
            own = dataclasses.replace(certificate, model=self.name, files=files)
            (staged / CERTIFICATE_FILE).write_text(own.to_json(), encoding="utf-8")
            return repository.publish(
                *(self.name, self.version.version, staged, self._config(config), decision),
                serve=False,
            )

    def _is_free(self, repository: ModelRepository) -> bool:
        try:
            repository.read_config(self.name)
        except NotFoundError:
            return True
        return self.name in repository.companions(self.version.name)

    def _tokens(self, config: Any) -> dict[str, Any]:
        """Return what the tokenizer's rows are to be like."""
        inputs = {}
        for tensor in config.input:
            if tensor.name not in _TOKEN_INPUTS or tensor.data_type not in _INTEGERS:
                raise ConfigError(
                    f"{self.version.uri}: no tokenizer gives its input {tensor.name} "
                    f"({pb.DataType.Name(tensor.data_type)}), so it cannot take texts; expected "
                    f"{', '.join(_TOKEN_INPUTS)}, INT32 or INT64. Export it without text"
                )
            inputs[tensor.name] = _INTEGERS[tensor.data_type]
        lengths = {tensor.name: tensor.dims[-1] for tensor in config.input}
        if "input_ids" not in inputs or len(set(lengths.values())) > 1:
            raise ConfigError(
                f"{self.version.uri} takes {lengths}, expected input_ids, and all of one length; "
                "export it without text"
            )
        return {
            "model": self.version.name,
            "max_length": self.max_length,
            "length": lengths["input_ids"],
            "inputs": inputs,
        }

    def _config(self, model: Any) -> Any:
        """Return the companion's `ModelConfig`, given the model's."""
        config = pb.ModelConfig(
            name=self.name, backend=BACKEND, max_batch_size=model.max_batch_size
        )
        config.input.add(name=TEXT_INPUT, data_type=pb.TYPE_STRING, dims=[1])
        config.output.extend(model.output)
        config.version_policy.specific.versions.append(self.version.version)
        config.dynamic_batching.SetInParent()  # whatever waits is asked for together
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
        copy_version(self.version.version, source=model, target=config)
        config.parameters[COMPANION_KEY].string_value = self.version.name
        return config


def text_service(version: ModelVersion, rows: EvaluationSplit) -> TextService:
    """Return what makes tokens of a version's texts.

    Args:
        version: The version.
        rows: Rows that it was evaluated on; training pads each to the tokens it keeps of a text.

    Raises:
        ConfigError: If it was not trained on tokens, or its run has no tokenizer.
    """
    try:
        tokenizer = version.training_artifact(TOKENIZER_ASSET)
    except NotFoundError as error:
        raise ConfigError(
            f"{version.uri} cannot take texts: {error}. A recipe with the source "
            "thresher_training.sources:text logs the tokenizer; export others without text"
        ) from None
    ids = rows.inputs.get("input_ids")
    if ids is None or ids.ndim != 2:
        raise ConfigError(
            f"{version.uri} cannot take texts: it takes {', '.join(rows.inputs)}, expected "
            "input_ids [N, T]; export it without text"
        )
    return TextService(version=version, tokenizer=tokenizer, max_length=ids.shape[1])
