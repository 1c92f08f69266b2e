"""`modelmesh simulate`: loads from files and drawn ones, figures, a picture, and what is said to bad input."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from modelmesh.cli import app
from modelmesh.testing.sizing import Fleet, serve
from modelmesh.testing.workload import KINDS, Defaults, WorkloadError, drawn, read_csv

DEFAULTS = Defaults(model_bytes=100, load_speed=100)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["simulate", *arguments])


def csv(path: Path, text: str) -> Path:
    file = path / "load.csv"
    file.write_text(text)
    return file


def test_a_file_says_when_what_how_large_and_how_slow(tmp_path: Path) -> None:
    file = csv(tmp_path, "time_s,model,size,load_s\n5,b,200,\n3.5,a,1KiB,2\n4,b,,\n")
    workload = read_csv(file, defaults=DEFAULTS)
    assert workload.requests == ((0, "a"), (500, "b"), (1500, "b"))
    assert workload.sizes == {"a": 1024, "b": 200}
    assert workload.load_ms == {"a": 2000, "b": 2000}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the header lacks model, time_s"),
        ("time_s,size\n", "the header lacks model"),
        ("time_s,model\n", "has no requests"),
        ("time_s,model\nsoon,a\n", "line 2: time_s is 'soon'"),
        ("time_s,model\n-1,a\n", "line 2: time_s is '-1'"),
        ("time_s,model\nnan,a\n", "line 2: time_s is 'nan'"),
        ("time_s,model\n1,a\n2,\n", "line 3: model is empty"),
        ("time_s,model,size\n1,a,large\n", "line 2: 'large' is not a size"),
    ],
)
def test_a_malformed_file_is_told_by_line(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(WorkloadError, match=told):
        read_csv(csv(tmp_path, text), defaults=DEFAULTS)
    result = run(str(tmp_path / "load.csv"), "--capacity", "1GiB")
    assert result.exit_code == 1
    assert told in result.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_drawn_and_is_the_same_again(kind: str) -> None:
    one, other = (drawn(kind, requests=50, rate=2, seed=4, defaults=DEFAULTS) for _ in range(2))
    assert one == other
    assert len(one.requests) == 50
    assert list(one.requests) == sorted(one.requests, key=lambda request: request[0])


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("zipff", "neither a file nor a kind"),
        ("missing.csv", "cannot be read"),
        ("zipf:models", "one may set"),
        ("zipf:share=1", "one may set skew=…, models=…, mixed=…"),
        ("zipf:models=many", "not a whole number"),
        ("zipf:models=0", "between 1 and a million"),
        ("zipf:skew=nan", "between"),
        ("zipf:mixed=maybe", "not true or false"),
    ],
)
def test_what_cannot_be_drawn_is_told(spec: str, told: str) -> None:
    result = run(spec, "--capacity", "1GiB")
    assert result.exit_code == 1
    assert told in result.stderr


def test_what_fits_is_loaded_once() -> None:
    workload = drawn("cyclic:models=5", requests=50, rate=1, seed=1, defaults=DEFAULTS)
    served = serve(workload, Fleet(1, 1000))
    assert (served.loads, served.failed, served.loaded_bytes) == (5, 0, 500)
    assert served.hit_ratio == 0.9
    assert served.waits_ms == pytest.approx([1000] * 5, abs=100)


def test_when_models_come_in_turns_lru_never_hits_and_the_default_does() -> None:
    workload = drawn("cyclic:models=12", requests=300, rate=0.2, seed=1, defaults=DEFAULTS)
    fleet = Fleet(1, 1000, loading_slots=1)
    assert serve(workload, fleet, policy="lru").hit_ratio == 0
    assert serve(workload, fleet).hit_ratio > 0.5


def test_the_document_has_what_the_table_shows(tmp_path: Path) -> None:
    arguments = ("zipf:models=30", "--capacity", "4GiB", "--requests", "100", "--instances", "2")
    table, document = run(*arguments), run(*arguments, "--json")
    assert (table.exit_code, document.exit_code) == (0, 0)
    policies = json.loads(document.stdout)["policies"]
    for policy, figures in policies.items():
        row = next(line for line in table.stdout.splitlines() if line.startswith(policy))
        assert f"{figures['hit_ratio']:.3f}" in row
        assert str(figures["loads"]) in row


def test_a_picture_of_hits_over_memory(tmp_path: Path) -> None:
    picture = tmp_path / "hits.svg"
    result = run("cyclic:models=12", "--capacity", "5GiB", "--requests", "60", "--plot", str(picture))
    assert result.exit_code == 0, result.stderr
    tree = ET.parse(picture)
    lines = tree.findall("{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2
    heights = [float(point.split(",")[1]) for point in lines[0].attrib["points"].split()]
    assert heights == sorted(heights, reverse=True)  # more memory, more hits


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--capacity", "lots"), "is not a size"),
        (("--capacity", "0"), "at least one byte"),
        (("--capacity", "1GiB", "--plot", "hits.png"), "ends with .svg"),
        (("--capacity", "1GiB", "--policy", "fifo"), "adaptive, lru or both"),
    ],
)
def test_bad_options_are_told(arguments: tuple[str, ...], told: str) -> None:
    result = run("zipf", *arguments)
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())


def test_a_model_larger_than_an_instance_is_told() -> None:
    result = run("zipf", "--capacity", "100MiB", "--requests", "10")
    assert result.exit_code == 1
    assert "an instance 104857600" in result.stderr
