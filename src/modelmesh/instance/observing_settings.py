"""The settings of metrics, payloads, traces and logs.

Source: `spec/api-config-tests.md` 4, 5 and 8.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator
from pydantic_settings import NoDecode

from modelmesh.instance.endpoint_settings import EndpointSettings, names
from modelmesh.instance.metrics_choice import STATSD_PORT, check_metrics
from modelmesh.instance.payload_choice import parse_processors


def _processors(text: str) -> str:
    parse_processors(text)
    return text


RESERVED_KEYS = frozenset({"event", "level", "timestamp", "instance", "model", "vmodel", "method", "request_id"})


def _header_keys(text: str) -> str:
    if not text:
        return text
    try:
        keys = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from error
    texts = isinstance(keys, dict) and all(isinstance(key, str) and key and name for name, key in keys.items())
    if not texts or not keys:
        raise ValueError('it must be a map of header names and keys, such as {"x-user": "user"}')
    if taken := sorted(RESERVED_KEYS & {*keys.values()}):
        raise ValueError(f"log lines have keys of their own of these names: {', '.join(taken)}")
    return text


class ObservingSettings(EndpointSettings):
    """Metrics, payload processors, traces and lines of the log."""

    # --- metrics ------------------------------------------------------------------------------
    metrics: Annotated[str, AfterValidator(check_metrics)] = Field(
        default=f"statsd:port={STATSD_PORT}",
        validation_alias=names("MM_METRICS"),
        description="`disabled`; `statsd[:port=8126;fq_names=false;legacy=false]`; or `prometheus[:port=2112;scheme=https;"
        "fq_names=false;per_model_metrics=false;models_max=1000;mem_detail=all]`. See the reference page of metrics.",
    )
    info_metrics: str = Field(
        default="",
        validation_alias=names("MM_INFO_METRICS"),
        description="A gauge of 1 whose labels come from the environment: `name;label=VARIABLE,label=VARIABLE`.",
    )
    log_scrapes: bool = Field(
        default=False,
        validation_alias=names("MM_LOG_PROMETHEUS_REQS"),
        description="`true`: each scrape is a line of the log.",
    )
    # --- payloads -----------------------------------------------------------------------------
    payload_processors: Annotated[str, AfterValidator(_processors)] = Field(
        default="",
        validation_alias=names("MM_PAYLOAD_PROCESSORS"),
        description="Who gets copies of requests and responses: URIs separated by spaces, "
        "`logger://`, `http(s)://host/path`, each with `?<model>#<method>` as filters and options "
        "`&vmodel=v&sample=0.01&format=cloudevents&batch=10`.",
    )
    payload_threads: int = Field(
        default=2,
        validation_alias=names("MM_PAYLOAD_PROCESSORS_THREADS"),
        description="Batches that each processor works on at a time.",
        ge=1,
        le=64,
    )
    payload_capacity: int = Field(
        default=64,
        validation_alias=names("MM_PAYLOAD_PROCESSORS_CAPACITY"),
        description="Calls that may wait for each processor; more are dropped and counted.",
        ge=1,
        le=65_536,
    )
    payload_headers: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("*",),
        validation_alias=names("MM_PAYLOAD_HEADERS"),
        description="Headers that go with payloads, separated by commas; `*`: all but those that hold secrets "
        "(authorization, cookies).",
    )
    payload_authorization_path: Path | None = Field(
        default=None,
        validation_alias=names("MM_PAYLOAD_AUTHORIZATION_PATH"),
        description="File with the `Authorization` header for http and https processors; read again when it changes.",
    )
    payload_trusted_path: Path | None = Field(
        default=None,
        validation_alias=names("MM_PAYLOAD_TRUST_CERT_PATH"),
        description="Certificate authorities for https processors (PEM). Default: the well-known ones.",
    )

    # --- tracing and logs ---------------------------------------------------------------------
    access_log: Literal["off", "failed", "all"] = Field(
        default="failed",
        validation_alias=names("MM_ACCESS_LOG"),
        description="Inference calls that get a line in the log: none, those that failed (some 100 a second at most), all.",
    )
    log_each_invocation: bool = Field(
        default=False,
        validation_alias=names("MM_LOG_EACH_INVOKE"),
        description="`true`: a line for each call to the runtime. The key `config/log_each_invocation` changes it live.",
    )
    log_request_headers: Annotated[str, AfterValidator(_header_keys)] = Field(
        default="",
        validation_alias=names("MM_LOG_REQUEST_HEADERS"),
        description='Request headers that log lines carry, and under which key: `{"header": "key", "header-bin": "key"}`.',
    )
    traces_endpoint: str = Field(
        default="",
        validation_alias=names("MM_TRACES_ENDPOINT"),
        description="Where traces go, by OTLP over HTTP: `http://collector:4318/v1/traces`. Default: no traces.",
        pattern=r"^(https?://\S+)?$",
    )
    traces_fraction: float = Field(
        default=0.01,
        validation_alias=names("MM_TRACES_FRACTION"),
        description="Share of the calls that are traced when they come without `traceparent`; with one, its flag decides.",
        ge=0,
        le=1,
    )

    @field_validator("payload_headers", mode="before")
    @classmethod
    def _split_headers(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip().lower() for part in value.split(",") if part.strip())
        return value

    @field_validator("log_scrapes", "log_each_invocation", mode="before")
    @classmethod
    def _only_true(cls, value: Any) -> Any:
        return value == "true" if isinstance(value, str) else value

    @field_validator("access_log", mode="before")
    @classmethod
    def _lower_access_log(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value
