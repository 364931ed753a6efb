import dataclasses
import json
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
    read.check(tmp_path, DECISION)


def test_certificate_of_an_older_thresher_is_read(tmp_path: Path) -> None:
    content = dataclasses.asdict(certificate(tmp_path))
    for name in ("providers", "tolerances", "num_comparisons"):
        del content[name]
    (tmp_path / CERTIFICATE_FILE).write_text(json.dumps(content))
    Certificate.load(tmp_path).check(tmp_path, DECISION)


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"engines": 3}', "\xff"])
def test_what_is_no_certificate_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CERTIFICATE_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(ParityError, match="not a certificate"):
        Certificate.load(tmp_path)


def test_every_byte_and_the_decision_are_bound(tmp_path: Path) -> None:
    bound = certificate(tmp_path)
    other = Decision(labels=["a", "b"], thresholds=[0.5, 0.31])
    with pytest.raises(ParityError, match="decision in config.pbtxt is another one"):
        bound.check(tmp_path, other)
    (tmp_path / "model.onnx").write_bytes(b"modeL")
    with pytest.raises(ParityError, match="model.onnx has other bytes"):
        bound.check(tmp_path, DECISION)
