"""Our Open Inference Protocol is the one public clients speak, field by field."""

import pytest
from google.protobuf.descriptor import Descriptor
from tritonclient.grpc import service_pb2 as triton

from modelmesh._proto import open_inference_pb2

OURS = open_inference_pb2.DESCRIPTOR
THEIRS = triton.DESCRIPTOR


def fields(message: Descriptor) -> dict:
    """Everything that decides the bytes of a message, nested messages included."""
    return {
        "fields": {
            field.number: (
                field.name,
                field.type,
                field.is_repeated,
                field.message_type.full_name if field.message_type else None,
                field.containing_oneof.name if field.containing_oneof else None,
            )
            for field in message.fields
        },
        "nested": {nested.name: fields(nested) for nested in message.nested_types},
    }


@pytest.mark.parametrize("name", sorted(OURS.message_types_by_name))
def test_messages_equal_those_of_tritonclient(name):
    ours, theirs = fields(OURS.message_types_by_name[name]), fields(THEIRS.message_types_by_name[name])
    assert ours == theirs


def test_methods_equal_those_of_tritonclient():
    def methods(file):
        return {
            method.name: (
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
            for method in file.services_by_name["GRPCInferenceService"].methods
        }

    ours, theirs = methods(OURS), methods(THEIRS)
    assert OURS.services_by_name["GRPCInferenceService"].full_name == "inference.GRPCInferenceService"
    assert ours == {name: theirs[name] for name in ours}


def test_both_packages_live_in_one_process():
    # Two files that define inference.ModelInferRequest cannot share a descriptor pool; ours has its own.
    ours = open_inference_pb2.ModelInferRequest(model_name="m1", id="7", raw_input_contents=[b"\x00"])
    theirs = triton.ModelInferRequest.FromString(ours.SerializeToString())
    assert (theirs.model_name, theirs.id, list(theirs.raw_input_contents)) == ("m1", "7", [b"\x00"])
    assert type(ours).DESCRIPTOR.file.pool is not type(theirs).DESCRIPTOR.file.pool
