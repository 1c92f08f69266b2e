"""What an operator sets: environment variables, as a ModelMesh container has them.

One typed definition; `modelmesh serve --help` and the reference page are made from it, and a configuration file uses its
field names. `modelmesh.instance.sources` reads them. Source: `spec/api-config-tests.md` 7.1 and 7.3.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from modelmesh.adapters.telemetry.logs import COMPONENTS, parse_levels
from modelmesh.instance.endpoint_settings import names
from modelmesh.instance.observing_settings import ObservingSettings


class SettingsError(Exception):
    """A setting is missing or wrong; the message names each and what is expected."""


class Settings(ObservingSettings):
    """All settings of one instance. The first environment name of each is the one to use."""

    # --- store --------------------------------------------------------------------------------
    kv_store: str = Field(
        validation_alias=names("KV_STORE"),
        description="`etcd:<JSON file>`, `etcd:host:port,…[;rootPrefix=p]`, or `sqlite:<file>` for one instance.",
        min_length=1,
    )
    kv_prefix: str = Field(
        default="tas-runtime",
        validation_alias=names("MM_KVSTORE_PREFIX"),
        description="First path element of all keys. Must never change for a cluster.",
        pattern=r"^[^/\s]+$",
    )

    # --- behaviour ----------------------------------------------------------------------------
    load_failure_expiry_ms: int = Field(
        default=900_000,
        validation_alias=names("MM_LOAD_FAILURE_EXPIRY_TIME_MS"),
        description="How long a failed load keeps an instance from loading the model again, in milliseconds.",
        ge=1,
    )
    eviction: Literal["adaptive", "lru"] = Field(
        default="adaptive",
        validation_alias=names("MM_EVICTION_POLICY"),
        description="Which copies leave first: `adaptive`, those that the best of several policies would not hold; "
        "`lru`, those unused longest, and loads begin first come, first served.",
    )
    scaleup_rpm_threshold: int = Field(
        default=2000,
        validation_alias=names("MM_SCALEUP_RPM_THRESHOLD"),
        description="Requests per minute and copy from which a model gets one more copy.",
        ge=1,
    )
    scaleup_bandwidth_percent: int = Field(
        default=90,
        validation_alias=names("MM_CONC_SCALEUP_BANDWIDTH_PCT"),
        description="For runtimes that limit concurrency: the share of what a copy can do from which it counts as full.",
        ge=10,
        le=200,
    )
    max_in_flight_per_copy: int = Field(
        default=0,
        validation_alias=names("MM_MAX_INFLIGHT_PER_MODEL_COPY"),
        description="For runtimes that limit concurrency: how many calls may run at or wait for one copy; more are refused. "
        "0: eight times what it takes at a time, and at least 16; negative: no bound.",
        ge=-(2**31),
        le=2**31 - 1,
    )
    default_vmodel_owner: str = Field(
        default="",
        validation_alias=names("MM_DEFAULT_VMODEL_OWNER"),
        description="Owner of vmodels that are created without one.",
    )
    read_only: bool = Field(
        default=False,
        validation_alias=names("KV_READ_ONLY"),
        description="`true`: nothing is registered, changed or cleaned up in the store; models are loaded and served.",
    )
    type_constraints: str = Field(
        default="",
        validation_alias=names("MM_TYPE_CONSTRAINTS"),
        description='Labels that instances need for models of a type: `{"<type>": {"required": ["l"], "preferred": ["l"]}}`.',
    )
    type_constraints_path: Path | None = Field(
        default=None,
        validation_alias=names("MM_TYPE_CONSTRAINTS_PATH"),
        description="The same from a file, which is watched for changes.",
    )
    access_path: Path | None = Field(
        default=None,
        validation_alias=names("MM_ACCESS_PATH"),
        description="Who may do what, as a YAML or JSON file, which is watched for changes. Default: every client that reaches a port may do "
        "everything.",
    )
    dataplane_config: str = Field(
        default="",
        validation_alias=names("MM_DATAPLANE_CONFIG"),
        description='Which methods clients may call, and where messages carry the model id: `{"rpcConfigs": '
        '{"pkg.Service/Method": {"idExtractionPath": [1], "vModelId": false, "headerFirst": false, "idempotent": true}}, '
        '"allowOtherRpcs": false}`. Default: all methods, ids in headers, or in the messages of the Open Inference Protocol.',
    )
    dataplane_config_path: Path | None = Field(
        default=None,
        validation_alias=names("MM_DATAPLANE_CONFIG_PATH"),
        description="The same from a file, which is watched for changes.",
    )
    failfast_upgrade: bool = Field(
        default=True,
        validation_alias=names("MM_FAILFAST_UPGRADE_ENABLED"),
        description="Whether an instance at which loads fail just after its start is not ready, so that a rollout stops; "
        "only `false` turns it off.",
    )
    bootstrap_ms: int = Field(
        default=180_000,
        validation_alias=names("BOOTSTRAP_CLEARANCE_PERIOD_MS"),
        description="How long after the start failing loads count so, in milliseconds.",
        ge=0,
    )
    static_models: str = Field(
        default="",
        validation_alias=names("MM_AUTO_REGISTER_MODELS", "MM_AUTO_REGISTER_MODEL"),
        description='Models registered at the start: `[{"modelId": "m", "modelInfo": {"type": "t"}, "ensureLoaded": true}]`.',
    )
    static_models_path: Path | None = Field(
        default=None,
        validation_alias=names("MM_AUTO_REGISTER_MODEL_PATH", "MM_AUTO_REGISTER_MODELS_PATH"),
        description="The same from a file, before those of the variable.",
    )
    shutdown_timeout_ms: int = Field(
        default=30_000,
        validation_alias=names("SHUTDOWN_TIMEOUT_MS"),
        description="How long a stop may take, in milliseconds; of two numbers with a comma between, the first.",
        ge=0,
    )
    anchor_file: Path | None = Field(
        default=None,
        validation_alias=names("MM_ANCHOR_FILE"),
        description="File made at the start, with the process id; deleting it stops the instance (`modelmesh stop`). "
        "Default: none; in the image `/opt/kserve/mmesh/run/model-mesh.anchor`.",
    )
    termination_message_path: Path | None = Field(
        default=None,
        validation_alias=names("LL_TERMINATION_MSG_PATH"),
        description="File that gets one line when the start fails. Default: /dev/termination-log in Kubernetes.",
    )
    log_format: Literal["json", "console"] = Field(
        default="json", validation_alias=names("MM_LOG_FORMAT"), description="Form of log lines."
    )
    log_level: str = Field(
        default="info",
        validation_alias=names("MM_LOG_LEVEL"),
        description="Least level that is logged: `debug`, `info`, `warning`, `error` or `off`; also by component, as in "
        f"`info,requests=debug`. Components: {', '.join(f'`{component}`' for component in COMPONENTS)}.",
    )

    @field_validator("shutdown_timeout_ms", mode="before")
    @classmethod
    def _first(cls, value: Any) -> Any:
        return value.partition(",")[0] if isinstance(value, str) else value

    @field_validator("read_only", mode="before")
    @classmethod
    def _exactly_true(cls, value: Any) -> Any:
        return value == "true" if isinstance(value, str) else value

    @field_validator("failfast_upgrade", mode="before")
    @classmethod
    def _unless_false(cls, value: Any) -> Any:
        return value != "false" if isinstance(value, str) else value

    @field_validator("log_level")
    @classmethod
    def _levels(cls, value: str) -> str:
        parse_levels(value)
        return value

    @field_validator("log_format", "eviction", mode="before")
    @classmethod
    def _lower_choice(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_form_each(self) -> "Settings":
        if self.type_constraints and self.type_constraints_path is not None:
            raise ValueError("MM_TYPE_CONSTRAINTS and MM_TYPE_CONSTRAINTS_PATH are both set; set one")
        if self.dataplane_config and self.dataplane_config_path is not None:
            raise ValueError("MM_DATAPLANE_CONFIG and MM_DATAPLANE_CONFIG_PATH are both set; set one")
        return self

    def resolved_termination_message_path(self) -> Path | None:
        """Where a failed start leaves its one line."""
        if self.termination_message_path is not None:
            return self.termination_message_path
        return Path("/dev/termination-log") if self.in_kubernetes else None
