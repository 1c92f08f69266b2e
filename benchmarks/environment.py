"""Where and when something was measured."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """The date, the commit, and the machine."""
    cpu = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": commit.stdout.strip(),
        "machine": {"cpu": cpu.partition(": ")[2], "cpus": os.cpu_count(), "kernel": platform.release()},
    }
