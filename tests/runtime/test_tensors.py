import struct

import numpy as np
import pytest

from modelmesh._proto import open_inference_pb2 as pb
from modelmesh.runtime import tensors
from modelmesh.runtime.contract import TensorSpec
from modelmesh.runtime.errors import RequestError, RuntimeFault
from modelmesh.tensors import decode_raw
from modelmesh.values.status import Status


class TestRequests:
    def request(self, *names, raw=0):
        request = pb.ModelInferRequest(raw_input_contents=[b"\0" * 4] * raw)
        for name in names:
            request.inputs.add(name=name, datatype="FP32", shape=[1])
        return request

    def test_raw_and_typed_are_not_mixed(self):
        request = self.request("a", raw=1)
        request.inputs[0].contents.fp32_contents.append(1)
        with pytest.raises(RequestError, match="'a' has contents, but the request has raw_input_contents"):
            tensors.inputs_of(request)

    def test_one_raw_entry_per_input(self):
        with pytest.raises(RequestError, match="2 inputs and 1 raw_input_contents"):
            tensors.inputs_of(self.request("a", "b", raw=1))

    def test_a_name_comes_once(self):
        with pytest.raises(RequestError, match="'a' comes twice"):
            tensors.inputs_of(self.request("a", "a", raw=2))

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (TensorSpec("b", "FP32", (1,)), "no input 'a'; its inputs are 'b'"),
            (TensorSpec("a", "FP64", (1,)), "'a' is FP32, the model wants FP64"),
            (TensorSpec("a", "FP32", (2,)), r"'a' has shape \[1\], the model wants \[2\]"),
            (TensorSpec("a", "FP32", (-1, 1)), r"'a' has shape \[1\], the model wants \[-1, 1\]"),
        ],
    )
    def test_the_signature_is_kept(self, spec, message):
        with pytest.raises(RequestError, match=message):
            tensors.check_inputs(self.request("a"), [spec])

    def test_a_missing_input_is_named(self):
        with pytest.raises(RequestError, match="input 'b' is missing"):
            tensors.check_inputs(self.request("a"), [TensorSpec("a", "FP32", (1,)), TensorSpec("b", "FP32", (1,))])

    def test_further_datatypes_may_be_accepted(self):
        tensors.check_inputs(self.request("a"), [TensorSpec("a", "FP64", (-1,), accepts=("FP32",))])

    def test_parameters(self):
        request = pb.ModelInferRequest()
        request.parameters["a"].bool_param = True
        request.parameters["b"].int64_param = -1
        request.parameters["c"].string_param = "x"
        request.parameters["d"].double_param = 0.5
        request.parameters["e"].uint64_param = 2**63
        request.parameters["f"].SetInParent()
        assert tensors.parameters_of(request) == {"a": True, "b": -1, "c": "x", "d": 0.5, "e": 2**63}


class TestResponses:
    def filled(self, outputs, **arguments):
        response = pb.ModelInferResponse()
        tensors.fill_response(response, outputs, **arguments)
        return response

    def test_raw(self):
        response = self.filled({"y": np.array([[1.5]], np.float32)})
        assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("FP32", [1, 1])
        assert response.raw_output_contents == [struct.pack("<f", 1.5)]

    def test_typed(self):
        response = self.filled({"y": np.array([1, 2])}, raw=False)
        assert response.outputs[0].contents.int64_contents == [1, 2]
        assert not response.raw_output_contents

    def test_typed_becomes_raw_where_there_is_no_field(self):
        response = self.filled({"y": np.array([1, 2], np.float16), "z": np.array([1])}, raw=False)
        assert len(response.raw_output_contents) == 2
        assert not any(output.HasField("contents") for output in response.outputs)

    def test_the_signature_decides_the_datatype(self):
        specs = (TensorSpec("y", "BF16", (-1,)), TensorSpec("z", "FP32", (-1,)))
        response = self.filled({"y": np.array([1.0], np.float32), "z": np.array([1.0])}, specs=specs)
        assert [output.datatype for output in response.outputs] == ["BF16", "FP32"]
        assert response.raw_output_contents == [b"\x80\x3f", struct.pack("<f", 1.0)]

    def test_what_cannot_be_the_datatype_is_the_runtimes_fault(self):
        with pytest.raises(RuntimeFault, match="output 'y' is BYTES, the model's signature says FP32"):
            self.filled({"y": np.array(["a"])}, specs=(TensorSpec("y", "FP32", (-1,)),))

    @pytest.mark.parametrize(
        ("output", "spec", "said"),
        [
            (np.array(["a", 1], dtype=object), "BYTES", "objects of the kinds int, str"),
            (np.array([None], dtype=object), None, "objects of the kinds NoneType"),
            (np.array([1, True], dtype=object), None, "objects of the kinds bool, int"),
            (np.array([2**70], dtype=object), None, "cannot be sent"),
            ([[1, 2], [3]], None, "cannot be sent"),
            (np.array([2**40]), "INT32", "INT32, the datatype of the model's signature, cannot hold"),
            (np.array([1e300]), "FP32", "FP32, the datatype of the model's signature, cannot hold"),
            (np.array([-1]), "UINT8", "the model's signature says UINT8"),
        ],
    )
    def test_what_would_be_changed_is_an_error_of_the_model(self, output, spec, said):
        specs = [TensorSpec("y", spec, (-1,))] if spec else []
        with pytest.raises(RuntimeFault, match=said) as caught:
            tensors.fill_response(pb.ModelInferResponse(), {"y": output}, specs=specs)
        assert caught.value.status is Status.INTERNAL

    @pytest.mark.parametrize(
        ("output", "datatype"),
        [([1, 2], "INT64"), ([1.5, np.float32(2)], "FP64"), ([True, np.bool_(False)], "BOOL"), (["a", b"b"], "BYTES")],
    )
    def test_objects_of_one_kind_are_that_kind(self, output, datatype):
        array = np.empty(2, dtype=object)
        array[:] = output
        response = pb.ModelInferResponse()
        tensors.fill_response(response, {"y": array})
        assert response.outputs[0].datatype == datatype
        raw = decode_raw("y", datatype, [2], response.raw_output_contents[0])
        assert list(raw) == ([b"a", b"b"] if datatype == "BYTES" else output)

    def test_infinity_stays_and_rounding_is_allowed(self):
        response = pb.ModelInferResponse()
        specs = [TensorSpec("y", "FP32", (-1,))]
        tensors.fill_response(response, {"y": np.array([0.1, np.inf, np.nan])}, specs=specs)
        answer = decode_raw("y", "FP32", [3], response.raw_output_contents[0])
        np.testing.assert_array_equal(answer, np.array([0.1, np.inf, np.nan], np.float32))

    def test_wanted_outputs_only_in_their_order(self):
        outputs = {name: np.array([1]) for name in "abc"}
        assert [output.name for output in self.filled(outputs, wanted=["c", "a"]).outputs] == ["c", "a"]
        with pytest.raises(RequestError, match="no output 'd'; its outputs are 'a', 'b', 'c'"):
            self.filled(outputs, wanted=["d"])
