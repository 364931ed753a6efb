"""What a rollout knows without a server: what served before, labels, whose requests count."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.versions import publish_version
from thresher.cli.rollout import rollback, rollout
from thresher.cli.serve import serve
from thresher.cli.status import status
from thresher.cli.tune import tune
from thresher.errors import PublishError
from thresher.repository import ModelRepository
from thresher_serving.rollout import History, label_change, metrics
from thresher_serving.rollout.configuration import naming, serving_config
from thresher_serving.rollout.metrics import parse_metrics, read_metrics


def test_rollbacks_take_versions_off_the_history(tmp_path: Path) -> None:
    history = History.load(tmp_path, "m", serving=1)
    assert history.previous([1, 2, 3]) is None
    for version in (2, 3):
        history = history.rolled_out(version)
    history.save()
    history = History.load(tmp_path, "m", serving=3)
    previous = history.previous([1, 2, 3])
    assert previous is not None
    assert previous.version == 2
    assert previous.until.endswith("+00:00")
    history = history.rolled_back(2)
    previous = history.previous([1, 2, 3])
    assert previous is not None
    assert previous.version == 1
    assert history.rolled_back(1).previous([1, 2, 3]) is None


def test_a_version_that_was_removed_is_passed_over(tmp_path: Path) -> None:
    history = History.load(tmp_path, "m", serving=1).rolled_out(2).rolled_out(3)
    previous = history.previous([1, 3])
    assert previous is not None
    assert previous.version == 1


def test_what_serves_without_a_rollout_comes_on_top(tmp_path: Path) -> None:
    History.load(tmp_path, "m", serving=1).rolled_out(2).save()
    previous = History.load(tmp_path, "m", serving=7).previous([1, 2, 7])
    assert previous is not None
    assert previous.version == 2
    nothing_loaded = History.load(tmp_path, "m", serving=None)
    assert nothing_loaded.serving == 2


def test_rolling_out_what_serves_changes_nothing(tmp_path: Path) -> None:
    history = History.load(tmp_path, "m", serving=1).rolled_out(2)
    assert history.rolled_out(2) == history


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"format": "thresher-served/1"}', '{"format": 2}', "[" * 100_000]
)
def test_a_damaged_history_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / ".m.served.json").write_text(content)
    with pytest.raises(PublishError, match=r"\.m\.served\.json"):
        History.load(tmp_path, "m", serving=1)


@pytest.mark.parametrize("number", ["1.0", "true", '"1"', "[1]"])
@pytest.mark.parametrize("place", ["serving", "before"])
def test_what_is_no_number_of_a_version_is_no_history(
    number: str, place: str, tmp_path: Path
) -> None:
    History.load(tmp_path, "m", serving=4).rolled_out(3).save()
    path = tmp_path / ".m.served.json"
    assert History.load(tmp_path, "m", serving=3).previous([4]) is not None
    before = {"serving": '"serving": 3', "before": '"version": 4'}[place]
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, f"{before[:-1]}{number}"))
    with pytest.raises(PublishError, match=r"is no version's number\. Remove the file"):
        History.load(tmp_path, "m", serving=3)


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (("a", "b", "c"), ""),
        (("a", "c", "b"), 'the order changed; position 1 was "b" and is "c"'),
        (("a", "b"), "without 'c'"),
        (("a", "b", "c", "d"), "with new 'd'"),
        (("a", "x", "c"), "without 'b', with new 'x'"),
    ],
)
def test_changes_of_labels_are_told(after: tuple[str, ...], said: str) -> None:
    assert label_change(("a", "b", "c"), after) == said


def test_counts_of_labels_are_read_from_metrics() -> None:
    text = """
nv_inference_request_duration_us{model="m",version="2"} 130517
thresher_label_rows_total{model="m",process="7",version="2"} 150
thresher_label_rows_total{model="m",process="8",version="2"} 50
thresher_label_positives_total{label="rain",model="m",process="7",version="2"} 30
thresher_label_positives_total{label="rain",model="m",process="8",version="2"} 20
thresher_label_positives_total{label="} \\"ice\\", {\\\\",model="m",version="2"} 1e+02
thresher_label_rows_total{model="idle",version="1"} Nan
thresher_label_rows_total{model="new",version="1"} 0
thresher_label_positives_total{label="rain",model="new",version="1"} 0
"""
    found = parse_metrics(text)
    assert found["m", 2].positive_rates == {"rain": 0.25, '} "ice", {\\': 0.5}
    assert found["new", 1].positive_rates is None, "nothing is counted yet"
    assert ("idle", 1) not in found
    assert read_metrics("http://127.0.0.1:1/metrics") == {}
    assert read_metrics("file:///etc/hostname") == {}
    assert doctest.testmod(metrics).failed == 0


def test_the_configuration_given_to_triton_is_the_one_that_will_be_on_disk(tmp_path: Path) -> None:
    for version in (1, 2):
        publish_version(tmp_path, "m", version, thresholds=version / 10, slow_load=version)
    repository = ModelRepository(tmp_path)
    given = naming(serving_config(repository, "m", 2), [2])
    assert repository.served_versions("m") == [1]
    repository.serve_versions("m", [2])
    assert given == repository.read_config("m")
    renamed = naming(given, [1, 2], name=".rollout.m.2")
    assert renamed.name == ".rollout.m.2"
    assert list(renamed.version_policy.specific.versions) == [1, 2]
    assert given.name == "m"


def test_the_docs_name_options_that_there_are() -> None:
    text = (Path(__file__).parents[3] / "docs/rollout.md").read_text()
    known = {
        option
        for command in (rollout, rollback, serve, status, tune)
        for parameter in command.params
        for option in parameter.opts
    }
    others = {"--metrics-config", "--disable-auto-complete-config", "--name"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))
    assert named <= known | others, named - known - others
    assert {"--allow-label-change", "--unproven", "--watch", "--repository"} <= named


def test_without_a_server_the_hint_names_the_commands_own_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    publish_version(tmp_path / "model_repository", "m", 1)
    for command, arguments in ((rollout, ["m/1"]), (rollback, ["m"]), (status, [])):
        refused = CliRunner().invoke(command, arguments)
        assert "give --server HOST:PORT" in str(refused.exception)
