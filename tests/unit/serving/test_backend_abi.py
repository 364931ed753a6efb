"""The places of ONNX Runtime's functions, tried on the library, and the sources' form."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from support.backend import SOURCES, STRICT, compile_c

LIBRARY = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))


class Api:
    """ONNX Runtime's table of functions, called by the places that the backend's header gives."""

    def __init__(self) -> None:
        text = (SOURCES / "onnxruntime_abi.h").read_text()
        found = re.findall(r"X\((\d+),\s*([^,]+),\s*(\w+),", text)
        self.places = {name: int(place) for place, _, name in found}
        library = ctypes.CDLL(str(LIBRARY))
        library.OrtGetApiBase.restype = ctypes.POINTER(ctypes.c_void_p)
        get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(
            library.OrtGetApiBase()[0] or 0
        )
        self._table = ctypes.cast(get_api(20), ctypes.POINTER(ctypes.c_void_p))

    def call(self, name: str, *arguments: Any) -> str | None:
        """Return the message of the status that a function returns, None without one."""
        function = ctypes.CFUNCTYPE(ctypes.c_void_p)(self._table[self.places[name]] or 0)
        status = function(*arguments)
        if status is None:
            return None
        message = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(
            self._table[self.places["GetErrorMessage"]] or 0
        )
        return (message(status) or b"").decode()


@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, *(ctypes.c_char_p,) * 4)
def _silent(*_: Any) -> None:
    """Take a line of ONNX Runtime's log."""


@pytest.fixture(scope="module")
def api() -> Api:
    made, environment = Api(), ctypes.c_void_p()
    level = ctypes.c_int(4)
    create = "CreateEnvWithCustomLogger"
    assert made.call(create, _silent, None, level, b"test", ctypes.byref(environment)) is None
    return made


def test_providers_are_those_that_python_lists(api: Api) -> None:
    names, count = ctypes.POINTER(ctypes.c_char_p)(), ctypes.c_int()
    assert api.call("GetAvailableProviders", ctypes.byref(names), ctypes.byref(count)) is None
    listed = [(names[at] or b"").decode() for at in range(count.value)]
    assert listed == onnxruntime.get_available_providers()
    assert api.call("ReleaseAvailableProviders", names, count) is None


@pytest.mark.parametrize(("provider", "kind"), [("CUDA", "CUDA"), ("TensorRT", "Tensorrt")])
def test_a_gpus_functions_are_where_the_header_says(api: Api, provider: str, kind: str) -> None:
    """A library without the provider says so by name; one with it takes what it is given."""
    session, options = ctypes.c_void_p(), ctypes.c_void_p()
    assert api.call("CreateSessionOptions", ctypes.byref(session)) is None
    keys, values = (ctypes.c_char_p * 1)(b"no_such_key"), (ctypes.c_char_p * 1)(b"1")
    create = api.call(f"Create{provider}ProviderOptions", ctypes.byref(options))
    messages = [create] if create else []
    update = f"Update{provider}ProviderOptions"
    messages.append(api.call(update, options, keys, values, ctypes.c_size_t(1)) or "")
    append = f"SessionOptionsAppendExecutionProvider_{provider}_V2"
    messages.append(api.call(append, session, options) or "")
    if f"{kind}ExecutionProvider" in onnxruntime.get_available_providers():
        assert create is None
    for message in messages:
        assert re.search(rf"{provider}|no_such_key", message, re.IGNORECASE), messages
    if options:
        api.call(f"Release{provider}ProviderOptions", options)


def test_names_that_are_given_come_back_in_messages(api: Api) -> None:
    session = ctypes.c_void_p()
    assert api.call("CreateSessionOptions", ctypes.byref(session)) is None
    append = "SessionOptionsAppendExecutionProvider"
    message = api.call(append, session, b"NoSuchProvider", None, None, ctypes.c_size_t(0))
    assert "NoSuchProvider" in (message or "")
    message = api.call("RegisterCustomOpsLibrary_V2", session, b"/no/such/library.so")
    assert "/no/such/library.so" in (message or "")


def test_the_sources_compile_without_a_warning(tmp_path: Path) -> None:
    flags = (*STRICT, "-O2", "-fPIC", "-shared", "-fvisibility=hidden")
    built = compile_c(tmp_path / "backend.so", sorted(SOURCES.glob("*.c")), *flags)
    names = subprocess.run(["nm", "-D", built], capture_output=True, text=True, check=True).stdout
    exported = re.findall(r" [TDB] (\w+)", names)
    assert sorted(exported) == [
        "TRITONBACKEND_Finalize",
        "TRITONBACKEND_Initialize",
        "TRITONBACKEND_ModelFinalize",
        "TRITONBACKEND_ModelInitialize",
        "TRITONBACKEND_ModelInstanceExecute",
        "TRITONBACKEND_ModelInstanceFinalize",
        "TRITONBACKEND_ModelInstanceInitialize",
    ]


def test_the_sources_are_formatted() -> None:
    command = Path(sys.executable).with_name("clang-format")
    program = str(command) if command.is_file() else shutil.which("clang-format")
    if program is None:
        pytest.skip("clang-format is not installed")
    here = Path(__file__).parent
    files = [*SOURCES.glob("*.[ch]"), *here.glob("*.[ch]")]
    assert len(files) > 10
    style = f"--style=file:{SOURCES / '.clang-format'}"
    done = subprocess.run(
        [program, "--dry-run", "--Werror", style, *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:2000]
