import pytest
import typer

from modelmesh.cli.client import connect


def test_a_certificate_without_its_key_is_said(monkeypatch, tmp_path, capsys):
    ca = tmp_path / "ca.crt"
    ca.write_bytes(b"")
    monkeypatch.setenv("MODELMESH_CERT", str(ca))
    monkeypatch.delenv("MODELMESH_KEY", raising=False)
    with pytest.raises(typer.Exit), connect("localhost:1", ca):
        pass
    assert "come together: MODELMESH_CERT and MODELMESH_KEY" in capsys.readouterr().err
