r"""What it costs to make tokens on the server instead of at the client, in rows per second.

One Triton on this machine with a text model and its `NAME.text`, asked in turn, so that a slower
moment hits both alike::

    thresher export models:/goemotions-light@candidate --text
    python benchmarks/serving_texts.py --model goemotions-light \
        --texts ../shared/data/goemotions/test.tsv

Both give the same answers, which is checked first. Prints a table and writes
``benchmarks/results/serving_texts.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from page import put, table

from thresher.repository import ModelRepository
from thresher_serving import Client, find_runtime, start_server

PAGE = Path(__file__).parents[1] / "docs" / "client.md"
RESULTS = Path(__file__).parent / "results" / "serving_texts.json"
LOADS = ((1, 1), (1, 8), (1, 32), (32, 1), (32, 4))
"""Rows in a request, and clients that ask side by side."""


def rows_per_s(
    client: Client, model: str, texts: list[str], batch: int, num_clients: int, seconds: float
) -> float:
    done = [0] * num_clients
    start = time.perf_counter()

    def ask(number: int) -> None:
        at = number * 97
        while time.perf_counter() - start < seconds:
            rows = [texts[(at + row) % len(texts)] for row in range(batch)]
            done[number] += len(client.predict(model, rows))
            at += batch

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / (time.perf_counter() - start)


def measured(
    ways: dict[str, tuple[Client, str]], texts: list[str], *, rounds: int, seconds: float
) -> dict[str, dict[str, list[float]]]:
    """Return the rows per second of each round, by load and way."""
    probabilities = [c.predict(model, texts[:64]).probabilities for c, model in ways.values()]
    assert all(np.array_equal(probabilities[0], each) for each in probabilities)
    found: dict[str, dict[str, list[float]]] = {}
    for batch, num_clients in LOADS:
        speeds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, (client, model) in ways.items():
                speeds[way].append(rows_per_s(client, model, texts, batch, num_clients, seconds))
        found[f"{batch} x {num_clients}"] = speeds
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a model that was exported with --text")
    parser.add_argument(
        "--texts", type=Path, required=True, help="a text in each line's first cell"
    )
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--quick", action="store_true", help="shorter and fewer; writes nothing")
    given = parser.parse_args()
    lines = given.texts.read_text(encoding="utf-8").splitlines()
    texts = [line.partition("\t")[0] for line in lines]
    repository = ModelRepository(given.repository)
    (text_model,) = repository.companions(given.model)
    folder = repository.model_file(text_model, repository.serving_version(text_model)).parent
    max_length = json.loads((folder / "tokens.json").read_text())["max_length"]
    with tempfile.TemporaryDirectory() as logs:
        server = start_server(
            given.repository,
            runtime=find_runtime(),
            grpc_port=0,
            http_port=0,
            metrics_port=0,
            log_file=Path(logs) / "log",
            models=[given.model, text_model],
            state_dir=None,
        )
        own = Client(server.grpc_url, tokenizer=folder / "tokenizer.json", max_length=max_length)
        plain = Client(server.grpc_url)
        ways = {
            "tokens made at the client": (own, given.model),
            "tokens made on the server": (plain, text_model),
        }
        rounds, seconds = (1, 1.0) if given.quick else (11, 1.5)
        try:
            found = measured(ways, texts, rounds=rounds, seconds=seconds)
        finally:
            own.close()
            plain.close()
            server.stop(timeout_s=5)
    print("rows per second, median (least to most) of the rounds; load", os.getloadavg()[0])
    for load, speeds_of in found.items():
        for way, speeds in speeds_of.items():
            spread = f"({min(speeds):,.0f} to {max(speeds):,.0f})"
            print(f"{load:8} {way:28} {statistics.median(speeds):8,.0f} {spread}")
    if not given.quick:
        heads = ["rows in a request x clients", *ways]
        rows = [
            [load, *(f"{statistics.median(speeds[way]):,.0f}" for way in ways)]
            for load, speeds in found.items()
        ]
        put(PAGE, "serving_texts", table(heads, rows))
        content = {
            "model": given.model,
            "rows_per_s": {k: {w: sorted(s) for w, s in v.items()} for k, v in found.items()},
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
