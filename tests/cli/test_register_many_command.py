"""`modelmesh models register-many`: what a file may say, and how it is cut into calls."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from modelmesh.cli import app
from modelmesh.cli.register_many import LARGEST_CALL, LARGEST_CALL_BYTES, _batches, _request

RUNNER = CliRunner()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: "),
        ("[]", "line 2: it must be an object with id and type"),
        ('{"id": "a"}', "line 2: it must be an object with id and type"),
        ('{"id": "a", "type": "t", "size": 5}', "line 2: it must be an object"),
        ('{"id": 7, "type": "t"}', "line 2: id is no text"),
    ],
)
def test_a_line_that_is_none_is_named_and_nothing_is_sent(tmp_path: Path, line: str, problem: str) -> None:
    file = tmp_path / "models"
    file.write_text('{"id": "good", "type": "t"}\n' + line)
    result = RUNNER.invoke(app, ["models", "register-many", str(file), "--address", "localhost:1"])
    assert result.exit_code == 2
    assert problem in result.output.replace("\n", " ")


def test_calls_are_no_larger_than_they_may_be_and_keep_the_order() -> None:
    small = [_request(1, json.dumps({"id": f"m{number}", "type": "t"})) for number in range(LARGEST_CALL + 5)]
    assert [len(batch) for batch in _batches(small)] == [LARGEST_CALL, 5]
    large = [_request(1, json.dumps({"id": f"m{number}", "type": "t", "key": "k" * 60_000})) for number in range(40)]
    batches = list(_batches(large))
    assert len(batches) > 2
    assert all(sum(one.ByteSize() for one in batch) <= LARGEST_CALL_BYTES for batch in batches)
    assert [one.modelId for batch in batches for one in batch] == [f"m{number}" for number in range(40)]
    assert list(_batches([])) == []


def test_what_a_line_says() -> None:
    request = _request(1, '{"id": "a", "type": "t", "path": "p", "key": "k", "load": true}')
    assert (request.modelId, request.modelInfo.path, request.modelInfo.key, request.loadNow) == ("a", "p", "k", True)
