"""The backend's reader of JSON, under sanitizers, with Python's own as the oracle."""

from __future__ import annotations

import json
import random
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.backend import SANITIZERS, SOURCES, compile_c

Read = Callable[[Sequence[bytes]], list[str]]


@pytest.fixture(scope="session")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Return what reads documents: a line for each."""
    sources = [SOURCES / "json.c", Path(__file__).with_name("json_driver.c")]
    driver = compile_c(tmp_path_factory.mktemp("json") / "driver", sources, *SANITIZERS)

    def run(documents: Sequence[bytes]) -> list[str]:
        framed = b"".join(struct.pack("<I", len(d)) + d for d in documents)
        done = subprocess.run([str(driver)], input=framed, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()[-3000:]
        lines = done.stdout.decode().splitlines()
        assert len(lines) == len(documents)
        return lines

    return run


class _Number(str):
    """A number as it is written."""


class _UnlikeError(Exception):
    """Python reads what this reader refuses."""


def _line(value: Any) -> str:
    if isinstance(value, _Number):
        is_whole = not set(value) & set(".eE") and -(2**63) <= int(value) < 2**63
        return f"i{int(value)}" if is_whole else f"n{value}"
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise _UnlikeError
        return f'"{value.encode().hex()}"'
    if isinstance(value, list):
        return "[" + "".join(f"{_line(one)}," for one in value) + "]"
    if isinstance(value, tuple):
        members = (f"{_line(key)[1:-1]}:{_line(one)}," for key, one in value)
        return "{" + "".join(members) + "}"
    return json.dumps(value)


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def oracle(document: bytes) -> str | None:
    """Return the line that is expected, None if the document is no JSON."""
    try:
        value = json.loads(
            document.decode(),
            object_pairs_hook=tuple,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_refuse_constant,
        )
        return _line(value)
    except (ValueError, RecursionError, _UnlikeError):
        return None


def _document(rng: random.Random, level: int = 0) -> Any:
    kind = rng.randrange(9 if level < 5 else 6)
    if kind < 3:
        return rng.choice([None, True, False, 0, -1, 2**63 - 1, -(2**63), 2**64, 1.5e-300, 1e22])
    if kind < 6:
        letters = 'ab"\\/\b\f\n\r\tü雪😀\u2028\x7f '
        return "".join(rng.choice(letters) for _ in range(rng.randrange(8)))
    if kind == 6:
        return [_document(rng, level + 1) for _ in range(rng.randrange(5))]
    return {str(rng.randrange(4)): _document(rng, level + 1) for _ in range(rng.randrange(5))}


def _mutated(rng: random.Random, document: bytes) -> bytes:
    pieces = [b"\\u", b"\\ud83d", b"\\ude00", b"\\u0000", b"\xc0\x80", b"\xed\xa0\x80", b"nul"]
    pieces += [bytes([byte]) for byte in b'"\\[]{},:-0.e \0\xff']
    changed = bytearray(document)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0:
                changed[at : at + 1] = rng.choice(pieces)
            case 1:
                changed[at:at] = rng.choice(pieces)
            case 2:
                del changed[at : at + rng.randrange(1, 4)]
            case _:
                del changed[at:]
    return bytes(changed)


def _agree(documents: Sequence[bytes], lines: Sequence[str]) -> tuple[int, int]:
    taken = refused = 0
    for document, line in zip(documents, lines, strict=True):
        expected = oracle(document)
        if expected is None:
            assert line.startswith("refused: "), (document, line)
            refused += 1
        else:
            assert line == expected, (document, line)
            taken += 1
    return taken, refused


def test_documents_and_what_is_made_of_them_are_read_as_python_reads_them(read: Read) -> None:
    rng = random.Random(0)
    documents = []
    for _ in range(3000):
        text = json.dumps(
            _document(rng),
            ensure_ascii=rng.random() < 0.5,
            indent=rng.choice([None, 1]),
        ).encode()
        documents.append(text)
        documents += [_mutated(rng, text) for _ in range(3)]
    taken, refused = _agree(documents, read(documents))
    assert taken > 3000
    assert refused > 3000


def test_every_start_of_a_document_is_read_as_python_reads_it(read: Read) -> None:
    text = json.dumps({"a": [1, -0.5e3, '\u00fc\\"', {"": None}, [], {}, True]}).encode()
    text += '"ü😀\\ud83d\\ude00"'.encode()
    documents = [text[:end] for end in range(len(text) + 1)]
    documents += [text[start:] for start in range(len(text))]
    _agree(documents, read(documents))


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b"[" * 100_000, "too many levels"),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, "too many levels"),
        (rb'"\ud800"', "half of a surrogate pair"),
        (rb'"\udc00\ud800"', "half of a surrogate pair"),
        (rb'"\ud800\u0041"', "half of a surrogate pair"),
        (rb'"a\u0000b"', "NUL in a string"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\xf4\x90\x80\x80"', "not UTF-8"),
        (b'"\xe0\x80\x80"', "not UTF-8"),
        (b'"\xf0\x9f\x98', "not UTF-8"),
        (b'"\n"', "control character"),
        (b"01", "more follows"),
        (b"NaN", "digit was expected"),
        (b"", "a value was expected"),
        (b"[1,]", "digit was expected"),
        (b"{1:2}", "a string was expected"),
    ],
)
def test_what_is_refused_is_named(read: Read, document: bytes, why: str) -> None:
    (line,) = read([document])
    assert line.startswith("refused: byte ")
    assert why in line


def test_sixty_four_levels_and_numbers_of_any_size_are_read(read: Read) -> None:
    deep = b"[" * 64 + b"]" * 64
    huge = [b"9" * 5000, b"1e999999999", b"-0", b"-9223372036854775808", b"9223372036854775808"]
    lines = read([deep, *huge])
    assert lines[0].count("[") == 64
    assert lines[1] == "n" + "9" * 5000
    assert lines[2:] == ["n1e999999999", "i0", "i-9223372036854775808", "n9223372036854775808"]
