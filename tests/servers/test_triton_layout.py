"""Triton's layouts, as values, against the old adapter's table of cases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import tree_of

from modelmesh.runtime.errors import LoadError
from modelmesh.servers.layout import Given, Layout
from modelmesh.servers.pbtxt import PbtxtError, fields_of, quoted
from modelmesh.servers.schema import Schema, Tensor
from modelmesh.servers.triton import layout

ROOT = "/models/m"


def made(
    model_format: str, path: str, files: tuple[str, ...] | None, *, config: str | None = None, schema=None
) -> Layout:
    tree = tree_of(
        f"{ROOT}/{path}" if path else ROOT, files, {} if config is None else {"config.pbtxt": config.encode()}
    )
    return layout(Given("m", model_format, tree, schema, "/models/_triton_models/m"))


# Format, path of the model, its files below that (None: it is a file), link, and target below the model's folder.
CASES = [
    ("other", "model.data", None, "1/model.data", "model.data"),
    ("other", "modeldir", ("a",), "1", "modeldir"),
    ("other", "modeldir", ("a", "b"), "1", "modeldir"),
    ("other", "modeldir", ("sub/a",), "1", "modeldir"),
    ("other", "modeldir", ("sub/a", "b"), "1", "modeldir"),
    ("other", "", ("data/model.1", "data/model.2", "file", "meta.json"), "1", ""),
    ("other", "model", ("1/file", "3/file"), "3", "model/3"),
    ("other", "model", ("7/dir/file", "9/dir/file"), "9", "model/9"),
    ("other", "model", ("1/a", "1/b", "2/a", "2/b"), "2", "model/2"),
    ("other", "model/2", ("file",), "1", "model/2"),
    ("tensorflow", "", (), "1/model.savedmodel", ""),
    ("tensorflow", "", ("1/model.savedmodel/saved_model.pb",), "1/model.savedmodel", "1/model.savedmodel"),
    ("tensorflow", "", ("1/model.graphdef",), "1/model.graphdef", "1/model.graphdef"),
    ("tensorflow", "", ("saved_model.pb",), "1/model.graphdef", "saved_model.pb"),
    ("tensorflow", "", ("saved_model.pb", "variables/v"), "1/model.savedmodel", ""),
    ("tensorflow", "", ("saved_model/saved_model.pb", "saved_model/variables/v"), "1/model.savedmodel", "saved_model"),
    (
        "tensorflow",
        "",
        ("model.savedmodel/saved_model.pb", "model.savedmodel/variables/v"),
        "1/model.savedmodel",
        "model.savedmodel",
    ),
    ("tensorflow", "", ("1/saved_model.pb",), "1/model.graphdef", "1/saved_model.pb"),
    ("tensorflow", "", ("2/saved_model.pb", "2/variables/v"), "2/model.savedmodel", "2"),
    (
        "tensorflow",
        "",
        ("1/saved_model/saved_model.pb", "1/saved_model/variables/v"),
        "1/model.savedmodel",
        "1/saved_model",
    ),
    ("tensorflow", "", ("1/a", "NAN/b"), "1/model.savedmodel", ""),
    (
        "tensorflow",
        "",
        ("1/model.savedmodel/a", "2/model.savedmodel/a", "5/model.savedmodel/a"),
        "5/model.savedmodel",
        "5/model.savedmodel",
    ),
    ("tensorflow", "", ("2/model.savedmodel/a", "14/file", "14/variables/v"), "14/model.savedmodel", "14"),
    ("tensorflow", "", ("2/model.savedmodel/a", "14/file"), "14/model.graphdef", "14/file"),
    ("tensorrt", "", ("1/model.plan",), "1/model.plan", "1/model.plan"),
    ("tensorrt", "", ("2/model_2.plan",), "2/model.plan", "2/model_2.plan"),
    ("tensorrt", "model.plan", None, "1/model.plan", "model.plan"),
    ("tensorrt", "", ("model.plan",), "1/model.plan", "model.plan"),
    ("tensorrt", "", ("myModel/model.plan",), "1", "myModel"),
    ("tensorrt", "", ("model.plan", "other"), "1", ""),
    ("tensorrt", "", ("myModel/a", "myModel/b"), "1", "myModel"),
    ("tensorrt", "", ("one/a", "two/b"), "1", ""),
    ("pytorch", "", ("1/model.pt",), "1/model.pt", "1/model.pt"),
    ("pytorch", "", ("model.plan",), "1/model.pt", "model.plan"),
    ("onnx", "", ("1/model.onnx",), "1/model.onnx", "1/model.onnx"),
    ("onnx", "", ("1/model.onnx/a",), "1/model.onnx", "1/model.onnx"),
    ("onnx", "", ("1/model.onnx/a", "1/model.onnx/b"), "1/model.onnx", "1/model.onnx"),
    ("onnx", "model.x", None, "1/model.onnx", "model.x"),
    ("onnx", "", ("model.x",), "1/model.onnx", "model.x"),
    ("onnx", "", ("model.x", "variables/v"), "1/model.onnx", ""),
    ("onnx", "", ("myModel/a",), "1/model.onnx", "myModel"),
    ("onnx", "", ("myModel/a", "myModel/b"), "1/model.onnx", "myModel"),
    ("onnx", "", ("model.onnx", "_schema.json"), "1/model.onnx", "model.onnx"),
    ("keras", "", ("saved/saved_model.pb", "saved/variables/v"), "1/model.savedmodel", "saved"),
    ("keras", "", ("model.h5",), "1/model.h5", "model.h5"),
    ("python", "", ("1/model.py",), "1", "1"),
    ("python", "code", ("model.py", "more.py"), "1", "code"),
    ("python", "", ("0/model.py",), "1", ""),
]


@pytest.mark.parametrize(("model_format", "path", "files", "link", "target"), CASES)
def test_a_model_is_linked_as_it_always_was(
    model_format: str, path: str, files: tuple[str, ...] | None, link: str, target: str
) -> None:
    assert made(model_format, path, files) == Layout({link: f"{ROOT}/{target}" if target else ROOT}, {})


def test_a_link_is_no_version() -> None:
    from dataclasses import replace

    tree = replace(tree_of(ROOT, ("1/file",)), links=frozenset({"9"}))
    assert layout(Given("m", "other", tree, None, "/x")).links == {"1": f"{ROOT}/1"}


def schema(*inputs: Tensor, outputs: tuple[Tensor, ...] | None = None) -> Schema:
    return Schema(inputs or None, outputs)


IMAGE = Tensor("INPUT", "FP32", (3, 32, 32))
LABEL = Tensor("OUTPUT", "INT64", (1,))


def test_a_schema_makes_a_configuration() -> None:
    found = made("pytorch", "model.pt", None, schema=schema(IMAGE, outputs=(LABEL,)))
    assert found.files["config.pbtxt"].decode() == (
        'backend: "pytorch"\n'
        'input {\n  name: "INPUT"\n  data_type: TYPE_FP32\n  dims: 3\n  dims: 32\n  dims: 32\n}\n'
        'output {\n  name: "OUTPUT"\n  data_type: TYPE_INT64\n  dims: 1\n}\n'
    )
    assert made("onnx", "m.onnx", None, schema=Schema()).files["config.pbtxt"] == b'backend: "onnxruntime"\n'
    assert made("other", "m", None, schema=Schema()).files["config.pbtxt"] == b""


@pytest.mark.parametrize(
    ("datatype", "written"), [("BYTES", "TYPE_STRING"), ("STRING", "TYPE_STRING"), ("FP16", "TYPE_FP16")]
)
def test_every_datatype_is_one_of_the_servers(datatype: str, written: str) -> None:
    """The old adapter made BYTES TYPE_INVALID."""
    found = made("onnx", "m", None, schema=schema(Tensor("x", datatype, (1,))))
    assert f"data_type: {written}\n" in found.files["config.pbtxt"].decode()


CONFIG = """# ours
name: "other" platform: "onnxruntime_onnx"
max_batch_size: 0
input [ { name: "a" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]
output: < name: 'b' >
later_field { x: [1, {y: 2}] s: "a" "b" }
"""


def test_an_own_configuration_keeps_all_but_its_name() -> None:
    found = made("onnx", "", ("config.pbtxt", "1/model.onnx", "2/model.onnx", "labels.txt"), config=CONFIG)
    assert found.links == {name: f"{ROOT}/{name}" for name in ("1", "2", "labels.txt")}
    text = found.files["config.pbtxt"].decode()
    assert [(field.name, field.value) for field in fields_of(text)] == [
        ("platform", '"onnxruntime_onnx"'),
        ("max_batch_size", "0"),
        ("input", '[ { name: "a" data_type: TYPE_FP32 dims: [ -1, 4 ] } ]'),
        ("output", "< name: 'b' >"),
        ("later_field", '{ x: [1, {y: 2}] s: "a" "b" }'),
    ]


def test_a_schema_replaces_the_sides_that_it_has() -> None:
    found = made("onnx", "", ("config.pbtxt",), config=CONFIG, schema=schema(IMAGE))
    fields = fields_of(found.files["config.pbtxt"].decode())
    assert [field.name for field in fields] == ["platform", "max_batch_size", "output", "later_field", "input"]
    assert '"INPUT"' in fields[-1].value


def test_a_batch_is_taken_off_where_the_configuration_has_one() -> None:
    config = CONFIG.replace("max_batch_size: 0", "max_batch_size: 100")
    batched = schema(Tensor("a", "FP32", (-1, 64, 64)), outputs=(Tensor("b", "FP32", (-1, 10)),))
    text = made("onnx", "", ("config.pbtxt",), config=config, schema=batched).files["config.pbtxt"].decode()
    assert "dims: 64\n  dims: 64\n}" in text
    assert "dims: -1" not in text
    for wrong in (Tensor("b", "FP32", (10,)), Tensor("b", "FP32", ())):
        with pytest.raises(LoadError, match="must begin with -1"):
            made("onnx", "", ("config.pbtxt",), config=config, schema=schema(outputs=(wrong,)))


@pytest.mark.parametrize("config", ["name: ", "{", "a: [1", 'a: "x', "a b", "x { y: 1", "1: 2", "a: \xff\n:"])
def test_a_configuration_that_is_none_is_the_models_fault(config: str) -> None:
    """The old adapter passed it on, and the server said something else."""
    with pytest.raises(LoadError, match=r"config\.pbtxt is no model configuration: line"):
        made("onnx", "", ("config.pbtxt",), config=config)


def test_a_keras_file_says_what_to_do() -> None:
    with pytest.raises(LoadError, match="SavedModel"):
        made("keras", "model.h5", None)


@pytest.mark.parametrize("model_id", ["a/b", "../up", "a b", "é", "x" * 201])
def test_an_id_that_is_no_folders_name_is_refused_in_words(model_id: str) -> None:
    with pytest.raises(LoadError, match="names models by their folders"):
        layout(Given(model_id, "onnx", tree_of(ROOT, None), None, "/x"))


messages = st.recursive(
    st.sampled_from(["1", "-2.5e3", "TRUE", '"a\\"}"', "'{'", "[1, 2]", "[]", "{}", "<>", '"a" "b"']),
    lambda inner: st.lists(inner, max_size=3).map(
        lambda values: "{ " + " ".join(f"f: {value}" for value in values) + " }"
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from(["a", "name", "input", "[x.y]"]), messages), max_size=5))
def test_fields_are_found_whatever_their_values_hold(fields: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{name}: {value}  # }}" for name, value in fields)
    assert [(field.name, field.value) for field in fields_of(text)] == fields


@given(st.text(alphabet="a1:{}<>[]\"'\\,; #\n-", max_size=40))
def test_no_text_does_worse_than_say_that_it_is_none(text: str) -> None:
    try:
        found = fields_of(text)
    except PbtxtError:
        return
    assert fields_of("\n".join(field.text for field in found)) == found


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_a_text_is_one_value(text: str) -> None:
    (field,) = fields_of(f"a: {quoted(text)}")
    assert field.value == quoted(text)
