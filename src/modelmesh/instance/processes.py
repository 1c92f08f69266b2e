"""Child processes that never outlive us.

Each child gets SIGTERM from the kernel when this process ends, however it ends; its output goes to a file whose
last lines are quoted when it ends unexpectedly.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from modelmesh.values.exit_codes import how_it_ended

STOP_S = 15.0
QUOTED_LINES = 15
_LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)  # the parent ended before its end could be subscribed to
os.execvp(sys.argv[2], sys.argv[2:])
"""
# A program of its own, not a function run between fork and exec: gRPC's fork handlers abort there.


_INHERITED = frozenset(
    [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "LANGUAGE",
        "TZ",
        "TMPDIR",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "XDG_RUNTIME_DIR",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "RUST_BACKTRACE",
    ]
)
_INHERITED_PREFIXES = ("LC_", "PYTHON", "OMP_", "OPENBLAS_", "MKL_", "CUDA_", "NVIDIA_", "MALLOC_", "COV_", "COVERAGE_")


def inherited(environment: Mapping[str, str], *, settings: Collection[str] = ()) -> dict[str, str]:
    """What a child needs of an environment: how programs run on this machine, and the settings that it reads.

    Credentials, proxies and other variables of other programs are not passed on.

    Args:
        environment: Ours.
        settings: Names of the child's own settings.
    """
    return {
        name: value
        for name, value in environment.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES) or name in settings
    }


class ChildEndedError(Exception):
    """A child ended by itself; the message quotes its last words."""


class Child:
    """One child process, its output in `log`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    @property
    def epitaph(self) -> str:
        """That it ended, and how."""
        return f"{self.name} {how_it_ended(self._process.returncode or 0)} ({self.log})"

    def check(self) -> None:
        """Raise ChildEndedError if it has ended."""
        if not self.running:
            raise ChildEndedError(f"{self.epitaph}; its last words:\n{last_lines(self.log)}")

    async def wait(self) -> None:
        """Wait until it ends."""
        await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    async def kill(self) -> None:
        """End it at once."""
        if self.running:
            self.signal(signal.SIGKILL)
            await self.wait()

    async def stop(self) -> None:
        """End it: SIGTERM, and SIGKILL if that takes too long."""
        if not self.running:
            return
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_S):
                await self.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.wait()


def told_when_we_die(command: Sequence[str]) -> list[str]:
    """The command, started so that the kernel ends it with SIGTERM when this process ends, however it ends."""
    return [sys.executable, "-S", "-c", _LAUNCH, str(os.getpid()), *command]


async def start_child(
    name: str, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None
) -> Child:
    """Start a child, in a process group of its own so that Ctrl-C reaches only this process.

    Its environment is `environment` on top of `inherited`.
    """
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *told_when_we_die(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**inherited(os.environ), **(environment or {})},
            start_new_session=True,
        )
    return Child(name, process, log)


def last_lines(log: Path) -> str:
    """The end of a log file, for people."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError as error:
        return f"(cannot be read: {error.strerror})"
    return "\n".join(f"  {line}" for line in lines[-QUOTED_LINES:]) or "  (nothing)"
