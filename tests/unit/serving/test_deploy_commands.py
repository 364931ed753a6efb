"""What the files of serving/deploy start: options that the programs know, the same in each file."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from support.deploy import KUBERNETES, commands
from thresher.cli import main
from thresher_serving import find_runtime

COMMANDS = commands()
PLACES = {"--http-port", "--grpc-port", "--model-repository"}
RESTRICTED = {"model-repository", "shared-memory", "logging", "trace", "statistics"}
RESTRICTED_BY_OPTION = {
    "--grpc-restricted-protocol": RESTRICTED,
    "--http-restricted-api": RESTRICTED | {"inference"},
}
TLS = {"--grpc-use-ssl", "--grpc-server-cert", "--grpc-server-key"}  # under KServe: the mesh's


def run_by(program: str) -> dict[str, list[str]]:
    return {where: words for where, words in COMMANDS.items() if words[0] == program}


def options(words: list[str]) -> dict[str, set[str]]:
    """Return a server's options, each with its values."""
    found: dict[str, set[str]] = {}
    for word in words[1:]:
        assert word.startswith("--"), word
        name, _, value = word.partition("=")
        found.setdefault(name, set()).add(value)
    return found


def parse(words: list[str]) -> None:
    """Let Click take a command of `thresher`: an unknown option or a wrong value raises."""
    command = main.commands[words[0]]
    with click.Context(command, info_name=words[0]) as context:
        command.parse_args(context, words[1:])


@pytest.mark.parametrize("where", run_by("thresher"))
def test_thresher_knows_the_command_and_its_options(where: str) -> None:
    given = ["digits@champion"] if where == "compose rollout" else []  # after `run --rm rollout`
    parse([*COMMANDS[where][1:], *given])


@pytest.fixture
def roll_out(tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Run rollout.sh with a `thresher` that notes how it was called, and fails as told."""
    program = tmp_path / "thresher"
    program.write_text('#!/bin/sh\necho "$@" >> "$CALLS"\n[ "$1 $4" != "$FAILS" ]\n')
    program.chmod(0o755)

    def run(model: str, fails: str = "") -> tuple[int, list[str]]:
        calls = tmp_path / "calls"
        calls.write_text("")
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "TRITON_PODS": "10.0.0.1:8001 10.0.0.2:8001 10.0.0.3:8001",
            "MODEL_REPOSITORY": "/models/model_repository",
            "CALLS": str(calls),
            "FAILS": fails,
        }
        script = str(KUBERNETES / "rollout/rollout.sh")
        done = subprocess.run(["sh", script, model], env=environment, check=False)
        return done.returncode, calls.read_text().splitlines()

    return run


def test_a_rollout_goes_from_pod_to_pod(roll_out: Callable[..., tuple[int, list[str]]]) -> None:
    code, calls = roll_out("digits@champion")
    assert code == 0
    assert [call.split()[:4] for call in calls] == [
        ["rollout", "digits@champion", "--server", f"10.0.0.{pod}:8001"] for pod in (1, 2, 3)
    ]
    for call in calls:
        parse(call.split())


@pytest.mark.parametrize("model", ["digits@champion", "digits/3", "models:/digits@champion"])
def test_where_a_pod_refuses_the_ones_before_it_go_back(
    model: str, roll_out: Callable[..., tuple[int, list[str]]]
) -> None:
    code, calls = roll_out(model, fails="rollout 10.0.0.3:8001")
    assert code == 1
    assert [call.split()[:4] for call in calls[2:]] == [
        ["rollout", model, "--server", "10.0.0.3:8001"],
        ["rollback", "digits", "--server", "10.0.0.2:8001"],
        ["rollback", "digits", "--server", "10.0.0.1:8001"],
    ]
    for call in calls:
        parse(call.split())


def test_a_rollout_on_no_pod_is_no_success() -> None:
    script = str(KUBERNETES / "rollout/rollout.sh")
    fails = {**os.environ, "TRITON_PODS_AT": "nobody.invalid", "MODEL_REPOSITORY": "/models"}
    done = subprocess.run(["sh", script, "digits/3"], env=fails, check=False, capture_output=True)
    assert done.returncode != 0


def test_pods_are_named_by_their_addresses(tmp_path: Path) -> None:
    program = tmp_path / "thresher"
    program.write_text('#!/bin/sh\necho "$4"\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "TRITON_PODS_AT": "localhost",
        "MODEL_REPOSITORY": "/models",
    }
    done = subprocess.run(
        ["sh", str(KUBERNETES / "rollout/rollout.sh"), "digits/3"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "127-0-0-1.localhost:8001\n"


def test_where_the_first_pod_refuses_nothing_else_is_touched(
    roll_out: Callable[..., tuple[int, list[str]]],
) -> None:
    code, calls = roll_out("digits/3", fails="rollout 10.0.0.1:8001")
    assert (code, len(calls)) == (1, 1)


PAGE = (KUBERNETES.parents[2] / "docs/deployment.md").read_text()


@pytest.mark.parametrize(
    "line", sorted(set(re.findall(r"(?:^|`)thresher ((?:[a-z]+ )[^`#\n]+)", PAGE, re.MULTILINE)))
)
def test_the_page_shows_commands_that_there_are(line: str) -> None:
    parse(line.split())


def test_the_page_names_files_that_are_there() -> None:
    deploy = KUBERNETES.parent
    named = set(re.findall(r"`([\w./-]+\.(?:ya?ml|json|sh|Dockerfile))`", PAGE))
    assert len(named) > 8
    for name in named:
        places = (deploy, KUBERNETES, deploy.parents[1])
        assert any((place / name).exists() for place in places), name


def test_an_unknown_option_is_found() -> None:
    command = main.commands["export"]
    with click.Context(command) as context, pytest.raises(click.UsageError, match="--job'"):
        command.parse_args(context, ["--all", "--job", "2"])


def test_mlflow_knows_the_options_that_it_is_started_with() -> None:
    from mlflow.cli import cli

    (words,) = run_by("mlflow").values()
    command = cli.commands[words[1]]
    with click.Context(command) as context:
        command.parse_args(context, words[2:])
        allowed = context.params["allowed_hosts"].split(",")
    assert "mlflow:5000" in allowed, "it refuses requests for a host that it does not know"


@pytest.fixture(scope="module")
def told() -> str:
    """What the embedded server says of its options."""
    runtime = find_runtime()
    done = subprocess.run(
        [str(runtime.server), "--help"],
        env=runtime.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("where", run_by("tritonserver"))
def test_triton_knows_the_options_that_it_is_started_with(where: str, told: str) -> None:
    known = set(re.findall(r"^\s+(--[a-z0-9-]+)", told, re.MULTILINE))
    assert len(known) > 50
    assert set(options(COMMANDS[where])) <= known


def test_every_variant_starts_triton_alike() -> None:
    assert set(run_by("tritonserver")) == {
        "compose triton",
        "overlays/gpu Deployment triton",
        "kserve ServingRuntime thresher-triton",
    }
    kept = []
    for words in run_by("tritonserver").values():
        found = options(words)
        secret = {re.sub(r"(thresher-key)=.*", r"\1", v) for k in found for v in found[k]}
        apart = {value for option in PLACES | TLS for value in found.get(option, ())}
        kept.append((set(found) - PLACES - TLS, secret - apart))
    assert kept[0] == kept[1] == kept[2]


@pytest.mark.parametrize("where", ["compose triton", "overlays/gpu Deployment triton"])
def test_the_key_goes_over_tls(where: str) -> None:
    """`thresher` sends it to no other machine in the clear."""
    found = options(COMMANDS[where])
    assert found["--grpc-use-ssl"] == {"true"}
    assert found["--grpc-server-cert"] == {"/tls/tls.crt"}
    assert found["--grpc-server-key"] == {"/tls/tls.key"}


@pytest.mark.parametrize("where", run_by("tritonserver"))
def test_the_key_guards_everything_but_predictions_over_grpc(where: str) -> None:
    found = options(COMMANDS[where])
    for option, restricted in RESTRICTED_BY_OPTION.items():
        (value,) = found[option]
        what, _, key = value.partition(":")
        assert set(what.split(",")) == restricted
        assert re.fullmatch(r"thresher-key=(\$\(THRESHER_SERVER_KEY\)|[0-9a-f]{16})", key), key
