"""The rows that a model was validated and tested on, kept with the run that trained it.

Training logs one file a split; export and serving read them to prove parity row by row.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher.errors import DataError, NotFoundError

__all__ = ["EvaluationSplit"]

_INPUT = "input/"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EvaluationSplit:
    """One split's inputs, targets and logits.

    Args:
        inputs: The network's inputs by name, each [N, ...].
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        logits_NL: float32 [N, L], what the trained network gave in evaluation mode.
        held_out_logits_NL: float32 [N, L], each row's logits by a network that had not seen it,
            where the network of `logits_NL` has; None where it has not either.

    Raises:
        DataError: If the parts do not have the same number of rows or labels.
    """

    inputs: Mapping[str, npt.NDArray[Any]]
    targets_NL: FloatArray
    logits_NL: FloatArray
    held_out_logits_NL: FloatArray | None = None

    def __post_init__(self) -> None:
        shapes = {"logits": self.logits_NL.shape, "targets": self.targets_NL.shape}
        if self.held_out_logits_NL is not None:
            shapes["held-out logits"] = self.held_out_logits_NL.shape
        if self.targets_NL.ndim != 2 or len(set(shapes.values())) > 1:
            raise DataError(f"targets and logits must all be [N, L], got {shapes}")
        for name, array in self.inputs.items():
            if len(array) != len(self):
                raise DataError(f'input "{name}" has {len(array)} rows, targets have {len(self)}')

    def __len__(self) -> int:
        return len(self.targets_NL)

    @property
    def unseen_logits_NL(self) -> FloatArray:  # noqa: N802 -- the house's shape suffix
        """Logits that thresholds may be chosen by: the row was new to whatever gave them."""
        return self.logits_NL if self.held_out_logits_NL is None else self.held_out_logits_NL

    @property
    def digest(self) -> str:
        """The SHA-256 of every name, shape, kind and value, as hexadecimal digits."""
        state = hashlib.sha256()
        for name, array in sorted(self._arrays().items()):
            state.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()

    def rows(self, at: slice | Sequence[int]) -> dict[str, npt.NDArray[Any]]:
        """Return the inputs of some rows, by name."""
        return {name: array[at] for name, array in self.inputs.items()}

    def save(self, path: Path) -> None:
        """Write the split as a compressed NPZ file."""
        np.savez_compressed(path, allow_pickle=False, **self._arrays())

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all arrays by the names that they have in a file."""
        arrays: dict[str, npt.NDArray[Any]] = {f"{_INPUT}{k}": v for k, v in self.inputs.items()}
        arrays |= {"targets": self.targets_NL, "logits": self.logits_NL}
        if self.held_out_logits_NL is not None:
            arrays["held_out_logits"] = self.held_out_logits_NL
        return arrays

    @classmethod
    def load(cls, path: Path) -> EvaluationSplit:
        """Return the split in an NPZ file; nothing pickled is read.

        Raises:
            NotFoundError: If there is no such file.
            DataError: If it is not an evaluation split.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise NotFoundError(f"{path}: no such file; expected an evaluation split") from None
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not an evaluation split: {error}") from None
        missing = {"targets", "logits"} - set(arrays)
        if missing:
            raise DataError(f"{path}: not an evaluation split: no {', '.join(sorted(missing))}")
        return cls(
            inputs={k.removeprefix(_INPUT): v for k, v in arrays.items() if k.startswith(_INPUT)},
            targets_NL=arrays["targets"],
            logits_NL=arrays["logits"],
            held_out_logits_NL=arrays.get("held_out_logits"),
        )
