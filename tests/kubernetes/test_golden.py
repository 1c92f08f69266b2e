"""Rendered objects, as files that people read. `python tests/kubernetes/golden.py` writes them again."""

import pytest
from golden import FOLDER, cases, text

from modelmesh.kubernetes.render import Object

CASES = dict(cases())


@pytest.mark.parametrize("name", CASES)
def test_objects_are_as_the_file_says(name: str) -> None:
    assert text(CASES[name]) == (FOLDER / f"{name}.yaml").read_text(), "see: git diff, after golden.py"


def test_each_file_belongs_to_a_case() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(CASES)


def containers(objects: tuple[Object, ...]) -> dict[str, Object]:
    return {one["name"]: one for one in objects[0]["spec"]["template"]["spec"]["containers"]}


@pytest.mark.parametrize("name", ["mlserver-1.x", "triton-2.x", "ovms-1.x", "torchserve-0.x"])
def test_containers_mount_only_volumes_that_are_there_and_port_names_are_unique(name: str) -> None:
    pod = CASES[name][0]["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]} == volumes
    ports = [port["name"] for one in pod["containers"] for port in one.get("ports", [])]
    assert len(ports) == len(set(ports))
    assert list(containers(CASES[name])) == [name.partition("-")[0], f"{name.partition('-')[0]}-adapter", "mm"]
