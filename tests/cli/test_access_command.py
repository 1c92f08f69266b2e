"""`modelmesh access` as a person runs it."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelmesh.cli import app
from modelmesh.policy.access import hash_of_key

RUNNER = CliRunner()


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "access.yaml"
    path.write_text(
        f"principals: [{{name: reporting, keys: ['sha256:{hash_of_key('k1')}']}}, {{name: ops, priority: high}}]\n"
        "grants: [{to: [reporting, ops], verbs: [infer], models: ['fraud-*']}]\n"
    )
    return path


def test_a_new_key_and_its_hash_belong_together() -> None:
    made = json.loads(RUNNER.invoke(app, ["access", "key", "--json"]).output)
    assert len(made["key"]) > 40
    hashed = RUNNER.invoke(app, ["access", "hash"], input=made["key"] + "\n")
    assert hashed.output == made["hash"] + "\n"
    assert RUNNER.invoke(app, ["access", "hash"], input="").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["k1", "infer", "fraud-1"], 0, "for models fraud-*; highest class of its calls: normal, by default"),
        (["@ops", "infer", "fraud-1"], 0, "for models fraud-*; highest class of its calls: high, by principal ops"),
        (["k1", "infer", "risk"], 1, "no: reporting: grants[0] of reporting do not allow infer of it by grpc"),
        (["k1", "infer", "fraud-1", "--vmodel"], 1, "no: reporting: grants[0] of reporting"),
        (["k2", "infer", "fraud-1"], 1, "no: an unknown caller: the API key is unknown"),
        (["@reporting", "status", "fraud-1", "--listener", "rest"], 0, "yes: reporting"),
        (["k1", "call", "fraud-1"], 2, "'call' is not a valid Verb"),
    ],
)
def test_an_answer_is_explained(document: Path, arguments: list[str], code: int, said: str) -> None:
    result = RUNNER.invoke(app, ["access", "check", *arguments, "--file", str(document)])
    assert result.exit_code == code, result.output
    assert said in result.output.replace("\n", " ")


def test_the_key_may_come_by_standard_input(document: Path) -> None:
    command = ["access", "check", "-", "infer", "fraud-1", "--json", "-f", str(document)]
    answer = json.loads(RUNNER.invoke(app, command, input="k1\n").output)
    assert answer == {
        "allowed": True,
        "principal": "reporting",
        "tenant": "",
        "reason": "grants[0] allows it for models fraud-*",
        "highest_priority": "normal",
        "priority_reason": "by default",
    }
    nobody = RUNNER.invoke(app, command, input="\n")
    assert (nobody.exit_code, json.loads(nobody.output)["principal"]) == (1, "")


def test_a_document_with_problems_explains_nothing(document: Path) -> None:
    document.write_text("users: []")
    result = RUNNER.invoke(app, ["access", "check", "k1", "infer", "m", "-f", str(document)])
    assert result.exit_code == 2
    assert "users: Extra inputs are not permitted" in result.output


def test_the_document_and_the_command_of_the_page_about_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[2] / "docs/reference/priorities.md").read_text()
    (document,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "access.yaml").write_text(document)
    monkeypatch.chdir(tmp_path)
    ((command, answer),) = re.findall(r"^\$ modelmesh (access check .*)\n(.*)$", page, flags=re.MULTILINE)
    assert RUNNER.invoke(app, command.split()).output.replace("\n", " ").strip() == answer
    lowered = RUNNER.invoke(app, ["access", "check", "@nightly", "infer", "m", "--json", "-f", "access.yaml"])
    assert json.loads(lowered.output)["highest_priority"] == "low"
