"""What a version says about rows: probabilities, labels by name, and the forms to read them in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher.errors import DataError, MissingExtraError, NotANumberError, counted
from thresher.terminal import printable
from thresher_serving.client.failures import ChangedError
from thresher_serving.client.metadata import ModelMetadata

__all__ = ["NamedLabel", "Prediction", "check_agrees", "check_is_number", "prediction_of"]

_MAX_ROWS_NAMED = 5

Array = npt.NDArray[Any]

_EDGE_ROWS, _MOST_SHOWN = 3, 6
"""How many rows at each end, and labels of a row, a printed answer shows."""


class NamedLabel(NamedTuple):
    """One label of one row; the threshold is None where the model tells none."""

    name: str
    probability: float
    threshold: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Prediction:
    """What one version of a model says about N rows and L labels."""

    probabilities: FloatArray
    """float32 [N, L]."""

    labels: npt.NDArray[np.bool_]
    """bool [N, L]: the server's own yes or no."""

    label_names: tuple[str, ...]
    """L names; "label_0" and so on where the model's configuration names none."""

    thresholds: FloatArray | None
    """float32 [L]; None where the model's configuration holds none."""

    model_name: str
    """The model that answered."""

    model_version: int
    """The version that answered, the same one for each row."""

    logits: FloatArray | None = None
    """float32 [N, L] if they were asked for."""

    certificate_sha256: str = ""
    """Of the certificate of the version that answered; empty if the server names none."""

    def __len__(self) -> int:
        return len(self.probabilities)

    def __repr__(self) -> str:
        """Return a few rows with their labels, however many there are."""
        number = len(self)
        size = f"{counted(number, 'row')} x {counted(len(self.label_names), 'label')}"
        head = f"<Prediction by {self.model_name} version {self.model_version}: {size}"
        shown: list[int | None] = list(range(number))
        if number > 2 * _EDGE_ROWS:  # the middle is left out, as NumPy does
            shown = [*range(_EDGE_ROWS), None, *range(number - _EDGE_ROWS, number)]
        lines = ["..." if row is None else f"{row}: {self._shown(row)}" for row in shown]
        return printable("\n  ".join([head, *lines]) + ">")

    def named(self, row: int, *, every: bool = False) -> list[NamedLabel]:
        """Return the labels that a row has, with their probabilities and thresholds.

        Args:
            row: Which row.
            every: Whether to return all L labels, those that the row does not have too.
        """
        columns = range(len(self.label_names)) if every else np.flatnonzero(self.labels[row])
        return [self._named(row, int(at)) for at in columns]

    def top(self, k: int) -> list[list[NamedLabel]]:
        """Return each row's k most probable labels, whether they reach their thresholds or not.

        Args:
            k: How many; all L where there are fewer. NaN comes last, equals in the labels' order.

        Raises:
            DataError: If k is below 1.
        """
        if k < 1:
            raise DataError(f"k is {k}, expected at least 1")
        order_NK = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :k]
        return [[self._named(row, int(at)) for at in order] for row, order in enumerate(order_NK)]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return a dictionary for each row: its "labels", and "probabilities" by label name."""
        return [
            {
                "labels": [self.label_names[at] for at in np.flatnonzero(labels_L)],
                "probabilities": dict(zip(self.label_names, p_L.tolist(), strict=True)),
            }
            for labels_L, p_L in zip(self.labels, self.probabilities, strict=True)
        ]

    def to_arrow(self) -> Any:
        """Return a `pyarrow.Table` with a line for each row and label, N x L in all.

        Its columns are row (int64), label (dictionary of strings), probability (float32),
        threshold (float32, null where the model tells none) and predicted (bool).

        Raises:
            MissingExtraError: If pyarrow is not installed.
        """
        try:
            import pyarrow
        except ModuleNotFoundError:
            raise MissingExtraError(
                "a table needs the package pyarrow; install it with: pip install pyarrow"
            ) from None
        num_rows, num_labels = self.probabilities.shape
        label = np.tile(np.arange(num_labels, dtype=np.int32), num_rows)
        threshold = (
            pyarrow.nulls(num_rows * num_labels, pyarrow.float32())
            if self.thresholds is None
            else pyarrow.array(np.tile(self.thresholds, num_rows))
        )
        return pyarrow.table(
            {
                "row": np.repeat(np.arange(num_rows), num_labels),
                "label": pyarrow.DictionaryArray.from_arrays(
                    label, pyarrow.array(self.label_names, pyarrow.string())
                ),
                "probability": np.ravel(self.probabilities),
                "threshold": threshold,
                "predicted": np.ravel(self.labels),
            }
        )

    def to_pandas(self) -> Any:
        """Return a `pandas.DataFrame` with the lines and columns of `to_arrow`.

        Raises:
            MissingExtraError: If pandas or pyarrow is not installed.
        """
        table = self.to_arrow()
        try:
            return table.to_pandas()
        except ModuleNotFoundError:
            raise MissingExtraError(
                "a data frame needs the package pandas; install it with: pip install pandas"
            ) from None

    def _shown(self, row: int) -> str:
        """Return a row's labels on one line, the most probable first."""
        labels = sorted(self.named(row), key=lambda label: -label.probability)
        texts = [f"{label.name} {label.probability:.3f}" for label in labels[:_MOST_SHOWN]]
        if len(labels) > _MOST_SHOWN:
            texts.append(f"and {len(labels) - _MOST_SHOWN} more")
        return ", ".join(texts) or "no label"

    def _named(self, row: int, at: int) -> NamedLabel:
        limit = None if self.thresholds is None else float(self.thresholds[at])
        return NamedLabel(self.label_names[at], float(self.probabilities[row, at]), limit)


def check_is_number(prediction: Prediction) -> Prediction:
    """Return an answer as it is.

    Raises:
        NotANumberError: If it holds NaN: no threshold says yes or no to that.
    """
    nan_N = np.isnan(prediction.probabilities).any(axis=1)
    if not nan_N.any():
        return prediction
    rows = np.flatnonzero(nan_N).tolist()
    named = ", ".join(map(str, rows[:_MAX_ROWS_NAMED]))
    more = f" and {len(rows) - _MAX_ROWS_NAMED} more" if len(rows) > _MAX_ROWS_NAMED else ""
    raise NotANumberError(
        f"model {prediction.model_name} version {prediction.model_version} gives NaN for "
        f"{len(rows)} of {len(prediction)} rows: row {named}{more}. A text without a token (an "
        "attention mask of zeros) is the usual cause: leave such rows out or give them a token. "
        "The other rows' answers are in this error's attribute prediction; "
        "allow_nonfinite=True returns NaN as it is",
        rows=rows,
        prediction=prediction,
    )


def check_agrees(model: ModelMetadata, arrays: Mapping[str, Array]) -> None:
    """Do nothing where an answer can be one of this version with these thresholds.

    Args:
        model: The version that answered.
        arrays: "probabilities" [N, L], and if they were asked for "labels" and "logits".

    Raises:
        ChangedError: If the labels are others, or not as many.
    """
    probabilities, decision = arrays["probabilities"], model.decision
    if decision is None:
        return
    if probabilities.shape[-1] != decision.num_labels:
        why = f"{probabilities.shape[-1]} probabilities for {decision.num_labels} labels"
        raise ChangedError.of(model.name, model.version, why)
    labels = arrays.get("labels")
    if labels is not None and not np.array_equal(labels, decision.decide(probabilities)):
        why = "its labels are not what the thresholds of its configuration give"
        raise ChangedError.of(model.name, model.version, why)


def prediction_of(model: ModelMetadata, arrays: Mapping[str, Array]) -> Prediction:
    """Return what a version answered, with the names and thresholds of that very version.

    Args:
        model: The version that answered.
        arrays: What `check_agrees` has let pass.
    """
    probabilities = arrays["probabilities"]
    decision = model.decision
    names = tuple(f"label_{at}" for at in range(probabilities.shape[-1]))
    labels = arrays.get("labels")
    if labels is None:
        assert decision is not None
        labels = decision.decide(probabilities)
    return Prediction(
        probabilities=probabilities,
        labels=labels,
        label_names=names if decision is None else decision.labels,
        thresholds=None if decision is None else decision.thresholds,
        model_name=model.name,
        model_version=model.version,
        logits=arrays.get("logits"),
        certificate_sha256=model.certificate_sha256,
    )
