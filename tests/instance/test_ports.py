"""Free ports: many are drawn before any is bound."""

import socket

import pytest

from modelmesh.instance import local_cluster


def test_no_port_is_drawn_twice_or_taken(monkeypatch: pytest.MonkeyPatch):
    first, second = local_cluster.free_port(), local_cluster.free_port()
    local_cluster._drawn.clear()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        used = taken.getsockname()[1]
        draws = iter([first, first, used, first, second])
        monkeypatch.setattr(local_cluster.secrets, "choice", lambda _: next(draws))
        assert [local_cluster.free_port(), local_cluster.free_port()] == [first, second]
