"""TLS material from files, ready for the core: PEM, the private key decrypted."""

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from modelmesh.instance.settings import Settings, SettingsError


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM material of one listener. `trusted` None: the well-known authorities."""

    certificate_chain: bytes
    private_key: bytes
    trusted: bytes | None
    client_auth: str


def load_certificates(settings: Settings) -> tuple[Certificates, Certificates] | None:
    """Read the material of the serving and of the peer listener; None if TLS is off.

    Between instances TLS is mutual, with the same key; they trust the serving authorities, the
    internal ones, and failing both the certificate chain itself.

    Raises:
        SettingsError: A file is missing, or is not what it should be; the message names it.
    """
    if settings.tls_key_path is None:
        return None
    assert settings.tls_certificate_path is not None
    key = _private_key(settings.tls_key_path, settings.tls_key_passphrase)
    chain = _read(settings.tls_certificate_path, "MM_TLS_KEY_CERT_PATH")
    trusted = b"\n".join(_read(path, "MM_TLS_TRUST_CERT_PATH") for path in settings.tls_trusted_paths) or None
    internal = b"\n".join(
        _read(file, "MM_INTERNAL_TRUST_CERTS")
        for path in settings.internal_trusted_paths
        for file in (sorted(path.glob("*.pem")) + sorted(path.glob("*.crt")) if path.is_dir() else [path])
    )
    serving = Certificates(chain, key, trusted, settings.tls_client_auth)
    peer = Certificates(chain, key, b"\n".join(part for part in (internal, trusted, chain) if part), "require")
    return serving, peer


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{setting}: cannot read {path}: {error.strerror}") from error


def _private_key(path: Path, passphrase: str | None) -> bytes:
    pem = _read(path, "MM_TLS_PRIVATE_KEY_PATH")
    try:
        key = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"MM_TLS_PRIVATE_KEY_PATH: {path} cannot be read as a private key: {error}") from error
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
