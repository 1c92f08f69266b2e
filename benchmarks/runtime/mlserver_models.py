"""The two models as MLServer has them: the least work that server can do for a call."""

import joblib
import numpy as np
import onnxruntime
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Onnx(MLModel):
    """`small.onnx`."""

    async def load(self) -> bool:
        """Open it, with one thread."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(self.settings.parameters.uri, options)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Both of its outputs."""
        array = np.array(payload.inputs[0].data, np.float32).reshape(payload.inputs[0].shape)
        label, probabilities = self.session.run(None, {"X": array})
        return answer(self.name, label, "INT64", probabilities, "FP32")


class Sklearn(MLModel):
    """`small.joblib`."""

    async def load(self) -> bool:
        """Read it."""
        self.model = joblib.load(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Its classes and their probabilities."""
        array = np.array(payload.inputs[0].data, np.float64).reshape(payload.inputs[0].shape)
        return answer(self.name, self.model.predict(array), "INT64", self.model.predict_proba(array), "FP64")


def answer(
    name: str, label: np.ndarray, label_type: str, probabilities: np.ndarray, probabilities_type: str
) -> InferenceResponse:
    """The two outputs."""
    outputs = [
        ResponseOutput(name="label", shape=list(label.shape), datatype=label_type, data=label.tolist()),
        ResponseOutput(
            name="probabilities",
            shape=list(probabilities.shape),
            datatype=probabilities_type,
            data=probabilities.ravel().tolist(),
        ),
    ]
    return InferenceResponse(model_name=name, outputs=outputs)
