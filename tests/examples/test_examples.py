"""Every example directory, executed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.examples, pytest.mark.timeout(300)]


def test_01_real_models() -> None:
    """The demo with fewer calls: all answers right, and more models than fit."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "01-real-models" / "demo.py", "--requests", "400"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("demo: ")
    figures = json.loads(last.removeprefix("demo: "))
    assert figures["models"] >= 24
    assert (figures["instances"], figures["requests"], figures["wrong"], figures["errors"]) == (3, 400, 0, 0)
    assert figures["evictions"] > 0


def test_10_simulate_your_load() -> None:
    folder = EXAMPLES / "10-simulate-your-load"
    done = subprocess.run(
        [sys.executable, folder / "demo.py"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = (folder / "expected.txt").read_text()
    assert done.stdout == expected
    assert expected.strip() in (folder / "README.md").read_text()


def test_every_example_has_a_readme() -> None:
    for folder in sorted(EXAMPLES.iterdir()):
        if folder.is_dir():
            assert (folder / "README.md").exists(), folder.name
