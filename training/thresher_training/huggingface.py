"""Hugging Face transformers as networks: a fine-tuned classifier as it is, or an encoder to tune.

Everything is read from a local folder, nothing is downloaded. A folder may lie inside an installed
package: ``python:PACKAGE/sub/folder``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thresher.errors import ConfigError, MissingExtraError, NotFoundError, unknown_name
from thresher.tables.address import expanded
from thresher_training.sources.tables import read_names

__all__ = ["encoder", "sequence_classifier"]

_POOLINGS = ("mean", "first")


def sequence_classifier(
    *, num_labels: int, folder: str, label_names: str | Sequence[str] | None = None
) -> nn.Module:
    """Return a fine-tuned `AutoModelForSequenceClassification` with its weights as they are.

    With ``optimization.epochs = 0`` it is tuned, registered and exported without any training.
    ``forward(input_ids, attention_mask)`` gives the logits, float32 [N, L].

    Args:
        num_labels: The data's labels, L.
        folder: What ``save_pretrained`` wrote.
        label_names: The data's labels in order, or a file with one a line. Where the model's
            ``id2label`` holds names, they must be the same; in another order, the logits are put
            into that of the data.

    Raises:
        ConfigError: If the model has other labels, was trained to pick one label of many, or lacks
            weights of its head.
        NotFoundError: If the folder is missing or holds no such model.
        MissingExtraError: If the package transformers is not installed.
    """
    place = _model_folder(folder)
    model, missing = _load("AutoModelForSequenceClassification", place)
    config = model.config
    if config.problem_type not in (None, "multi_label_classification"):
        raise ConfigError(
            f'{place}: problem_type is "{config.problem_type}", expected '
            '"multi_label_classification": its outputs exclude each other, so thresholds by label '
            "mean nothing"
        )
    if missing:
        raise ConfigError(
            f"{place} lacks the weights {', '.join(missing[:4])}: it is no fine-tuned classifier; "
            "train one from it with thresher_training.huggingface:encoder"
        )
    if config.num_labels != num_labels:
        raise ConfigError(
            f"{place} has {config.num_labels} labels, the data has {num_labels} labels"
        )
    _check_padding(model, place)
    wanted = read_names(label_names)
    order = None if wanted is None else _order(config.id2label, wanted, place)
    if wanted is not None:
        # in memory only: whoever asks the network for its labels is told those of its outputs
        config.id2label = dict(enumerate(wanted))
    return _Classifier(model, order)


def encoder(
    *,
    num_labels: int,
    folder: str,
    pooling: str = "mean",
    dropout: float = 0.1,
    train_layers: int | None = None,
) -> nn.Module:
    """Return a pretrained encoder with a new linear layer for the logits, to be fine-tuned.

    ``forward(input_ids, attention_mask)`` gives the logits, float32 [N, L].

    Args:
        num_labels: The data's labels, L.
        folder: What ``save_pretrained`` wrote, such as a sentence transformer's folder.
        pooling: ``"mean"`` over the tokens that the mask shows, or the ``"first"`` token.
        dropout: The share of the pooled features that is left out in training.
        train_layers: How many of the last layers are trained; the rest keeps its weights. All of
            them, and the embeddings, where left out; 0 trains the new linear layer alone.

    Raises:
        ConfigError: If an option is out of range.
        NotFoundError: If the folder is missing or holds no such model.
        MissingExtraError: If the package transformers is not installed.
    """
    if pooling not in _POOLINGS:
        raise ConfigError(unknown_name("pooling", pooling, _POOLINGS))
    place = _model_folder(folder)
    model, _ = _load("AutoModel", place)
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # its weights would never get a gradient
    if train_layers is not None:
        _freeze(model, train_layers)
    return _Encoder(model, num_labels, pooling=pooling, dropout=dropout)


def _check_padding(model: Any, place: Path) -> None:
    """Refuse a model that takes no second text for want of a padding token, as GPT-2 does."""
    if getattr(model.config, "pad_token_id", None) is not None:
        return
    ids = torch.zeros((2, 2), dtype=torch.int64)
    try:
        with torch.no_grad():
            model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    except ValueError as error:
        if "padding token" not in str(error):
            raise
        raise ConfigError(
            f"{place}/config.json has no pad_token_id, without which {type(model).__name__} takes "
            "one text at a time; set pad_token_id there to the id of the tokenizer's padding token "
            f"(where it has none, eos_token_id will do: {model.config.eos_token_id})"
        ) from None


class _Classifier(nn.Module):
    """A sequence classifier whose output is the logits alone, in the data's order."""

    order_L: Tensor | None

    def __init__(self, model: nn.Module, order: list[int] | None) -> None:
        super().__init__()
        self.model = model
        moved = order is not None and order != sorted(order)
        self.register_buffer("order_L", torch.tensor(order) if moved else None)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits [N, L] of token ids and mask, int64 [N, T]."""
        _check_alike(input_ids, attention_mask)
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits if self.order_L is None else logits.index_select(1, self.order_L)


class _Encoder(nn.Module):
    """An encoder, pooled to one vector a text, with a linear layer on top."""

    def __init__(self, model: nn.Module, num_labels: int, *, pooling: str, dropout: float) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(model.config.hidden_size, num_labels)  # type: ignore[union-attr, arg-type]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits [N, L] of token ids and mask, int64 [N, T]."""
        _check_alike(input_ids, attention_mask)
        hidden_NTH = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        if self.pooling == "first":
            pooled_NH = hidden_NTH[:, 0]
        else:
            mask_NT1 = attention_mask.to(hidden_NTH.dtype).unsqueeze(-1)
            pooled_NH = (hidden_NTH * mask_NT1).sum(dim=1) / mask_NT1.sum(dim=1).clamp(min=1)
        logits: Tensor = self.head(self.dropout(pooled_NH))
        return logits


def _check_alike(input_ids: Tensor, attention_mask: Tensor) -> None:
    # not only a check: it is how torch.export learns that both have one and the same batch axis
    if input_ids.shape != attention_mask.shape:
        raise ValueError(
            f"input_ids are {list(input_ids.shape)}, attention_mask {list(attention_mask.shape)}"
        )


def _model_folder(folder: str) -> Path:
    place = Path(expanded(folder))
    if not (place / "config.json").is_file():
        raise NotFoundError(
            f"{place} holds no config.json, expected the folder of a Hugging Face model "
            "(nothing is downloaded)"
        )
    return place


def _load(kind: str, place: Path) -> tuple[Any, list[str]]:
    """Return a model in float32 and the names of weights that the folder lacks."""
    try:
        import transformers
        from safetensors import SafetensorError
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"Hugging Face models need the package {error.name}; install it with: "
            "pip install 'thresher[text]'"
        ) from error
    try:
        with _quiet(transformers):
            model, told = getattr(transformers, kind).from_pretrained(
                str(place), local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise NotFoundError(
            f"{place} holds no model that transformers reads as {kind}: "
            f"{type(error).__name__}: {first_line}"
        ) from error
    return model, sorted(told["missing_keys"])


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep the report and the bar of loading off stderr: what they tell is checked here."""
    log = transformers.utils.logging
    level, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.ERROR)
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()


def _order(id2label: dict[int, str], wanted: Sequence[str], place: Path) -> list[int] | None:
    """Return where each wanted label stands in the model; None where the model has no names."""
    names = [id2label[at] for at in sorted(id2label)]
    if names == [f"LABEL_{at}" for at in range(len(names))]:  # what transformers fills in
        return None
    for label in wanted:
        if label not in names:
            raise ConfigError(f"{place}: id2label: {unknown_name('label', label, names)}")
    left = [name for name in names if name not in wanted]
    if left:
        raise ConfigError(f'{place}: id2label holds "{left[0]}", which label_names lacks')
    return [names.index(label) for label in wanted]


def _freeze(model: Any, train_layers: int) -> None:
    """Let only the last layers be trained."""
    num_layers = model.config.num_hidden_layers
    if not 0 <= train_layers <= num_layers:
        raise ConfigError(f"train_layers is {train_layers!r}, expected from 0 to {num_layers}")
    layers = next(
        m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers
    )
    model.requires_grad_(requires_grad=False)
    for layer in layers[num_layers - train_layers :]:
        layer.requires_grad_(requires_grad=True)
