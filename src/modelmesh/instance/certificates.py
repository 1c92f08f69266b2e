"""TLS material from files, ready for the core: PEM, the private key decrypted; read again when the files change."""

import asyncio
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from modelmesh.instance.settings import Settings, SettingsError

if TYPE_CHECKING:
    from cryptography import x509

POLL_S = 1.0
"""A Secret is swapped by symbolic links, and tools replace files: polling is safer than notifications."""

LARGEST_FILE_BYTES = 4 << 20

Files = dict[str, tuple[tuple[Path, bytes], ...]]
"""What the files of each setting held, in order."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM material of one listener. `trusted` None: the well-known authorities."""

    certificate_chain: bytes
    private_key: bytes
    trusted: bytes | None
    client_auth: str


@dataclass(frozen=True, slots=True)
class CertificateSet:
    """What one instance shows and trusts. `peer` None: clear text between instances."""

    serving: Certificates
    peer: Certificates | None
    names: tuple[str, ...]
    """DNS names and addresses that our certificate is for."""

    files: Files = field(repr=False)
    """What all this was made from."""

    def peer_name(self, address: str) -> str:
        """The name by which others check our certificate when they call `address`; empty: the address itself.

        Pods have no certificates for their addresses; any name of the certificate shows that it is an instance of this mesh.

        Raises:
            SettingsError: The certificate is for no name at all.
        """
        if self.peer is None or address in self.names:
            return ""
        for name in self.names:
            if not _is_address(name):
                return name.replace("*", "instance")
        raise SettingsError(
            f"MM_TLS_KEY_CERT_PATH: the certificate names neither a host nor {address} (subject alternative names), "
            "so other instances cannot check it; issue one that does, or set MM_ENABLE_SSL=false"
        )


def load_certificates(settings: Settings) -> CertificateSet | None:
    """Read the material of the serving and of the peer listener; None if TLS is off.

    Between instances TLS is mutual, with the same key; they trust the serving authorities, the
    internal ones, and the certificate chain itself.

    Raises:
        SettingsError: A file is missing, or is not what it should be; the message names it.
    """
    return None if settings.tls_key_path is None else parse_certificates(settings, read_files(settings))


def read_files(settings: Settings) -> Files:
    """The contents of all files that the settings name, folders included. Raises SettingsError."""
    assert settings.tls_key_path is not None
    assert settings.tls_certificate_path is not None
    return {
        "MM_TLS_PRIVATE_KEY_PATH": ((settings.tls_key_path, _read(settings.tls_key_path, "MM_TLS_PRIVATE_KEY_PATH")),),
        "MM_TLS_KEY_CERT_PATH": (
            (settings.tls_certificate_path, _read(settings.tls_certificate_path, "MM_TLS_KEY_CERT_PATH")),
        ),
        "MM_TLS_TRUST_CERT_PATH": _read_all(settings.tls_trusted_paths, "MM_TLS_TRUST_CERT_PATH"),
        "MM_INTERNAL_TRUST_CERTS": _read_all(settings.internal_trusted_paths, "MM_INTERNAL_TRUST_CERTS"),
    }


def parse_certificates(settings: Settings, files: Files) -> CertificateSet:
    """Check and join what was read. Raises SettingsError."""
    key = _private_key(*files["MM_TLS_PRIVATE_KEY_PATH"][0], settings.tls_key_passphrase)
    path, chain = files["MM_TLS_KEY_CERT_PATH"][0]
    leaf = _certificates(path, chain, "MM_TLS_KEY_CERT_PATH")[0]
    trusted = _join(files, "MM_TLS_TRUST_CERT_PATH")
    internal = _join(files, "MM_INTERNAL_TRUST_CERTS")
    peer = None
    if settings.peer_tls:
        peer = Certificates(chain, key, b"\n".join(part for part in (internal, trusted, chain) if part), "require")
    return CertificateSet(
        serving=Certificates(chain, key, trusted or None, settings.tls_client_auth),
        peer=peer,
        names=_names(leaf),
        files=files,
    )


class CertificateWatch:
    """Reads the files again when they change; the last good material stays in force.

    Args:
        settings: Name the files.
        seen: What is in force was made from these; a change since then counts as well.
        changed: Takes new material; raises ValueError if it does not fit together.
        refused: Called once for each state of the files with the reason why it is not used.
    """

    def __init__(
        self,
        settings: Settings,
        seen: Files,
        *,
        changed: Callable[[CertificateSet], None],
        refused: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._changed = changed
        self._refused = refused
        self._seen = seen
        self._refusal = ""

    def look(self) -> None:
        """Take the files as they are now, if they differ from what was last seen."""
        try:
            files = read_files(self._settings)
            if files != self._seen:
                self._seen = files
                self._refusal = ""
                self._changed(parse_certificates(self._settings, files))
        except (SettingsError, ValueError) as error:
            why = f"{error}; the certificates from before stay in use"
            if why != self._refusal:
                self._refused(why)
            self._refusal = why

    async def run(self) -> None:
        """Look for changes until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            self.look()


def _read_all(paths: tuple[Path, ...], setting: str) -> tuple[tuple[Path, bytes], ...]:
    found = []
    for path in paths:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in {".pem", ".crt"})
            if not files:
                raise SettingsError(f"{setting}: the folder {path} holds no .pem or .crt file")
        else:
            files = [path]
        found += [(file, _read(file, setting)) for file in files]
    return tuple(found)


def _read(path: Path, setting: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{setting}: cannot read {path}: {error.strerror}") from error
    if len(content) > LARGEST_FILE_BYTES:
        raise SettingsError(f"{setting}: {path} is larger than any certificate file ({LARGEST_FILE_BYTES} bytes)")
    return content


def _join(files: Files, setting: str) -> bytes:
    for path, content in files[setting]:
        _certificates(path, content, setting)
    return b"\n".join(content for _, content in files[setting])


def _certificates(path: Path, content: bytes, setting: str) -> "list[x509.Certificate]":
    from cryptography import x509  # noqa: PLC0415 - 8 MB that instances without TLS save

    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise SettingsError(f"{setting}: {path} holds no certificate in PEM form: {error}") from error


def _names(certificate: "x509.Certificate") -> tuple[str, ...]:
    from cryptography import x509  # noqa: PLC0415 - 8 MB that instances without TLS save

    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    return (
        *alternatives.get_values_for_type(x509.DNSName),
        *(str(address) for address in alternatives.get_values_for_type(x509.IPAddress)),
    )


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _private_key(path: Path, pem: bytes, passphrase: str | None) -> bytes:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - as above

    try:
        try:
            key = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
        except TypeError:
            if not passphrase or b"ENCRYPTED" in pem:
                raise
            key = serialization.load_pem_private_key(pem, None)  # a passphrase is set, and the key has none
    except (TypeError, ValueError) as error:
        raise SettingsError(f"MM_TLS_PRIVATE_KEY_PATH: {path} cannot be read as a private key: {error}") from error
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
