"""How far rounding alone moves each logit of a row, found in float64.

Float32 sums taken in another order differ by a share of the terms that were summed, not of the
result: a logit of 0.1 that is left of terms of 5,800,000 differs by tenths between two engines that
are both right. What was summed is seen from outside by Monte Carlo arithmetic: the network runs in
float64, with every operand off by about one float32 rounding at random, and how much a logit
scatters is what one rounding of everything costs. It takes cancellation in any layer into account,
and no knowledge of the operators.

Source: D. Stott Parker, "Monte Carlo Arithmetic", UCLA CSD-970002, 1997 (random unrounding).
"""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.agreement import Outputs, Tolerances, tolerances_for
from thresher_export.engines import Inputs, TorchEngine, in_batches
from thresher_export.parity.rows import take

__all__ = ["Rounding"]

_NUM_RUNS = 8
"""With 8 runs the scatter of one logit is never much too small: below 0.4 of it in 1 of 1,000."""

_UNIT = 2.0**-24
"""Half a float32 step of 1: what one rounding costs."""

ROUNDINGS = 64
"""How many times what one rounding of every operand costs two engines may lie apart.

A sum of many terms rounds more than once: measured between torch and ONNX Runtime, 2 to 30 over
convolutions, attention, LSTMs and tables of 5,000 columns.
"""

_NUM_DOUBTFUL = 64
"""Rows that are run at a time, in batches of 16: float64 takes twice the memory."""

_BATCH_SIZE = 16

_EXACT = 2.0**24
"""Whole numbers up to here are float32 values, and their sums are exact."""


class Rounding:
    """What rounding costs each logit of a network; rows that were asked about are kept.

    Args:
        engine: The network.
    """

    def __init__(self, engine: TorchEngine) -> None:
        self._engine = engine
        self._known: dict[bytes, npt.NDArray[np.float64]] = {}
        self.note: str | None = None
        """Why rounding could not be found, where it could not."""

    def of_rows(
        self,
        reference: Outputs,
        got: Outputs,
        inputs: Inputs,
        tolerances: Tolerances,
        *,
        is_made_up: bool,
    ) -> npt.NDArray[np.float64] | None:
        """Return float64 [N, L] for the rows that differ, 0 for the others; None if unknown.

        Only made-up rows are judged so where the body is coarser than float32: its tolerances are
        wide already. The worst rows come first, and where these differ by more than rounding, no
        others are run.

        Args:
            reference: What torch gives for the rows.
            got: What is judged.
            inputs: The rows.
            tolerances: By which they differ.
            is_made_up: Whether no split has the rows.
        """
        is_fine = tolerances == tolerances_for("fp32")
        if reference.logits_NL is None or got.logits_NL is None or not (is_fine or is_made_up):
            return None
        share = ROUNDINGS * _UNIT if is_fine else tolerances.logits_rtol
        with np.errstate(invalid="ignore"):
            error_NL = np.abs(got.logits_NL.astype(np.float64) - reference.logits_NL)
            moved_NL = np.abs(got.probabilities_NL - reference.probabilities_NL)
            limit_NL = tolerances.logits_atol + tolerances.logits_rtol * np.abs(reference.logits_NL)
        error_NL = np.where(np.isfinite(error_NL), error_NL, 0.0)
        limit_NL = np.where(np.isfinite(limit_NL), limit_NL, np.inf)
        excess_NL = error_NL / limit_NL
        excess_NL = np.fmax(excess_NL, moved_NL / tolerances.probabilities_atol)
        excess_NL[reference.labels_NL != got.labels_NL] = np.inf
        excess_N = excess_NL.max(axis=1, initial=0.0)
        rows = np.argsort(-excess_N, kind="stable")[: np.count_nonzero(excess_N > 1)]
        rounding_NL = np.zeros(error_NL.shape)
        for start in range(0, len(rows), _NUM_DOUBTFUL):
            part = rows[start : start + _NUM_DOUBTFUL]
            magnitude_RL = self.magnitude(take(inputs, part))
            if magnitude_RL is None:
                return None
            rounding_NL[part] = share * magnitude_RL
            if (error_NL[part] > limit_NL[part] + rounding_NL[part]).any():
                break
        return rounding_NL

    def magnitude(self, inputs: Inputs) -> npt.NDArray[np.float64] | None:
        """Return float64 [N, L]: the size of what was summed for each logit.

        It is the standard deviation of the logit under relative errors of standard deviation 1 in
        every operand, to first order. None where torch cannot run the network in float64.

        Args:
            inputs: Rows by input, [N, ...].
        """
        keys = [_digest(inputs, row) for row in range(len(next(iter(inputs.values()))))]
        new = [row for row, key in enumerate(keys) if key not in self._known]
        if new:
            try:
                rows = {name: array[new] for name, array in inputs.items()}
                found = np.concatenate(list(in_batches(rows, _BATCH_SIZE, self._scatter)))
            except Exception as error:  # noqa: BLE001 -- an operator that float64 does not have
                self.note = f"Rounding is not known, torch cannot run it in float64: {error!s:.200}"
                return None
            self._known.update(
                (keys[row], found_L) for row, found_L in zip(new, found, strict=True)
            )
        return np.stack([self._known[key] for key in keys])

    def _scatter(self, batch: Inputs) -> npt.NDArray[np.float64]:
        exact_NL = _in_float64(self._engine, batch, seed=None)
        squares_NL = np.zeros(exact_NL.shape)
        for seed in range(_NUM_RUNS):
            squares_NL += (_in_float64(self._engine, batch, seed=seed) - exact_NL) ** 2
        return np.nan_to_num(np.sqrt(squares_NL / _NUM_RUNS) / _UNIT, nan=0.0, posinf=0.0)


def _digest(inputs: Inputs, row: int) -> bytes:
    state = hashlib.blake2b(digest_size=16)
    for array in inputs.values():
        state.update(repr(array.shape[1:]).encode())
        state.update(np.ascontiguousarray(array[row]).tobytes())
    return state.digest()


def _in_float64(engine: TorchEngine, batch: Inputs, *, seed: int | None) -> npt.NDArray[np.float64]:
    """Return float64 [N, L] logits of a batch; with a seed, each operand is off by a rounding."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map

    noise = None if seed is None else torch.Generator().manual_seed(seed)
    short = {torch.float32, torch.float16, torch.bfloat16}
    spread = 3**0.5 * _UNIT

    def widened(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.double() if value.dtype in short else value
        return torch.float64 if isinstance(value, torch.dtype) and value in short else value

    def rounded(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float64:
            return value
        off = torch.empty_like(value).uniform_(1 - spread, 1 + spread, generator=noise)
        # ids, masks and counts that come as floats are exact, and are compared and cast as such
        is_exact = (value == value.round()) & (value.abs() <= _EXACT)
        return torch.where(is_exact, value, value * off)

    class InFloat64(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            args, kwargs = tree_map(widened, args), tree_map(widened, kwargs or {})
            if noise is not None and not func._schema.is_mutable:  # noqa: SLF001
                args = tree_map(rounded, args)
            return tree_map(widened, func(*args, **kwargs))

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the switch of oneDNN speaks of Intel's GPUs
        # oneDNN has kernels of its own for recurrent layers, and none for float64
        with torch.backends.mkldnn.flags(enabled=False), InFloat64():  # type: ignore[no-untyped-call]
            logits: npt.NDArray[np.float64] = engine(batch).double().numpy()
    return logits
