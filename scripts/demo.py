"""The main job, end to end: prints each command before it runs it. Needs no GPU and no Docker."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = "examples/digits"
PICTURE = "examples/digits-answered.png"

NEXT = f"""Look at {PICTURE}: what Triton answered, wrong ones marked.

What to try next (. .venv/bin/activate first):
  thresher ui                      the run, its plots and the model, in MLflow's own UI
  thresher train training/recipes/digits.toml --set seed=1 --set optimization.epochs=3
  thresher --help                  every command
  README.md                        "Your own model in five minutes"
"""


def free(port: int) -> bool:
    """Return whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def run(command: str, why: str) -> None:
    """Print a command and why it comes now, then run it; a failure ends the demo."""
    print(f"\n\033[1m$ {command}\033[0m    # {why}", flush=True)
    words = [
        str(path) if "*" in word else word
        for word in shlex.split(command)
        for path in (sorted(Path().glob(word)) if "*" in word else [word])
    ]
    subprocess.run(words, check=True)


def main() -> int:
    """Run the demo; return its exit code."""
    os.chdir(ROOT)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ports = (
        ""
        if all(map(free, (8000, 8001, 8002)))
        else " --grpc-port 0 --http-port 0 --metrics-port 0"
    )
    started = time.monotonic()
    try:
        run("thresher train training/recipes/digits.toml", "trains, tunes thresholds, registers")
        run("thresher export models:/digits@candidate", "ONNX with its decision head; parity")
        run(f"thresher serve --background{ports}", "NVIDIA Triton on model_repository/")
        run(f"thresher predict digits {EXAMPLES}/*.png", "asks Triton over gRPC")
        run(
            f"thresher verify digits --over-the-wire --picture {PICTURE}",
            "the whole test split, three engines",
        )
    except subprocess.CalledProcessError as error:
        print(f"\nThe demo ends here: exit code {error.returncode}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    finally:
        run("thresher stop", "leaves no server behind")
    print(f"\nDone in {time.monotonic() - started:.0f} s. {NEXT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
