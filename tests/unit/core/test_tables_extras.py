"""Reading without the packages that it needs says what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from thresher.errors import MissingExtraError
from thresher.tables.address import address_of
from thresher.tables.arff_files import arff_header
from thresher.tables.memory import memory_rows


def test_files_and_frames_without_pyarrow_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import pandas as pd

    frame = pd.DataFrame({"x": [1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"rows\.csv.*thresher\[tables\]"):
        address_of(tmp_path / "rows.csv")
    with pytest.raises(MissingExtraError, match=r"DataFrame.*thresher\[tables\]"):
        memory_rows(frame)
    kinds, _ = memory_rows({"x": [1]})
    assert kinds == {"x": None}


def test_arff_files_without_their_package_name_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "rows.arff"
    path.write_text("@relation r\n@attribute x numeric\n@data\n1\n")
    system = address_of(path).system
    monkeypatch.setitem(sys.modules, "arff", None)
    with pytest.raises(MissingExtraError, match=r"liac-arff.*thresher\[tables\]"):
        arff_header(str(path), system)
