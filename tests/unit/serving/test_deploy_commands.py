"""What the files of serving/deploy start: options that the programs know, the same in each file."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from tritonclient.grpc import service_pb2

from support.deploy import DEPLOY, KUBERNETES, TRITON, commands
from thresher.cli import main
from thresher_export.triton_releases import RELEASES

COMMANDS = commands()
PLACES = {"--http-port", "--grpc-port", "--model-repository"}
OPEN = {"http": {"health", "metadata"}, "grpc": {"health", "metadata", "inference", "model-config"}}
"""What needs no key. Over gRPC, clients read names and thresholds from the configuration."""
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


@pytest.mark.parametrize("where", run_by("tritonserver"))
def test_triton_knows_the_options_that_it_is_started_with(where: str) -> None:
    known = {f"--{name}" for name in TRITON["options"]}
    assert len(known) > 80
    assert set(options(COMMANDS[where])) <= known


def test_the_list_of_calls_has_every_call_of_the_protocol() -> None:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert set(TRITON["grpc"]) == {method.name for method in service.methods}
    for protocol in ("grpc", "http"):
        assert set(TRITON[protocol].values()) == set(TRITON["restrictions"])


def test_one_file_names_the_release_and_it_has_the_fixes_of_2026() -> None:
    found = {}
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file() and path.suffix != ".json":
            named = set(re.findall(r"(?<![\d.])2\d\.(?:0[1-9]|1[0-2])(?![\d.])", path.read_text()))
            if named:
                found[path.relative_to(DEPLOY).as_posix()] = named
    assert found == {"images/Dockerfile": {TRITON["release"]}}
    (release,) = found["images/Dockerfile"]
    assert RELEASES[release].name >= "26.04"


def test_what_the_jobs_export_is_made_for_the_release_that_serves() -> None:
    recipe = (DEPLOY / "images/Dockerfile").read_text()
    jobs = recipe[recipe.index(" AS jobs") :]
    variable = re.search(r"(\w+)=\$\{TRITON_RELEASE\}", jobs)[1]
    assert "ARG TRITON_RELEASE\n" in jobs, "an ARG before the first FROM is unknown after it"
    exports = [words for where, words in run_by("thresher").items() if "export" in where]
    assert len(exports) == 4
    for words in exports:
        with click.Context(main.commands["export"]) as context:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(variable, TRITON["release"])
                context.command.parse_args(context, list(words[2:]))
        assert context.params["target_triton"] == TRITON["release"]


def test_every_variant_starts_triton_alike() -> None:
    assert set(run_by("tritonserver")) == {
        "compose triton",
        "overlays/cpu Deployment triton",
        "overlays/gpu Deployment triton",
        "kserve ServingRuntime thresher-triton",
    }
    kept = []
    for words in run_by("tritonserver").values():
        found = options(words)
        secret = {re.sub(r"(thresher-key)=.*", r"\1", v) for k in found for v in found[k]}
        apart = {value for option in PLACES | TLS for value in found.get(option, ())}
        kept.append((set(found) - PLACES - TLS, secret - apart))
    assert all(one == kept[0] for one in kept)


@pytest.mark.parametrize("where", [w for w in run_by("tritonserver") if "kserve" not in w])
def test_the_key_goes_over_tls(where: str) -> None:
    """`thresher` sends it to no other machine in the clear."""
    found = options(COMMANDS[where])
    assert found["--grpc-use-ssl"] == {"true"}
    assert found["--grpc-server-cert"] == {"/tls/tls.crt"}
    assert found["--grpc-server-key"] == {"/tls/tls.key"}


@pytest.mark.parametrize("where", run_by("tritonserver"))
def test_every_call_but_those_of_clients_needs_the_key(where: str) -> None:
    found = options(COMMANDS[where])
    for protocol, option in (
        ("grpc", "--grpc-restricted-protocol"),
        ("http", "--http-restricted-api"),
    ):
        (value,) = found[option]
        what, _, key = value.partition(":")
        guarded = set(what.split(","))
        assert guarded <= set(TRITON["restrictions"])
        free = {call for call, group in TRITON[protocol].items() if group not in guarded}
        assert free == {c for c, group in TRITON[protocol].items() if group in OPEN[protocol]}
        assert re.fullmatch(r"thresher-key=(\$\(THRESHER_SERVER_KEY\)|[0-9a-f]{16})", key), key


@pytest.mark.parametrize("where", run_by("tritonserver"))
def test_bodies_are_limited_and_clients_share_no_memory(where: str) -> None:
    found = options(COMMANDS[where])
    assert found["--http-max-input-size"] == {str(64 * 2**20)}
    assert found["--allow-client-shm"] == {"false"}
    assert found["--model-control-mode"] == {"explicit"}
