"""A network and a process table of its own for a command: `python -m modelmesh.testing.controlplane.namespaces COMMAND…`.

In the network are loopback and a bridge, to which pods are connected. When the command ends, every process that it
started ends with it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

BRIDGE = "pods"
ADDRESS = "10.88.0.1"
"""Of the bridge; pods have addresses in 10.88.0.0/16."""

_SET_UP = f"ip link set lo up && ip link add {BRIDGE} type bridge && ip addr add {ADDRESS}/16 dev {BRIDGE} && ip link set {BRIDGE} up"
_UNSHARE = (
    *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"),
    "--",
)


class NamespaceError(RuntimeError):
    """This machine cannot give a command namespaces of its own; the message says why and what would help."""


def check_machine() -> None:
    """Whether namespaces can be made.

    Raises:
        NamespaceError: They cannot.
    """
    if os.geteuid() != 0:
        raise NamespaceError("tests on Kubernetes need root, to give pods networks of their own: run them as root")
    for program, package in (("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            raise NamespaceError(f"tests on Kubernetes need the program {program}: apt install {package}")
    made = subprocess.run([*_UNSHARE, "sh", "-ec", _SET_UP], capture_output=True, text=True, check=False)  # noqa: S603
    if made.returncode:
        raise NamespaceError(
            "tests on Kubernetes need namespaces for networks, mounts and processes, and a bridge; this machine refuses"
            f" them: {made.stderr.strip()}. In a container, run it with --privileged."
        )


def inside() -> bool:
    """Whether this process is in such a network."""
    shown = subprocess.run(["ip", "-o", "addr", "show", "dev", BRIDGE], capture_output=True, text=True, check=False)  # noqa: S603, S607
    return ADDRESS in shown.stdout


def run(command: Sequence[str]) -> int:
    """Run a command in namespaces of its own; returns its exit code."""
    words = [*_UNSHARE, "sh", "-ec", f'{_SET_UP} && exec "$@"', "sh", *command]
    return subprocess.run(words, check=False).returncode  # noqa: S603


if __name__ == "__main__":
    try:
        check_machine()
    except NamespaceError as error:
        sys.exit(str(error))
    sys.exit(run(sys.argv[1:]))
