"""What is written of each row: id columns, label names, probabilities."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from thresher.errors import ConfigError, unknown_name
from thresher.tables.rows import Reject
from thresher_serving.scoring.engines import Answers
from thresher_serving.scoring.model import ScoredVersion

__all__ = ["LabelForm", "OutputForm", "ProbabilityForm", "rejects_table"]

LabelForm = Literal["names", "multihot", "both"]
ProbabilityForm = Literal["all", "positive", "top5", "none"]

_TOP = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputForm:
    """Which columns an output has.

    Raises:
        ConfigError: If a form is unknown, or an id column has the name of one that is written.
    """

    columns: tuple[str, ...] = ()
    """Columns of the input that are taken over, such as ids."""
    labels: LabelForm = "names"
    """``labels``, a list of names, or ``multihot``, L times true or false, or both."""
    probabilities: ProbabilityForm = "all"
    """``probabilities``: of all L labels, of those in ``labels``, of the five highest, or none."""

    def __post_init__(self) -> None:
        for kind, given, known in (
            ("form of labels", self.labels, get_args(LabelForm)),
            ("form of probabilities", self.probabilities, get_args(ProbabilityForm)),
        ):
            if given not in known:
                raise ConfigError(unknown_name(kind, given, known))
        made = {"row", *(field.name for field in self.fields(1))}
        for column in self.columns:
            if column in made:
                raise ConfigError(
                    f'the output has a column "{column}" of its own; rename the one in the input'
                )

    def schema(self, version: ScoredVersion, kinds: Mapping[str, Any]) -> Any:
        """Return the output's Arrow schema, with what identifies the version in its metadata.

        Args:
            version: The version that scores.
            kinds: Arrow types of the input's columns by name.
        """
        import pyarrow as pa

        decision = version.decision
        told = {
            "thresher.model": version.model.name,
            "thresher.version": str(version.model.version),
            "thresher.certificate_sha256": version.certificate_sha256,
            "thresher.decision_sha256": decision.digest,
            "thresher.labels": json.dumps(list(decision.labels), ensure_ascii=False),
            "thresher.thresholds": json.dumps([float(t) for t in decision.thresholds]),
        }
        ids = [pa.field(name, kinds.get(name, pa.null())) for name in self.columns]
        row = pa.field("row", pa.int64(), nullable=False)
        return pa.schema([*ids, row, *self.fields(decision.num_labels)], metadata=told)

    def fields(self, num_labels: int) -> list[Any]:
        """Return the fields for labels and probabilities."""
        import pyarrow as pa

        names = pa.list_(pa.dictionary(pa.int32(), pa.string()))
        fields = []
        if self.labels != "multihot":
            fields.append(pa.field("labels", names))
        if self.labels != "names":
            fields.append(pa.field("multihot", pa.list_(pa.bool_(), num_labels)))
        if self.probabilities == "all":
            fields.append(pa.field("probabilities", pa.list_(pa.float32(), num_labels)))
        elif self.probabilities == "positive":
            fields.append(pa.field("probabilities", pa.list_(pa.float32())))
        elif self.probabilities == "top5":
            top = min(_TOP, num_labels)
            fields.append(pa.field("top_labels", pa.list_(names.value_type, top)))
            fields.append(pa.field("top_probabilities", pa.list_(pa.float32(), top)))
        return fields

    def arrays(self, answers: Answers, label_names: Any) -> list[Any]:
        """Return the columns for labels and probabilities of n rows.

        Args:
            answers: Of the rows.
            label_names: The L names as an Arrow array.
        """
        import pyarrow as pa

        labels_NL, probabilities_NL = answers.labels_NL, answers.probabilities_NL
        num_labels = labels_NL.shape[1]
        offsets: Any = None
        positive = np.flatnonzero(labels_NL)
        if self.labels != "multihot" or self.probabilities == "positive":
            counts = np.count_nonzero(labels_NL, axis=1)
            offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        found = []
        if self.labels != "multihot":
            at = pa.array((positive % num_labels).astype(np.int32))
            names = pa.DictionaryArray.from_arrays(at, label_names)
            found.append(pa.ListArray.from_arrays(offsets, names))
        if self.labels != "names":
            found.append(_fixed(np.ravel(labels_NL), num_labels))
        if self.probabilities == "all":
            found.append(_fixed(np.ravel(probabilities_NL), num_labels))
        elif self.probabilities == "positive":
            flat = pa.array(np.ravel(probabilities_NL)[positive])
            found.append(pa.ListArray.from_arrays(offsets, flat))
        elif self.probabilities == "top5":
            top = min(_TOP, num_labels)
            order_NK = np.argsort(-probabilities_NL, axis=1, kind="stable")[:, :top]
            names = pa.DictionaryArray.from_arrays(
                pa.array(np.ravel(order_NK).astype(np.int32)), label_names
            )
            found.append(pa.FixedSizeListArray.from_arrays(names, top))
            top_NK = np.take_along_axis(probabilities_NL, order_NK, axis=1)
            found.append(_fixed(np.ravel(top_NK), top))
        return found


def _fixed(values: npt.NDArray[Any], size: int) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(values), size)


def rejects_table(rejects: Sequence[Reject], ids: Mapping[str, Any] | None = None) -> Any:
    """Return rejected rows as an Arrow table: row, line, column, reason, and the id columns."""
    import pyarrow as pa

    found = {
        "row": pa.array([r.row for r in rejects], pa.int64()),
        "line": pa.array([r.line for r in rejects], pa.int64()),
        "column": pa.array([r.column for r in rejects], pa.string()),
        "reason": pa.array([r.reason for r in rejects], pa.string()),
    }
    return pa.table({**found, **(ids or {})})
