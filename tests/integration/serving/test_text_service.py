"""`NAME.text` answers texts as it answers a client's tokens, version by version, bit for bit."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.triton import Triton, triton
from thresher.errors import DataError, NotFoundError, ServerError
from thresher.repository import ModelRepository
from thresher_serving import AsyncClient, Client, Runtime, control
from thresher_serving.rollout.companions import companions, serve_companions
from thresher_serving.rollout.configuration import naming, serving_config

pytest.importorskip("tokenizers", reason="pip install tokenizers")

from support.text_models import LABELS, logits, publish_text_model

TEXTS = [
    "I love this",
    "so sad really sad",
    "",
    "   ",
    "It's SNOWING! Ünïcödé — 北京 and a verylongunknownword 😀🎉",
    " ".join(["love"] * 3000),
    "null\x00byte love",
    "e\u0301 \u200d \ufeff why ?",
    "why?",
] * 3
OUTPUTS = ("probabilities", "labels", "logits")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions with other weights and other tokenizers, the first in service."""
    root = tmp_path_factory.mktemp("texts") / "models"
    publish_text_model(root, 1)
    publish_text_model(root, 2)
    publish_text_model(root, 1, name="free", length=None)
    return root


@pytest.fixture(scope="module")
def server(
    runtime: Runtime, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    if runtime.kind == "wheel" and sys.version_info >= (3, 13):
        pytest.skip("strings need Python 3.11 or 3.12 here")
    names = ModelRepository(models).names()
    assert names == ["emotions", "emotions.text", "free", "free.text"]
    log = tmp_path_factory.mktemp("log") / "log"
    with triton(runtime, models, names, "--disable-auto-complete-config", log=log) as running:
        yield running


@pytest.mark.parametrize("name", ["emotions", "free"])
def test_texts_get_the_very_answers_that_the_clients_tokens_get(
    server: Triton, models: Path, name: str
) -> None:
    url = server.grpc_url
    tokenizer = models / f"{name}.text" / "1" / "tokenizer.json"
    with Client(url, tokenizer=tokenizer, max_length=8) as client:
        # a request's rows are padded to its own longest, so both send the same eight rows
        there = [client.predict(name, TEXTS[at : at + 8], outputs=OUTPUTS) for at in (0, 8, 16, 24)]
    with Client(url) as client:
        here = client.predict(f"{name}.text", TEXTS, outputs=OUTPUTS)
        assert len(client.predict(f"{name}.text", [])) == 0
    for field in OUTPUTS:
        expected = np.concatenate([getattr(part, field) for part in there])
        np.testing.assert_array_equal(getattr(here, field), expected, err_msg=field)
    assert here.logits is not None
    np.testing.assert_allclose(here.logits[0], logits("i love this", 1))
    assert (here.label_names, here.model_version) == (LABELS, 1)
    assert here.thresholds is not None


def test_single_texts_side_by_side_are_answered_each_by_its_own(server: Triton) -> None:
    texts = ["love " * (at % 8) + "why ?" for at in range(40)]

    async def asked() -> list[list[float]]:
        async with AsyncClient(server.grpc_url) as client:
            each = await asyncio.gather(
                *(client.predict("emotions.text", [t], outputs=OUTPUTS) for t in texts)
            )
            return [one.logits[0].tolist() for one in each]  # type: ignore[index]

    np.testing.assert_allclose(asyncio.run(asked()), [logits(text, 1) for text in texts])


def test_json_over_http_and_classification_give_label_names(server: Triton) -> None:
    body = {
        "inputs": [
            {"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": ["why?", "i love"]}
        ],
        "outputs": [
            {"name": "probabilities", "parameters": {"classification": 1}},
            {"name": "labels"},
        ],
    }
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/emotions.text/infer", data=json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    assert answer["model_version"] == "1"
    assert outputs["probabilities"] == ["1.000000:0:joy", "1.000000:0:joy"]
    assert outputs["labels"] == [True] * 4


def test_what_is_no_utf8_is_refused_alone(server: Triton) -> None:
    from tritonclient.utils import InferenceServerException

    def ask(rows: list[bytes]) -> Any:
        array = np.array(rows, np.object_)[:, None]
        with Client(server.grpc_url) as client:
            return client.infer("emotions.text", {"text": array}, outputs=["logits"])["logits"]

    failures: list[str] = []
    answers: list[Any] = []

    def bad() -> None:
        try:
            ask([b"why ?", b"\xff\xfelove"])
        except ServerError as error:
            failures.append(str(error))

    def good() -> None:
        answers.append(ask([b"why ?"]))

    threads = [threading.Thread(target=bad if at % 2 else good) for at in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(failures) == len(answers) == 10
    assert {'input "text", row 1: not UTF-8: invalid start byte at byte 0' in f for f in failures}
    np.testing.assert_allclose(np.concatenate(answers), [logits("why ?", 1)] * 10)
    with pytest.raises(ServerError, match=r"has 5,000,000 bytes, expected at most 4,194,304"):
        ask([b"x" * 5_000_000])
    client = control.connect(server.grpc_url)
    from tritonclient.grpc import InferInput

    rows = np.full((9, 1), b"why ?", np.object_)
    given = InferInput("text", [9, 1], "BYTES").set_data_from_numpy(rows)
    with pytest.raises(InferenceServerException, match="batch-size must be <= 8"):
        client.infer("emotions.text", [given])
    client.close()


def test_texts_go_to_the_model_that_takes_them_where_no_tokenizer_is_at_hand(
    server: Triton,
) -> None:
    with Client(server.grpc_url) as client:
        got = client.predict("emotions", ["why?", "so sad"])
        expected = client.predict("emotions.text", ["why?", "so sad"])
        np.testing.assert_array_equal(got.probabilities, expected.probabilities)
        one = client.predict("emotions", "why?")
        np.testing.assert_array_equal(one.probabilities, expected.probabilities[:1])
        for model in ("emotions", "emotions.text"):
            with pytest.raises(DataError, match="row 1: a float, expected a text"):
                client.predict(model, ["why?", 1.5])
            with pytest.raises(DataError, match="row 0: half of a surrogate pair at 1"):
                client.predict(model, ["a\ud800"])


class Load:
    """Clients that ask for texts without naming a version, and note what they get."""

    def __init__(self, server: Triton, num_clients: int) -> None:
        self.num_right = 0
        self.problems: list[str] = []
        self.versions: set[int] = set()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(server.grpc_url,)) for _ in range(num_clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str) -> None:
        from tritonclient.grpc import InferenceServerClient, InferInput

        client = InferenceServerClient(url)  # it makes no request twice
        rows = np.array([[b"i love this"]], np.object_)
        given = InferInput("text", [1, 1], "BYTES").set_data_from_numpy(rows)
        while not self._stop.is_set():
            try:
                result = client.infer("emotions.text", [given])
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
                self.problems.append(str(error))
                continue
            version = int(result.get_response().model_version)
            got = result.as_numpy("logits")[0]
            if not np.allclose(got, logits("i love this", version)):
                self.problems.append(f"version {version} answered {got}")
            self.versions.add(version)
            self.num_right += 1
        client.close()


@pytest.mark.slow  # test_text_rollout.py has the same by `roll_out`
def test_no_request_fails_while_versions_change_and_each_answer_is_of_one_version(
    server: Triton, models: Path
) -> None:
    repository, url = ModelRepository(models), server.grpc_url

    def load(version: int, *versions: int) -> None:
        config = serving_config(repository, "emotions", version)
        control.load_model(url, "emotions", config=naming(config, versions))

    def switch(version: int, old: int) -> None:
        load(max(version, old), version, old)  # both, until nobody asks for the old one
        assert serve_companions(repository, "emotions", version, url) == []
        load(version, version)
        control.wait_out_of_service(url, "emotions", [old])
        repository.serve_versions("emotions", [version])
        assert repository.served_versions("emotions.text") == [version]

    with Load(server, 4) as asked:
        switch(2, 1)
        switch(1, 2)
    assert asked.problems == []
    assert asked.versions == {1, 2}
    assert asked.num_right > 100


def test_a_companion_without_the_version_goes_out_of_service_and_says_so(
    server: Triton, models: Path
) -> None:
    repository, url = ModelRepository(models), server.grpc_url
    publish_text_model(models, 3, name="free", length=None, with_text=False)
    assert [(c.name, c.has_version) for c in companions(repository, "free", 3)] == [
        ("free.text", False)
    ]
    try:
        (warning,) = serve_companions(repository, "free", 3, url)
        assert "free.text is out of service: it has no version 3" in warning
        assert "thresher export models:/free/3 --text" in warning
        unknown = r'unknown model "free\.text"'
        with Client(url) as client, pytest.raises(NotFoundError, match=unknown):
            client.predict("free.text", ["why?"])
    finally:
        assert serve_companions(repository, "free", 1, url) == []
    with Client(url) as client:
        assert client.predict("free.text", ["why?"]).model_version == 1


def test_texts_for_a_version_that_is_not_served_get_a_clear_error(server: Triton) -> None:
    control.unload_model(server.grpc_url, "free")
    try:
        with (
            Client(server.grpc_url) as client,
            pytest.raises(ServerError, match=r"free version 1 gave no answer.*not ready"),
        ):
            client.predict("free.text", ["why?"], timeout_s=3)
    finally:
        control.load_model(server.grpc_url, "free")
    with Client(server.grpc_url) as client:
        assert client.predict("free.text", ["why?"]).model_version == 1
