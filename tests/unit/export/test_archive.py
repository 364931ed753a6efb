"""Archives that would run code when they are read are refused, and none that torch writes is."""

import io
import json
import logging
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thresher.errors import ConversionError
from thresher_export.archive import check_archive, is_plain_guard
from thresher_export.convert import load_program


class Texts(nn.Module):
    """Free axes, constants, buffers and arithmetic on sizes: much of what an archive can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.last = nn.Linear(8, 2)
        self.register_buffer("weights", torch.tensor([1.0, 2.0]), persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.words(ids) * torch.tensor(0.5)
        shown = mask[..., None].float()
        mean = (hidden * shown).sum(1) / (shown.sum(1) + ids.shape[1] // 2 + 1)
        logits: Tensor = self.last(mean) * self.weights
        return logits


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    ids, mask = torch.ones(3, 7, dtype=torch.int64), torch.ones(3, 7, dtype=torch.int64)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", min=2, max=64)}
    program = torch.export.export(Texts().eval(), (ids, mask), dynamic_shapes=(axes, axes))
    torch.export.save(program, tmp_path / "model.pt2")
    return tmp_path / "model.pt2"


def rewritten(archive: Path, change: Callable[[str, bytes], bytes], **more: bytes) -> Path:
    """Return a copy with its entries changed, and more of them."""
    path = archive.with_name("poisoned.pt2")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        for name, content in more.items():
            new.writestr(f"model/{name}", content)
    return path


class Poison:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def test_what_torch_writes_is_read_as_before(archive: Path) -> None:
    program = load_program(archive)
    ids = torch.ones(5, 9, dtype=torch.int64)
    assert program.module()(ids, ids).shape == (5, 2)
    with pytest.raises((AssertionError, RuntimeError)):
        program.module()(ids, ids[:, :4])  # its guards are there


def test_pickled_code_is_refused_before_it_runs(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    buffer = io.BytesIO()
    torch.save(((Poison(mark),), {}), buffer)

    def poisoned(name: str, content: bytes) -> bytes:
        return buffer.getvalue() if "sample_inputs" in name else content

    path = rewritten(archive, poisoned)
    with pytest.raises(ConversionError, match="could run code that it holds: .*sample_inputs"):
        load_program(path)
    assert not mark.exists()
    # the format string of torch's own warning lacks an argument (torch 2.13)
    monkeypatch.setattr(logging.getLogger("torch._export.serde.serialize"), "disabled", True)
    torch.export.load(path)
    assert mark.exists()  # the poison is one


def test_constants_that_need_full_unpickling_are_refused(archive: Path, tmp_path: Path) -> None:
    entry = "data/constants/opaque_obj_0"
    poison = pickle.dumps(Poison(tmp_path / "ran"))
    path = rewritten(archive, lambda _, content: content, **{entry: poison})
    with pytest.raises(ConversionError, match="opaque_obj_0 holds code"):
        load_program(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("expr_str", "__import__('os').system('touch ran')", "holds the expression"),
        ("expr_str", "exec('import os')", "holds the expression"),
        ("expr_str", "S('().__class__')", "holds the expression"),
        ("target", "torch.os.system", "calls"),
        ("target", "torch.ops.load_library", "calls"),
        ("target", "_operator.call", "calls"),
    ],
)
def test_expressions_and_calls_beyond_operators_are_refused(
    archive: Path, key: str, value: str, words: str
) -> None:
    def changed(content: Any) -> bool:
        """Change the first of this key."""
        if isinstance(content, dict):
            if isinstance(content.get(key), str):
                content[key] = value
                return True
            return any(changed(each) for each in content.values())
        return isinstance(content, list) and any(changed(each) for each in content)

    def poisoned(name: str, content: bytes) -> bytes:
        if "models/" not in name:
            return content
        program = json.loads(content)
        assert changed(program["graph_module"])
        return json.dumps(program).encode()

    with pytest.raises(ConversionError, match=words):
        check_archive(rewritten(archive, poisoned))


def test_guards_are_kept_where_they_compare_sizes_and_dropped_where_they_run_code() -> None:
    assert is_plain_guard("L['ids'].size()[0] == L['mask'].size()[0]")
    assert is_plain_guard("2 <= L['x'].size()[1] and L['x'].size()[1] <= 64")
    assert is_plain_guard("Mod(L['x'].size()[1], 2) == 0")
    for code in ("__import__('os').system('x')", "L['x'].__class__", "open('a')", "eval('1')"):
        assert not is_plain_guard(code)


def test_what_is_no_archive_is_said(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(b"nothing")
    with pytest.raises(ConversionError, match="not a torch program that can be read"):
        load_program(tmp_path / "model.pt2")
