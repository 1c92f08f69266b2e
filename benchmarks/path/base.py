"""Another commit, built beside this one, so that both can take turns: `make bench-path BASE=<commit>`."""

import os
import subprocess
import sys
from pathlib import Path

from contenders import SCRATCH
from fleet import ROOT, BenchmarkError, say


def build(commit: str) -> Path:
    """The `src` folder of a commit, with its native module; built once per commit."""
    run("git", "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", why=f"{commit} is no commit here")
    name = subprocess.run(
        ("git", "rev-parse", "--short", f"{commit}^{{commit}}"), capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout.strip()
    tree = SCRATCH / f"base-{name}"
    if not (tree / ".built").exists():
        say(f"building {name} (two minutes, once)")
        SCRATCH.mkdir(parents=True, exist_ok=True)
        if not tree.exists():
            # A clone and no worktree: nothing of it is left in this repository when the folder goes.
            run("git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(tree), why="cannot be cloned")
            run("git", "-C", str(tree), "checkout", "--quiet", "--detach", name, why=f"{name} cannot be checked out")
        environment = {"VIRTUAL_ENV": sys.prefix, "CARGO_TARGET_DIR": str(SCRATCH / "base-target")}
        maturin = str(Path(sys.executable).parent / "maturin")
        command = (maturin, "develop", "-q", "--release", "--skip-install")
        run(*command, why=f"{name} cannot be built", folder=tree, **environment)
        (tree / ".built").touch()
    return tree / "src"


def run(*command: str, why: str, folder: Path = ROOT, **environment: str) -> None:
    """Run a command that must succeed."""
    finished = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, **environment}
    )
    if finished.returncode != 0:
        raise BenchmarkError(f"{why}: {finished.stderr.strip()[-2000:]}")
