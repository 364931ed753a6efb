"""Types of the shared fixtures."""

from collections.abc import Callable

from thresher.registry import ModelVersion

LogVersion = Callable[..., ModelVersion]
