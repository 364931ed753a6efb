"""A recipe: everything that a training run depends on, in one TOML file or in Python.

`thresher.config.load_toml` reads the file; sections are the dataclasses below.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from thresher.errors import ConfigError

__all__ = [
    "BestBy",
    "CorrelationConfig",
    "DataConfig",
    "DecisionConfig",
    "ExamplesConfig",
    "LossConfig",
    "NetworkConfig",
    "OptimizationConfig",
    "Recipe",
    "Weighting",
]

BestBy = Literal["macro_f1", "micro_f1", "mean_average_precision", "loss"]
Weighting = Literal[
    "none", "neg_over_pos", "max_over_count", "inverse_frequency", "effective_number", "given"
]

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """Where the examples come from."""

    source: str
    """Import path ``"package.module:callable"`` of what returns a `DataSet`."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrelationConfig:
    """A head that refines each label's logit by the logits of all labels."""

    hidden: int = 32
    """Width of the hidden layer between all labels and all labels."""

    dropout: float = 0.0
    """The share of hidden units that is left out in training."""

    def __post_init__(self) -> None:
        _check(self, "hidden", low=1)
        _check(self, "dropout", low=0.0, high=0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """The network that gives the logits."""

    factory: str = ""
    """Import path ``"package.module:callable"`` of what returns a `torch.nn.Module`; left out
    where `train` is handed a network."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the factory, besides ``num_labels``."""

    prior_bias: bool = False
    """Whether the last layer's bias starts at each label's log odds in the train split."""

    correlation: CorrelationConfig | None = None
    """Section ``[network.correlation]``; no such head where left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """What training makes small."""

    name: str = "bce"
    """A loss of `thresher_training.losses`, such as ``"bce"``, ``"focal"``, ``"asymmetric"``; or
    an import path ``"package.module:callable"`` of what returns one."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the loss, such as ``gamma``."""

    pos_weight: Weighting = "none"
    """What a label's positives weigh against its negatives, from the train split."""

    pos_weight_cap: float = 20.0
    """No positive weighs more than this."""

    weight: Weighting = "none"
    """What a label weighs against the others; scaled to a mean of 1."""

    weight_cap: float = 20.0
    """No label weighs more than this times the lightest."""

    given: dict[str, Any] = field(default_factory=dict)
    """Label to weight, for the weighting ``"given"``; labels left out weigh 1."""

    label_smoothing: float = 0.0
    """Targets 0 and 1 become s/2 and 1 - s/2."""

    def __post_init__(self) -> None:
        _check(self, "pos_weight_cap", low=1.0)
        _check(self, "weight_cap", low=1.0)
        _check(self, "label_smoothing", low=0.0, high=0.5)
        asked = "given" in (self.pos_weight, self.weight)
        if asked and not self.given:
            raise ConfigError('a weighting is "given", but [loss.given] holds no weights')
        for label, value in self.given.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
                raise ConfigError(
                    f'given: the weight of "{label}" is {value!r}, expected a number above 0'
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizationConfig:
    """How training goes: AdamW on batches, and which epoch's weights are kept."""

    epochs: int = 10
    """Passes over the train split, at most; 0 keeps the network as the factory gives it."""

    batch_size: int = 64
    """Examples in one batch; with several processes, in all of them together."""

    accumulate: int = 1
    """Batches whose gradients make one step."""

    learning_rate: float = 1e-3
    """The highest learning rate."""

    weight_decay: float = 1e-2
    """AdamW's decoupled weight decay; none on biases, norms and embeddings."""

    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    """After the warm-up: half a cosine down to nothing, PyTorch's one-cycle, or level."""

    warmup_fraction: float = 0.1
    """The share of all steps in which the learning rate rises."""

    max_gradient_norm: float | None = None
    """Larger gradients are scaled down to this norm; never where left out."""

    ema_decay: float | None = None
    """Decay by step of an average of the weights, which is then what is evaluated and kept."""

    sampler: Literal["shuffle", "label_aware"] = "shuffle"
    """Each example once an epoch, or drawn so that rare labels come up more often."""

    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Of the forward pass (autocast); "auto" is bf16 where the device computes it natively."""

    compile: bool = False
    """Whether the network goes through `torch.compile`."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs; "auto" is the GPU where there is one."""

    best_by: BestBy = "macro_f1"
    """The validation metric that picks the epoch whose weights are kept; F1 is at 0.5."""

    early_stopping_patience: int | None = None
    """Epochs without a better ``best_by`` after which training stops; never where left out."""

    checkpoint_minutes: float = 5.0
    """At most this long between two checkpoints; there is one after every epoch too."""

    def __post_init__(self) -> None:
        _check(self, "epochs", low=0)
        _check(self, "batch_size", low=1)
        _check(self, "accumulate", low=1)
        _check(self, "learning_rate", low=0.0, low_allowed=False)
        _check(self, "weight_decay", low=0.0)
        _check(self, "warmup_fraction", low=0.0, high=1.0)
        _check(self, "checkpoint_minutes", low=0.0)
        if self.max_gradient_norm is not None:
            _check(self, "max_gradient_norm", low=0.0, low_allowed=False)
        if self.ema_decay is not None:
            _check(self, "ema_decay", low=0.0, high=0.99999)
        if self.early_stopping_patience is not None:
            _check(self, "early_stopping_patience", low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionConfig:
    """How thresholds are chosen, on the validation split."""

    objective: str = "f1"
    """What thresholds make as large as it can be, such as ``"f1"``, ``"precision@recall>=0.9"``,
    ``"cost(fp=1,fn=5)"`` or ``"micro_f1"``; `thresher_training.decisions.objectives` lists all."""

    objectives: dict[str, str] = field(default_factory=dict)
    """Label to objective, for labels that want another one; none over all labels together."""

    min_positives: int = 20
    """Labels with fewer validation positives take the one threshold shared by all."""

    calibration: Literal["none", "platt", "temperature"] = "none"
    """Whether probabilities are calibrated first: by scale and bias per label, or one scale."""

    band: float = 1e-5
    """The narrowest gap between scores, in probability, that a tuned threshold may stand in: what
    engines may differ by in FP32. With a narrower one a last bit of rounding could flip a row."""

    shrinkage: bool = False
    """Whether labels with few positives are drawn towards the shared threshold."""

    num_folds: int = 5
    """Folds of the cross-validation behind shrinkage, intervals and optimism."""

    intervals: bool = False
    """Whether each label's threshold and metric get a 95 % interval, and its optimism is told."""

    seed: int = 0
    """Seed of folds and resampling."""

    def __post_init__(self) -> None:
        # decisions take this configuration: at the top it would be a circular import
        from thresher_training.decisions.objectives import parse_objective

        parse_objective(self.objective)
        for label, text in self.objectives.items():
            if parse_objective(text).is_joint:
                raise ConfigError(
                    f'objectives: "{label}" has "{text}", which is over all labels together; '
                    "expected an objective for one label"
                )
        _check(self, "min_positives", low=1)
        _check(self, "band", low=0.0, high=0.1)
        _check(self, "num_folds", low=2)
        _check(self, "seed", low=0, high=2**63 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamplesConfig:
    """Test pictures kept with the model, to try it out with."""

    folder: str = "examples"
    """Where they are written too, from the working folder."""

    count: int = 12
    """How many."""

    def __post_init__(self) -> None:
        _check(self, "count", low=1)
        if not self.folder:
            raise ConfigError('folder is "", expected the name of a folder')


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One training run."""

    name: str
    """The registered model's name: letters, digits, ``_``, ``-`` and ``.``, no leading dot."""

    data: DataConfig | None = None
    """Section ``[data]``; left out where `train` is handed a `DataSet`."""

    network: NetworkConfig = field(default_factory=NetworkConfig)
    """Section ``[network]``."""

    seed: int = 0
    """Seed of the network's first weights, of shuffling, of dropout and of cross-fitting."""

    cross_fit: int | None = None
    """Train this many networks, each without one fold of the train and validation rows: thresholds
    are chosen on all of these rows, each scored by the network that has not seen it, and the model
    is the networks' mean. For sets with few rows. Rows are shared out one by one, so do not use it
    where some belong together. One network and the validation split where left out."""

    alias: str = "candidate"
    """The registry alias that the new version gets."""

    loss: LossConfig = field(default_factory=LossConfig)
    """Section ``[loss]``."""

    optimization: OptimizationConfig = field(default_factory=OptimizationConfig)
    """Section ``[optimization]``."""

    decision: DecisionConfig = field(default_factory=DecisionConfig)
    """Section ``[decision]``."""

    examples: ExamplesConfig | None = None
    """Section ``[examples]``; for tasks with one picture input."""

    triton: dict[str, Any] = field(default_factory=dict)
    """Section ``[triton]``: how Triton is to serve it; read and checked by ``thresher export``."""

    def __post_init__(self) -> None:
        for key, value in (("name", self.name), ("alias", self.alias)):
            if not _NAME.fullmatch(value):
                raise ConfigError(
                    f'{key} is "{value}", expected letters, digits, "_", "-" and ".", '
                    "with no leading dot"
                )
        _check(self, "seed", low=0, high=2**63 - 1)
        if self.cross_fit is not None:
            _check(self, "cross_fit", low=2)
            if not self.optimization.epochs:
                raise ConfigError(
                    f"cross_fit is {self.cross_fit}, but optimization.epochs is 0: a network that "
                    "is not trained has seen no row; leave cross_fit out"
                )


def _check(
    config: object, key: str, *, low: float, high: float = math.inf, low_allowed: bool = True
) -> None:
    """Refuse a number out of its range; NaN is out of every range."""
    value = getattr(config, key)
    if (low < value or (low_allowed and value == low)) and value <= high and value != math.inf:
        return
    at_least = "at least" if low_allowed else "above"
    at_most = "" if high == math.inf else f" and at most {high:g}"
    raise ConfigError(f"{key} is {value!r}, expected a number {at_least} {low:g}{at_most}")
