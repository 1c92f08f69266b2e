"""Words of others on a terminal and in pipes: shown whole, never obeyed."""

import contextlib
import io
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmesh._proto import admin_pb2 as pb
from modelmesh.cli.client import channel_options
from modelmesh.cli.explain import lines
from modelmesh.cli.models import table
from modelmesh.cli.text import printable

ODD = ["llama[q4]", "a[/b]", "[red]x[/red]", ":smile:", "a\x1b[31mb", "two\nlines", "tab\tbed", "\u202eabc", "é漢字"]


@contextlib.contextmanager
def piped(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    yield out


@pytest.mark.parametrize("word", ODD)
def test_a_table_shows_a_word_as_it_is(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with piped(monkeypatch) as out:
        table(("MODEL", "ERROR"), [(word, "x"), ("y", f"said {word}")])
    lines_ = out.getvalue().splitlines()
    assert len(lines_) == 3
    assert lines_[1].split("  ")[0].rstrip() == printable(word)
    assert lines_[2].endswith(f"said {printable(word)}")


def test_long_words_are_whole_where_programs_read(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = "m" * 300 + "1", "m" * 300 + "2"
    with piped(monkeypatch) as out:
        table(("MODEL", "TYPE"), [(first, "t"), (second, "t")])
    assert [line.split()[0] for line in out.getvalue().splitlines()[1:]] == [first, second]


@given(st.text())
def test_printable_text_is_one_harmless_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


def test_explanations_carry_ids_of_others() -> None:
    answer = pb.ExplainResponse(model=pb.Model(id="a[/b]\x1b]0;x\x07", type="t"))
    for line in lines(answer, now_s=0, dry_run=False):
        assert printable(line).isprintable()


@pytest.mark.parametrize(
    ("address", "asks_a_proxy"),
    [
        ("localhost:8033", False),
        ("127.0.0.1:1", False),
        ("[::1]:1", False),
        ("mesh.example:8033", True),
        ("10.0.0.1:1", True),
        ("localhost.example:1", True),
    ],
)
def test_what_is_on_this_machine_is_called_without_a_proxy(address: str, asks_a_proxy: bool) -> None:
    assert (("grpc.enable_http_proxy", 0) not in channel_options(address)) is asks_a_proxy
