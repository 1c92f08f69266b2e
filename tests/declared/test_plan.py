"""What changes in a mesh."""

from test_ids import SKLEARN, isvc

from modelmesh.declared import Document, Standing, Step, Wanted, declare, plan


def wanted(name: str, path: str = "p", namespace: str = "") -> Wanted:
    body = isvc({**SKLEARN, "storageUri": f"s3://b/{path}"})
    body["metadata"] |= {"name": name, "namespace": namespace}
    return declare([Document(f"{name}.yaml:1", body)]).wanted[0]


def standing(one: Wanted, **changed: str) -> Standing:
    return Standing(**{"active": one.model_id, "target": one.model_id, "owner": one.owner, **changed})


def test_new_names_are_created_moved_names_moved_and_equal_ones_kept() -> None:
    a, b, c = wanted("a"), wanted("b"), wanted("c")
    found = plan([c, a, b], {"b": standing(wanted("b", "old")), "c": standing(c, active="other")})
    assert [(change.name, change.step) for change in found.changes] == [
        ("a", Step.CREATE),
        ("b", Step.MOVE),
        ("c", Step.KEEP),
    ]
    assert not found.problems


def test_a_name_of_another_owner_is_left_alone_and_said() -> None:
    a = wanted("a")
    for owner in ("ksp", ""):
        found = plan([a], {"a": standing(a, owner=owner)}, prune=True)
        assert not found.changes
        assert [problem.path for problem in found.problems] == ["metadata.name"]


def test_pruning_takes_what_came_from_manifests_and_nothing_else() -> None:
    a = wanted("a")
    there = {name: standing(a, owner=owner) for name, owner in {"x": "isvc", "y": "ksp", "hand": "", "z": "me"}.items()}
    assert [change.name for change in plan([a], there).changes] == ["a"]
    pruned = plan([a], there, prune=True)
    assert [(change.name, change.step) for change in pruned.changes if change.name != "a"] == [
        ("x", Step.DELETE),
        ("y", Step.DELETE),
    ]
    assert pruned.steps[Step.DELETE] == 2


def test_an_empty_folder_prunes_nothing() -> None:
    found = plan([], {"x": standing(wanted("a"))}, prune=True)
    assert not found.changes
    assert not found.problems[0].fatal


def test_a_mesh_has_no_namespaces() -> None:
    found = plan([wanted("a", namespace="one"), wanted("a", namespace="two")], {})
    assert len(found.changes) == 1
    assert "two namespaces" in found.problems[0].message
