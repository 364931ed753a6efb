"""The small network behind BentoML, with its batching on; the model's path is in NETWORK."""

import os

import bentoml
import numpy as np
import onnxruntime


@bentoml.service(traffic={"timeout": 30})
class Network:
    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["NETWORK"], options)

    @bentoml.api(batchable=True, max_batch_size=2048, max_latency_ms=1000)
    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.session.run(["probabilities"], {"x": x.astype(np.float32)})[0]
