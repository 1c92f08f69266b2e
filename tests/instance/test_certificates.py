"""Certificates from files: what they are for, and what happens when they change."""

from collections.abc import Callable
from pathlib import Path

import pytest

from modelmesh.instance.certificates import CertificateSet, CertificateWatch, load_certificates
from modelmesh.instance.settings import Settings, SettingsError
from modelmesh.instance.sources import load_settings
from modelmesh.testing.certificates import Authority

AUTHORITY = Authority()
Make = Callable[..., Settings]


@pytest.fixture
def settings(tmp_path: Path) -> Make:
    def make(*names: str, **environment: str) -> Settings:
        certificate, key = AUTHORITY.issue(*names).write(tmp_path)
        return load_settings(
            {
                "MM_SERVICE_NAME": "s",
                "KV_STORE": "sqlite:x",
                "MM_TLS_KEY_CERT_PATH": str(certificate),
                "MM_TLS_PRIVATE_KEY_PATH": str(key),
                **environment,
            }
        )

    return make


def loaded(settings: Settings) -> CertificateSet:
    found = load_certificates(settings)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("names", "known_by"),
    [
        (("a.example", "b.example"), "a.example"),
        (("*.example",), "instance.example"),
        (("10.0.0.9", "a.example"), "a.example"),
        (("10.0.0.7", "a.example"), ""),
        (("::1", "10.0.0.7"), ""),
    ],
)
def test_others_know_us_by_our_address_or_by_a_host_name(settings: Make, names: tuple[str, ...], known_by: str) -> None:
    assert loaded(settings(*names)).peer_name("10.0.0.7") == known_by


def test_a_certificate_for_nobody_is_of_no_use_to_others(settings: Make) -> None:
    with pytest.raises(SettingsError, match="MM_ENABLE_SSL=false"):
        loaded(settings("10.0.0.9")).peer_name("10.0.0.7")


def test_clear_text_between_instances_can_be_kept(settings: Make) -> None:
    found = loaded(settings(MM_ENABLE_SSL="false"))
    assert found.peer is None
    assert found.peer_name("10.0.0.7") == ""


def test_instances_trust_all_that_are_named_and_their_own_chain(settings: Make, tmp_path: Path) -> None:
    clients, inside = Authority("clients"), Authority("inside")
    (tmp_path / "clients.pem").write_bytes(clients.pem)
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "ca.crt").write_bytes(inside.pem)
    found = loaded(
        settings(
            "a.example",
            MM_TLS_TRUST_CERT_PATH=str(tmp_path / "clients.pem"),
            MM_INTERNAL_TRUST_CERTS=str(tmp_path / "inside"),
        )
    )
    assert found.serving.trusted == clients.pem
    assert found.peer is not None
    assert found.peer.trusted is not None
    for trusted in (clients.pem, inside.pem, found.serving.certificate_chain):
        assert trusted in found.peer.trusted
    assert (found.peer.client_auth, found.serving.client_auth) == ("require", "none")


def test_a_passphrase_for_a_key_that_has_none_does_no_harm(settings: Make) -> None:
    assert loaded(settings("a.example", MM_TLS_PRIVATE_KEY_PASSPHRASE="x")).serving.private_key


class Watched:
    """A watch, and what it told."""

    def __init__(self, settings: Settings) -> None:
        self.changed: list[CertificateSet] = []
        self.refused: list[str] = []
        self.watch = CertificateWatch(
            settings, loaded(settings).files, changed=self.changed.append, refused=self.refused.append
        )


def test_a_change_is_told_once(settings: Make, tmp_path: Path) -> None:
    watched = Watched(settings("a.example"))
    watched.watch.look()
    assert watched.changed == []
    AUTHORITY.issue("b.example").write(tmp_path)  # also one between the first reading and the first look
    watched.watch.look()
    watched.watch.look()
    assert [found.names for found in watched.changed] == [("b.example",)]


def test_what_cannot_be_used_is_told_once_and_again_after_it_was_good(settings: Make, tmp_path: Path) -> None:
    watched = Watched(settings("a.example"))
    good = (tmp_path / "tls.crt").read_bytes()
    for _ in range(2):
        (tmp_path / "tls.crt").write_bytes(b"garbage")
        watched.watch.look()
        watched.watch.look()
        (tmp_path / "tls.crt").write_bytes(good)
        watched.watch.look()
    assert len(watched.refused) == 2
    (tmp_path / "tls.crt").unlink()
    watched.watch.look()
    watched.watch.look()
    assert len(watched.refused) == 3
    assert "cannot read" in watched.refused[-1]


def test_a_file_that_is_no_certificate_file_by_its_size_is_refused(settings: Make, tmp_path: Path) -> None:
    given = settings("a.example")
    (tmp_path / "tls.crt").write_bytes(b"x" * (5 << 20))
    with pytest.raises(SettingsError, match="is larger than any certificate file"):
        load_certificates(given)
