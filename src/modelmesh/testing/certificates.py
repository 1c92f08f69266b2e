"""Certificates for tests: an authority that issues what is asked for, good or bad."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

_BEGINNING = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_LATE = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
_EXPIRED = dt.datetime(2021, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Issued:
    """PEM of a certificate and of its key (PKCS#8)."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, *, passphrase: str | None = None) -> tuple[Path, Path]:
        """Write `tls.crt` and `tls.key`, the key encrypted if there is a passphrase; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / "tls.crt", folder / "tls.key"
        certificate.write_bytes(self.certificate)
        key.write_bytes(self.key if passphrase is None else encrypted(self.key, passphrase))
        return certificate, key


class Authority:
    """A certificate authority with a key of its own."""

    def __init__(self, name: str = "test authority") -> None:
        self._authority = trustme.CA(organization_name=name, key_type=trustme.KeyType.ECDSA)
        self.pem = self._authority.cert_pem.bytes()

    def issue(self, *names: str, expired: bool = False) -> Issued:
        """A certificate for DNS names and addresses; the first is also its subject. Without any it has the subject `client`."""
        issued = self._authority.issue_cert(
            *names,
            common_name=(*names, "client")[0],
            key_type=trustme.KeyType.ECDSA,
            not_after=_EXPIRED if expired else None,
        )
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
        return Issued(issued.cert_chain_pems[0].bytes(), _pem(key, serialization.NoEncryption()))


def self_signed(name: str, *, authority: bool) -> Issued:
    """A certificate that its own key signed; `authority`: marked as one, as `openssl req -x509` does.

    trustme makes none.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGINNING)
        .not_valid_after(_LATE)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return Issued(certificate, _pem(key, serialization.NoEncryption()))


def encrypted(key: bytes, passphrase: str) -> bytes:
    """The same key, encrypted."""
    loaded = serialization.load_pem_private_key(key, None)
    return _pem(loaded, serialization.BestAvailableEncryption(passphrase.encode()))


def _pem(key: PrivateKeyTypes, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
