"""Who owns which fields of an object: server-side apply, as far as the controller uses it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

Step = str | tuple[tuple[str, Any], ...]
"""Into a mapping by a name, into a list by the keys of its item."""

Path = tuple[Step, ...]

Object = dict[str, Any]
Owners = dict[str, set[Path]]
"""The paths of each field manager."""

_LIST_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
}
_DEFAULT_PROTOCOL = "TCP"
_SERVER_SET = ("resourceVersion", "uid", "generation", "creationTimestamp", "managedFields", "selfLink")


def copied(value: Any) -> Any:
    """A copy of a JSON value that shares nothing with it that can change; much faster than `copy.deepcopy`."""
    if isinstance(value, dict):
        return {name: copied(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [copied(inner) for inner in value]
    return value


def leaves(item: Object) -> dict[Path, Any]:
    """Every value of an object that a manager may own, by its path."""
    found = dict(_leaves(item, (), ""))
    return {path: value for path, value in found.items() if not _set_by_server(path)}


def _set_by_server(path: Path) -> bool:
    head = path[:2]
    return path[0] in {"apiVersion", "kind"} or (
        head[0] == "metadata" and len(head) > 1 and head[1] in {"name", "namespace", *_SERVER_SET}
    )


def _leaves(value: Any, path: Path, name: str) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key), key)
    elif isinstance(value, list) and value and (keys := _keys(name, value)):
        for item in value:
            step = _step(item, keys)
            yield (*path, step), _Member
            for key, inner in item.items():
                yield from _leaves(inner, (*path, step, key), key)
    else:
        yield path, value


class _Member:
    """Stands for the item of a list itself."""


def _keys(name: str, value: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(item, dict) for item in value):
        return ()
    if name == "ports":
        keys: tuple[str, ...] = ("containerPort" if "containerPort" in value[0] else "port", "protocol")
    else:
        keys = _LIST_KEYS.get(name, ())
    # A real API server refuses other keys by the schema; without one, such a list is one value.
    scalars = all(isinstance(item.get(key), str | int | None) for item in value for key in keys)
    return keys if scalars else ()


def _step(item: Object, keys: tuple[str, ...]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, item.get(key, _DEFAULT_PROTOCOL if key == "protocol" else None)) for key in keys)


def apply(live: Object | None, item: Object, owners: Owners, manager: str) -> Object:
    """The object after `manager` applied `item` by force; `owners` is brought up to date."""
    result: Object = copied(live) if live is not None else {"metadata": {}}
    wanted, standing = leaves(item), leaves(result)
    mine = owners.get(manager, set())
    # The item of a list goes before what is in it: without its keys it would not be found.
    for path in sorted(mine - wanted.keys(), key=lambda path: (isinstance(path[-1], str), -len(path))):
        if not _is_key(path) and not any(path in paths for other, paths in owners.items() if other != manager):
            _delete(result, path)
    for path, value in sorted(wanted.items(), key=lambda entry: len(entry[0])):
        _set(result, path, copied(value))
        if standing.get(path) != value:
            for other, paths in owners.items():
                if other != manager:
                    paths.discard(path)
    for name in ("apiVersion", "kind"):
        result[name] = item[name]
    result["metadata"] |= {name: item["metadata"][name] for name in ("name", "namespace") if name in item["metadata"]}
    owners[manager] = set(wanted)
    return result


def _is_key(path: Path) -> bool:
    """Whether a path is that of a value by which the item of a list is found; a default takes its place."""
    return len(path) > 1 and isinstance(path[-2], tuple) and path[-1] in dict(path[-2])


def wrote(before: Object | None, after: Object, owners: Owners, manager: str) -> None:
    """`manager` replaced `before` by `after`: it owns what it changed."""
    old, new = leaves(before) if before is not None else {}, leaves(after)
    changed = {path for path, value in new.items() if path not in old or old[path] != value}
    gone = old.keys() - new.keys()
    for paths in owners.values():
        paths.difference_update(changed | gone)
    if changed:
        owners.setdefault(manager, set()).update(changed)


def merged(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return copied(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def managed_fields(owners: Owners) -> list[Object]:
    """As `metadata.managedFields` shows it."""
    return [
        {"manager": manager, "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": _tree(paths)}
        for manager, paths in sorted(owners.items())
        if paths
    ]


def read_managed_fields(entries: list[Object]) -> Owners:
    """What `managed_fields` showed, as another client may have changed it."""
    owners: Owners = {}
    for entry in entries:
        owners.setdefault(entry["manager"], set()).update(_paths(entry["fieldsV1"], ()))
    return owners


def _paths(tree: Object, path: Path) -> Iterator[Path]:
    for name, inner in tree.items():
        step: Step = name[2:] if name.startswith("f:") else tuple(json.loads(name[2:]).items())
        if not inner or isinstance(step, tuple):
            yield (*path, step)
        yield from _paths(inner, (*path, step))


def _tree(paths: set[Path]) -> Object:
    tree: Object = {}
    for path in paths:
        at = tree
        for step in path:
            name = f"f:{step}" if isinstance(step, str) else f"k:{json.dumps(dict(step), separators=(',', ':'))}"
            at = at.setdefault(name, {})
    return tree


def _set(item: Object, path: Path, value: Any) -> None:
    at: Any = item
    for number, step in enumerate(path):
        last = number == len(path) - 1
        following = None if last else path[number + 1]
        if isinstance(step, str):
            if last:
                at[step] = value
                return
            empty: Any = [] if isinstance(following, tuple) else {}
            if not isinstance(at.get(step), type(empty)):
                at[step] = empty
            at = at[step]
        else:
            found = _member(at, step)
            if found is None:
                found = {key: inner for key, inner in step if inner is not None}
                at.append(found)
            at = found


def _delete(item: Object, path: Path) -> None:
    holders: list[tuple[Any, Step]] = []
    at: Any = item
    for step in path:
        holders.append((at, step))
        at = at.get(step) if isinstance(step, str) and isinstance(at, dict) else _member(at, step)
        if at is None and step is not path[-1]:
            return
    holder, step = holders[-1]
    if isinstance(step, str):
        holder.pop(step, None)
    elif (found := _member(holder, step)) is not None:
        holder.remove(found)
    for (outer, into), (inner, _) in zip(reversed(holders[:-1]), reversed(holders[1:]), strict=True):
        if inner or not isinstance(into, str):
            break
        outer.pop(into, None)


def _member(of: Any, step: Step) -> Any:
    if not isinstance(of, list) or isinstance(step, str):
        return None
    keys = tuple(key for key, _ in step)
    return next((item for item in of if isinstance(item, dict) and _step(item, keys) == step), None)
