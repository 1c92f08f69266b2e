"""The Helm chart, as far as it can be checked without Helm; `make check-deploy` renders it and compares the objects."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "modelmesh-serving"
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def test_its_version_is_that_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)


def test_its_objects_are_the_files_of_the_kustomize_install() -> None:
    serving = ROOT / "deploy" / "kubernetes" / "serving"
    links = {"crds": "crds", "objects/controller": "controller", "objects/admission": "admission"}
    for link, folder in links.items():
        assert (CHART / link).resolve() == serving / folder
    assert (CHART / "objects/runtimes").resolve() == ROOT / "src" / "modelmesh" / "instance" / "runtimes"
    kustomize = yaml.safe_load((serving / "kustomization.yaml").read_text())
    assert set(kustomize["resources"]) == {*links.values(), "../../../src/modelmesh/instance/runtimes"}
    for folder in (CHART / "crds", *(CHART / "objects").iterdir()):
        named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        assert {file.name for file in folder.glob("*.yaml")} == {*named, "kustomization.yaml"}


def test_the_schema_knows_each_value() -> None:
    assert set(SCHEMA["properties"]) == {*VALUES, "global"}
    for name in ("etcd", "admission", "runtimes", "image"):
        assert set(_resolved(SCHEMA["properties"][name])["properties"]) == set(VALUES[name])


@pytest.mark.parametrize("name", ["image", "adapterImage", "runtimeImage"])
def test_the_default_images_are_those_of_the_configuration_and_the_manifests(name: str) -> None:
    helper = (CHART / "templates" / "_helpers.tpl").read_text()
    reference = f"{VALUES[name]['name']}:{VALUES[name]['tag']}"
    if name == "runtimeImage":
        assert f"image: {reference}" in (CHART / "objects" / "runtimes" / "modelmesh-1.x.yaml").read_text()
        assert f'"image: {reference}"' in (CHART / "templates" / "runtimes.yaml").read_text()
    else:
        assert f'"{reference}"' in helper


def _resolved(schema: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found
