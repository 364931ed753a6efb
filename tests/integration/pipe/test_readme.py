"""The README's commands, run as they stand there, in a folder of their own."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
FREE_PORTS = "--grpc-port 0 --http-port 0 --metrics-port 0"
BIN = Path(sys.executable).parent


def block(marker: str) -> str:
    """Return the code block that follows a marker."""
    found = re.search(rf"<!-- {marker} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found, f"README.md has no block marked {marker}"
    return found[1]


def commands(marker: str) -> list[str]:
    """Return a block's commands; comments and the activation of .venv are left out."""
    lines = [line.partition("#")[0].strip() for line in block(marker).splitlines()]
    return [line for line in lines if line and not line.startswith(". ")]


def run(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a shell would in a folder, on ports that are free."""
    if line.startswith("thresher serve"):
        line = f"{line} {FREE_PORTS}"
    words = [
        str(path)
        for word in shlex.split(line)
        for path in (sorted(folder.glob(word)) if "*" in word else [word])
    ]
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
    }
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.timeout(600)
def test_main_job_on_digits(tmp_path: Path) -> None:
    (tmp_path / "training").symlink_to(ROOT / "training")
    shown: dict[str, str] = {}
    try:
        for line in commands("tested: digits"):
            if line == "thresher stop":
                verified = run("thresher verify digits --over-the-wire --json", tmp_path)
            shown[line.split()[1]] = run(line, tmp_path).stdout
    finally:
        run("thresher stop", tmp_path)
    outcome = json.loads(verified.stdout)
    assert outcome["num_rows"] == 3000
    assert outcome["decision_flips"] == 0
    assert outcome["ok"]
    assert [pair["engines"] for pair in outcome["pairs"]] == [
        ["torch", "ONNX Runtime"],
        ["torch", "Triton"],
        ["ONNX Runtime", "Triton"],
    ]
    assert "digits@candidate" in shown["train"]
    assert "model_repository/digits/1" in shown["export"]
    assert "torch = ONNX Runtime = Triton, decision by decision" in shown["verify"]
    assert "digits version 1" in shown["predict"]
    assert (tmp_path / "model_repository/digits/1/model.onnx").is_file()
    right = re.findall(r"│ (yes|no) ", shown["predict"])
    assert len(right) == 12
    assert right.count("yes") >= 8


def test_own_model_in_five_minutes(tmp_path: Path) -> None:
    for name in re.findall(r"<!-- file: (\S+) -->", README):
        (tmp_path / name).write_text(block(f"file: {name}"))
    try:
        for line in commands("tested: articles"):
            done = run(line, tmp_path)
            if "verify" in line:
                assert "torch = ONNX Runtime = Triton" in done.stdout
    finally:
        run("thresher stop", tmp_path)


def test_training_from_the_command_line_and_from_python(tmp_path: Path) -> None:
    for name in re.findall(r"<!-- file: (\S+) -->", README):
        (tmp_path / name).write_text(block(f"file: {name}"))
    shown = {line.split()[1]: run(line, tmp_path).stdout for line in commands("tested: training")}
    assert "Registered models:/articles/1" in shown["train"]
    assert "Best on validation: " in shown["compare"]
    assert run("python again.py", tmp_path).stdout.startswith("models:/articles/2 0.")


def test_files_that_the_readme_links_to_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        path, _, heading = link.partition("#")
        assert (ROOT / path).exists(), link
        if heading:
            headings = re.findall(r"^#+ (.+)$", (ROOT / path).read_text(), flags=re.MULTILINE)
            assert heading in {text.lower().replace(" ", "-") for text in headings}, link
