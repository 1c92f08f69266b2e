"""The metrics as text: their reference page, which `modelmesh.instance.reference` writes."""

from modelmesh.values.metrics import AGES_MS, FAMILIES, MODEL_BYTES, PAYLOAD_BYTES, TIMES_MS, Family, Kind

METRICS_HEADER = """# Metrics

Written from the catalogue in `modelmesh.values.metrics` by `make docs`; not edited by hand.

`MM_METRICS` chooses: `disabled`, `statsd` (the default: UDP to port 8126 of this host) or `prometheus` (GET `/metrics` on
port 2112). Parameters follow a colon, separated by semicolons, as in `prometheus:port=2112;scheme=https`.

| parameter | of | default | meaning |
|---|---|---|---|
| `port` | both | 8126, 2112 | port of the StatsD listener, or of `/metrics` |
| `fq_names` | both | `false` | `true`: the label `method` is `package.Service/Method`, else the part after the slash |
| `legacy` | statsd | `false` | `true`: the old names, prefixed `model-mesh.` |
| `scheme` | prometheus | `https` | `https` with a certificate that the process makes for itself (scrape with `insecure_skip_verify`), or `http` |
| `per_model_metrics` | prometheus | `false` | `true`: labels `modelId` and `vModelId` where the table says *model* |
| `models_max` | prometheus | 1000 | models with series of their own; those beyond share `modelId="(other)"` |
| `mem_detail` | prometheus | `all` | `none`: nothing of this process (`process_*`, `python_*`) |

- A text that is not of this form ends the start. A back end, parameter or value that does not exist turns metrics off, with an
  error in the log: calls are served all the same.
- `/metrics` answers in Prometheus text format 0.0.4, in OpenMetrics to who accepts it, compressed to who accepts that;
  `?name[]=a&name[]=b` picks families.
- Series of a model go when it is unregistered. A call that ended NOT_FOUND is counted without model labels: clients could invent
  ids without end.
- `MM_INFO_METRICS` = `name;label=VARIABLE,label=VARIABLE` adds a gauge of 1 whose labels hold environment variables.
- StatsD gets values once a second: a counter as its sum, a histogram as the mean of each bucket that was hit, with the sample rate that
  stands for the number of observations. Counts and sums are exact. Names get the suffix `_statsd`, labels follow as
  `#label=value,…`. Times are those of calls that ended OK; the counters in the last column count all.
- Bounds: times (ms) TIMES; ages (ms) AGES; payloads (bytes) PAYLOADS; models (bytes) MODELS. Fractions of
  milliseconds count.

`deploy/grafana/modelmesh.json` is a dashboard of these.

| metric | kind | labels | meaning | StatsD counter, old name |
|---|---|---|---|---|
"""


def metrics_page() -> str:
    """The reference page of metrics."""
    header = METRICS_HEADER
    for word, bounds in (
        ("TIMES", TIMES_MS),
        ("AGES", AGES_MS),
        ("PAYLOADS", PAYLOAD_BYTES),
        ("MODELS", MODEL_BYTES),
    ):
        header = header.replace(word, " ".join(f"{bound:.15g}" for bound in bounds))
    return header + "".join(map(_metric, FAMILIES))


def _metric(family: Family) -> str:
    labels = [*family.labels, *(["*model*"] if family.per_model else [])]
    old = ", ".join(f"`{name}`" for name in (family.statsd_counter, family.statsd_legacy) if name)
    kind = family.kind.value if family.kind is not Kind.COUNTER or not family.plain else "counter (declared untyped)"
    return f"| `{family.exposed}` | {kind} | {', '.join(labels)} | {family.meaning} | {old} |\n"
