"""MLflow's own UI on a trained run: what a person sees of run, version, artifacts, comparison."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from support.browser import MISSING, Browser, browser
from support.mlflow_server import free_port
from thresher.registry import connect
from thresher_training import (
    DataSet,
    NetworkConfig,
    OptimizationConfig,
    Recipe,
    Split,
    compare,
    train,
)

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

_WORDS = ("Nobody knows why", "The game was great", "Thanks a lot", "This is sad", "What a day")
_SHOTS = os.environ.get("THRESHER_SCREENSHOTS")  # a folder, for people who want to look


def feelings(num_rows=300):
    rng = np.random.default_rng(0)

    def split():
        features = rng.normal(size=(num_rows, 5)).astype(np.float32)
        noise = rng.normal(0, 0.8, size=(num_rows, 5)).astype(np.float32)
        texts = [f"{_WORDS[row.argmax()]}, said number {at}" for at, row in enumerate(features)]
        return Split(
            inputs={"features": features},
            targets_NL=(features + noise > [0, 0.4, 0.8, 1.2, 1.6]).astype(np.float32),
            texts=texts,
        )

    return DataSet(
        labels=("joy", "doubt", "thanks", "grief", "awe"),
        splits={name: split() for name in ("train", "validation", "test")},
        source="Sentences drawn at random",
    )


RECIPE = Recipe(
    name="feelings",
    network=NetworkConfig(factory="thresher_training.networks:mlp", options={"num_features": 5}),
    optimization=OptimizationConfig(epochs=6, learning_rate=1e-2),
)


@contextlib.contextmanager
def ui(folder: Path):
    """`thresher ui` on the working folder's store."""
    port = free_port()
    with (folder / "ui.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "thresher", "ui", "--port", str(port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        break
                except OSError:
                    assert process.poll() is None, (folder / "ui.log").read_text()
                    assert time.monotonic() < deadline, (folder / "ui.log").read_text()
                    time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(timeout=60)


def visit(page: Browser, address: str, *texts: str, shot: str) -> str:
    """Open an address, wait until all texts are to be seen, and return all that is."""
    page.run("window.location.href = arguments[0]", address)
    return see(page, *texts, shot=shot)


def see(page: Browser, *texts: str, shot: str) -> str:
    deadline = time.monotonic() + 60
    while True:
        shown = str(page.run("return document.body ? document.body.innerText : ''"))
        missing = [text for text in texts if text not in shown]
        if not missing or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if _SHOTS:
        time.sleep(1.5)
        page.screenshot(Path(_SHOTS) / f"{shot}.png")
    assert not missing, f"{shot}: no {missing} in:\n{shown}"
    return shown


@pytest.fixture
def shown(store, monkeypatch):
    """A trained version and a comparison in MLflow's UI, and the browser on it."""
    data = feelings()
    model = train(RECIPE, data=data)
    compared = compare(RECIPE, ["bce", "focal", "bce+pos_weight"], seeds=[0, 1], data=data)
    with ui(store) as address, browser(store) as page:
        page.resize(1500, 1100)
        yield address, page, model, compared


def test_a_person_finds_everything_in_mlflows_ui(shown):
    address, page, model, compared = shown
    client = connect().MlflowClient()
    experiment = client.get_run(model.run_id).info.experiment_id
    run = f"{address}/#/experiments/{experiment}/runs/{model.run_id}"
    visit(page, run, "feelings, bce, seed 0", "validation/macro_f1", "Training runs", shot="run")
    close_assistant(page)
    see(page, "one for each label", "Finished", shot="run")
    charts = ("test/tuned", "train", "validation")
    visit(page, f"{run}/model-metrics", *charts, shot="charts")
    scroll_to(page, "validation")
    see(page, "macro_f1", shot="charts-below")
    visit(page, f"{run}/system-metrics", "cpu_utilization_percentage", shot="system")
    files = f"{run}/artifacts"
    visit(page, files, "decision.json", "recipe.toml", "thresholds", "doctor", shot="artifacts")
    click_text(page, "thresholds")
    for name, frame_text, shot in (
        ("side_by_side.html", "one for each label", "side"),
        ("explorer.html", "grief", "explorer"),
        ("mistakes.html", "The game was great", "mistakes"),
    ):
        click_text(page, name)
        wait_for_frame(page, frame_text, shot)
    click_text(page, "labels_validation.csv")
    see(page, "validation_positives", "grief", shot="labels")
    click_text(page, "plots")
    click_text(page, "training.png")
    see(page, "training.png", shot="training")
    visit(page, f"{address}/#/models/feelings", "candidate", "Version 1", shot="model")
    version = f"{address}/#/models/feelings/versions/1"
    visit(page, version, "candidate", "thresher export models:/feelings/1", "awe", shot="version")
    parent = f"{address}/#/experiments/{experiment}/runs/{compared.run_id}"
    visit(page, parent, "compare bce, focal, bce+pos_weight", "Best on validation", shot="compared")
    visit(page, f"{parent}/artifacts", "comparison.md", shot="comparison-files")
    click_text(page, "comparison.png")
    see(page, "Path:", shot="comparison-plot")
    visit(page, f"{address}/#/experiments/{experiment}/runs", "compare bce, focal", shot="runs")


def close_assistant(page: Browser) -> None:
    """Close MLflow's own chat panel, which takes a quarter of the window."""
    page.run(
        "document.querySelectorAll('[data-component-id=\"mlflow.assistant.chat_panel.close\"]')"
        ".forEach(button => button.click())"
    )


def click_text(page: Browser, text: str) -> None:
    """Click what shows a text, such as a file in MLflow's tree, once it is there."""
    deadline = time.monotonic() + 60
    while not page.run(
        # by its own text, whatever stands beside it: a name in the tree follows its icon
        "const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);"
        "while (texts.nextNode()) if (texts.currentNode.data.trim() === arguments[0]) {"
        "  texts.currentNode.parentElement.click(); return true; } return false",
        text,
    ):
        assert time.monotonic() < deadline, f"nothing shows {text!r}"
        time.sleep(0.2)


def scroll_to(page: Browser, heading: str) -> None:
    page.run(
        "[...document.querySelectorAll('*')].filter(e => e.children.length === 0 && "
        "e.textContent.trim() === arguments[0]).at(-1)?.scrollIntoView()",
        heading,
    )


def wait_for_frame(page: Browser, text: str, shot: str) -> None:
    """Wait until the artifact view's frame shows a text: the HTML runs inside MLflow's page."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(RuntimeError):  # the frame is replaced while it loads
            page.enter_frame("iframe")
            shown = str(page.run("return document.body ? document.body.innerText : ''"))
            page.leave_frame()
            if text in shown:
                break
        page.leave_frame()
        assert time.monotonic() < deadline, f"{shot}: no {text!r} in the frame"
        time.sleep(0.3)
    if _SHOTS:
        page.screenshot(Path(_SHOTS) / f"{shot}.png")
