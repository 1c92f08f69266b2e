"""`pytest tests/scenarios --rewrite`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write what happens now into the scenarios; read the diff")
