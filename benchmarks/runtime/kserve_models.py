"""The small ONNX model as KServe's server has it: `python kserve_models.py FILE HTTP_PORT GRPC_PORT`."""

import sys

import kserve
import numpy as np
import onnxruntime


class Onnx(kserve.Model):
    """`small.onnx`."""

    def __init__(self, file: str) -> None:
        super().__init__("onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(file, options)
        self.ready = True

    async def predict(self, payload: kserve.InferRequest, _headers: object = None, **_: object) -> kserve.InferResponse:
        """Both of its outputs."""
        rows = payload.inputs[0].as_numpy().astype(np.float32, copy=False)
        label, probabilities = self.session.run(None, {"X": rows})
        outputs = []
        for name, datatype, array in (("label", "INT64", label), ("probabilities", "FP32", probabilities)):
            output = kserve.InferOutput(name=name, shape=list(array.shape), datatype=datatype)
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return kserve.InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=outputs)


if __name__ == "__main__":
    file, http_port, grpc_port = sys.argv[1:]
    kserve.ModelServer(http_port=int(http_port), grpc_port=int(grpc_port), workers=1, access_log_format=None).start(
        [Onnx(file)]
    )
