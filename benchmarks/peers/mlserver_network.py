"""The small network behind MLServer, over its gRPC; the model's path is in NETWORK."""

import os

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Network(MLModel):
    async def load(self) -> bool:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(os.environ["NETWORK"], options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        p = self.session.run(["probabilities"], {"x": x})[0]
        output = NumpyCodec.encode_output("probabilities", p)
        return InferenceResponse(model_name=self.name, outputs=[output])
