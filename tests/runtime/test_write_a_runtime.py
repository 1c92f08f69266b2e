"""The example 03 does what its README says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "03-write-a-runtime"
SOURCE = Path(__file__).parents[2] / "src"


@pytest.mark.process
@pytest.mark.examples
@pytest.mark.timeout(330)
@pytest.mark.parametrize("language", ["python", "go"])
def test_the_demo_prints_what_is_expected(language):
    if language == "go" and shutil.which("go") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("the Go example must be checked in CI, and there is no Go: install Go 1.26 or later")
        pytest.skip("NOT CHECKED: the Go example needs Go 1.26 or later, which was not found")
    finished = subprocess.run(
        [sys.executable, "demo.py", language],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    expected = (EXAMPLE / "expected.txt").read_text()
    assert finished.stdout == expected
    assert expected in (EXAMPLE / "README.md").read_text()
