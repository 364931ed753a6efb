import dataclasses
import json
import os
from pathlib import Path

import pytest

from thresher import Decision
from thresher.certificate import CERTIFICATE_FILE, Certificate, file_digest
from thresher.errors import ParityError

DECISION = Decision(labels=["a", "b"], thresholds=[0.5, 0.3])


def certificate(folder: Path) -> Certificate:
    (folder / "model.onnx").write_bytes(b"model")
    return Certificate(
        model="m",
        version=1,
        source="s",
        precision="fp32",
        files={"model.onnx": file_digest(folder / "model.onnx")},
        decision_sha256=DECISION.digest,
        weights_sha256="w",
        data_sha256={"test": "d"},
        engines=("ONNX Runtime",),
        tools={"numpy": "2"},
        num_rows=3,
        num_decisions=6,
        num_flips=0,
        band_half_width=1e-7,
        created="2026-01-01T00:00:00+00:00",
        providers=("CPUExecutionProvider",),
        tolerances={"probabilities_atol": 1e-5},
        num_comparisons=12,
    )


def test_certificate_reads_back_equal_and_fits_its_folder(tmp_path: Path) -> None:
    written = certificate(tmp_path)
    (tmp_path / CERTIFICATE_FILE).write_text(written.to_json())
    read = Certificate.load(tmp_path)
    assert read == written


def test_certificate_of_an_older_thresher_is_read(tmp_path: Path) -> None:
    content = dataclasses.asdict(certificate(tmp_path))
    for name in ("providers", "tolerances", "num_comparisons"):
        del content[name]
    (tmp_path / CERTIFICATE_FILE).write_text(json.dumps(content))
    assert not Certificate.load(tmp_path).binds_configuration


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"engines": 3}', "\xff", "[" * 100_000])
def test_what_is_no_certificate_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CERTIFICATE_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(ParityError, match="not a certificate"):
        Certificate.load(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"../2/model.onnx": "d"},
        {"/etc/hosts": "d"},
        {"..": "d"},
        {"": "d"},
        ["model.onnx"],
        None,
    ],
)
def test_a_certificate_binds_files_of_its_own_folder(tmp_path: Path, files: object) -> None:
    content = {**dataclasses.asdict(certificate(tmp_path)), "files": files}
    (tmp_path / CERTIFICATE_FILE).write_text(json.dumps(content))
    with pytest.raises(ParityError, match="not a certificate"):
        Certificate.load(tmp_path)


def test_a_pipe_is_no_certificate_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / CERTIFICATE_FILE)
    with pytest.raises(ParityError, match=r"no certificate\.json"):
        Certificate.load(tmp_path)
