"""Every transcript, played: `modelmesh.testing.scenario` says how they are written."""

from pathlib import Path

import pytest

from modelmesh.testing.scenario import ScenarioError, parse, play

SCENARIOS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("file", SCENARIOS, ids=lambda file: file.stem)
def test_scenario(file: Path, request: pytest.FixtureRequest) -> None:
    before = file.read_text()
    now = play(before)
    if request.config.getoption("--rewrite", default=False):
        file.write_text(now)
    else:
        assert now.splitlines() == before.splitlines(), f"pytest {file} --rewrite, if this is right"


def test_what_cannot_be_played_is_named() -> None:
    with pytest.raises(ScenarioError, match="no command 'fly'"):
        play("instances a\nfly a\n----\n")
    with pytest.raises(ScenarioError, match="'soon' is not a time"):
        play("instances a\nat soon crash a\n----\n")
    with pytest.raises(ScenarioError, match="the line ---- is missing"):
        parse("instances a\n")
    with pytest.raises(ScenarioError, match="nobody"):
        play("instances a\ncrash nobody\n----\n")
