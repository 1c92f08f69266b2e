"""YAML or JSON text to documents, within bounds.

Stricter than YAML: a duplicate key is a problem; YAML takes the last one.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from modelmesh.declared.problems import Problem, shown

MAX_TEXT_BYTES = 16 * 1024 * 1024
MAX_DOCUMENTS = 100_000
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Document:
    """One mapping of a file. `source`: where it begins: `models.yaml:12`."""

    source: str
    body: dict[str, Any]


class _Loader(yaml.SafeLoader):
    """Safe YAML without what makes little text much data, and without silent doubles."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(None, None, "aliases (*name) are not taken; write the value out", mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"nested deeper than {MAX_DEPTH}", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - as the library calls it
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.MarkedYAMLError(None, None, f"{shown(key)} is here twice", key_node.start_mark)
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def read_documents(name: str, text: str) -> tuple[list[Document], list[Problem]]:
    """The documents of a file, lists (`kind: List`) taken apart, and what is wrong with the file.

    Args:
        name: Of the file, for people.
        text: YAML documents, or JSON, which is YAML.
    """
    if len(text) > MAX_TEXT_BYTES:
        return [], [Problem(name, "", "", f"is larger than {MAX_TEXT_BYTES} bytes")]
    documents: list[Document] = []
    problems: list[Problem] = []
    try:
        loader = _Loader(text)
        try:
            while loader.check_node():
                node = loader.get_node()
                assert node is not None
                body = loader.construct_document(node)
                documents.extend(_documents(f"{name}:{node.start_mark.line + 1}", body, problems))
                if len(documents) > MAX_DOCUMENTS:
                    problems.append(Problem(name, "", "", f"holds more than {MAX_DOCUMENTS} documents"))
                    break
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        problems.append(Problem(where, "", "", f"{error.problem or error.context}"))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        problems.append(Problem(name, "", "", f"cannot be read as YAML: {shown(error)}"))
    return documents, problems


def _documents(source: str, body: object, problems: list[Problem]) -> Sequence[Document]:
    if body is None:
        return []
    if not isinstance(body, dict):
        problems.append(Problem(source, "", "", f"must be a mapping with apiVersion and kind, is {shown(body)}"))
        return []
    if str(body.get("kind", "")).endswith("List") and isinstance(body.get("items"), list):
        found: list[Document] = []
        for number, item in enumerate(body["items"]):
            found.extend(_documents(f"{source} items[{number}]", item, problems))
        return found
    return [Document(source, body)]
