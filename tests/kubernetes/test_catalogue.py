"""The table of the archived project's scenarios names tests that exist, and leaves out no file of real tests."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "development" / "kubernetes-tests.md").read_text()


def test_each_named_test_exists() -> None:
    named = re.findall(r"`(real_\w+\.py)::(\w+)`", PAGE)
    assert len(named) > 20
    for file, name in named:
        assert f"def {name}(" in (HERE / file).read_text(), f"{file} has no {name}"


def test_each_row_has_a_test_or_a_reason() -> None:
    rows = re.findall(r"^\| (?!scenario|---)(.+) \| (.+) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) > 20
    assert [scenario for scenario, test in rows if not re.search(r"::|`make |not here", test)] == []


def test_each_old_defect_has_a_test_that_names_it() -> None:
    text = "\n".join(file.read_text() for file in sorted(HERE.glob("*.py")))
    named = {
        int(number) for name in re.findall(r"def (test_\w+)\(", text) for number in re.findall(r"_f(\d+)(?=_|$)", name)
    }
    named |= {int(number) for number in re.findall(r'"F(\d+) [^"]+": ', text)}
    assert set(range(1, 39)) - named == set()


def test_each_file_of_real_tests_is_on_the_page() -> None:
    assert {file.name for file in HERE.glob("real_*.py")} - set(re.findall(r"real_\w+\.py", PAGE)) == set()
