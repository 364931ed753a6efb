"""The published version that scores: its file, its decision, its inputs, and their making."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thresher.artifacts.input_spec import InputSpec
from thresher.certificate import CERTIFICATE_FILE, file_digest
from thresher.decision import Decision
from thresher.errors import DataError, ParityError
from thresher.published_models import PublishedModels
from thresher_serving.client.metadata import ModelMetadata, TensorMetadata

__all__ = ["ScoredVersion"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredVersion:
    """A version that was proven, as a job needs to know it."""

    model: ModelMetadata
    """Its inputs, and the most rows in a request to Triton."""
    decision: Decision
    file: Path
    """Its ONNX model."""
    certificate_sha256: str
    """Of its certificate; empty for a version that has none."""
    input_spec: InputSpec | None
    """How a table's rows become inputs; None where training did not say."""

    @classmethod
    def published(
        cls, repository: PublishedModels, name: str, version: int, *, unproven: bool = False
    ) -> ScoredVersion:
        """Return a version in a model repository, its bytes compared with its certificate.

        Args:
            repository: The repository.
            name: The model.
            version: Its version.
            unproven: Take it though nothing, or something else, was proven of it.

        Raises:
            NotFoundError: If there is no such model or version.
            ParityError: If it is not what was proven.
            DataError: If it takes no batches of rows.
        """
        try:
            repository.check_proven(name, version)
        except ParityError:
            if not unproven:
                raise
        decision = repository.decision(name, version)
        config = repository.own_config(name, version)
        if config.max_batch_size < 1:
            raise DataError(
                f"{name}/{version} takes one row at a time (max_batch_size is 0); export it with "
                "a batch axis"
            )
        file = repository.model_file(name, version)
        certificate = file.parent / CERTIFICATE_FILE
        return cls(
            model=ModelMetadata(
                name=name,
                version=version,
                versions=(version,),
                max_batch_size=config.max_batch_size,
                inputs=_tensors(config.input),
                outputs=_tensors(config.output),
                decision=decision,
            ),
            decision=decision,
            file=file,
            certificate_sha256=file_digest(certificate) if certificate.is_file() else "",
            input_spec=InputSpec.load(file.parent),
        )

    @property
    def title(self) -> str:
        """NAME/VERSION."""
        return f"{self.model.name}/{self.model.version}"

    @property
    def row_bytes(self) -> int:
        """About how large the inputs of a row are; an axis of any size counts as 64."""
        return sum(
            math.prod(64 if size == -1 else size for size in tensor.shape) * tensor.dtype.itemsize
            for tensor in self.model.inputs.values()
        )


def _tensors(listed: Any) -> dict[str, TensorMetadata]:
    """Return a configuration's inputs or outputs by name."""
    from tritonclient.grpc.model_config_pb2 import DataType

    def datatype(kind: int) -> str:
        short = str(DataType.Name(kind)).removeprefix("TYPE_")
        return "BYTES" if short == "STRING" else short

    return {
        tensor.name: TensorMetadata(
            name=tensor.name, datatype=datatype(tensor.data_type), shape=tuple(tensor.dims)
        )
        for tensor in listed
    }
