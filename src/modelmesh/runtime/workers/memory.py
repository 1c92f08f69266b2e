"""How much memory the processes of models take, and which one is ended because it takes too much.

The size of a model is measured once, after its load, and the mesh makes room for it. What its process takes later is not counted
anywhere: buffers of a call, which go again, and leaks, which do not. Together they may take what the operator gives to models once
more, as far as this machine has it.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

P = TypeVar("P")

LOOK_S = 1.0
"""How often a process is looked at."""
LEAST_SHARE = 0.1
"""Of the capacity, that growth may take on a machine that has no more memory than the capacity."""
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of a container, by version 2 and 1 of control groups."""
COUNTED = ("RssAnon:", "RssShmem:", "VmSwap:")


def may_grow_bytes(capacity_bytes: int, limit_bytes: int) -> int:
    """What all processes together may take beyond what they took after their loads.

    As much as the capacity, but at most half of what the machine has beside it: the other half is for the runtime itself, and for what
    is taken between two looks.

    Args:
        capacity_bytes: Memory for models.
        limit_bytes: Memory of this machine, or of the container.
    """
    spare_bytes = max(0, limit_bytes - capacity_bytes) // 2
    return max(int(LEAST_SHARE * capacity_bytes), min(capacity_bytes, spare_bytes))


def takes_too_much(grown_bytes: Mapping[P, int], most_bytes: int) -> P | None:
    """The process that is to be ended: the one that has grown most, if all together have grown too much.

    Args:
        grown_bytes: By process.
        most_bytes: By which all together may grow.
    """
    if sum(max(0, grown) for grown in grown_bytes.values()) <= most_bytes:
        return None
    return max(grown_bytes, key=lambda process: grown_bytes[process])


def taken_bytes(pid: int) -> int:
    """Memory of a process that is not the content of files, what was swapped out included; 0: it is not known.

    Pages that it shares with the process from which it was forked count, so only the difference of two numbers says something.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(COUNTED)) * 1024
    return 0


def limit_bytes() -> int:
    """Memory of this machine, or of the container that this process is in, if that has less."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            found = min(found, int(Path(file).read_text(encoding="ascii")))
    return found
