"""NAME and NAME.text go from version to version together, under load, and no request fails."""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from support.triton import Triton, triton
from thresher.cli.rollout import rollout
from thresher.errors import ParityError, ServerError
from thresher.repository import ModelRepository
from thresher_serving import Runtime, control
from thresher_serving.rollout import roll_back, roll_out
from thresher_serving.rollout.configuration import naming, serving_config

pytest.importorskip("tokenizers", reason="pip install tokenizers")

from support.text_models import logits, publish_text_model

NAME, TEXT = "emotions", "i love this"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts") / "models"


@pytest.fixture(scope="module")
def server(
    runtime: Runtime, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    """A server of versions 1, which serves, 2, and 9, which takes no texts."""
    if runtime.kind == "wheel" and sys.version_info >= (3, 13):
        pytest.skip("strings need Python 3.11 or 3.12 here")
    publish_text_model(root, 1, golden=True)
    publish_text_model(root, 2, golden=True, max_batch_size=4)  # so 1 is loaded anew at times
    publish_text_model(root, 9, golden=True, with_text=False)
    log = tmp_path_factory.mktemp("log") / "log"
    names = [NAME, f"{NAME}.text"]
    with triton(runtime, root, names, "--disable-auto-complete-config", log=log) as running:
        yield running


class Load:
    """Clients that ask NAME and NAME.text without naming a version, and make no request twice."""

    def __init__(self, server: Triton) -> None:
        self.answered: Counter[tuple[str, int]] = Counter()
        self.problems: list[str] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(server.grpc_url, name))
            for name in (NAME, f"{NAME}.text") * 3
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str, name: str) -> None:
        from tritonclient.grpc import InferenceServerClient, InferInput

        client = InferenceServerClient(url)
        ids = np.int64([[2, 3, 4, 0, 0, 0, 0, 0]])
        rows = (
            {"text": np.array([[TEXT.encode()]], np.object_)}
            if name.endswith(".text")
            else {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64)}
        )
        feeds = []
        for key, array in rows.items():
            feed = InferInput(key, list(array.shape), "BYTES" if key == "text" else "INT64")
            feeds.append(feed.set_data_from_numpy(array))
        while not self._stop.is_set():
            try:
                result = client.infer(name, feeds)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a failed request
                self.problems.append(f"{name}: {error}")
                continue
            version = int(result.get_response().model_version)
            # each version's own tokenizer numbers the words; whoever sends ids chose them
            expected = logits(TEXT, version) if "text" in rows else [version * 100 + 3] * 2
            if not np.allclose(got := result.as_numpy("logits")[0], expected):
                self.problems.append(f"{name}: version {version} answered {got}")
            self.answered[name, version] += 1
            self._stop.wait(0.002)
        client.close()


class Registry:
    """A registry that does not answer."""

    def move(self, version: int) -> None:
        raise ServerError(f"no alias for {version}")

    def move_back(self) -> None:
        pass


def served(server: Triton) -> dict[str, list[int]]:
    client = control.connect(server.grpc_url)
    try:
        return control.served(server.grpc_url, client)
    finally:
        client.close()


def both(version: int) -> dict[str, list[int]]:
    return {NAME: [version], f"{NAME}.text": [version]}


def test_texts_follow_a_rollout_a_rollback_and_one_that_fails_and_no_request_fails(
    server: Triton, root: Path
) -> None:
    repository, url = ModelRepository(root), server.grpc_url
    others = serving_config(repository, NAME, 9)

    def spoil(step: str) -> None:
        """Have somebody else load version 9 just then, so that another version answers."""
        if step.startswith("Comparing the golden rows once more"):
            loaded = [*served(server)[NAME], 9]
            control.load_model(url, NAME, config=naming(others, loaded))

    with Load(server) as load:
        # a higher version's texts come after its second comparison, a lower one's before
        for new, old in ((2, 1), (1, 2)):
            with pytest.raises(ParityError, match=f"version {old} serves as before.*version 9"):
                roll_out(repository, NAME, new, url, progress=spoil)
            assert served(server) == both(old)
            assert repository.served_versions(f"{NAME}.text") == [old]
            if new == 2:
                assert roll_out(repository, NAME, 2, url).warnings == ()
            else:
                assert roll_back(repository, NAME, url).version == 1
            assert served(server) == both(new)
        with pytest.raises(ServerError, match="version 1 serves as before.*no alias for 2"):
            roll_out(repository, NAME, 2, url, alias=Registry())  # its texts had gone already
        assert served(server) == both(1)
    assert load.problems == []
    assert {key for key, count in load.answered.items() if count > 20} >= {
        (name, version) for name in (NAME, f"{NAME}.text") for version in (1, 2)
    }
    assert (f"{NAME}.text", 9) not in load.answered


def test_a_version_without_texts_serves_and_says_that_there_are_none(
    server: Triton, root: Path
) -> None:
    repository, url = ModelRepository(root), server.grpc_url
    done = roll_out(repository, NAME, 9, url)
    assert served(server) == {NAME: [9]}
    assert f"{NAME}.text is out of service: it has no version 9" in done.warnings[0]
    assert roll_back(repository, NAME, url).version == 1
    assert served(server) == both(1)
    control.unload_model(url, f"{NAME}.text")
    assert not roll_out(repository, NAME, 1, url).is_new
    assert served(server) == both(1), "a rollout of what serves brings its texts along"


def test_what_follows_a_model_is_not_rolled_out_itself(server: Triton, root: Path) -> None:
    repository, url = ModelRepository(root), server.grpc_url
    refusal = f"{NAME}.text serves what {NAME} serves.*thresher rollout {NAME}/VERSION"
    with pytest.raises(ServerError, match=refusal):
        roll_out(repository, f"{NAME}.text", 2, url)
    with pytest.raises(ServerError, match=refusal):
        roll_back(repository, f"{NAME}.text", url)
    where = ["--server", url, "--repository", str(root)]
    refused = CliRunner().invoke(rollout, [f"{NAME}.text/7", *where]).exception  # not published
    assert re.search(refusal, str(refused))


def test_a_changed_tokenizer_holds_the_model_up(server: Triton, root: Path) -> None:
    repository, url = ModelRepository(root), server.grpc_url
    publish_text_model(root, 3, golden=True)
    tokenizer = root / f"{NAME}.text" / "3" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("love", "hate"))
    with pytest.raises(ParityError, match=r"tokenizer\.json"):
        roll_out(repository, NAME, 3, url)
    assert served(server) == both(1)


def test_mlflow_lists_deletes_and_deploys_a_model_and_its_texts_as_one(
    server: Triton, root: Path
) -> None:
    pytest.importorskip("mlflow")
    from thresher_serving.mlflow_deployments import TritonDeploymentClient

    client = TritonDeploymentClient(f"triton:{server.grpc_url}")
    assert [found["name"] for found in client.list_deployments()] == [NAME]
    client.delete_deployment(NAME)
    assert served(server) == {}
    client.create_deployment(NAME, f"models:/{NAME}/1", config={"repository": str(root)})
    assert served(server) == both(1)
