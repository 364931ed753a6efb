"""The gate before publishing: torch and ONNX Runtime decide alike, row by row, or nothing goes out.

- **Rows.** Every row of the validation and test split, as torch (the logged program) and ONNX
  Runtime (the very bytes that will be published) see it, at batch sizes 1, 2, odd and large, and
  each row alone against itself in a batch, engine by engine.
- **Training.** The logits that training logged, on which the thresholds were chosen, against what
  the logged program gives now.
- **Beyond the splits.** Random and extreme rows, and other sizes of every free axis.
- **Head.** The head alone around each threshold, its comparison fed the thresholds' very bits, and
  the whole model with thresholds moved onto real rows' probabilities.

A failure says where it begins: the first node whose result departs, and the rows to reproduce it.
"""

from thresher_export.parity.departure import Departure, Layer, find_departure
from thresher_export.parity.prove import prove_parity
from thresher_export.parity.record import (
    PAGE_FILE,
    PARITY_FILE,
    WORST_ROWS_FILE,
    log_parity_report,
    write_evidence,
    write_parity_report,
)
from thresher_export.parity.report import Check, LabelRecord, ParityReport
from thresher_export.parity.thresholds import logits_around_thresholds

__all__ = [
    "PAGE_FILE",
    "PARITY_FILE",
    "WORST_ROWS_FILE",
    "Check",
    "Departure",
    "LabelRecord",
    "Layer",
    "ParityReport",
    "find_departure",
    "log_parity_report",
    "logits_around_thresholds",
    "prove_parity",
    "write_evidence",
    "write_parity_report",
]
