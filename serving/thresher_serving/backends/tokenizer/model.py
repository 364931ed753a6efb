"""A Triton backend named ``tokenizer``, written for Triton's ``python`` backend.

A model of it takes texts. It makes tokens of them as training did, and asks the model that they are
for: always the version that bears its own number, so a text is never cut by another version's
tokenizer. Triton copies this one file into a folder of its own and runs it in the server's
environment: it imports NumPy, tokenizers and Triton's own module, and nothing of this project.

Source: github.com/triton-inference-server/python_backend, README.md, business logic scripting.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

_NUMPY_2 = int(np.__version__.split(".")[0]) >= 2
_TEXT_INPUT = "text"
_ROWS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
_MOST_BYTES = 4 * 2**20  # in one request: some seconds, for which others wait
_WATCH = "thresher-watch"  # the id of requests by which `thresher serve` sees that this one lives
_PADS = ("[PAD]", "<pad>", "<|endoftext|>", "</s>")


def _tokenizer(path: Path, max_length: int) -> tuple[Any, int]:
    """Return a tokenizer that cuts at ``max_length`` and pads nothing, and the padding's number."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "texts need the package tokenizers in the Python that Triton's python backend runs; "
            "install it there: python3 -m pip install tokenizers"
        ) from None
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_length=max_length)
    padding = tokenizer.padding or {}
    numbers = (tokenizer.token_to_id(token) for token in _PADS)
    known = next((number for number in numbers if number is not None), 0)
    tokenizer.no_padding()
    return tokenizer, int(padding.get("pad_id", known))


def _texts(request: Any) -> list[str]:
    """Return a request's texts, one a row."""
    values = pb_utils.get_input_tensor_by_name(request, _TEXT_INPUT).as_numpy().ravel()
    num_bytes = sum(map(len, values))
    if num_bytes > _MOST_BYTES:
        raise ValueError(
            f'input "{_TEXT_INPUT}" has {num_bytes:,} bytes, expected at most {_MOST_BYTES:,} in '
            "one request. Cut the texts: of each, only the beginning is read"
        )
    texts = []
    for row, value in enumerate(values):
        try:
            texts.append(bytes(value).decode())
        except UnicodeDecodeError as error:
            raise ValueError(
                f'input "{_TEXT_INPUT}", row {row}: not UTF-8: {error.reason} at byte {error.start}'
            ) from None
    return texts


class TritonPythonModel:
    """One version's tokenizer, in a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer, and what the model takes that the tokens are for."""
        if _NUMPY_2:
            raise ValueError(
                f"model '{args['model_name']}' takes texts, which this server cannot hand over: "
                "strings need Python 3.11 or 3.12 with NumPy 1 (python3 -m pip install 'numpy<2'). "
                "Or send tokens to the model that they are for: Client(..., tokenizer=PATH)"
            )
        folder = Path(pb_utils.get_model_dir())
        tokens = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
        self._model: str = tokens["model"]
        self._version = int(args["model_version"])
        self._length: int = tokens["length"]
        self._inputs: dict[str, str] = tokens["inputs"]
        self._tokenizer, self._pad_id = _tokenizer(folder / "tokenizer.json", tokens["max_length"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response a request; those whose rows are equally long are asked together."""
        responses: list[Any] = [None] * len(requests)
        texts: dict[int, list[str]] = {}
        for at, request in enumerate(requests):
            if request.request_id() == _WATCH:  # the model that is asked gets users' texts alone
                responses[at] = pb_utils.InferenceResponse(output_tensors=[])
                continue
            try:
                texts[at] = _texts(request)
            except Exception as error:  # noqa: BLE001 - each request answers for itself
                responses[at] = _failure(error)
        encodings = iter(
            self._tokenizer.encode_batch([text for own in texts.values() for text in own])
        )
        groups: dict[int, list[tuple[int, list[Any]]]] = {}
        for at, own in texts.items():
            rows = [next(encodings) for _ in own]
            length = self._length
            if length == -1:  # as long as the request's longest, as a client would send it
                length = max((len(row.ids) for row in rows), default=1) or 1
            groups.setdefault(length, []).append((at, rows))
        for length, group in groups.items():
            try:
                answers = self._ask(
                    [requests[at] for at, _ in group], [r for _, r in group], length
                )
            except Exception as error:  # noqa: BLE001 - the other groups are answered
                answers = [_failure(error) for _ in group]
            for (at, _), answer in zip(group, answers, strict=True):
                responses[at] = answer
        return responses

    def _ask(self, requests: list[Any], rows: list[list[Any]], length: int) -> list[Any]:
        """Return what the model says of the rows of several requests, which all have one length."""
        asked = [list(request.requested_output_names()) for request in requests]
        joint = [encoding for own in rows for encoding in own]
        response = pb_utils.InferenceRequest(
            model_name=self._model,
            model_version=self._version,
            requested_output_names=list(dict.fromkeys(name for own in asked for name in own)),
            inputs=[
                pb_utils.Tensor(name, self._array(name, joint, length)) for name in self._inputs
            ],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
        ).exec()
        if response.has_error():
            text = response.error().message().partition("\n\nAt:\n")[0]
            raise RuntimeError(f"{self._model} version {self._version} gave no answer: {text}")
        if len(requests) == 1:
            return [pb_utils.InferenceResponse(output_tensors=response.output_tensors())]
        arrays = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        responses, start = [], 0
        for names, own in zip(asked, rows, strict=True):
            part = slice(start, start + len(own))
            start += len(own)
            tensors = [pb_utils.Tensor(name, arrays[name][part]) for name in names]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses

    def _array(self, name: str, encodings: list[Any], length: int) -> Any:
        """Return an input of the model, padded on the right."""
        pad = self._pad_id if name == "input_ids" else 0
        array = np.full((len(encodings), length), pad, self._inputs[name])
        for row, encoding in enumerate(encodings):
            values = getattr(encoding, _ROWS[name])[:length]
            array[row, : len(values)] = values
        return array


def _failure(error: Exception) -> Any:
    text = str(error) or type(error).__name__
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(text))
