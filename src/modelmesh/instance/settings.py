"""What an operator sets: environment variables, as a ModelMesh container has them.

One typed definition; `modelmesh serve --help` and the reference page are made from it.
Source: `spec/api-config-tests.md` 7.1 and 7.3.
"""

import ipaddress
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from modelmesh.instance.metrics_choice import STATSD_PORT, check_metrics
from modelmesh.instance.payload_choice import parse_processors

KUBERNETES = Path("/var/run/secrets/kubernetes.io")
"""Stands in every Kubernetes container."""

DEFAULT_RUNTIME_PORT = 8085
DEFAULT_RUNTIME_SOCKET = "/tmp/mmesh/grpc.sock"  # noqa: S108 - the path the old manifests mount
INSTANCE_ID_CHARACTERS = 12
"""Of the pod name, from its end: as the old start script took them."""


class SettingsError(Exception):
    """A setting is missing or wrong; the message names each and says what is expected."""


def _names(*names: str) -> AliasChoices:
    return AliasChoices(*names)


def _no_port(value: Any) -> Any:
    return 0 if isinstance(value, str) and value.upper() == "NONE" else value


def _processors(text: str) -> str:
    parse_processors(text)
    return text


RESERVED_KEYS = frozenset({"event", "level", "timestamp", "instance", "model", "vmodel", "method", "request_id"})


def _header_keys(text: str) -> str:
    if not text:
        return text
    try:
        keys = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from error
    texts = isinstance(keys, dict) and all(isinstance(key, str) and key and name for name, key in keys.items())
    if not texts or not keys:
        raise ValueError('it must be a map of header names and keys, such as {"x-user": "user"}')
    if taken := sorted(RESERVED_KEYS & {*keys.values()}):
        raise ValueError(f"log lines have keys of their own of these names: {', '.join(taken)}")
    return text


Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """All settings of one instance. The first environment name of each is the one to use."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True)

    # --- who and where ------------------------------------------------------------------------
    service_name: str = Field(
        validation_alias=_names("MM_SERVICE_NAME", "TAS_SERVICE_NAME"),
        description="Name of the cluster: instances with the same name and store work together.",
        min_length=1,
        pattern=r"^[^/\s]+$",
    )
    instance_id: str = Field(
        default="",
        validation_alias=_names("MM_INSTANCE_ID"),
        description="Id of this instance, unique in the cluster; without `/` and `,`. "
        "Default: the last 12 characters of the pod name, else random.",
        pattern=r"^[^/,]*$",
    )
    pod_name: str = Field(default="", validation_alias=_names("WKUBE_POD_NAME"), description="Name of the pod.")
    address: str = Field(
        default="",
        validation_alias=_names("WATSON_SERVICE_ADDRESS", "WKUBE_POD_IPADDR"),
        description="Address at which other instances reach this one. Default: 127.0.0.1 outside Kubernetes.",
    )
    location: str = Field(default="", validation_alias=_names("MM_LOCATION"), description="Name of the host.")
    zone: str = Field(default="", validation_alias=_names("MM_ZONE"), description="Failure zone of the host.")
    labels: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), validation_alias=_names("MM_LABELS"), description="Labels, separated by commas."
    )
    version: str = Field(
        default="", validation_alias=_names("SERVICE_VERSION"), description="Version of this deployment."
    )

    # --- store --------------------------------------------------------------------------------
    kv_store: str = Field(
        validation_alias=_names("KV_STORE"),
        description="`etcd:<JSON file>`, `etcd:host:port,…[;rootPrefix=p]`, or `sqlite:<file>` for one instance.",
        min_length=1,
    )
    kv_prefix: str = Field(
        default="tas-runtime",
        validation_alias=_names("MM_KVSTORE_PREFIX"),
        description="First path element of all keys. Must never change for a cluster.",
        pattern=r"^[^/\s]+$",
    )

    # --- listeners ----------------------------------------------------------------------------
    listen_host: str = Field(
        default="0.0.0.0",  # noqa: S104 - a server in a container
        validation_alias=_names("MM_LISTEN_HOST"),
        description="Address that all listeners bind.",
    )
    serving_port: Port = Field(
        default=8033,
        validation_alias=_names("MM_SVC_GRPC_PORT", "TAS_SVC_GRPC_PORT"),
        description="gRPC port for clients; 0 turns it off.",
    )
    peer_port: Port | None = Field(
        default=None,
        validation_alias=_names("WATSON_SERVICE_PORT"),
        description="gRPC port for other instances. Default: 8080 in Kubernetes, else any free port.",
    )
    probe_port: Annotated[Port, BeforeValidator(_no_port)] = Field(
        default=8089,
        validation_alias=_names("MM_PROBE_PORT"),
        description="HTTP port of `/ready` and `/live`; `NONE` or 0 turns it off.",
    )
    max_message_bytes: int = Field(
        default=16_777_216,
        validation_alias=_names("MM_SVC_GRPC_MAX_MSG_SIZE"),
        description="Largest message, either way, in bytes.",
        ge=1,
        le=2**31 - 1,
    )
    max_header_bytes: int = Field(
        default=65_536,
        validation_alias=_names("MM_SVC_GRPC_MAX_HEADERS_SIZE"),
        description="Largest request header list, in bytes.",
        ge=1024,
        le=2**24,
    )
    max_connection_age_s: int | None = Field(
        default=None,
        validation_alias=_names("MM_SVC_GRPC_MAX_CONNECTION_AGE_SECS"),
        description="Clients are asked to reconnect after this many seconds. Default: never.",
        ge=1,
    )
    max_connection_age_grace_s: int | None = Field(
        default=None,
        validation_alias=_names("MM_SVC_GRPC_MAX_CONNECTION_AGE_GRACE_SECS"),
        description="How many seconds open calls then have. Default: no bound.",
        ge=0,
    )
    multi_parallelism: int = Field(
        default=4,
        validation_alias=_names("MM_MULTI_PARALLELISM"),
        description="How many models of one call with several ids are asked at a time.",
        ge=1,
        le=1024,
    )

    # --- TLS ----------------------------------------------------------------------------------
    tls_key_path: Path | None = Field(
        default=None,
        validation_alias=_names(
            "MM_TLS_PRIVATE_KEY_PATH", "MM_SVC_GRPC_PRIVATE_KEY_PATH", "TAS_SVC_GRPC_PRIVATE_KEY_PATH"
        ),
        description="Private key (PEM); turns TLS on, for clients and between instances.",
    )
    tls_key_passphrase: str | None = Field(
        default=None,
        validation_alias=_names("MM_TLS_PRIVATE_KEY_PASSPHRASE", "MM_SVC_GRPC_PRIVATE_KEY_PASSPHRASE"),
        description="Passphrase of the private key.",
        repr=False,
    )
    tls_certificate_path: Path | None = Field(
        default=None,
        validation_alias=_names("MM_TLS_KEY_CERT_PATH", "MM_SVC_GRPC_CA_CERT_PATH", "TAS_SVC_GRPC_CA_CERT_PATH"),
        description="Certificate chain of the private key (PEM).",
    )
    tls_client_auth: Literal["none", "optional", "require"] = Field(
        default="none",
        validation_alias=_names("MM_TLS_CLIENT_AUTH"),
        description="Whether clients need a certificate.",
    )
    tls_trusted_paths: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        validation_alias=_names("MM_TLS_TRUST_CERT_PATH"),
        description="Certificate authorities for client certificates (PEM files, separated by commas).",
    )
    internal_trusted_paths: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        validation_alias=_names("MM_INTERNAL_TRUST_CERTS", "MM_TRUST_CERTS"),
        description="Certificate authorities for other instances (PEM files or folders, separated by commas).",
    )

    # --- runtime ------------------------------------------------------------------------------
    runtime_port: Port | None = Field(
        default=None,
        validation_alias=_names("INTERNAL_GRPC_PORT"),
        description=f"Port of the runtime on this host. Default: the socket {DEFAULT_RUNTIME_SOCKET} if it is "
        f"there, else {DEFAULT_RUNTIME_PORT}.",
    )
    runtime_socket: Path | None = Field(
        default=None,
        validation_alias=_names("INTERNAL_GRPC_SOCKET_PATH"),
        description="Unix socket of the runtime, instead of a port.",
    )
    runtime_serving_port: Port | None = Field(
        default=None,
        validation_alias=_names("INTERNAL_SERVING_GRPC_PORT"),
        description="Port for inference, if it is another than the runtime's port.",
    )
    runtime_serving_socket: Path | None = Field(
        default=None,
        validation_alias=_names("INTERNAL_SERVING_GRPC_SOCKET_PATH"),
        description="Unix socket for inference, if it is another than the runtime's.",
    )

    # --- behaviour ----------------------------------------------------------------------------
    load_failure_expiry_ms: int = Field(
        default=900_000,
        validation_alias=_names("MM_LOAD_FAILURE_EXPIRY_TIME_MS"),
        description="How long a failed load keeps an instance from loading the model again, in milliseconds.",
        ge=1,
    )
    eviction: Literal["adaptive", "lru"] = Field(
        default="adaptive",
        validation_alias=_names("MM_EVICTION_POLICY"),
        description="Which copies leave first: `adaptive`, those that the best of several policies would not hold; "
        "`lru`, those unused longest.",
    )
    scaleup_rpm_threshold: int = Field(
        default=2000,
        validation_alias=_names("MM_SCALEUP_RPM_THRESHOLD"),
        description="Requests per minute and copy from which a model gets one more copy.",
        ge=1,
    )
    scaleup_bandwidth_percent: int = Field(
        default=90,
        validation_alias=_names("MM_CONC_SCALEUP_BANDWIDTH_PCT"),
        description="For runtimes that limit concurrency: the share of what a copy can do from which it counts as full.",
        ge=10,
        le=200,
    )
    default_vmodel_owner: str = Field(
        default="",
        validation_alias=_names("MM_DEFAULT_VMODEL_OWNER"),
        description="Owner of vmodels that are created without one.",
    )
    read_only: bool = Field(
        default=False,
        validation_alias=_names("KV_READ_ONLY"),
        description="`true`: nothing is registered, changed or cleaned up in the store; models are loaded and served.",
    )
    type_constraints: str = Field(
        default="",
        validation_alias=_names("MM_TYPE_CONSTRAINTS"),
        description='Labels that instances need for models of a type: `{"<type>": {"required": ["l"], "preferred": ["l"]}}`.',
    )
    type_constraints_path: Path | None = Field(
        default=None,
        validation_alias=_names("MM_TYPE_CONSTRAINTS_PATH"),
        description="The same from a file, which is watched for changes.",
    )
    dataplane_config: str = Field(
        default="",
        validation_alias=_names("MM_DATAPLANE_CONFIG"),
        description='Which methods clients may call, and where messages carry the model id: `{"rpcConfigs": '
        '{"pkg.Service/Method": {"idExtractionPath": [1], "vModelId": false, "idempotent": true}}, '
        '"allowOtherRpcs": false}`. Default: all methods, ids in headers.',
    )
    dataplane_config_path: Path | None = Field(
        default=None,
        validation_alias=_names("MM_DATAPLANE_CONFIG_PATH"),
        description="The same from a file, which is watched for changes.",
    )
    failfast_upgrade: bool = Field(
        default=True,
        validation_alias=_names("MM_FAILFAST_UPGRADE_ENABLED"),
        description="Whether an instance at which loads fail just after its start is not ready, so that a rollout stops; "
        "only `false` turns it off.",
    )
    bootstrap_ms: int = Field(
        default=180_000,
        validation_alias=_names("BOOTSTRAP_CLEARANCE_PERIOD_MS"),
        description="How long after the start failing loads count so, in milliseconds.",
        ge=0,
    )
    static_models: str = Field(
        default="",
        validation_alias=_names("MM_AUTO_REGISTER_MODELS", "MM_AUTO_REGISTER_MODEL"),
        description='Models registered at the start: `[{"modelId": "m", "modelInfo": {"type": "t"}, "ensureLoaded": true}]`.',
    )
    static_models_path: Path | None = Field(
        default=None,
        validation_alias=_names("MM_AUTO_REGISTER_MODEL_PATH", "MM_AUTO_REGISTER_MODELS_PATH"),
        description="The same from a file, before those of the variable.",
    )
    shutdown_timeout_ms: int = Field(
        default=30_000,
        validation_alias=_names("SHUTDOWN_TIMEOUT_MS"),
        description="How long a stop may take, in milliseconds.",
        ge=0,
    )
    termination_message_path: Path | None = Field(
        default=None,
        validation_alias=_names("LL_TERMINATION_MSG_PATH"),
        description="File that gets one line when the start fails. Default: /dev/termination-log in Kubernetes.",
    )
    log_format: Literal["json", "console"] = Field(
        default="json", validation_alias=_names("MM_LOG_FORMAT"), description="Form of log lines."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", validation_alias=_names("MM_LOG_LEVEL"), description="Least level that is logged."
    )

    # --- metrics ------------------------------------------------------------------------------
    metrics: Annotated[str, AfterValidator(check_metrics)] = Field(
        default=f"statsd:port={STATSD_PORT}",
        validation_alias=_names("MM_METRICS"),
        description="`disabled`; `statsd[:port=8126;fq_names=false;legacy=false]`; or `prometheus[:port=2112;scheme=https;"
        "fq_names=false;per_model_metrics=false;models_max=1000;mem_detail=all]`. See the reference page of metrics.",
    )
    info_metrics: str = Field(
        default="",
        validation_alias=_names("MM_INFO_METRICS"),
        description="A gauge of 1 whose labels come from the environment: `name;label=VARIABLE,label=VARIABLE`.",
    )
    log_scrapes: bool = Field(
        default=False,
        validation_alias=_names("MM_LOG_PROMETHEUS_REQS"),
        description="`true`: each scrape is a line of the log.",
    )
    old_metrics_port: str = Field(
        default="",
        validation_alias=_names("MM_METRICS_STATSD_PORT", "MM_METRICS_PROMETHEUS_PORT"),
        description="Ignored, as in the old system; the port is part of `MM_METRICS`.",
    )

    # --- payloads -----------------------------------------------------------------------------
    payload_processors: Annotated[str, AfterValidator(_processors)] = Field(
        default="",
        validation_alias=_names("MM_PAYLOAD_PROCESSORS"),
        description="Who gets copies of requests and responses: URIs separated by spaces, "
        "`logger://`, `http(s)://host/path`, each with `?<model>#<method>` as filters and options "
        "`&vmodel=v&sample=0.01&format=cloudevents&batch=10`.",
    )
    payload_threads: int = Field(
        default=2,
        validation_alias=_names("MM_PAYLOAD_PROCESSORS_THREADS"),
        description="Batches that each processor works on at a time.",
        ge=1,
        le=64,
    )
    payload_capacity: int = Field(
        default=64,
        validation_alias=_names("MM_PAYLOAD_PROCESSORS_CAPACITY"),
        description="Calls that may wait for each processor; more are dropped and counted.",
        ge=1,
        le=65_536,
    )
    payload_headers: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("*",),
        validation_alias=_names("MM_PAYLOAD_HEADERS"),
        description="Headers that go with payloads, separated by commas; `*`: all but those that hold secrets "
        "(authorization, cookies).",
    )
    payload_authorization_path: Path | None = Field(
        default=None,
        validation_alias=_names("MM_PAYLOAD_AUTHORIZATION_PATH"),
        description="File with the `Authorization` header for http and https processors; read again when it changes.",
    )
    payload_trusted_path: Path | None = Field(
        default=None,
        validation_alias=_names("MM_PAYLOAD_TRUST_CERT_PATH"),
        description="Certificate authorities for https processors (PEM). Default: the well-known ones.",
    )

    # --- tracing and logs ---------------------------------------------------------------------
    access_log: Literal["off", "failed", "all"] = Field(
        default="failed",
        validation_alias=_names("MM_ACCESS_LOG"),
        description="Inference calls that get a line in the log: none, those that failed (some 100 a second at most), all.",
    )
    log_each_invocation: bool = Field(
        default=False,
        validation_alias=_names("MM_LOG_EACH_INVOKE"),
        description="`true`: a line for each call to the runtime. The key `config/log_each_invocation` changes it live.",
    )
    log_request_headers: Annotated[str, AfterValidator(_header_keys)] = Field(
        default="",
        validation_alias=_names("MM_LOG_REQUEST_HEADERS"),
        description='Request headers that log lines carry, and under which key: `{"header": "key", "header-bin": "key"}`.',
    )
    traces_endpoint: str = Field(
        default="",
        validation_alias=_names("MM_TRACES_ENDPOINT"),
        description="Where traces go, by OTLP over HTTP: `http://collector:4318/v1/traces`. Default: no traces.",
        pattern=r"^(https?://\S+)?$",
    )
    traces_fraction: float = Field(
        default=0.01,
        validation_alias=_names("MM_TRACES_FRACTION"),
        description="Share of the calls that are traced when they come without `traceparent`; the others do as it says.",
        ge=0,
        le=1,
    )

    @field_validator("labels", "payload_headers", "tls_trusted_paths", "internal_trusted_paths", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("labels")
    @classmethod
    def _sort(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(value))

    @field_validator("read_only", "log_scrapes", "log_each_invocation", mode="before")
    @classmethod
    def _exactly_true(cls, value: Any) -> Any:
        return value == "true" if isinstance(value, str) else value

    @field_validator("failfast_upgrade", mode="before")
    @classmethod
    def _unless_false(cls, value: Any) -> Any:
        return value != "false" if isinstance(value, str) else value

    @field_validator("tls_client_auth", "access_log", "log_format", "log_level", "eviction", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.runtime_port is not None and self.runtime_socket is not None:
            raise ValueError("INTERNAL_GRPC_PORT and INTERNAL_GRPC_SOCKET_PATH are both set; set one")
        if self.type_constraints and self.type_constraints_path is not None:
            raise ValueError("MM_TYPE_CONSTRAINTS and MM_TYPE_CONSTRAINTS_PATH are both set; set one")
        if self.dataplane_config and self.dataplane_config_path is not None:
            raise ValueError("MM_DATAPLANE_CONFIG and MM_DATAPLANE_CONFIG_PATH are both set; set one")
        if self.runtime_serving_port is not None and self.runtime_serving_socket is not None:
            raise ValueError("INTERNAL_SERVING_GRPC_PORT and INTERNAL_SERVING_GRPC_SOCKET_PATH are both set; set one")
        if self.tls_key_path is not None and self.tls_certificate_path is None:
            raise ValueError("MM_TLS_PRIVATE_KEY_PATH is set without MM_TLS_KEY_CERT_PATH")
        if self.tls_client_auth != "none" and self.tls_key_path is None:
            auth = self.tls_client_auth.upper()
            raise ValueError(f"TLS client-auth set to {auth} without other required TLS config")
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
        if self.address:
            return self.address
        host = self.listen_host
        try:
            wildcard = ipaddress.ip_address(host).is_unspecified
        except ValueError:
            wildcard = False
        return "127.0.0.1" if wildcard else host

    def resolved_peer_port(self) -> int:
        """The peer port to bind; 0: any free one."""
        if self.peer_port is not None:
            return self.peer_port
        return 8080 if self.in_kubernetes else 0

    def runtime_endpoint(self) -> str:
        """The runtime's management endpoint, `host:port` or `unix:///path`."""
        if self.runtime_socket is not None:
            return f"unix://{self.runtime_socket.absolute()}"
        if self.runtime_port is not None:
            return f"127.0.0.1:{self.runtime_port}"
        if Path(DEFAULT_RUNTIME_SOCKET).is_socket():
            return f"unix://{DEFAULT_RUNTIME_SOCKET}"
        return f"127.0.0.1:{DEFAULT_RUNTIME_PORT}"

    def runtime_serving_endpoint(self) -> str:
        """The runtime's inference endpoint."""
        if self.runtime_serving_socket is not None:
            return f"unix://{self.runtime_serving_socket.absolute()}"
        if self.runtime_serving_port is not None:
            return f"127.0.0.1:{self.runtime_serving_port}"
        return self.runtime_endpoint()

    def resolved_termination_message_path(self) -> Path | None:
        """Where a failed start leaves its one line."""
        if self.termination_message_path is not None:
            return self.termination_message_path
        return Path("/dev/termination-log") if self.in_kubernetes else None


def load_settings(environment: Mapping[str, str] | None = None, **given: Any) -> Settings:
    """Read the settings; `given` (by field name) wins over the environment.

    Raises:
        SettingsError: Names every setting that is missing or wrong.
    """
    source = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        assert isinstance(field.validation_alias, AliasChoices)
        for choice in field.validation_alias.choices:
            if source.get(str(choice)):
                values[name] = source[str(choice)]
                break
    values.update({name: value for name, value in given.items() if value is not None})
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            where = problem["loc"]
            text = problem["msg"].removeprefix("Value error, ")
            if where:
                found = Settings.model_fields.get(str(where[0]))
                alias = found.validation_alias if found is not None else None
                name = str(alias.choices[0]) if isinstance(alias, AliasChoices) else str(where[0])
                text = f"{name} is required" if problem["type"] == "missing" else f"{name}: {text}"
            problems.append(text)
        raise SettingsError("; ".join(problems)) from error
