"""A diagnosis as files and as text: what it holds, and that it can be read."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from support.patients import Wrapped, patient
from thresher.errors import ConfigError, DataError, NotFoundError, TrainingError
from thresher_training.doctor import CODES, Diagnosis, Finding, LayerGradient, RangeTest, examine
from thresher_training.doctor.refusal import as_finding


def finding(level, code="feature-scale"):
    return Finding(level=level, code=code, what="What.", evidence="Seen.", fix="Do.")


def diagnosis(*levels, **changes):
    findings = tuple(finding(level) for level in levels)
    return Diagnosis(name="mine", findings=findings, deep=False, seconds=1.25, **changes)


def test_errors_come_first_and_are_counted():
    found = diagnosis("note", "error", "warning", "note")
    assert [each.level for each in found.findings] == ["error", "warning", "note", "note"]
    assert len(found.errors) == 1
    assert found.summary() == "1 error, 1 warning, 2 notes (the quick checks, 1.2 s)"
    assert "[feature-scale] What. Seen. Fix: Do." in found.complaint()
    assert diagnosis().summary().startswith("nothing found")


def test_json_holds_every_finding_and_only_numbers_that_json_has(tmp_path):
    gradients = (
        LayerGradient(layer="a", gradient_norm=float("nan"), weight_norm=1.0),
        LayerGradient(layer="b", gradient_norm=0.0, weight_norm=1.0),
    )
    diagnosis("error", gradients=gradients).write(tmp_path / "new")
    content = json.loads((tmp_path / "new" / "doctor.json").read_text(), parse_constant=pytest.fail)
    assert content["findings"][0] == {
        "level": "error",
        "code": "feature-scale",
        "what": "What.",
        "evidence": "Seen.",
        "fix": "Do.",
    }
    assert content["gradients"][0]["gradient_norm"] is None
    assert "## error: feature-scale" in (tmp_path / "new" / "doctor.md").read_text()
    assert pixels(tmp_path / "new" / "doctor.png").std() > 10


def test_quick_diagnoses_have_no_picture(tmp_path):
    examine(patient(), fits=True).write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["doctor.json", "doctor.md"]
    assert "doctor.png" not in (tmp_path / "doctor.md").read_text()


def pixels(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("L"))


def test_deep_diagnoses_of_hundreds_of_layers_stay_readable(tmp_path):
    gradients = tuple(
        LayerGradient(layer=f"block.{k}.dense", gradient_norm=10.0 ** -(k % 9), weight_norm=1.0)
        for k in range(300)
    )
    test = RangeTest(
        recipe_rate=1e-3,
        learning_rates=tuple(10.0**k for k in range(-7, 1)),
        losses=(0.7, 0.7, 0.7, 0.6, 0.4, 0.2, 0.5, 1.0),
        low=1e-4,
        high=1e-2,
        runaway=10.0,
        finished=True,
    )
    diagnosis(gradients=gradients, range_test=test).write(tmp_path)
    assert pixels(tmp_path / "doctor.png").shape[0] < 1300


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("line 3 is broken"), "data-refused"),
        (NotFoundError("no such file"), "data-refused"),
        (ConfigError("[data] source failed: KeyError: 'x'"), "data-refused"),
        (ConfigError("[network] factory failed: KeyError: 'x'"), "network-refused"),
        (ConfigError("loss.name: unknown loss"), "recipe-refused"),
        (TrainingError("cannot be exported with a dynamic batch axis"), "network-refused"),
        (DataError("the test split has 3 target columns for 4 labels"), "label-count"),
    ],
)
def test_what_is_refused_is_an_error_with_the_message_as_evidence(error, code):
    found = as_finding(error)
    assert (found.level, found.code, found.evidence) == ("error", code, str(error))
    assert found.fix


def test_a_check_that_fails_itself_is_a_note():
    class Odd(Wrapped):
        """Fails on every batch but the trial's."""

        def forward(self, features):
            if len(features) > 3:
                raise RuntimeError("only three rows")
            return super().forward(features)

    found = examine(patient(network=Odd(nn.Identity())), fits=True)
    assert {each.code for each in found.findings} == {"check-failed"}
    assert "only three rows" in found.findings[0].evidence
    assert not found.errors


def test_the_documentation_explains_every_code_and_no_other():
    text = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text(encoding="utf-8")
    explained = re.findall(r"^\| `([a-z-]+)` \|", text, flags=re.MULTILINE)
    assert sorted(explained) == sorted(CODES)
