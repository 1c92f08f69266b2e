"""The small ONNX model as Triton's Python backend has it."""

import sys

sys.path.insert(0, "@PACKAGES@")

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """`small.onnx`."""

    def initialize(self, _arguments: dict[str, str]) -> None:
        """Open it, with one thread."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession("@FILE@", options)

    def execute(self, requests: list[object]) -> list[object]:
        """Both outputs of each request."""
        answers = []
        for request in requests:
            rows = triton.get_input_tensor_by_name(request, "X").as_numpy()
            label, probabilities = self.session.run(None, {"X": rows})
            outputs = [
                triton.Tensor("label", label.astype(np.int64)),
                triton.Tensor("probabilities", probabilities.astype(np.float32)),
            ]
            answers.append(triton.InferenceResponse(outputs))
        return answers
