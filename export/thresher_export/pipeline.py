"""A registered version to a published one: convert, append the head, prove, publish.

A version that shares its weights with one that is published already, and differs in its decision
alone, takes over that one's converted body: its weights are linked, not copied, and torch is not
needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from thresher.artifacts.input_spec import InputSpec
from thresher.certificate import CERTIFICATE_FILE, Certificate, file_digest
from thresher.config import to_mapping
from thresher.decision import Decision
from thresher.errors import ConfigError, DecisionError, NotFoundError
from thresher.evaluation import EvaluationSplit
from thresher.registry import (
    DECISION_DIGEST,
    ModelVersion,
    connect,
    register_certificate,
    resolve,
)
from thresher.repository import MODEL_FILE, ModelRepository
from thresher.served_state import ServedState
from thresher.tolerances import tolerances_for
from thresher_export.certify import certify
from thresher_export.converted import converted
from thresher_export.golden import write_golden
from thresher_export.graph_name import name_by_content
from thresher_export.head import append_decision_head, replace_decision_head
from thresher_export.onnx_file import load_model, save_model
from thresher_export.parity import (
    ParityReport,
    log_parity_report,
    prove_parity,
    write_parity_report,
)
from thresher_export.precision import (
    Precision,
    check_precision,
    tolerances_of,
)
from thresher_export.published import (
    SETTINGS_FACT,
    check_precision_is_the_same,
    known_digests,
    published_body,
)
from thresher_export.scoring_files import write_scoring_files
from thresher_export.text_service import TextService, check_is_no_companion, text_service
from thresher_export.triton_config import build_config
from thresher_export.triton_options import SECTION, TritonOptions, laid_over
from thresher_export.triton_releases import DEFAULT_TARGET, check_loadable, triton_release
from thresher_export.tuned_rows import check_tuned_rows
from thresher_export.warmup import add_warmup

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["ExportOptions", "Exported", "export_version"]

SPLITS = ("validation", "test")
RECIPE_FILE = "recipe.toml"
EVIDENCE_FOLDER = Path(".thresher") / "parity"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """How a version is converted and served."""

    precision: Precision = "fp32"
    """What the body computes in; the head and the layer before it are FP32 always."""
    target_triton: str | None = None
    """The Triton release that serves, or the oldest that may; None is the oldest of the table."""
    has_sigmoid: bool = False
    """The network ends in a sigmoid, which is taken off: the head brings its own."""
    triton: TritonOptions = field(default_factory=TritonOptions)
    """How Triton is to run it, where neither the recipe nor ``settings`` says otherwise."""
    serve: bool = True
    """Whether it is to serve; False publishes it beside the version that serves, for a rollout."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Keys of `TritonOptions`, nested, that win over the section ``[triton]`` of the recipe."""

    def __post_init__(self) -> None:
        check_precision(self.precision)
        triton_release(self.release)

    @property
    def release(self) -> str:
        """The name of the Triton release that the model is made for."""
        return self.target_triton or DEFAULT_TARGET

    @property
    def settings_sha256(self) -> str:
        """The digest of how Triton is asked to run it; a recipe, which never changes, is not in."""
        asked = [self.release, to_mapping(self.triton), self.settings]
        return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What an export did."""

    version: ModelVersion
    report: ParityReport
    certificate: Certificate
    folder: Path | None
    """The published version's folder, None where nothing was to be published."""
    is_new: bool
    """False where the very same version was published already."""
    reused: int | None
    """The published version whose body was taken over, None where it was converted."""
    text_name: str | None
    """The model that takes texts for this one, None where there is none."""
    kept: str = ""
    """Why what serves was left as it is, though the version was to serve; else empty."""


def export_version(
    uri: str,
    *,
    repository: ModelRepository | None,
    options: ExportOptions | None = None,
    since: ServedState | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Convert a registered version, prove that it decides as validated, and publish it.

    Args:
        uri: ``models:/NAME/N`` or ``models:/NAME@ALIAS``.
        repository: Where to publish; None proves without publishing.
        options: How it is converted, and how Triton is to run it.
        since: What served when the version was chosen, by default what serves now. Where a rollout
            or a rollback changes that until the version is published, it is published all the same,
            and what serves is left as it is.
        progress: Called with a line for each step before it runs.

    Raises:
        NotFoundError: If the version does not exist or lacks what training logs.
        ConfigError: If the options, or the recipe's section ``[triton]``, are wrong, or texts are
            asked for where there is no tokenizer.
        ConversionError: If the network cannot be an ONNX model that Triton loads.
        ParityError: If ONNX Runtime does not decide as torch does, or a decision flips on a row
            that its threshold was chosen on; nothing is published.
        PublishError: If the repository refuses; what served before is untouched.
    """
    options = options or ExportOptions()
    version = resolve(uri)
    if repository is not None:
        since = since or ServedState.of(repository, version.name)
        check_is_no_companion(repository, version.name)
        check_precision_is_the_same(repository, version, options.precision)
    if version.program_sha256 is None:
        progress(
            f"Warning: {version.uri} was registered without a digest of its weights; nothing says "
            "that they are the ones that were trained. Versions that are registered now have one"
        )
    if DECISION_DIGEST not in version.tags:
        progress(
            f"Warning: {version.uri} was registered without a digest of its decision; nothing says "
            "that its thresholds are the ones that were chosen. Versions that are registered now "
            "have one"
        )
    triton = _triton_options(version, options)
    decision = version.decision()
    splits = {name: version.evaluation(name) for name in SPLITS}
    _check_width(version, decision, splits)
    # once a model takes texts, each of its versions does: they are rolled out together
    takes_texts = repository is not None and bool(repository.companions(version.name))
    texts = text_service(version, splits[SPLITS[0]]) if triton.text or takes_texts else None
    reusable = published_body(repository, version, options.precision, progress)
    with _staging(repository, version.name) as staged:
        program, model, weights_sha256 = _model(
            version, decision, splits[SPLITS[0]], reusable, repository, options, progress
        )
        check_loadable(model, options.release)
        name_by_content(model)
        known = known_digests(repository, reusable)
        files = save_model(model, staged / MODEL_FILE)
        tolerances = tolerances_of(model)
        del model  # its weights are on the disk, and torch holds those of the reference
        report = prove_parity(
            program,
            files[0],
            decision,
            splits,
            max_batch_size=triton.max_batch_size,
            tolerances=tolerances,
            precision=options.precision,
            evidence=EVIDENCE_FOLDER / f"{version.name}-{version.version}",
            progress=lambda name: progress(f"Parity: {name}"),
        )
        report.raise_if_failed(version.uri)
        report = check_tuned_rows(
            version,
            decision,
            splits[SPLITS[0]],
            report,
            is_exact=tolerances == tolerances_for("fp32"),
        )
        proof = list(write_parity_report(report, staged, what=version.uri))
        golden = write_golden(
            files[0], splits[SPLITS[0]], decision, batch_size=triton.max_batch_size
        )
        if golden is not None:
            proof.append(golden)
        proof += write_scoring_files(version, splits[SPLITS[0]], decision, staged)
        certificate = certify(
            version,
            decision,
            report,
            splits,
            files=(*files, *proof),
            weights_sha256=weights_sha256,
            like=known,
            precision=options.precision,
        )
        (staged / CERTIFICATE_FILE).write_text(certificate.to_json(), encoding="utf-8")
        folder, is_new = None, False
        if repository is not None:
            progress(f"Publishing {version.name}/{version.version}")
            is_new = _publish(
                *(repository, version, staged, decision, certificate),
                options=options,
                triton=triton,
                splits=splits,
                texts=texts,
                since=since,
            )
            folder = repository.model_file(version.name, version.version).parent
            certificate = Certificate.load(folder)  # with the configuration that it binds
            _register_certificates(repository, version, texts, progress)
    try:
        log_parity_report(report, version)
    except (
        connect().MlflowException,
        OSError,
    ) as error:  # what is published is proven all the same
        progress(f"The parity report could not be logged to MLflow: {error}")
    return Exported(
        version=version,
        report=report,
        certificate=certificate,
        folder=folder,
        is_new=is_new,
        reused=reusable.version if reusable else None,
        text_name=texts.name if texts and repository is not None else None,
        kept=_kept(repository, version, options, progress),
    )


def _kept(
    repository: ModelRepository | None,
    version: ModelVersion,
    options: ExportOptions,
    progress: Callable[[str], None],
) -> str:
    """Return, and show, why a version that was to serve does not; empty where it does."""
    if repository is None or not options.serve:
        return ""
    served = repository.served_versions(version.name)
    if version.version in served:
        return ""
    text = (
        f"{version.name}/{version.version} is published and does not serve: version "
        f"{', '.join(map(str, served))} was put into service while the export ran, and stays. "
        f"Run: thresher rollout {version.name}/{version.version}"
    )
    progress(text)
    return text


def _model(
    version: ModelVersion,
    decision: Decision,
    validation: EvaluationSplit,
    reusable: Certificate | None,
    repository: ModelRepository | None,
    options: ExportOptions,
    progress: Callable[[str], None],
) -> tuple[ExportedProgram | None, ir.Model, str]:
    """Return torch's program where one was converted, the model, and its weights' digest."""
    if reusable is not None:
        assert repository is not None
        progress(f"Taking over the body of {version.name}/{reusable.version}")
        published = load_model(repository.model_file(version.name, reusable.version))
        return None, replace_decision_head(published, decision), reusable.weights_sha256
    progress(f"Converting {version.uri} to ONNX, {options.precision}")
    if options.has_sigmoid:
        progress("Taking off the sigmoid that the network ends in")
    program, body, weights_sha256 = converted(
        version,
        validation,
        precision=options.precision,
        target_triton=options.release,
        has_sigmoid=options.has_sigmoid,
    )
    return program, append_decision_head(body, decision), weights_sha256


def _publish(
    repository: ModelRepository,
    version: ModelVersion,
    staged: Path,
    decision: Decision,
    certificate: Certificate,
    *,
    options: ExportOptions,
    triton: TritonOptions,
    splits: Mapping[str, EvaluationSplit],
    texts: TextService | None,
    since: ServedState | None,
) -> bool:
    """Publish a version and what takes its texts; return False where all was there already."""
    spec = InputSpec.load(staged)
    config = build_config(
        onnx.load(staged / MODEL_FILE, load_external_data=False),
        decision,
        name=version.name,
        version=version.version,
        options=triton,
        release=options.release,
        facts={
            "run": version.run_id,
            "precision": options.precision,
            SETTINGS_FACT: options.settings_sha256,
            **({} if spec is None else {"inputs": spec.for_configuration().to_json()}),
        },
    )
    beside: dict[str, bytes] = {}
    if triton.warmup and not config.model_warmup:
        beside = add_warmup(config, splits[SPLITS[0]].inputs, version=version.version)
    is_new = False
    comes_first = bool(repository.companions(version.name))
    if texts is not None and comes_first:  # idle until the model itself is there
        is_new |= texts.publish(repository, config, decision, certificate)
    is_new |= repository.publish(
        *(version.name, version.version, staged, config, decision),
        beside=beside,
        serve=options.serve,
        since=since,
    )
    if texts is not None and not comes_first:
        is_new |= texts.publish(repository, config, decision, certificate)
    return bool(repository.align_companions(version.name)) or is_new


def _register_certificates(
    repository: ModelRepository,
    version: ModelVersion,
    texts: TextService | None,
    progress: Callable[[str], None],
) -> None:
    """Write down in MLflow which certificates were issued, so that no other passes for them."""
    for name in [version.name] if texts is None else [version.name, texts.name]:
        path = repository.model_file(name, version.version).with_name(CERTIFICATE_FILE)
        try:
            register_certificate(version.name, version.version, file_digest(path))
        except NotFoundError as error:  # what is published is proven all the same
            progress(f"Warning: the certificate of {name} could not be registered: {error}")


def _check_width(
    version: ModelVersion, decision: Decision, splits: Mapping[str, EvaluationSplit]
) -> None:
    for name, split in splits.items():
        if split.logits_NL.shape[1] != decision.num_labels:
            raise DecisionError(
                f"{version.uri}: decision.json has {decision.num_labels} labels, the {name} split "
                f"has {split.logits_NL.shape[1]}. Register a version whose decision was made for "
                "this network: thresher tune"
            )


def _triton_options(version: ModelVersion, options: ExportOptions) -> TritonOptions:
    """Return the options with what the version's recipe says, and what wins over that."""
    layers: list[tuple[str, Mapping[str, Any]]] = []
    run = connect().MlflowClient()
    if any(file.path == RECIPE_FILE for file in run.list_artifacts(version.run_id)):
        try:
            recipe = tomllib.loads(version.artifact(RECIPE_FILE).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{version.uri}: {RECIPE_FILE}: not valid TOML: {error}") from None
        layers.append((f"{version.uri}: {RECIPE_FILE}", recipe.get(SECTION, {})))
    layers.append(("--set", options.settings))
    triton = laid_over(options.triton, *layers)
    if triton.tensorrt is not None and options.target_triton is None:
        raise ConfigError(
            f"{version.uri}: triton.tensorrt needs the Triton release that serves, since TensorRT "
            "differs from one to the next: --target-triton RELEASE, such as 26.08"
        )
    return triton


@contextlib.contextmanager
def _staging(repository: ModelRepository | None, name: str) -> Iterator[Path]:
    """Yield a folder to make the version in: where it can be moved from, or anywhere."""
    if repository is not None:
        with repository.staging(name) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)
