"""The version of a model whose folder has one folder for each. Source: spec/runtime-adapters.md 5.2."""

import re

from modelmesh.servers.tree import Tree

_INTEGER = re.compile(r"[+-]?\d+")


def chosen_version(tree: Tree) -> tuple[str, str]:
    """The version's name, and the folder that it is.

    If all folders at the top have whole numbers for names, the largest that is above 0; files do not matter, nor links. Else
    version 1 is the whole.
    """
    names = [name for name in tree.entries() if name in tree.folders]
    if not names or not all(_INTEGER.fullmatch(name) for name in names):
        return "1", ""
    largest = max(names, key=int)
    return (largest, largest) if int(largest) > 0 else ("1", "")
