"""What the command line promises before any stage is imported."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from thresher.cli import main

ROOT = Path(__file__).parents[3]


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from thresher.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "print('HEAVY', {'torch', 'onnx', 'onnxruntime', 'mlflow', 'tritonclient', 'sklearn',"
        " 'matplotlib'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "HEAVY set()" in done.stdout
    assert "thresher train training/recipes/digits.toml" in done.stdout


@pytest.mark.parametrize("package", ["thresher", "thresher_serving", "thresher_training"])
def test_importing_a_package_loads_no_torch(package: str) -> None:
    script = f"import sys, {package}; assert not {{'torch', 'mlflow', 'onnx'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def commands() -> list[tuple[str, ...]]:
    groups = {name: getattr(command, "commands", None) for name, command in main.commands.items()}
    return [
        (name, *sub)
        for name, subs in groups.items()
        for sub in ([(s,) for s in subs or ()] or [()])
    ]


@pytest.mark.parametrize("command", commands())
def test_each_command_has_an_example(command: tuple[str, ...]) -> None:
    outcome = CliRunner().invoke(main, [*command, "--help"])
    assert outcome.exit_code == 0
    assert f"Example: thresher {' '.join(command)}" in " ".join(outcome.output.split())


def test_install_without_extras_prints_help_and_names_the_extra(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin/python"
    constraints = ROOT / "constraints.txt"
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "-c", constraints, str(ROOT)],
        check=True,
        cwd=tmp_path,
    )
    thresher = venv / "bin/thresher"
    shown = subprocess.run([thresher, "--help"], capture_output=True, text=True, check=True)
    assert "Commands:" in shown.stdout
    recipe = ROOT / "training/recipes/digits.toml"
    for arguments, extra in (
        (["train", str(recipe)], "train"),
        (["export", "models:/digits@candidate"], "export"),
        (["verify", "digits"], "export"),
        (["predict", "digits", str(recipe), "--server", "127.0.0.1:1"], "serve"),
        (["ui"], "train"),
    ):
        done = subprocess.run(
            [thresher, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert f"pip install 'thresher[{extra}]'" in done.stderr
