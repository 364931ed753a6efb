"""ONNX Runtime here, a Triton server and a Ray cluster write the same rows, on any file system."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

from support.mlflow_server import free_port
from support.networks import publish_network
from support.scoring import (
    OPTIONS,
    engine_of,
    read_parts,
    read_rejects,
    score_into,
    table,
    weather_version,
    write_parts,
)
from support.triton import Triton, triton
from thresher.config_pbtxt import certificate_key, config_text, read_config
from thresher.errors import ServerError
from thresher_serving import Runtime
from thresher_serving.scoring import HereWorkers, ScoredVersion, TritonEngine, score, score_files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scoring")


@pytest.fixture(scope="module")
def version(folder: Path) -> ScoredVersion:
    return weather_version(folder / "models")


@pytest.fixture(scope="module")
def server(folder: Path, version: ScoredVersion, runtime: Runtime) -> Iterator[Triton]:
    with triton(runtime, folder / "models", [version.model.name], log=folder / "log") as running:
        yield running


def same(one: Path, other: Path) -> bool:
    """Return whether two outputs hold the same rows, and reject the same ones."""

    def rejects(folder: Path) -> list[dict[str, Any]]:
        """Return rejected rows; of the paths in reasons the file's name."""
        return [{**row, "reason": row["reason"].rpartition("/")[2]} for row in read_rejects(folder)]

    return read_parts(one).equals(read_parts(other)) and rejects(one) == rejects(other)


def write_input(folder: Path) -> None:
    """Write parts with a row that cannot be scored, and one file that cannot be read."""
    write_parts(folder, 4, 700)
    rows = table(90).to_pydict()
    rows["sun"][41] = None
    pq.write_table(pa.table(rows), folder / "q.parquet")
    (folder / "broken.parquet").write_bytes(b"PAR1 and no more")


def test_a_triton_server_says_what_onnx_runtime_says_here(
    version: ScoredVersion, server: Triton, tmp_path: Path
) -> None:
    write_input(tmp_path / "in")
    here = score_into(version, tmp_path / "in", tmp_path / "here")
    workers = HereWorkers(TritonEngine(version, server.grpc_url))
    there = score_files(
        version,
        given=tmp_path / "in",
        output=tmp_path / "there",
        workers=workers,
        options=OPTIONS,
    )
    workers.close()
    assert same(tmp_path / "here", tmp_path / "there")
    assert here.to_dict() | {"output": ""} == there.to_dict() | {"output": ""}


def test_a_row_that_the_network_refuses_costs_that_row_on_a_server_too(
    tmp_path: Path, runtime: Runtime
) -> None:
    version = publish_network(
        tmp_path / "models",
        [("Gather", ["table", "id"], ["rows"]), ("Squeeze", ["rows", "axis"], ["logits"])],
        {"id": (7, [1])},
        constants={"table": np.float32([[1, -1], [-1, 1]]), "axis": np.int64([1])},
    )
    ids = [at % 2 for at in range(400)]
    ids[7], ids[200], ids[399] = 5, -9, 2
    rows = pa.table({"id": ids})
    with triton(runtime, tmp_path / "models", ["net"], log=tmp_path / "log") as running:
        engine = TritonEngine(version, running.grpc_url)
        found = score(version, rows, engine)
        engine.close()
    assert found.rejects["row"].to_pylist() == [7, 200, 399]
    assert all("refuses it" in reason for reason in found.rejects["reason"].to_pylist())
    here = score(version, rows, engine_of(version))
    assert found.table.select(["row", "labels"]).equals(here.table.select(["row", "labels"]))
    assert found.tally.num_scored == 397


def test_a_server_that_goes_away_stops_a_job_which_another_one_ends(
    version: ScoredVersion, folder: Path, runtime: Runtime, tmp_path: Path
) -> None:
    write_parts(tmp_path / "in", 30, 600)
    score_into(version, tmp_path / "in", tmp_path / "here")
    port = free_port()

    def job(url: str) -> None:
        workers = HereWorkers(TritonEngine(version, url, timeout_s=5))
        try:
            score_files(
                version,
                given=tmp_path / "in",
                output=tmp_path / "out",
                workers=workers,
                options=OPTIONS,
            )
        finally:
            workers.close()

    with triton(
        runtime, folder / "models", ["weather"], log=tmp_path / "log", grpc_port=port
    ) as first:

        def kill() -> None:
            while not [*(tmp_path / "out/_job").glob("*.parquet.json")]:
                time.sleep(0.002)
            first.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(ServerError, match="run the same command again to go on"):
            job(first.grpc_url)
        killer.join()
    done = len([*(tmp_path / "out/_job").glob("*.parquet.json")])
    assert 1 <= done < 30
    assert not (tmp_path / "out/_report.json").exists()
    with triton(runtime, folder / "models", ["weather"], log=tmp_path / "log") as second:
        job(second.grpc_url)
    assert same(tmp_path / "here", tmp_path / "out")


def test_a_server_with_another_decision_is_not_asked(
    version: ScoredVersion, tmp_path: Path, server: Triton
) -> None:
    other = weather_version(tmp_path, thresholds=0.7)
    with pytest.raises(ServerError, match="another decision"):
        TritonEngine(other, server.grpc_url)
    with pytest.raises(ServerError, match=r"127\.0\.0\.1"):
        TritonEngine(version, f"127.0.0.1:{free_port()}", timeout_s=1)


def test_answers_of_another_model_are_not_stamped_with_this_one_s_certificate(
    version: ScoredVersion, server: Triton
) -> None:
    """Another certificate, of the same decision; the second time while a job runs."""
    other = dataclasses.replace(version, certificate_sha256="0" * 64)
    with pytest.raises(ServerError, match=r"names another certificate for weather/1.*000000000000"):
        TritonEngine(other, server.grpc_url)
    engine = TritonEngine(version, server.grpc_url)
    rows = {
        name: np.zeros((2, *tensor.shape), tensor.dtype)
        for name, tensor in version.model.inputs.items()
    }
    assert len(engine.answer(rows, with_logits=False).labels_NL) == 2
    engine._version = other
    with pytest.raises(ServerError, match="names another certificate"):
        engine.answer(rows, with_logits=False)
    engine.close()


def test_a_server_that_names_no_certificate_is_not_asked(runtime: Runtime, tmp_path: Path) -> None:
    other = weather_version(tmp_path / "models")
    path = tmp_path / "models/weather/config.pbtxt"
    config = read_config(path)
    del config.parameters[certificate_key(1)]
    path.write_text(config_text(config))
    with (
        triton(runtime, tmp_path / "models", ["weather"], log=tmp_path / "log") as running,
        pytest.raises(ServerError, match="names no certificate for weather/1"),
    ):
        TritonEngine(other, running.grpc_url)


def test_two_ray_workers_write_what_one_process_writes(
    version: ScoredVersion, tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    from thresher_serving.scoring.ray_workers import RayWorkers

    write_input(tmp_path / "in")
    score_into(version, tmp_path / "in", tmp_path / "here")
    workers = RayWorkers(2)
    try:
        report = score_files(
            version,
            given=tmp_path / "in",
            output=tmp_path / "there",
            workers=workers,
            options=OPTIONS,
        )
    finally:
        workers.close()
    assert same(tmp_path / "here", tmp_path / "there")
    assert report.tally.num_read == 4 * 700 + 90
    assert len(report.tally.broken) == 1


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run an S3 server; return the URI of a bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port())
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    system, path = fs.FileSystem.from_uri("s3://rows?allow_bucket_creation=true")
    system.create_dir(path)
    yield "s3://rows"
    server.stop()


def test_an_object_store_is_read_and_written(
    version: ScoredVersion, tmp_path: Path, bucket: str
) -> None:
    write_input(tmp_path / "in")
    system, path = fs.FileSystem.from_uri(bucket)
    fs.copy_files(str(tmp_path / "in"), f"{path}/in", destination_filesystem=system)
    score_into(version, tmp_path / "in", tmp_path / "here")
    score_into(version, f"{bucket}/in", f"{bucket}/out")
    again = score_into(version, f"{bucket}/in", f"{bucket}/out")
    assert (again.num_taken_over, again.num_parts) == (5, 6)  # the broken file is tried again
    fs.copy_files(f"{path}/out", str(tmp_path / "there"), source_filesystem=system)
    assert same(tmp_path / "here", tmp_path / "there")
    told = json.loads((tmp_path / "there/_report.json").read_text())
    assert told["rows"] == {"read": 2890, "scored": 2889, "rejected": 1}


def test_fsspec_addresses_are_read_and_written(version: ScoredVersion, tmp_path: Path) -> None:
    import fsspec

    write_parts(tmp_path / "in", 2, 50)
    score_into(version, tmp_path / "in", tmp_path / "here")
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path / "in"), "/in", recursive=True)
    score_into(version, "memory://in", "memory://out")
    memory.get("/out", str(tmp_path / "there"), recursive=True)
    assert same(tmp_path / "here", tmp_path / "there")
    assert engine_of(version).concurrency == 2
