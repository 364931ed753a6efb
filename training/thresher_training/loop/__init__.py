"""The training loop, written to be read: `fit` in ``fit.py`` is where to begin.

fit.py          epochs of steps, the best epoch, early stopping, checkpoints
steps.py        one step: gradients of its batches, then AdamW; optimizer.py, schedule.py,
                average.py and precision.py are its parts
sampling.py     which rows make each step
batches.py      rows become tensors on the device
evaluate.py     predict_logits, and the figures of validation
place.py        how far training is; checkpoint.py keeps it with everything else
readings.py     losses as numbers, without making a GPU wait
processes.py    several processes by torchrun
stopping.py     SIGTERM and Ctrl-C
faults.py       what can go wrong, told so that somebody can mend it
randomness.py   seeds, and the states of generators
result.py       what training tells
"""

from thresher_training.loop.batches import as_tensor
from thresher_training.loop.checkpoint import CHECKPOINTS, Checkpoints
from thresher_training.loop.evaluate import predict_logits
from thresher_training.loop.faults import NoMemoryError, NonFiniteLossError
from thresher_training.loop.fit import fit
from thresher_training.loop.precision import find_device
from thresher_training.loop.processes import ALONE, Team, team_of_processes
from thresher_training.loop.randomness import seeded
from thresher_training.loop.result import EpochMetrics, FitResult, StepProgress, doubts
from thresher_training.loop.stopping import Interrupted, Stop, stop_on_signals

__all__ = [
    "ALONE",
    "CHECKPOINTS",
    "Checkpoints",
    "EpochMetrics",
    "FitResult",
    "Interrupted",
    "NoMemoryError",
    "NonFiniteLossError",
    "StepProgress",
    "Stop",
    "Team",
    "as_tensor",
    "doubts",
    "find_device",
    "fit",
    "predict_logits",
    "seeded",
    "stop_on_signals",
    "team_of_processes",
]
