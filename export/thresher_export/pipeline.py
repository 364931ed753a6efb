"""A registered version to a published one: convert, append the head, prove, publish.

A version that shares its weights with one that is published already, and differs in its decision
alone, takes over that one's converted body: its weights are linked, not copied, and torch is not
needed.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from thresher.certificate import CERTIFICATE_FILE, Certificate, file_digest
from thresher.decision import Decision
from thresher.errors import DecisionError, NotFoundError, ParityError
from thresher.evaluation import EvaluationSplit
from thresher.registry import ModelVersion, resolve
from thresher.repository import MODEL_FILE, ModelRepository
from thresher_export.certify import certify
from thresher_export.head import append_decision_head, replace_decision_head
from thresher_export.onnx_file import load_model, save_model
from thresher_export.parity import ParityReport, prove_parity
from thresher_export.triton_config import TritonOptions, build_config

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["ExportOptions", "Exported", "export_version"]

PARITY_FILE = "parity.json"
SPLITS = ("validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """How a version is converted and served."""

    triton: TritonOptions = field(default_factory=TritonOptions)


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


def export_version(
    uri: str,
    *,
    repository: ModelRepository | None,
    options: ExportOptions | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Convert a registered version, prove that it decides as validated, and publish it.

    Args:
        uri: ``models:/NAME/N`` or ``models:/NAME@ALIAS``.
        repository: Where to publish; None proves without publishing.
        options: How it is converted, and how Triton is to run it.
        progress: Called with a line for each step before it runs.

    Raises:
        NotFoundError: If the version does not exist or lacks what training logs.
        ConversionError: If the network cannot be an ONNX model that Triton loads.
        ParityError: If ONNX Runtime does not decide as torch does; nothing is published.
        PublishError: If the repository refuses; what served before is untouched.
    """
    options = options or ExportOptions()
    version = resolve(uri)
    decision = version.decision()
    splits = {name: version.evaluation(name) for name in SPLITS}
    _check_width(version, decision, splits)
    reusable = _published_body(repository, version) if repository else None
    with _staging(repository, version.name) as staged:
        if reusable is None:
            progress(f"Converting {version.uri} to ONNX")
            program, model, weights_sha256 = _converted(version, decision)
        else:
            progress(f"Taking over the body of {version.name}/{reusable.version}")
            assert repository is not None
            published = load_model(repository.model_file(version.name, reusable.version))
            program, weights_sha256 = None, reusable.weights_sha256
            model = replace_decision_head(published, decision)
        known = _known_digests(repository, reusable)
        files = save_model(model, staged / MODEL_FILE)
        report = prove_parity(
            program,
            files[0],
            decision,
            splits,
            max_batch_size=options.triton.max_batch_size,
            progress=lambda name: progress(f"Parity: {name}"),
        )
        report.raise_if_failed(version.uri)
        parity = staged / PARITY_FILE
        parity.write_text(json.dumps(report.to_dict(), indent=1), encoding="utf-8")
        certificate = certify(
            version,
            decision,
            report,
            splits,
            files=(*files, parity),
            weights_sha256=weights_sha256,
            like=known,
        )
        (staged / CERTIFICATE_FILE).write_text(certificate.to_json(), encoding="utf-8")
        folder, is_new = None, False
        if repository is not None:
            progress(f"Publishing {version.name}/{version.version}")
            config = build_config(
                onnx.load(files[0], load_external_data=False),
                decision,
                name=version.name,
                version=version.version,
                options=options.triton,
            )
            is_new = repository.publish(version.name, version.version, staged, config, decision)
            folder = repository.model_file(version.name, version.version).parent
    return Exported(
        version=version,
        report=report,
        certificate=certificate,
        folder=folder,
        is_new=is_new,
        reused=reusable.version if reusable else None,
    )


def _check_width(
    version: ModelVersion, decision: Decision, splits: Mapping[str, EvaluationSplit]
) -> None:
    for name, split in splits.items():
        if split.logits_NL.shape[1] != decision.num_labels:
            raise DecisionError(
                f"{version.uri}: decision.json has {decision.num_labels} labels, the {name} split "
                f"has {split.logits_NL.shape[1]}"
            )


@contextlib.contextmanager
def _staging(repository: ModelRepository | None, name: str) -> Iterator[Path]:
    """Yield a folder to make the version in: where it can be moved from, or anywhere."""
    if repository is not None:
        with repository.staging(name) as folder:
            yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def _converted(version: ModelVersion, decision: Decision) -> tuple[ExportedProgram, ir.Model, str]:
    """Return torch's program, its ONNX model with the head, and the digest of the weights."""
    # torch is slow to load, and not needed where a body is taken over
    from thresher_export.convert import convert, load_program

    path = version.model_folder() / "data" / "model.pt2"
    program = load_program(path)
    return program, append_decision_head(convert(program), decision), file_digest(path)


def _known_digests(
    repository: ModelRepository | None, reusable: Certificate | None
) -> dict[Path, str]:
    """Return the digests of the files of the version whose body is taken over."""
    if repository is None or reusable is None:
        return {}
    folder = repository.model_file(reusable.model, reusable.version).parent
    return {folder / name: digest for name, digest in reusable.files.items()}


def _published_body(repository: ModelRepository, version: ModelVersion) -> Certificate | None:
    """Return the newest other version in the repository that was converted from these weights."""
    try:
        published = repository.versions(version.name)
    except NotFoundError:
        return None
    for number in reversed(published):
        if number == version.version:
            continue
        with contextlib.suppress(ParityError):
            certificate = Certificate.load(repository.model_file(version.name, number).parent)
            if certificate.source == version.source:
                return certificate
    return None
