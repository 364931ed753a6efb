"""Requests that nobody should send, by kind, with what tells whether an answer to one is right.

The models that they go to give back what they are given: ``pair`` two floats a row, at most four
rows; ``wide`` any number of floats; ``text`` strings. So each answer that comes must hold the very
bytes that were sent, whatever else was wrong with the request.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tritonclient.grpc.service_pb2 import ModelInferRequest

__all__ = ["ENDING", "KINDS", "Grpc", "Http", "Raw", "requests", "send_raw"]

NASTY = [
    *("../../etc/passwd", "..", ".", "/", "/etc/passwd", "pair/../pair", "..%2f..%2fetc%2fpasswd"),
    *("pair\0", "pair\n", "PAIR", " pair", "pair ", "%s%s%s%n", "${HOME}", "$(id)", "`id`"),
    *("pair' OR 1=1", "パリティ", "\U0001f4a3", "x" * 10_000, "-", "--help", "C:\\pair", "null"),
]
VERSIONS = ["-1", "0", "2", "9" * 30, "1.0", "1 ", "../1", "one", "18446744073709551617", "0x1"]
DIMS = [-1, -(2**63), 0, 1, 3, 5, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1]
TYPES = [
    *("FP16", "FP64", "INT8", "INT32", "INT64", "UINT8", "BOOL", "BYTES", "BF16", "UINT64"),
    *("", "fp32", "TYPE_FP32", "FP99", "\0", "A" * 5000),
]


@dataclass(frozen=True)
class Grpc:
    """The bytes of a call of ModelInfer."""

    message: bytes


@dataclass(frozen=True)
class Http:
    """A request over HTTP."""

    path: str
    body: bytes
    headers: dict[str, str]
    method: str = "POST"


@dataclass(frozen=True)
class Raw:
    """Bytes for a port, be they HTTP or not; on several connections at once."""

    port: str
    content: bytes
    connections: int = 1


Request = Grpc | Http | Raw


def good(rng: random.Random, model: str = "pair", rows: int = 0) -> ModelInferRequest:
    """Return a request that is as it should be."""
    rows = rows or rng.randint(1, 4)
    width = 2 if model == "pair" else rng.randint(1, 9)
    message = ModelInferRequest(model_name=model)
    message.inputs.add(name="x", datatype="FP32", shape=[rows, width])
    values = [rng.gauss(0, 1) for _ in range(rows * width)]
    message.raw_input_contents.append(struct.pack(f"<{rows * width}f", *values))
    return message


def _document(rng: random.Random) -> dict[str, Any]:
    rows = rng.randint(1, 4)
    data = [round(rng.gauss(0, 1), 3) for _ in range(rows * 2)]
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": data}
    return {"inputs": [tensor]}


def _json(rng: random.Random, change: Callable[[dict[str, Any]], Any]) -> Http:
    document = _document(rng)
    changed = change(document)
    text = json.dumps(document if changed is None else changed)
    return Http("/v2/models/pair/infer", text.encode(), {"Content-Type": "application/json"})


def wrong_shape(rng: random.Random) -> Request:
    message = good(rng, rng.choice(["pair", "wide"]))
    shape = rng.choices([0, 1, 2, 3, 4, 7], k=rng.randint(0, 8))
    if shape == [0, 0]:
        shape = [0, 1]  # without rows and columns it is never answered, by a Triton 2.51.0
    message.inputs[0].shape[:] = shape
    size = math.prod(shape)
    message.raw_input_contents[0] = rng.randbytes(min(4 * size, 1_000_000))
    return Grpc(message.SerializeToString())


def wrong_type(rng: random.Random) -> Request:
    message = good(rng, rng.choice(["pair", "wide", "text"]))
    message.inputs[0].datatype = rng.choice(TYPES)
    return Grpc(message.SerializeToString())


def wrong_name(rng: random.Random) -> Request:
    message = good(rng)
    name = rng.choice(NASTY)
    where = rng.randrange(6)
    if where == 0:
        message.model_name = name
    elif where == 1:
        message.inputs[0].name = name
    elif where == 2:
        message.outputs.add(name=name)
    elif where == 3:
        message.model_version = rng.choice(VERSIONS)
    elif where == 4:
        message.inputs.add().CopyFrom(message.inputs[0])
        message.raw_input_contents.append(message.raw_input_contents[0])
    else:
        del message.inputs[:]
    return Grpc(message.SerializeToString())


def path_like_name(rng: random.Random) -> Request:
    name = "".join(f"%{byte:02x}" for byte in rng.choice(NASTY).encode()[:3000])
    what = rng.choice(["infer", "config", "ready", "stats", "versions/1/infer", "trace/setting"])
    raw = rng.random() < 0.3
    path = f"/v2/models/{rng.choice(['../..', '....//', '%2e%2e/', '%00']) if raw else name}/{what}"
    if rng.random() < 0.2:
        path = f"/v2/repository/models/{name}/load"
    method = "POST" if "infer" in what or "repository" in path else "GET"
    return Http(path, json.dumps(_document(rng)).encode(), {}, method)


def wrong_length(rng: random.Random) -> Request:
    message = good(rng, rng.choice(["pair", "wide"]))
    content = message.raw_input_contents[0]
    message.raw_input_contents[0] = rng.choice(
        [b"", content[:-1], content[: len(content) // 2], content + b"\0", content * 3,
         content + rng.randbytes(rng.choice([4, 4096, 1_000_000]))]
    )  # fmt: skip
    if rng.random() < 0.2:
        message.raw_input_contents.append(content)
    return Grpc(message.SerializeToString())


def overflowing_dims(rng: random.Random) -> Request:
    message = good(rng, rng.choice(["pair", "wide"]))
    dims = rng.choices(DIMS, k=rng.choice([1, 2, 2, 2, 3, 8]))
    message.inputs[0].shape[:] = [0, 1] if dims == [0, 0] else dims
    return Grpc(message.SerializeToString())


def huge_batch(rng: random.Random) -> Request:
    return Grpc(good(rng, "pair", rows=rng.choice([5, 6, 64, 1000, 100_000])).SerializeToString())


def not_finite(rng: random.Random) -> Request:
    message = good(rng, rng.choice(["pair", "wide"]))
    size = len(message.raw_input_contents[0]) // 4
    values = rng.choices([float("nan"), float("inf"), -float("inf"), 1e-45, 3.4e38, -0.0], k=size)
    message.raw_input_contents[0] = struct.pack(f"<{size}f", *values)
    return Grpc(message.SerializeToString())


def broken_protobuf(rng: random.Random) -> Request:
    content = bytearray(good(rng).SerializeToString())
    how = rng.randrange(5)
    if how == 0:
        content = bytearray(rng.randbytes(rng.randint(0, 400)))
    elif how == 1:
        content = content[: rng.randrange(len(content))]
    elif how == 2:
        for _ in range(rng.randint(1, 6)):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif how == 3:
        content += b"\x2a\xff\xff\xff\xff\x0f" + rng.randbytes(8)  # a field of 4 GB, it says
    else:
        content += b"\x0b" * rng.randint(1, 5000)  # groups within groups
    return Grpc(bytes(content))


def strange_parameters(rng: random.Random) -> Request:
    message = good(rng)
    name = rng.choice(
        ["sequence_id", "sequence_start", "priority", "timeout", "shared_memory_region", "", "x",
         "triton_enable_empty_final_response", "classification", "binary_data", "\0"]
    )  # fmt: skip
    holder: Any = message
    where = rng.randrange(3)
    if where == 1:
        holder = message.inputs[0]
    elif where == 2:
        holder = message.outputs.add(name="y")
    parameter = holder.parameters[name]
    kind = rng.randrange(4)
    if kind == 0:
        parameter.int64_param = rng.choice([-(2**63), -1, 0, 1, 2**31, 2**63 - 1])
    elif kind == 1:
        parameter.string_param = rng.choice(["", "../../dev/shm", "x" * 5000])
    elif kind == 2:
        parameter.bool_param = True
    if name == "shared_memory_region":
        holder.parameters["shared_memory_byte_size"].int64_param = rng.choice([-1, 8, 2**62])
        holder.parameters["shared_memory_offset"].int64_param = rng.choice([-1, 0, 2**63 - 1])
    return Grpc(message.SerializeToString())


def broken_strings(rng: random.Random) -> Request:
    message = ModelInferRequest(model_name="text")
    message.inputs.add(name="x", datatype="BYTES", shape=[1, 2])
    lengths = [rng.choice([0, 1, 3, 2**31 - 1, 2**32 - 1]) for _ in range(rng.randint(0, 3))]
    content = b"".join(struct.pack("<I", length) + rng.randbytes(3) for length in lengths)
    message.raw_input_contents.append(content)
    return Grpc(message.SerializeToString())


def broken_json(rng: random.Random) -> Request:
    text = json.dumps(_document(rng))
    how = rng.randrange(5)
    if how == 0:
        text = text[: rng.randrange(len(text))]
    elif how == 1:
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(list('{}[],:"\\e-\0')) + text[at + 1 :]
    elif how == 2:
        text = rng.choice(["[", '{"inputs":', '{"a":']) * rng.choice([10, 500])
    elif how == 3:
        text = rng.choice(["", "null", "[]", "1e999", '"', "{}", "NaN", '{"inputs": [{}]}'])
    else:
        text = text.replace("[", "[" + "9" * rng.choice([30, 400]) + ", ", 1)
    return Http("/v2/models/pair/infer", text.encode(), {"Content-Type": "application/json"})


def wrong_json(rng: random.Random) -> Request:
    # dims whose product is huge are left to ENDING: in JSON they end a Triton 2.51.0
    sizes = [-1, -(2**63), 0, 1, 3, 5, 1000]
    odd: list[Any] = [None, True, -1, 2**64, 1e300, "", "x", [], {}, [[]], {"a": 1}, 1.5]
    key = rng.choice(["name", "datatype", "shape", "data", "parameters"])
    value = rng.choice([*odd, rng.choices(sizes, k=2), [1, [2, "a"]], ["1.0", "2.0"]])

    def change(document: dict[str, Any]) -> Any:
        where = rng.randrange(4)
        if where == 0:
            return {**document, rng.choice(["inputs", "outputs", "id", "parameters"]): value}
        if where == 1:
            document["inputs"][0].pop(rng.choice(["name", "datatype", "shape", "data"]))
        else:
            document["inputs"][0][key] = value
        return None

    return _json(rng, change)


def broken_http(rng: random.Random) -> Request:
    body = json.dumps(_document(rng)).encode()
    path = "/v2/models/pair/infer"
    length = rng.choice(["-1", "0", "7", "99999999999999999999", "x", str(2**63), str(len(body))])
    how = rng.randrange(5)
    if how == 0:
        return Http(path, body, {"Inference-Header-Content-Length": length})
    if how == 1:
        coding = rng.choice(["gzip", "deflate", "br", "gzip, gzip", "x"])
        packed = rng.choice([body, gzip.compress(body)[:-6], rng.randbytes(50), b""])
        return Http(path, packed, {"Content-Encoding": coding})
    if how == 2:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
        tensor["parameters"] = {"binary_data_size": rng.choice([-1, 0, 8, 9, 2**31, 2**63 - 1])}
        header = json.dumps({"inputs": [tensor]}).encode()
        content = header + rng.randbytes(rng.choice([0, 4, 8, 64]))
        return Http(path, content, {"Inference-Header-Content-Length": str(len(header))})
    lines = rng.choice(
        [
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n",
            "GET / HTTP/9.9\r\n\r\n",
            f"POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            f"POST {path} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab",
            f"DELETE {path} HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET /" + "a" * 20_000 + " HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n" + "".join(f"h{n}: {'v' * 50}\r\n" for n in range(300)) + "\r\n",
            "\r\n\r\n\0\0\0",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ]
    )
    return Raw("http", lines.encode())


def not_even_grpc(rng: random.Random) -> Request:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    content = rng.choice(
        [b"", b"GET / HTTP/1.1\r\n\r\n", preface, preface + rng.randbytes(300), rng.randbytes(2000)]
    )
    return Raw("grpc", content)


def flood(rng: random.Random) -> Request:
    port = rng.choice(["grpc", "http"])
    start = b"POST /v2/models/pair/infer HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{"
    return Raw(port, start if port == "http" else b"PRI * HTTP/2.0\r\n", connections=100)


KINDS: dict[Callable[[random.Random], Request], int] = {
    wrong_shape: 10,
    wrong_type: 10,
    wrong_name: 10,
    path_like_name: 8,
    wrong_length: 10,
    overflowing_dims: 10,
    huge_batch: 6,
    not_finite: 6,
    broken_protobuf: 10,
    strange_parameters: 8,
    broken_strings: 4,
    broken_json: 8,
    wrong_json: 8,
    broken_http: 8,
    not_even_grpc: 4,
    flood: 1,
}
"""The kinds, with how often each comes."""


def _posted(body: bytes) -> bytes:
    head = f"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _of_shape(shape: str) -> bytes:
    tensor = '{"name": "x", "datatype": "FP32", "shape": %s, "data": [1.0, 2.0]}'
    return _posted(f'{{"inputs": [{tensor % shape}]}}'.encode())


ENDING = {
    "dims whose product overflows": _of_shape("[2147483647, 9223372036854775807]"),
    "dims of more than there is memory": _of_shape("[1099511627776, 2]"),
    "a million brackets": _posted(b"[" * 1_000_000),
    "a million chunks": b"POST /v2/models/pair/infer HTTP/1.1\r\nHost: a\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nA\r\n" * 1_000_000 + b"0\r\n\r\n",
}
"""What ends a Triton 2.51.0, each by itself, where its HTTP takes predictions from anybody."""


def send_raw(port: int, content: bytes) -> bytes:
    """Return the first bytes that a port on this machine answers; none if it hangs up."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as opened:
        try:
            opened.sendall(content)
            return opened.recv(4096)
        except OSError:
            return b""


def requests(count: int, seed: int) -> Iterator[tuple[str, Request]]:
    """Yield the name of a kind and a request of it, so many times."""
    rng = random.Random(seed)
    kinds, weights = list(KINDS), list(KINDS.values())
    for at in range(count):
        kind = kinds[at] if at < len(kinds) else rng.choices(kinds, weights)[0]
        yield kind.__name__, kind(rng)
