"""Model paths that tell a fake runtime what to do: `SIZE_<bytes>_<loadMs>_<unloadMs>` and `FAIL_<message>`.

Source: ModelMesh's example runtime, so that its tests and ours read the same.
"""

import re
from dataclasses import dataclass
from random import Random

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelScript:
    """How one model behaves. `failure` is the message of its first load; None: it loads."""

    size_bytes: int
    load_ms: int
    unload_ms: int
    failure: str | None = None


def size_path(size_bytes: int, load_ms: int = 0, unload_ms: int = 0) -> str:
    """The path of a model with exactly this size and these times."""
    return f"SIZE_{size_bytes}_{load_ms}_{unload_ms}"


def script_of(path: str, random: Random, *, slow: bool = False) -> ModelScript:
    """What a path asks for; what it leaves open is drawn, in a fixed order.

    Drawn are 64 to 128 MiB, 100 to 1100 ms (slow: 1 to 11 s) to load and up to 500 ms (slow: 2 s) to unload.
    """
    exact = re.fullmatch(r"SIZE_(\d+)_(\d+)_(\d+)", path)
    if exact:
        return ModelScript(int(exact[1]), int(exact[2]), int(exact[3]))
    size_bytes = random.randrange(64 * MIB, 128 * MIB)
    load_ms = random.randrange(1_000, 11_000) if slow else random.randrange(100, 1_100)
    unload_ms = random.randrange(2_000) if slow else random.randrange(500)
    failure = path.removeprefix("FAIL_") if path.startswith("FAIL_") else None
    return ModelScript(size_bytes, load_ms, unload_ms, failure)
