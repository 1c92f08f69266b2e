"""MLServer's layouts, as values."""

import json
from pathlib import Path

import pytest
from trees import tree_of

from modelmesh.runtime.errors import LoadError
from modelmesh.servers.layout import Given, Layout
from modelmesh.servers.mlserver import layout
from modelmesh.servers.schema import Schema, Tensor

FOLDER = "/models/_mlserver_models/m"
SCHEMA = Schema(inputs=(Tensor("x", "FP32", (-1, 4)),), outputs=None)


def made(
    model_format: str, path: str, files: tuple[str, ...] | None, *, settings: object = None, schema=None, model="m"
):
    texts = {"model-settings.json": settings if isinstance(settings, bytes) else json.dumps(settings).encode()}
    tree = tree_of(f"/models/{model}/{path}", files, texts if settings is not None else {})
    return layout(Given(model, model_format, tree, schema, FOLDER))


def settings_of(layout: Layout) -> dict:
    return json.loads(layout.files["model-settings.json"])


@pytest.mark.parametrize(
    ("model_format", "implementation"),
    [
        ("sklearn", "mlserver_sklearn.SKLearnModel"),
        ("xgboost", "mlserver_xgboost.XGBoostModel"),
        ("lightgbm", "mlserver_lightgbm.LightGBMModel"),
        ("mllib", "mlserver_mllib.MLlibModel"),
        ("mine", None),
        ("", None),
    ],
)
def test_a_file_is_linked_and_its_settings_made(model_format: str, implementation: str | None) -> None:
    found = made(model_format, "model.bst", None)
    assert found.links == {"model.bst": "/models/m/model.bst"}
    assert settings_of(found) == {
        "name": "m",
        "parameters": {"uri": f"{FOLDER}/model.bst"},
        **({"implementation": implementation} if implementation else {}),
    }


def test_the_implementation_of_mllib_can_be_imported() -> None:
    """The old one had a hyphen in its package's name."""
    assert all(
        name.replace(".", "_").isidentifier() for name in [settings_of(made("mllib", "m", None))["implementation"]]
    )


@pytest.mark.parametrize(
    ("files", "uri"),
    [
        (("model.joblib",), f"{FOLDER}/dir"),
        (("a.pkl",), f"{FOLDER}/dir/a.pkl"),
        (("a.pkl", "b.pkl"), f"{FOLDER}/dir"),
        (("sub/a.pkl",), f"{FOLDER}/dir"),
        ((), f"{FOLDER}/dir"),
    ],
)
def test_a_folder_is_linked_whole_and_its_one_file_named_if_the_server_would_not_find_it(
    files: tuple[str, ...], uri: str
) -> None:
    found = made("sklearn", "dir", files)
    assert found.links == {"dir": "/models/m/dir"}
    assert settings_of(found)["parameters"]["uri"] == uri


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        (
            {"name": "x", "implementation": "a.B", "parameters": {"uri": "./m.json", "version": "3"}, "more": [1]},
            {
                "name": "m",
                "implementation": "a.B",
                "parameters": {"uri": f"{FOLDER}/m.json", "version": "3"},
                "more": [1],
            },
        ),
        ({"implementation": "a.B"}, {"name": "m", "implementation": "a.B"}),
        ({"parameters": {"uri": "/etc/passwd"}}, {"name": "m", "parameters": {"uri": f"{FOLDER}/etc/passwd"}}),
        ({"parameters": {"uri": "../../x"}}, {"name": "m", "parameters": {"uri": f"{FOLDER}/x"}}),
        ({"parameters": {"uri": "s3://b/x"}}, {"name": "m", "parameters": {"uri": f"{FOLDER}/s3:/b/x"}}),
        ({"parameters": {"uri": "."}}, {"name": "m", "parameters": {"uri": FOLDER}}),
        ({"parameters": None}, {"name": "m", "parameters": None}),
    ],
)
def test_own_settings_keep_all_but_name_and_place(settings: dict, written: dict) -> None:
    found = made("sklearn", "dir", ("model-settings.json", "m.json", "sub/x"), settings=settings)
    assert found.links == {"m.json": "/models/m/dir/m.json", "sub": "/models/m/dir/sub"}
    assert settings_of(found) == written


@pytest.mark.parametrize("settings", [b"{", b"[]", {"parameters": "x"}, {"parameters": {"uri": 3}}])
def test_own_settings_that_make_no_sense_are_the_models_fault_and_end_no_process(settings: object) -> None:
    """The old adapter died of the last two."""
    with pytest.raises(LoadError, match=r"model-settings\.json") as caught:
        made("sklearn", "dir", ("model-settings.json",), settings=settings)
    assert caught.value.status.name == "INVALID_ARGUMENT"


def test_a_schema_replaces_the_sides_that_it_has() -> None:
    own = {"inputs": [1], "outputs": [2]}
    found = settings_of(made("", "dir", ("model-settings.json",), settings=own, schema=SCHEMA))
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert found["outputs"] == [2]
    assert "outputs" not in settings_of(made("sklearn", "f", None, schema=SCHEMA))


@pytest.mark.parametrize("name", ["a?b.pkl", "a#b", "a;b", "model-settings.json"])
def test_a_file_whose_name_the_server_would_misread_gets_another(name: str) -> None:
    """MLServer reads a path as a URI, and ends it at a question mark."""
    found = made("sklearn", name, None)
    (link,) = found.links
    assert link != name
    assert settings_of(found)["parameters"]["uri"] == f"{FOLDER}/{link}"
    assert found.links[link] == f"/models/m/{name}"


def test_an_id_whose_calls_the_server_could_not_answer_is_refused_at_its_load() -> None:
    with pytest.raises(LoadError, match="printable ASCII"):
        made("sklearn", "f", None, model="modèle")


def test_what_is_made_is_written_whole(tmp_path: Path) -> None:
    from modelmesh.servers.layout import write_layout

    (tmp_path / "source").write_text("x")
    wanted = Layout({"a/link": str(tmp_path / "source")}, {"settings": b"s"})
    write_layout(tmp_path / "m", wanted)
    write_layout(tmp_path / "m", Layout({}, {"other": b"o"}))
    write_layout(tmp_path / "m", wanted)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "m").rglob("*")) == [
        "m/a",
        "m/a/link",
        "m/settings",
    ]
    assert (tmp_path / "source").read_text() == "x", "of a link only the link is removed"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "source"]
