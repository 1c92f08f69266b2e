"""Running programs of the machine: with a bound, and with what they printed."""

import asyncio
import contextlib
from collections.abc import Mapping


class ShellError(RuntimeError):
    """A command failed; the message has it and what it printed."""


async def run(*words: str, timeout_s: float = 60.0, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a program; returns its exit code and what it printed.

    Raises:
        TimeoutError: It took longer, and was killed.
    """
    process = await asyncio.create_subprocess_exec(
        *words,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printed, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    return process.returncode or 0, printed.decode(errors="replace")


async def shell(script: str) -> None:
    """Run a script that must not fail.

    Raises:
        ShellError: It did.
    """
    code, printed = await run("sh", "-ec", script)
    if code:
        raise ShellError(f"{script}: {printed}")
