"""A Triton backend named ``onnxruntime``, written for Triton's ``python`` backend.

It serves the model repository that NVIDIA's C++ ``onnxruntime`` backend serves, where that one is
not at hand. Triton copies this one file into a folder of its own and runs it in the server's
environment: it imports NumPy, ONNX Runtime and Triton's own module, and nothing of this project.

Source: github.com/triton-inference-server/onnxruntime_backend, README.md and src/onnxruntime.cc
(keys, defaults, auto-completion).
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import triton_python_backend_utils as pb_utils

if TYPE_CHECKING:
    import onnxruntime as ort  # noqa: TC004 - imported by _import_onnxruntime

_NUMPY_2 = int(np.__version__.split(".")[0]) >= 2
_DEFAULT_MAX_BATCH_SIZE = 4  # what the C++ backend completes to
_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
_LEVELS = {
    -1: "ORT_ENABLE_BASIC",
    1: "ORT_ENABLE_EXTENDED",
    2: "ORT_DISABLE_ALL",
}
_MODES = {"0": "ORT_SEQUENTIAL", "1": "ORT_PARALLEL"}
_TENSORRT = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_PRECISIONS = {"FP16": "trt_fp16_enable", "BF16": "trt_bf16_enable", "INT8": "trt_int8_enable"}
_NOT_LOWERED = "NonMaxSuppression,NonZero,RoiAlign,Sigmoid,GreaterOrEqual"
"""What TensorRT leaves to CUDA where it may lower the precision: its default, and the head."""
_TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvonnxparser.so.10")
_CUDA_CHOICES = {  # keys of `parameters` that are numbers there and names in ONNX Runtime
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
}
_CUDA_PARAMETERS = {*_CUDA_CHOICES, "gpu_mem_limit", "do_copy_in_default_stream"}
_CPU_ONLY = "FORCE_CPU_ONLY_INPUT_TENSORS"  # the python backend's own
_LABEL_METRICS = "label_metrics"  # how many labels are counted at most; 0 counts none
_COUNTED_LABELS = 256  # where the configuration does not say
_WATCH = "thresher-watch"  # the id of requests by which `thresher serve` sees that this one lives
_PARAMETERS = {
    _LABEL_METRICS,
    *_CUDA_PARAMETERS,
    *("intra_op_thread_count", "inter_op_thread_count", "execution_mode"),
    *("enable_mem_arena", "enable_mem_pattern", "memory.enable_memory_arena_shrinkage"),
    *("EXECUTION_ENV_PATH", _CPU_ONLY),
}
_ORT_PREFIXES = ("session.", "memory.", "ep.")
_REFUSED = ("batch_input", "batch_output")
_GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
_LABELS_OUTPUT = "labels"
_COUNTS_EVERY_S = 2.0
_MOST_UNTOLD_VALUES = 2**22


def _boolean(key: str, value: str) -> bool:
    if value.lower() not in {"0", "1", "false", "true"}:
        raise ValueError(f'{key} is "{value}", expected "0", "1", "true" or "false"')
    return value.lower() in {"1", "true"}


def _whole(key: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f'{key} is "{value}", expected a whole number') from None


def _parameters(config: dict[str, Any]) -> dict[str, str]:
    return {k: v.get("string_value", "") for k, v in config.get("parameters", {}).items()}


def _model_path(config: dict[str, Any]) -> str:
    name = config.get("default_model_filename") or "model.onnx"
    path = Path(pb_utils.get_model_dir()) / name
    if path.is_dir():
        path /= "model.onnx"
    if not path.is_file():
        raise FileNotFoundError(f"unable to find '{path}' for model '{config['name']}'")
    return str(path)


def _dims(tensor: Any) -> list[int]:
    return [size if isinstance(size, int) else -1 for size in tensor.shape]


def _accelerators(config: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    listed = config.get("optimization", {}).get("execution_accelerators", {})
    return list(listed.get(f"{kind}_execution_accelerator", []))


def _session_options(config: dict[str, Any]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = getattr(
        ort.GraphOptimizationLevel, _LEVELS.get(level, "ORT_ENABLE_ALL")
    )
    for key, value in _parameters(config).items():
        if key == "intra_op_thread_count":
            options.intra_op_num_threads = max(0, _whole(key, value))
        elif key == "inter_op_thread_count":
            options.inter_op_num_threads = max(0, _whole(key, value))
        elif key == "execution_mode":
            if value not in _MODES:
                raise ValueError(f'execution_mode is "{value}", expected "0" or "1"')
            options.execution_mode = getattr(ort.ExecutionMode, _MODES[value])
        elif key == "enable_mem_arena":
            options.enable_cpu_mem_arena = _boolean(key, value)
        elif key == "enable_mem_pattern":
            options.enable_mem_pattern = _boolean(key, value)
        elif key.startswith("session."):
            options.add_session_config_entry(key, value)
    for library in config.get("model_operations", {}).get("op_library_filename", []):
        options.register_custom_ops_library(library)
    return options


def _tensorrt_options(given: dict[str, str], device: str) -> dict[str, str]:
    options = {"device_id": device}
    for key, value in given.items():
        if key == "precision_mode":
            if value not in {"FP32", *_PRECISIONS}:
                raise ValueError(f"unsupported precision mode '{value}' is requested")
            if value != "FP32":
                options[_PRECISIONS[value]] = "1"
        elif key in _TENSORRT:
            options[_TENSORRT[key]] = value
        elif key.startswith("trt_"):
            options[key] = value
        else:
            raise ValueError(
                f"unknown parameter '{key}' is provided for TensorRT Execution Accelerator"
            )
    if any(options.get(key) == "1" for key in _PRECISIONS.values()):
        options.setdefault("trt_op_types_to_exclude", _NOT_LOWERED)
    return options


def _cuda_options(config: dict[str, Any], given: dict[str, str], device: str) -> dict[str, str]:
    options = dict(given)
    for key, value in _parameters(config).items():
        if key in _CUDA_CHOICES:
            at, names = _whole(key, value), _CUDA_CHOICES[key]
            if not 0 <= at < len(names):
                raise ValueError(f"unsupported {key} value '{value}' is requested")
            options[key] = names[at]
        elif key in _CUDA_PARAMETERS:
            options[key] = value
    return {**options, "device_id": device}


def _providers(
    config: dict[str, Any], kind: str, device: str, warnings: list[str]
) -> list[tuple[str, dict[str, str]]]:
    """List the execution providers to ask for: only those that can work on this instance."""
    available = set(ort.get_available_providers())
    providers: list[tuple[str, dict[str, str]]] = []
    given = {a["name"]: a.get("parameters", {}) for a in _accelerators(config, "gpu")}
    _refuse_unknown(given, {"tensorrt", "cuda"})
    if kind != "GPU":
        warnings.extend(f"accelerator {name}: this instance is on {kind}" for name in given)
        given = {}
    if "tensorrt" in given:
        options = _tensorrt_options(given["tensorrt"], device)
        if "TensorrtExecutionProvider" in available and _has_tensorrt():
            providers.append(("TensorrtExecutionProvider", options))
        else:
            warnings.append("accelerator tensorrt: TensorRT is not installed here")
    if kind == "GPU":
        options = _cuda_options(config, given.get("cuda", {}), device)
        if "CUDAExecutionProvider" in available:
            ort.preload_dlls()
            providers.append(("CUDAExecutionProvider", options))
        else:
            warnings.append("instance_group KIND_GPU: this ONNX Runtime has no CUDA, the CPU runs")
    on_cpu = {accelerator["name"] for accelerator in _accelerators(config, "cpu")}
    _refuse_unknown(on_cpu, {"openvino"})
    if on_cpu and "OpenVINOExecutionProvider" in available:
        providers.append(("OpenVINOExecutionProvider", {"device_type": "CPU"}))
    elif on_cpu:
        warnings.append("accelerator openvino: this ONNX Runtime has no OpenVINO")
    return [*providers, ("CPUExecutionProvider", {})]


def _refuse_unknown(names: Any, known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"unknown Execution Accelerator '{name}' is requested")


def _has_tensorrt() -> bool:
    """Load TensorRT where it is installed: NVIDIA's wheel beside ONNX Runtime, or the system's."""
    wheel = importlib.util.find_spec("tensorrt_libs")
    folders = list(wheel.submodule_search_locations or []) if wheel else [""]
    try:
        for library in _TENSORRT_LIBRARIES:
            ctypes.CDLL(str(Path(*folders[:1], library)), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _unknown_keys(config: dict[str, Any], kind: str) -> list[str]:
    """Name what cannot be honoured; a dotted key of another namespace is somebody's note."""
    found = []
    for key in _parameters(config):
        ours = key in _PARAMETERS or key.startswith("session.")
        note = "." in key and not key.startswith(_ORT_PREFIXES)
        if key in _CUDA_PARAMETERS and kind != "GPU":
            found.append(f"parameter {key}: this instance is on {kind}")
        elif not ours and not note:
            found.append(f"parameter {key}: unknown")
    if config.get("optimization", {}).get("cuda"):
        found.append("optimization.cuda: CUDA graphs are asked for with accelerator cuda here")
    return found


def _check(config: dict[str, Any], session: ort.InferenceSession) -> None:
    """Compare names, types and dimensions of the configuration with the ONNX model's."""
    where = f"unable to load model '{config['name']}'"
    for key in _REFUSED:
        if config.get(key):
            raise ValueError(f"{where}: {key} needs NVIDIA's C++ onnxruntime backend")
    if config.get("sequence_batching", {}).get("state"):
        raise ValueError(f"{where}: sequence state needs NVIDIA's C++ onnxruntime backend")
    if _parameters(config).get(_CPU_ONLY) == "no":
        types = {t.type for t in session.get_inputs()}
        if "tensor(bool)" in types:
            raise ValueError(f"{where}: {_CPU_ONLY} is 'no', and BOOL cannot be taken from a GPU")
    batched = config["max_batch_size"] > 0
    inputs = {t.name: t for t in session.get_inputs()}
    optional = {t.name: t for t in session.get_overridable_initializers()}
    outputs = {t.name: t for t in session.get_outputs()}
    configured = [io["name"] for io in config["input"]]
    missing = sorted(set(inputs) - set(configured))
    if missing:
        raise ValueError(f"{where}: the model's input {missing} is not in the configuration")
    for io in config["input"]:
        _check_io(f"{where}: input '{io['name']}'", io, {**inputs, **optional}, batched=batched)
    for io in config["output"]:
        _check_io(f"{where}: output '{io['name']}'", io, outputs, batched=batched)


def _check_io(where: str, io: dict[str, Any], tensors: dict[str, Any], *, batched: bool) -> None:
    if io.get("allow_ragged_batch"):
        raise ValueError(f"{where}: a ragged batch needs NVIDIA's C++ onnxruntime backend")
    tensor = tensors.get(io["name"])
    if tensor is None:
        raise ValueError(f"{where} is not in the model, which has {sorted(tensors)}")
    provided = _TYPES.get(tensor.type, tensor.type)
    if provided == "TYPE_STRING" and _NUMPY_2:
        raise ValueError(f"{where} holds strings, which need Python 3.11 or 3.12")
    if io["data_type"] != provided:
        raise ValueError(
            f"{where}: configuration expects datatype {io['data_type']}, model provides {provided}"
        )
    dims = io["reshape"].get("shape", []) if io.get("reshape") else io["dims"]
    _check_dims(where, [int(size) for size in dims], _dims(tensor), batched=batched)


def _check_dims(name: str, dims: list[int], model: list[int], *, batched: bool) -> None:
    if batched and (not model or model[0] != -1):
        raise ValueError(
            f"{name} has shape {model} in the model; max_batch_size > 0 needs a first axis of -1"
        )
    full = [-1, *dims] if batched else dims
    scalar = not model and all(d == 1 for d in dims)
    fits = len(full) == len(model) and all(m in (-1, d) for m, d in zip(model, full, strict=True))
    if not fits and not scalar:
        raise ValueError(f"{name}: the model has shape {model}, the configuration {full}")


def _import_onnxruntime() -> None:
    """Import what takes long, once Triton has handed over what it calls `initialize` with.

    Until then it may give up a process that has not run for a second, and the process, going on,
    reads what was freed and takes the server down (Triton 2.51.0).
    """
    global ort  # noqa: PLW0603 - the one module, only later
    import onnxruntime as ort


class TritonPythonModel:
    """One instance of a model: an ONNX Runtime session in a process of its own."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Return the configuration with inputs, outputs and batch size filled in."""
        config = auto_complete_model_config.as_dict()
        if config.get("input") and config.get("output"):
            return auto_complete_model_config
        _import_onnxruntime()
        session = ort.InferenceSession(
            _model_path(config), _session_options(config), providers=["CPUExecutionProvider"]
        )
        sides = {"input": session.get_inputs(), "output": session.get_outputs()}
        can_batch = all(_dims(t)[:1] == [-1] for tensors in sides.values() for t in tensors)
        if not can_batch and config["max_batch_size"]:
            raise ValueError(
                f"autofill failed for model '{config['name']}': model does not support batching "
                "while non-zero max_batch_size is specified"
            )
        if can_batch and not config["max_batch_size"]:
            auto_complete_model_config.set_max_batch_size(_DEFAULT_MAX_BATCH_SIZE)
        if config["max_batch_size"] > 1 and "sequence_batching" not in config:
            auto_complete_model_config.set_dynamic_batching()
        skip = 1 if config["max_batch_size"] else 0
        for side, tensors in sides.items():
            if config.get(side):
                continue
            config[side] = []
            for tensor in tensors:
                dims = _dims(tensor)[skip:]
                io = {
                    "name": tensor.name,
                    "data_type": _TYPES.get(tensor.type),
                    "dims": dims or [1],
                }
                if not dims and skip:
                    io["reshape"] = {"shape": []}
                config[side].append(io)
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session and compare it with the configuration."""
        _import_onnxruntime()
        config = json.loads(args["model_config"])
        kind, device = args["model_instance_kind"], args["model_instance_device_id"]
        warnings = _unknown_keys(config, kind)
        providers = _providers(config, kind, device, warnings)
        self._session = ort.InferenceSession(
            _model_path(config), _session_options(config), providers=providers
        )
        _check(config, self._session)
        if providers[0][0] not in self._session.get_providers():
            warnings.append(f"{providers[0][0]}: it could not be started, the CPU runs")
        self._run_options = ort.RunOptions()
        shrink = _parameters(config).get("memory.enable_memory_arena_shrinkage")
        if shrink:
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", shrink)
        self._batched = config["max_batch_size"] > 0
        self._take, self._compute = _from_triton, self._session.run
        if _parameters(config).get(_CPU_ONLY) == "no":
            is_on_gpu = self._session.get_providers()[0] in _GPU_PROVIDERS
            self._take = _from_cpu_or_gpu if is_on_gpu else _from_cpu_alone
            self._compute = partial(_run_bound, self._session)
        self._counts = _label_counts(config, args["model_version"], self._session, warnings)
        tensors = [*self._session.get_inputs(), *self._session.get_overridable_initializers()]
        self._strings = {t.name for t in tensors if t.type == "tensor(string)"}
        self._scalars = {t.name for t in tensors if not t.shape}
        groups = config.get("instance_group") or [{"name": config["name"]}]
        if args["model_instance_name"].startswith(f"{groups[0].get('name')}_0"):
            for warning in warnings:
                pb_utils.Logger.log_warn(f"model '{config['name']}': not honoured: {warning}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return one response a request; what Triton has batched runs together."""
        if self._batched and len(requests) > 1:
            try:
                return self._run(requests)
            except Exception:  # noqa: BLE001, S110 - one bad request must not hurt the others
                pass
        return [self._alone(request) for request in requests]

    def finalize(self) -> None:
        """Close the session."""
        if self._counts is not None:
            self._counts.close()
        del self._session, self._compute

    def _alone(self, request: Any) -> Any:
        try:
            return self._run([request])[0]
        except Exception as error:  # noqa: BLE001 - the error belongs to this request
            return _failure(error)

    def _run(self, requests: list[Any]) -> list[Any]:
        asked = [request.requested_output_names() for request in requests]
        names = asked[0]
        if asked.count(names) < len(asked):
            names = list(dict.fromkeys(name for some in asked for name in some))
        if self._counts is not None and _LABELS_OUTPUT not in names:
            names = [*names, _LABELS_OUTPUT]
        feeds = [self._feeds(request) for request in requests]
        joint = feeds[0] if len(feeds) == 1 else _joined(feeds)
        results = dict(zip(names, self._compute(names, joint, self._run_options), strict=True))
        if len(feeds) == 1:
            answers = [_response(asked[0], {n: np.atleast_1d(results[n]) for n in asked[0]})]
        else:
            answers = _shared_out(results, asked, [len(next(iter(f.values()))) for f in feeds])
        if self._counts is not None and (len(requests) > 1 or requests[0].request_id() != _WATCH):
            self._counts.add(results[_LABELS_OUTPUT])
        return answers

    def _feeds(self, request: Any) -> dict[str, Any]:
        feeds = {tensor.name(): self._take(tensor) for tensor in request.inputs()}
        for name in self._strings & feeds.keys():
            decoded = [s.decode() if isinstance(s, bytes) else s for s in feeds[name].ravel()]
            feeds[name] = np.array(decoded, dtype=np.object_).reshape(feeds[name].shape)
        for name in self._scalars & feeds.keys():
            feeds[name] = feeds[name].reshape(())
        return feeds


def _joined(feeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows of several requests as those of one."""
    if any(some.keys() != feeds[0].keys() for some in feeds):
        raise ValueError("the requests have different inputs")
    return {name: np.concatenate([some[name] for some in feeds]) for name in feeds[0]}


def _shared_out(results: dict[str, Any], asked: list[Any], rows: list[int]) -> list[Any]:
    """Return the response of each request, given the results of all and its number of rows."""
    for name, result in results.items():
        if len(result) != sum(rows):
            raise ValueError(f"output '{name}' has {len(result)} rows for {sum(rows)}")
    answers, start = [], 0
    for names, num in zip(asked, rows, strict=True):
        some = {name: results[name][start : start + num] for name in names}
        answers.append(_response(names, some))
        start += num
    return answers


class _LabelCounts:
    """How many rows were answered, and how many of them got each label, as metrics of Triton.

    Each change of a metric is a message to the server, so a thread of its own adds up and tells
    them now and then; a batch costs a place in a list.

    Each process has metrics of its own. Triton (2.51.0, core/src/metric_family.cc) gives the same
    name and labels from two processes the same counter, frees it when the first of them goes, and
    the other one's next count is written into freed memory.
    """

    def __init__(self, model: str, version: str, labels: list[str], warmup_rows: int) -> None:
        names = {"model": model, "version": version, "process": str(os.getpid())}
        counter = pb_utils.MetricFamily.COUNTER
        self._families = [
            pb_utils.MetricFamily(
                name="thresher_label_rows_total",
                description="Rows whose labels were decided and counted",
                kind=counter,
            ),
            pb_utils.MetricFamily(
                name="thresher_label_positives_total",
                description="Rows that got the label",
                kind=counter,
            ),
        ]
        rows, positives = self._families
        self._metrics = [rows.Metric(labels=names)]
        self._metrics += [positives.Metric(labels={**names, "label": label}) for label in labels]
        self._warmup_rows = warmup_rows
        self._lock = threading.Lock()
        self._batches: list[Any] = []
        self._num_values = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._tell_now_and_then, daemon=True)
        self._thread.start()

    def add(self, labels_nl: Any) -> None:
        """Count the rows of a batch, bool [N, L]; the warmup's come first and do not count."""
        if self._warmup_rows:
            skipped = min(self._warmup_rows, len(labels_nl))
            self._warmup_rows -= skipped
            labels_nl = labels_nl[skipped:]
        with self._lock:
            self._batches.append(labels_nl)
            self._num_values += labels_nl.size
        if self._num_values > _MOST_UNTOLD_VALUES:
            self._tell()

    def close(self) -> None:
        """Tell what has not been told yet, and take the metrics back."""
        self._closed.set()
        self._thread.join()
        self._tell()
        self._metrics.clear()  # before the families that they belong to
        self._families.clear()

    def _tell_now_and_then(self) -> None:
        while not self._closed.wait(_COUNTS_EVERY_S):
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            batches, self._batches, self._num_values = self._batches, [], 0
        if not batches:
            return
        rows_nl = np.concatenate(batches)[:, : len(self._metrics) - 1]
        counts = [len(rows_nl), *np.count_nonzero(rows_nl, axis=0).tolist()]
        for metric, count in zip(self._metrics, counts, strict=True):
            if count:
                metric.increment(float(count))


def _label_counts(
    config: dict[str, Any], version: str, session: ort.InferenceSession, warnings: list[str]
) -> _LabelCounts | None:
    """Return what counts a model's labels; None if it has none, or is not to count them."""
    parameters = _parameters(config)
    is_asked = _LABEL_METRICS in parameters
    most = _whole(_LABEL_METRICS, parameters[_LABEL_METRICS]) if is_asked else _COUNTED_LABELS
    if most <= 0:
        return None
    decision = parameters.get(f"thresher.decision/{version}")
    outputs = {t.name: t for t in session.get_outputs()}
    found = outputs.get(_LABELS_OUTPUT)
    if decision is None or found is None or found.type != "tensor(bool)" or len(found.shape) != 2:
        if is_asked:
            warnings.append(f"{_LABEL_METRICS}: version {version} has no decision or no labels")
        return None
    labels = [str(label) for label in json.loads(decision)["labels"]]
    if is_asked and len(labels) > most:
        warnings.append(f"{_LABEL_METRICS}: of {len(labels)} labels the first {most} are counted")
    warmups = config.get("model_warmup") or []
    rows = sum(max(1, int(w["batch_size"])) * max(1, int(w.get("count", 1))) for w in warmups)
    return _LabelCounts(config["name"], version, labels[:most], rows)


class _Lent:
    """An array given away through DLPack: the receiver frees it, its capsule does nothing.

    Triton's stub renames a used capsule in a way that NumPy does not know, and NumPy's destructor
    would complain about each one on standard error.
    """

    def __init__(self, array: Any) -> None:
        self._array = np.require(array, requirements=["C", "W"])

    def __dlpack__(self, stream: Any = None) -> Any:
        capsule = self._array.__dlpack__()
        ctypes.pythonapi.PyCapsule_SetDestructor(ctypes.py_object(capsule), None)
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def _from_triton(tensor: Any) -> Any:
    """Return a request's tensor as an array.

    The stub of Triton 2.51 reads NumPy 2's data types wrongly: `as_numpy` gives zeros there.
    """
    return np.from_dlpack(tensor) if _NUMPY_2 else tensor.as_numpy()


def _from_cpu_or_gpu(tensor: Any) -> Any:
    return _from_triton(tensor) if tensor.is_cpu() else _OnGpu(tensor)


def _from_cpu_alone(tensor: Any) -> Any:
    if tensor.is_cpu():
        return _from_triton(tensor)
    # ONNX Runtime would take the address for one of the host's
    raise ValueError(f"input '{tensor.name()}' lies on a GPU, and the model runs on the CPU")


class _OnGpu:
    """A request's input that lies on the GPU, where a client wrote it (CUDA shared memory).

    Where requests are joined, NumPy asks for a copy on the host.
    """

    def __init__(self, tensor: Any) -> None:
        self._value = ort.OrtValue.from_dlpack(tensor)
        self.shape = tuple(self._value.shape())

    def __len__(self) -> int:
        return int(self.shape[0])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._value.numpy()

    def reshape(self, shape: tuple[int, ...]) -> Any:
        """Return a copy on the host in another shape."""
        return self._value.numpy().reshape(shape)

    def bind(self, binding: ort.IOBinding, name: str) -> None:
        """Make it the input of a run; nothing is copied."""
        value = self._value
        where = (value.device_name(), value.__dlpack_device__()[1])
        binding.bind_input(name, *where, value.element_type(), list(self.shape), value.data_ptr())


def _run_bound(
    session: ort.InferenceSession, names: list[str], feeds: dict[str, Any], options: ort.RunOptions
) -> list[Any]:
    """Return the outputs for inputs of which some may lie on the GPU.

    Outputs come to the host: they are small, and one on the GPU costs Triton's python backend
    another exchange between its two processes (Triton 2.51.0, src/infer_response.cc).
    """
    if not any(isinstance(array, _OnGpu) for array in feeds.values()):
        return list(session.run(names, feeds, options))
    binding = session.io_binding()
    for name, array in feeds.items():
        if isinstance(array, _OnGpu):
            array.bind(binding, name)
        else:
            binding.bind_cpu_input(name, array)
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding, options)
    return list(binding.copy_outputs_to_cpu())


def _to_triton(name: str, array: Any) -> Any:
    """Return an array as a response's tensor; of a NumPy 2 array the stub sends no byte."""
    if _NUMPY_2:
        return pb_utils.Tensor.from_dlpack(name, _Lent(array))
    return pb_utils.Tensor(name, array)


def _response(names: list[str], arrays: dict[str, Any]) -> Any:
    tensors = [_to_triton(name, arrays[name]) for name in names]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _failure(error: Exception) -> Any:
    text = str(error) or type(error).__name__
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(text))
