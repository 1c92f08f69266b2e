"""The settings of endpoints: the addresses of an instance, who may connect, and the address of its runtime.

Source: `spec/api-config-tests.md` 1.2, 3.1, 7.1 and 7.3.
"""

import ipaddress
import re
import secrets
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from modelmesh import __version__

KUBERNETES = Path("/var/run/secrets/kubernetes.io")
"""Set in every Kubernetes container."""

DEFAULT_RUNTIME_PORT = 8085
DEFAULT_RUNTIME_SOCKET = "/tmp/mmesh/grpc.sock"  # noqa: S108 - the path the old manifests mount
INSTANCE_ID_CHARACTERS = 12
"""Of the pod name, from its end: as the old start script took them."""

LONGEST_S = 1_000_000_000
"""Thirty years: longer than anything runs, short enough to count in milliseconds."""

DEFAULT_HEADER_BYTES = 65_536

BUILD_VERSION = "build-version"
"""File in the install folder: `name=version …`."""


def names(*choices: str) -> AliasChoices:
    """Environment names of one setting: the one to use, then those of old."""
    return AliasChoices(*choices)


def _no_port(value: Any) -> Any:
    return 0 if isinstance(value, str) and value.upper() == "NONE" else value


Port = Annotated[int, Field(ge=0, le=65535)]
OptionalPort = Annotated[Port, BeforeValidator(_no_port)]
"""`NONE` turns it off, as 0 does."""


class EndpointSettings(BaseSettings):
    """Identity, listeners, certificates and runtime of one instance."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, populate_by_name=True, env_ignore_empty=True)

    # --- who and where ------------------------------------------------------------------------
    service_name: str = Field(
        validation_alias=names("MM_SERVICE_NAME", "TAS_SERVICE_NAME"),
        description="Name of the cluster: instances with the same name and store work together.",
        min_length=1,
        pattern=r"^[^/\s]+$",
    )
    instance_id: str = Field(
        default="",
        validation_alias=names("MM_INSTANCE_ID"),
        description="Id of this instance, unique in the cluster; without `/` and `,`. "
        "Default: the last 12 characters of the pod name, else random.",
        pattern=r"^[^/,]*$",
    )
    pod_name: str = Field(
        default="",
        validation_alias=names("WKUBE_POD_NAME"),
        description="Name of the pod. Required in Kubernetes unless `MM_INSTANCE_ID` is set.",
    )
    pod_address: str = Field(
        default="",
        validation_alias=names("WKUBE_POD_IPADDR"),
        description="Address of the pod. Required in Kubernetes unless `WATSON_SERVICE_ADDRESS` is set.",
    )
    address: str = Field(
        default="",
        validation_alias=names("WATSON_SERVICE_ADDRESS"),
        description="Address at which other instances reach this one. Default: that of the pod, else 127.0.0.1.",
    )
    location: str = Field(
        default="",
        validation_alias=names("MM_LOCATION"),
        description="Name of the host, for people. Default: `WKUBE_NODE_IP`, else the address.",
    )
    node_address: str = Field(
        default="", validation_alias=names("WKUBE_NODE_IP"), description="Address of the Kubernetes node."
    )
    zone: str = Field(default="", validation_alias=names("MM_ZONE"), description="Failure zone of the host.")
    labels: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), validation_alias=names("MM_LABELS"), description="Labels, separated by commas."
    )
    version: str = Field(
        default="",
        validation_alias=names("SERVICE_VERSION"),
        description="Version of this deployment. Default: the content of the file `build-version` in `MM_INSTALL_PATH`, "
        "else that of the program.",
    )
    install_folder: Path = Field(
        default=Path(),
        validation_alias=names("MM_INSTALL_PATH"),
        description="Where the program is installed; `/opt/kserve/mmesh` in the image.",
    )

    # --- listeners ----------------------------------------------------------------------------
    listen_host: str = Field(
        default="0.0.0.0",  # noqa: S104 - a server in a container
        validation_alias=names("MM_LISTEN_HOST"),
        description="Address that all listeners bind.",
    )
    serving_port: Port = Field(
        default=8033,
        validation_alias=names("MM_SVC_GRPC_PORT", "TAS_SVC_GRPC_PORT"),
        description="gRPC port for clients; 0 turns it off.",
    )
    management_port: OptionalPort = Field(
        default=0,
        validation_alias=names("MM_MANAGEMENT_PORT"),
        description="gRPC port of management: `mmesh.ModelMesh`, `modelmesh.v1.Admin` and the console, with TLS as on the port for "
        "clients, which then answers inference, health and reflection only. `NONE` or 0: management is answered at the port for clients.",
    )
    rest_port: OptionalPort | None = Field(
        default=None,
        validation_alias=names("MM_REST_PORT", "REST_PROXY_LISTEN_PORT"),
        description="HTTP port of the Open Inference Protocol, for clients without gRPC, with TLS as on the gRPC port; `NONE` or "
        "0 turns it off. Default: 8008; in Kubernetes off, because a pod of old has a proxy there.",
    )
    rest_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        validation_alias=names("MM_REST_ORIGINS"),
        description="Origins of web pages that may call the REST port, like `https://app.example.org`, separated by commas; "
        "`*`: all. Default: only pages of its own origin.",
    )
    console: bool = Field(
        default=False,
        validation_alias=names("MM_CONSOLE"),
        description="`true`: the REST port serves the console, a page for people, at `/console`. `modelmesh up` sets it.",
    )
    peer_port: Port | None = Field(
        default=None,
        validation_alias=names("WATSON_SERVICE_PORT"),
        description="gRPC port for other instances. Default: 8080 in Kubernetes, else any free port.",
    )
    probe_port: OptionalPort = Field(
        default=8089,
        validation_alias=names("MM_PROBE_PORT"),
        description="HTTP port of `/ready` and `/live`; `NONE` or 0 turns it off.",
    )
    prestop_port: OptionalPort = Field(
        default=8090,
        validation_alias=names("MM_PRESTOP_WAIT_PORT"),
        description="HTTP port of `/prestop`, for the preStop hooks of the pod's other containers; `NONE` or 0 turns it off.",
    )
    max_message_bytes: int = Field(
        default=16_777_216,
        validation_alias=names("MM_SVC_GRPC_MAX_MSG_SIZE"),
        description="Largest message, either way, in bytes.",
        ge=1,
        le=2**31 - 1,
    )
    max_header_bytes: int = Field(
        default=DEFAULT_HEADER_BYTES,
        validation_alias=names("MM_SVC_GRPC_MAX_HEADERS_SIZE"),
        description="Largest request header list, in bytes; negative: the default.",
        ge=1024,
        le=2**24,
    )
    max_connection_age_s: int | None = Field(
        default=None,
        validation_alias=names("MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS"),
        description="Clients are asked to reconnect after this many seconds. Default: never.",
        ge=1,
        le=LONGEST_S,
    )
    max_connection_age_grace_s: int | None = Field(
        default=None,
        validation_alias=names("MM_SVC_GRPC_MAX_CONNECTION_AGE_GRACE_SECS"),
        description="How many seconds open calls then have. Default: no bound.",
        ge=0,
        le=LONGEST_S,
    )
    connection_memory_bytes: int | None = Field(
        default=None,
        validation_alias=names("MM_CONNECTION_MEMORY_BYTES"),
        description="What clients may make this instance hold, in bytes; as much other instances, and as much the runtime. "
        "Beyond that the connection that holds most is closed. Default: an eighth of the memory of the container or machine, "
        "64 MiB to 1 GiB.",
        ge=2**22,
        le=2**40,
    )
    multi_parallelism: int = Field(
        default=4,
        validation_alias=names("MM_MULTI_PARALLELISM"),
        description="How many models of one call with several ids are asked at a time.",
        ge=1,
        le=1024,
    )

    # --- TLS ----------------------------------------------------------------------------------
    tls_key_path: Path | None = Field(
        default=None,
        validation_alias=names(
            "MM_TLS_PRIVATE_KEY_PATH", "MM_SVC_GRPC_PRIVATE_KEY_PATH", "TAS_SVC_GRPC_PRIVATE_KEY_PATH"
        ),
        description="Private key (PEM); turns TLS on, for clients and between instances.",
    )
    tls_key_passphrase: str | None = Field(
        default=None,
        validation_alias=names("MM_TLS_PRIVATE_KEY_PASSPHRASE", "MM_SVC_GRPC_PRIVATE_KEY_PASSPHRASE"),
        description="Passphrase of the private key.",
        repr=False,
    )
    tls_certificate_path: Path | None = Field(
        default=None,
        validation_alias=names("MM_TLS_KEY_CERT_PATH", "MM_SVC_GRPC_CA_CERT_PATH", "TAS_SVC_GRPC_CA_CERT_PATH"),
        description="Certificate chain of the private key (PEM).",
    )
    tls_client_auth: Literal["none", "optional", "require"] = Field(
        default="none",
        validation_alias=names("MM_TLS_CLIENT_AUTH"),
        description="Whether clients need a certificate.",
    )
    tls_trusted_paths: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        validation_alias=names("MM_TLS_TRUST_CERT_PATH"),
        description="Certificate authorities for client certificates (PEM files or folders, separated by commas). "
        "Default: the well-known ones.",
    )
    internal_trusted_paths: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        validation_alias=names("MM_INTERNAL_TRUST_CERTS", "MM_TRUST_CERTS"),
        description="Certificate authorities for other instances, besides those for clients and the own certificate "
        "chain (PEM files or folders, separated by commas).",
    )
    peer_tls: bool = Field(
        default=True,
        validation_alias=names("MM_ENABLE_SSL"),
        description="`false`: calls between instances are clear text even where a private key is set.",
    )

    # --- runtime ------------------------------------------------------------------------------
    runtime_port: Port | None = Field(
        default=None,
        validation_alias=names("INTERNAL_GRPC_PORT"),
        description=f"Port of the runtime on this host. Default: the socket {DEFAULT_RUNTIME_SOCKET} or the port "
        f"{DEFAULT_RUNTIME_PORT}, where a runtime is ready first.",
    )
    runtime_socket: Path | None = Field(
        default=None,
        validation_alias=names("INTERNAL_GRPC_SOCKET_PATH"),
        description="Unix socket of the runtime, instead of a port.",
    )
    runtime_serving_port: Port | None = Field(
        default=None,
        validation_alias=names("INTERNAL_SERVING_GRPC_PORT"),
        description="Port for inference, if it is another than the runtime's port.",
    )
    runtime_serving_socket: Path | None = Field(
        default=None,
        validation_alias=names("INTERNAL_SERVING_GRPC_SOCKET_PATH"),
        description="Unix socket for inference, if it is another than the runtime's.",
    )

    # --- how they are read -----------------------------------------------------------------------

    @field_validator("rest_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s,]+/?", origin):
                raise ValueError(f"{origin!r} is no origin; https://app.example.org is one")
        return value

    @field_validator("labels", "rest_origins", "tls_trusted_paths", "internal_trusted_paths", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("labels")
    @classmethod
    def _sort(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(value))

    @field_validator("peer_tls", mode="before")
    @classmethod
    def _tls_unless_false(cls, value: Any) -> Any:
        return value != "false" if isinstance(value, str) else value

    @field_validator("max_header_bytes", mode="before")
    @classmethod
    def _default_if_negative(cls, value: Any) -> Any:
        return DEFAULT_HEADER_BYTES if str(value).startswith("-") else value

    @field_validator("tls_client_auth", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_endpoint_each(self) -> "EndpointSettings":
        if self.runtime_port is not None and self.runtime_socket is not None:
            raise ValueError("INTERNAL_GRPC_PORT and INTERNAL_GRPC_SOCKET_PATH are both set; set one")
        if self.runtime_serving_port is not None and self.runtime_serving_socket is not None:
            raise ValueError("INTERNAL_SERVING_GRPC_PORT and INTERNAL_SERVING_GRPC_SOCKET_PATH are both set; set one")
        return self

    @model_validator(mode="after")
    def _ports_of_their_own(self) -> "EndpointSettings":
        taken: dict[int, str] = {}
        for name, port in (
            ("MM_SVC_GRPC_PORT", self.serving_port),
            ("MM_MANAGEMENT_PORT", self.management_port),
            ("MM_REST_PORT", self.resolved_rest_port()),
            ("WATSON_SERVICE_PORT", self.resolved_peer_port()),
            ("MM_PROBE_PORT", self.probe_port),
            ("MM_PRESTOP_WAIT_PORT", self.prestop_port),
        ):
            if port and port in taken:
                raise ValueError(f"{taken[port]} and {name} are both {port}; each needs a port of its own")
            taken[port] = name
        return self

    @model_validator(mode="after")
    def _whole_tls(self) -> "EndpointSettings":
        if self.tls_key_path is not None and self.tls_certificate_path is None:
            raise ValueError("MM_TLS_PRIVATE_KEY_PATH is set without MM_TLS_KEY_CERT_PATH")
        if self.tls_key_path is None and self.tls_client_auth != "none":
            auth = self.tls_client_auth.upper()
            raise ValueError(f"TLS client-auth set to {auth} without other required TLS config")
        if self.tls_key_path is None and self.tls_certificate_path is not None:
            raise ValueError("MM_TLS_KEY_CERT_PATH is set without MM_TLS_PRIVATE_KEY_PATH")
        return self

    @model_validator(mode="after")
    def _known_pod(self) -> "EndpointSettings":
        if self.in_kubernetes and not (self.instance_id or self.pod_name):
            raise ValueError("WKUBE_POD_NAME is required in Kubernetes; set it from the field metadata.name")
        if self.in_kubernetes and not (self.address or self.pod_address):
            raise ValueError("WKUBE_POD_IPADDR is required in Kubernetes; set it from the field status.podIP")
        return self

    # --- what follows from them -----------------------------------------------------------------

    @property
    def in_kubernetes(self) -> bool:
        """Whether this runs in a Kubernetes container."""
        return KUBERNETES.exists()

    def resolved_instance_id(self) -> str:
        """The instance id, drawn if nothing gives one."""
        return self.instance_id or self.pod_name[-INSTANCE_ID_CHARACTERS:] or secrets.token_hex(6)

    def resolved_address(self) -> str:
        """Where other instances reach this host."""
        if self.address or self.pod_address:
            return self.address or self.pod_address
        host = self.listen_host
        try:
            wildcard = ipaddress.ip_address(host).is_unspecified
        except ValueError:
            wildcard = False
        return "127.0.0.1" if wildcard else host

    def resolved_location(self) -> str:
        """The host, for people."""
        return self.location or self.node_address or self.resolved_address()

    def resolved_version(self) -> str:
        """The version of this deployment."""
        if self.version:
            return self.version
        try:
            text = (self.install_folder / BUILD_VERSION).read_text(errors="replace")
        except OSError:
            return __version__
        words = text.partition("=")[2].split()
        return words[0] if words else __version__

    def resolved_peer_port(self) -> int:
        """The peer port to bind; 0: any free one."""
        if self.peer_port is not None:
            return self.peer_port
        return 8080 if self.in_kubernetes else 0

    def resolved_rest_port(self) -> int:
        """The REST port to bind; 0: none."""
        if self.rest_port is not None:
            return self.rest_port
        return 0 if self.in_kubernetes else 8008

    def runtime_endpoints(self) -> tuple[str, ...]:
        """Where the runtime's management endpoint may be, `host:port` or `unix:///path`; the first that is READY is it."""
        if self.runtime_socket is not None:
            return (f"unix://{self.runtime_socket.absolute()}",)
        if self.runtime_port is not None:
            return (f"127.0.0.1:{self.runtime_port}",)
        return (f"unix://{DEFAULT_RUNTIME_SOCKET}", f"127.0.0.1:{DEFAULT_RUNTIME_PORT}")

    def runtime_serving_endpoint(self) -> str | None:
        """The runtime's inference endpoint; None: that of management."""
        if self.runtime_serving_socket is not None:
            return f"unix://{self.runtime_serving_socket.absolute()}"
        if self.runtime_serving_port is not None:
            return f"127.0.0.1:{self.runtime_serving_port}"
        return None
