"""The tests of the compiled backend once more, with AddressSanitizer and UndefinedBehaviorSanitizer
in the server: what either of them finds ends it, and with it the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = ["test_backend.py", "test_backend_models.py", "test_label_metrics.py"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_sanitizer_finds_a_fault_while_requests_are_served() -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow"]
        + [str(here / name) for name in TESTS],
        env=os.environ | {"THRESHER_TEST_SANITIZERS": "1"},
        cwd=here.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "passed" in done.stdout
