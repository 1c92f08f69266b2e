"""YAML text: what is read, and what is refused that would hide a mistake or fill memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh.declared import read_documents
from modelmesh.declared.documents import MAX_DEPTH, MAX_TEXT_BYTES


def test_documents_know_their_line_and_lists_are_taken_apart() -> None:
    documents, problems = read_documents("m.yaml", "a: 1\n---\n---\n\nkind: List\nitems:\n- {b: 2}\n- {c: 3}\n")
    assert [(one.source, one.body) for one in documents] == [
        ("m.yaml:1", {"a": 1}),
        ("m.yaml:5 items[0]", {"b": 2}),
        ("m.yaml:5 items[1]", {"c": 3}),
    ]
    assert not problems


def test_json_is_read_too() -> None:
    assert read_documents("m.json", '{"a": {"b": [1, "x"]}}')[0][0].body == {"a": {"b": [1, "x"]}}


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "m.yaml:3", "twice"),
        ("x:\n  a: 1\n  a: 1\n", "m.yaml:3", "twice"),
        ("a: &x [1]\nb: *x\n", "m.yaml:2", "alias"),
        ("a: [1\n", "m.yaml:2", "expected"),
        ("a: !!python/object/apply:os.system [id]\n", "m.yaml:1", "could not determine a constructor"),
        ("- a\n", "m.yaml:1", "must be a mapping"),
        ("a: 2021-99-99\n", "m.yaml", "cannot be read"),
        ("a: \x01\n", "m.yaml", "cannot be read"),
        ("[" * (MAX_DEPTH + 1), "m.yaml:1", "nested deeper"),
        ("a" * (MAX_TEXT_BYTES + 1), "m.yaml", "larger"),
        ("? [a, b]\n: 1\n", "m.yaml:1", "unhashable"),
    ],
)
def test_what_cannot_be_read_is_a_problem_with_its_line(text: str, where: str, what: str) -> None:
    _, problems = read_documents("m.yaml", text)
    assert [problem.source for problem in problems] == [where]
    assert what in problems[0].message


def test_documents_before_a_broken_one_are_read_so_that_their_problems_are_found_too() -> None:
    documents, problems = read_documents("m.yaml", "a: 1\n---\nb: [\n")
    assert len(documents) == 1
    assert len(problems) == 1


@given(st.text(alphabet="ab:-[]{}&*!?|>'\"\n #,%@`", max_size=60))
def test_no_text_raises(text: str) -> None:
    for document in read_documents("m.yaml", text)[0]:
        assert isinstance(document.body, dict)
