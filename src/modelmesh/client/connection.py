"""How a connection to an instance is opened: its options, and TLS."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import grpc

LARGEST_MESSAGE = 2**31 - 1
"""Bytes of an answer: what protobuf can hold. gRPC's own bound, 4 MiB, is less than many tensors have."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Encryption of a connection. Files are PEM.

    Args:
        ca: The authority that signed the server's certificate; None: those that gRPC trusts by itself.
        certificate: What the client shows; only with `key`.
        key: Its private key.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """What gRPC wants. Raises OSError if a file cannot be read, ValueError for a certificate without its key."""
        ca, certificate, key = _read(self.ca), _read(self.certificate), _read(self.key)
        if (certificate is None) != (key is None):
            raise ValueError("a certificate and its key come together")
        return grpc.ssl_channel_credentials(ca, key, certificate)


def _read(path: Path | str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def channel_options(address: str) -> list[tuple[str, int]]:
    """Of a channel to `host:port`: what is on this machine is not asked for by way of a proxy from the environment."""
    host = address.removeprefix("dns:///").rpartition(":")[0].strip("[]")
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    proxy = [("grpc.enable_http_proxy", 0)] if loopback else []
    return [("grpc.max_receive_message_length", LARGEST_MESSAGE), *proxy]
