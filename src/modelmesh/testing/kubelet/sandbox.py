"""The network of a pod, and the root of a container."""

import asyncio
import contextlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelmesh.testing.controlplane.namespaces import ADDRESS, BRIDGE
from modelmesh.testing.kubelet.shell import shell


class Network:
    """A network namespace with one address. It lives as long as the process that holds it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._holder: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Of the process that holds it."""
        assert self._holder is not None
        return self._holder.pid

    async def open(self) -> None:
        """Make it and connect it to the bridge."""
        self._holder = await asyncio.create_subprocess_exec(
            *("unshare", "--net", "sh", "-c", "echo made; exec sleep infinity"), stdout=asyncio.subprocess.PIPE
        )
        assert self._holder.stdout is not None
        await self._holder.stdout.readline()
        # Names of links have at most 15 characters.
        link = f"pod{self.address.replace('.', '')[-10:]}"
        inside = f"ip link set lo up; ip addr add {self.address}/16 dev eth0; ip link set eth0 up; ip route add default via {ADDRESS}"
        await shell(
            f"ip link add {link} type veth peer name eth0 netns {self.pid} && ip link set {link} master {BRIDGE} up"
            f" && nsenter -t {self.pid} -n sh -ec {shlex.quote(inside)}"
        )

    async def close(self) -> None:
        """End it; links go with it."""
        if self._holder is not None:
            with contextlib.suppress(ProcessLookupError):
                self._holder.kill()
            await self._holder.wait()


def mount_script(
    root: Path,
    layers: Sequence[Path],
    mounts: Sequence[tuple[Path, Mapping[str, object]]],
    *,
    shared: Sequence[Path] = (),
    folder: str,
    read_only: bool,
) -> str:
    """The script that makes a container's root and becomes its program, which is given as arguments.

    When the root is made it writes a line to its standard input, which is a pipe to whoever waits for that.

    Args:
        root: An empty folder to build it in.
        layers: Folders to lay over the machine's root. They are copied: overlays refuse layers that lie in each other.
        mounts: What is mounted (a file or a folder), and the container's entry of `volumeMounts`.
        shared: Folders of the machine to be there.
        folder: In which the program starts.
        read_only: Whether the root is.
    """
    base = shlex.quote(str(root))
    visible = ["/dev", "/proc", "/sys", *(shlex.quote(str(one)) for one in shared)]
    lines = [
        f"mkdir -p {base} && mount -t tmpfs none {base} && mkdir {base}/upper {base}/work {base}/root",
        *(f"cp -a {shlex.quote(str(layer))}/. {base}/upper/" for layer in layers),
        f"mount -t overlay overlay -o lowerdir=/,upperdir={base}/upper,workdir={base}/work {base}/root",
        *(f"mkdir -p {base}/root{one} && mount --rbind {one} {base}/root{one}" for one in visible),
    ]
    for source, mount in sorted(mounts, key=lambda pair: str(pair[1]["mountPath"]).count("/")):
        target = shlex.quote(str(mount["mountPath"]))
        make = 'mkdir -p "$0"' if source.is_dir() else 'mkdir -p "$(dirname "$0")" && touch "$0"'
        # The target is resolved inside: /var/run, for one, is a link that begins at the root.
        lines.append(f"""target={base}/root$(chroot {base}/root sh -c '{make} && readlink -f "$0"' {target})""")
        lines.append(f"mount --bind {shlex.quote(str(source))} $target")
        if mount.get("readOnly"):
            lines.append("mount -o remount,ro,bind $target")
    if read_only:
        lines.append(f"mount -o remount,ro,bind {base}/root")
    lines.append(
        f"""exec chroot {base}/root sh -c 'cd "$0" && echo >&0 && exec "$@" </dev/null' {shlex.quote(folder)} "$@\""""
    )
    return "\n".join(lines)


class Made:
    """A pipe that says when a container's root is made: `given` is the standard input of the script."""

    def __init__(self) -> None:
        self._reading, self.given = os.pipe()

    async def wait(self) -> None:
        """Wait until it is said, or the script has ended. `given` is closed here, so it must have been passed on."""
        os.close(self.given)
        reader = asyncio.StreamReader()
        pipe = os.fdopen(self._reading, "rb")
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), pipe
        )
        try:
            await reader.readline()
        finally:
            transport.close()
