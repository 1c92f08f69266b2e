"""Trees for layouts, from a list of their files."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from modelmesh.servers.tree import Tree


def tree_of(path: str, files: Iterable[str] | None, texts: Mapping[str, bytes] | None = None) -> Tree:
    """A folder with these files, or with None a file; a name that ends with `/` is an empty folder."""
    if files is None:
        return Tree(path, is_file=True)
    names = list(files)
    folders = {name.rstrip("/") for name in names if name.endswith("/")}
    real = [name for name in names if not name.endswith("/")]
    for name in [*real, *folders]:
        folders |= {str(parent) for parent in PurePosixPath(name).parents if str(parent) != "."}
    return Tree(path, files=dict.fromkeys(real, 1), folders=frozenset(folders), texts=texts or {})
