"""The commands of the how-to pages that need no cluster, run as they stand."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelmesh.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "size-a-cluster.md"
COMMANDS = re.findall(r"^\$ modelmesh (simulate .*)$", PAGE.read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_sizing_a_cluster(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = re.search(r"```csv\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert load is not None
    (tmp_path / "load.csv").write_text(load[1])
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 0, result.output
    assert "hit" in result.stdout
    assert "--plot" not in command or (tmp_path / "hits.svg").exists()
