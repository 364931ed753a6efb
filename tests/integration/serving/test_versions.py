"""Loading, unloading and replacing versions under a real Triton."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from thresher import Decision
from thresher.errors import NotFoundError, ServerError
from thresher_serving import Client, RunningServer

ROW = np.float32([[0.1, 0.2, 0.3]])


@pytest.fixture
def rolling(
    publish: Callable[..., Path],
    repository: Path,
    server: RunningServer,
    decisions: dict[int, Decision],
) -> Callable[..., None]:
    """Publish a version of a model whose network and decision are weather's; load it."""
    text = (repository / "weather/config.pbtxt").read_text().replace("all {}", "{policy}")

    def roll(
        name: str, version: int, *, model: bytes | None = None, policy: str = "all {}"
    ) -> None:
        config = text.replace("{policy}", policy)
        if version > 2:
            config = config.replace("thresher.decision/2", f"thresher.decision/{version}")
        if model is None:
            model = (repository / f"weather/{min(version, 2)}/model.onnx").read_bytes()
        folder = publish(name, model, config, version=version)
        (folder / "labels.txt").write_text("rain\nfog\nsnow\n")
        server.load_model(name)

    return roll


def test_a_model_can_be_loaded_and_unloaded(
    rolling: Callable[..., None], server: RunningServer, client: Client
) -> None:
    rolling("coming", 1)
    assert client.predict("coming", ROW).model_version == 1
    server.unload_model("coming")
    with pytest.raises(NotFoundError, match=r'unknown model "coming"'):
        client.predict("coming", ROW)
    with pytest.raises(NotFoundError, match=r'unknown model "coming"'):
        server.unload_model("coming")
    states = [state for state in server.models if state.name == "coming"]
    assert [(state.state, state.reason) for state in states] == [("UNAVAILABLE", "unloaded")]


def test_a_model_that_is_in_no_folder_cannot_be_loaded(server: RunningServer) -> None:
    with pytest.raises(NotFoundError, match=r'unknown model "weathr"; did you mean "weather"'):
        server.load_model("weathr")


def test_a_new_version_is_served_and_a_corrupt_one_leaves_it_serving(
    rolling: Callable[..., None], server: RunningServer, client: Client
) -> None:
    rolling("rolling", 1, policy="latest { num_versions: 1 }")
    assert client.predict("rolling", ROW).model_version == 1
    rolling("rolling", 3, policy="latest { num_versions: 1 }")
    got = client.predict("rolling", ROW)
    assert got.model_version == 3
    assert got.thresholds is not None, "the decision of a version first met in an answer is fetched"
    with pytest.raises(ServerError, match=r"refused model rolling.*Protobuf parsing failed"):
        rolling("rolling", 4, model=b"no model", policy="latest { num_versions: 1 }")
    assert client.predict("rolling", ROW).model_version == 3


def test_version_policy_chooses_what_is_served(
    rolling: Callable[..., None], server: RunningServer, client: Client
) -> None:
    rolling("chosen", 1)
    rolling("chosen", 2)
    assert client.metadata("chosen").versions == (1, 2)
    rolling("chosen", 2, policy="specific { versions: 1 }")
    assert client.metadata("chosen").versions == (1,)
    assert client.predict("chosen", ROW).model_version == 1
    with pytest.raises(NotFoundError, match=r'unknown version "2". Valid: 1'):
        client.predict("chosen", ROW, version=2)
