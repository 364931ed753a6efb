"""What the client needs to be installed: NumPy and tritonclient, and no more until it is used."""

from __future__ import annotations

import subprocess
import sys

NOT_NEEDED = ("aiohttp", "geventhttpclient", "mlflow", "onnx", "onnxruntime", "pandas", "pyarrow")
NOT_NEEDED += ("psutil", "tokenizers", "torch", "PIL")

BLOCKED = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_NEEDED}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
import numpy as np
from thresher.errors import MissingExtraError, ServerError
from thresher_serving.client.client import Client, Prediction
from thresher_serving.client.async_client import AsyncClient
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_client_loads_no_grpc() -> None:
    loaded = run("print(sorted(sys.modules))")
    for name in ("grpc", "tritonclient", "google.protobuf", "aiohttp", "http.client"):
        assert f"'{name}'" not in loaded, name


def test_it_works_with_numpy_and_tritonclient_alone() -> None:
    code = """
try:
    with Client("127.0.0.1:1") as client:
        client.predict("weather", np.zeros((1, 3), np.float32))
except ServerError as error:
    print(error)
"""
    assert "no Triton server answers at 127.0.0.1:1" in run(code)


def test_what_needs_more_names_the_package() -> None:
    code = """
one = np.zeros((1, 1), np.float32)
prediction = Prediction(probabilities=one, labels=one > 1, label_names=("a",), thresholds=None,
                        model_name="m", model_version=1)
for needy in (prediction.to_arrow, prediction.to_pandas, lambda: Client(tokenizer="x")):
    try:
        needy()
    except MissingExtraError as error:
        print(error)
"""
    told = run(code).splitlines()
    assert [line.partition("pip install ")[2] for line in told] == [
        "pyarrow",
        "pyarrow",
        "tokenizers",
    ]
