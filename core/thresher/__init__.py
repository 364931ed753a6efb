"""The contract that Thresher's stages share; importing it loads no torch, ONNX or MLflow."""

from thresher.decision import Decision
from thresher.errors import ThresherError

__all__ = ["Decision", "ThresherError", "__version__"]

__version__ = "0.1.0"
