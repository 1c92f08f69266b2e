//! What the metrics come to as text.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;

use crate::access::tenant::Used;
use crate::ledger::Side;
use crate::observe::fallbacks::FALLBACK_REASONS;
use crate::observe::shadows::{SHADOW_ENDS, ShadowCounts};
use crate::observe::usage::Consumed;

use super::{
    HELD, INVOCATIONS, MANAGED, MISSED, Metrics, QUEUED, REJECTIONS, REQUEST_BYTES, REQUESTS, RESPONSE_BYTES,
    REST_FAULTS,
};

const HISTOGRAMS: [(&str, &str); 8] = [
    (REQUESTS, "Inference calls of clients of this instance, from the first header to the last."),
    (INVOCATIONS, "Calls to the local runtime that it answered, without the wait for a load or a turn."),
    (REQUEST_BYTES, "Message bytes of inference calls of clients of this instance."),
    (RESPONSE_BYTES, "Message bytes of the answers to successful inference calls of clients of this instance."),
    (QUEUED, "Wait for a turn at a copy whose concurrency is limited."),
    (MISSED, "Inference calls that waited more than 10 ms for their model to be loaded here, and how long."),
    (MANAGED, "Calls of the services that the control plane answers."),
    (HELD, "Requests that waited for a decision of the control plane, and how long."),
];
const GAUGES: [(&str, &str); 11] = [
    ("modelmesh_held_requests", "Requests that wait for a decision."),
    ("modelmesh_held_bytes", "Bytes of requests that wait for a decision."),
    ("modelmesh_replay_bytes", "Bytes of replay copies."),
    ("modelmesh_tapped_bytes", "Bytes of payloads that wait for the control plane to take them."),
    ("modelmesh_shadow_bytes", "Bytes that copies of calls for shadows of vmodels hold."),
    ("modelmesh_core_events", "Events that wait for the control plane to take them."),
    ("modelmesh_connections", "Open connections of clients and instances."),
    ("modelmesh_open_calls", "Calls that run, wait, or are being answered by the control plane."),
    ("modelmesh_client_bytes", "Bytes that connections of clients and their calls hold."),
    ("modelmesh_peer_bytes", "Bytes that connections of other instances to this one and their calls hold."),
    ("modelmesh_neighbour_bytes", "Bytes that connections to the runtime and to other instances hold."),
];
const COUNTERS: [(&str, &str); 8] = [
    ("modelmesh_rejected_requests", "Calls refused before it was looked at what model they are about."),
    ("modelmesh_rest_faults", "Requests by REST that were answered with an error, by HTTP status."),
    ("modelmesh_held_requests_refused", "Requests refused because too many wait for a decision."),
    ("modelmesh_core_events_refused", "Events refused because the control plane is behind."),
    (
        "modelmesh_core_events_dropped",
        "Events for payloads, logs or traces dropped because the control plane is behind.",
    ),
    ("modelmesh_tapped_calls", "Calls whose payloads were handed to the control plane."),
    ("modelmesh_tapped_calls_dropped", "Calls whose payloads were wanted and dropped, because too many wait."),
    ("modelmesh_expelled_connections", "Connections ended because more was held for them than for others."),
];
const OF_TENANTS: [(&str, &str); 4] = [
    ("modelmesh_tenant_calls", "Inference calls of a tenant that have ended."),
    ("modelmesh_tenant_refused_calls", "Inference calls of a tenant that were refused because of its quotas of calls."),
    ("modelmesh_tenant_call_milliseconds", "How long the inference calls of a tenant took together."),
    ("modelmesh_tenant_bytes", "Message bytes of the inference calls of a tenant and of their answers."),
];
/// Where models have series of their own.
const OF_USAGE: [(&str, &str); 5] = [
    (
        "modelmesh_usage_calls",
        "Inference calls of clients of this instance that have ended, by calling tenant and model.",
    ),
    ("modelmesh_usage_failed_calls", "Those of them that ended with another status than OK."),
    ("modelmesh_usage_call_milliseconds", "How long they took together."),
    ("modelmesh_usage_bytes", "Message bytes of them and of their answers."),
    ("modelmesh_usage_loads", "Loads at this instance that ended well, by the tenant that registered the model."),
];
const SHADOWS: (&str, &str) =
    ("modelmesh_shadow_calls", "Calls of vmodels that were to be copied to their shadows, by the result of the copy.");
const FALLBACKS: (&str, &str) =
    ("modelmesh_fallback_calls", "Calls of vmodels that went to their fallbacks, by the reason.");
const COUNTER_LABELS: [&str; COUNTERS.len()] = ["reason", "status", "", "", "", "", "", "side"];

/// Counts that are kept elsewhere, at the time of rendering.
#[derive(Default)]
pub struct Counts {
    pub held_requests: usize,
    pub held_bytes: usize,
    pub refused_requests: u64,
    pub waiting_events: usize,
    pub refused_events: u64,
    pub dropped_events: u64,
    pub replay_bytes: usize,
    pub tapped_bytes: usize,
    pub connections: usize,
    pub open_calls: usize,
    /// What each side holds, and how many of its connections had to go.
    pub sides: [(usize, u64); Side::ALL.len()],
    /// What tenants have used, by name.
    pub tenants: Vec<(String, Used)>,
    /// What was used by tenant and model, where models have series of their own.
    pub usage: Vec<(String, String, Consumed)>,
    pub shadow_bytes: usize,
    /// How copies of calls ended, by vmodel and model.
    pub shadows: Vec<(String, String, ShadowCounts)>,
    /// How many calls went to fallbacks for which reason, by vmodel and fallback.
    pub fallbacks: Vec<(String, String, [u64; FALLBACK_REASONS.len()])>,
}

impl Metrics {
    /// Prometheus text format, or OpenMetrics (without its end mark).
    ///
    /// `names`: only these families, if any are named.
    #[must_use]
    pub fn render(&self, counts: &Counts, open_metrics: bool, names: &[String]) -> String {
        let wanted = |family: &str| names.is_empty() || names.iter().any(|name| belongs_to(name, family));
        let mut lines: HashMap<&'static str, String> = HashMap::new();
        self.visit(|name, labels, histogram| {
            if wanted(name) {
                let mut text = String::new();
                for (label, value) in labels {
                    let _ = write!(text, "{label}=\"{}\",", escaped(value));
                }
                histogram.render(name, &text, lines.entry(name).or_default());
            }
        });
        let mut text = String::new();
        for (name, help) in HISTOGRAMS {
            if wanted(name) {
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
                text.push_str(lines.get(name).map_or("", String::as_str));
            }
        }
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        for ((name, help), value) in GAUGES.into_iter().zip([
            number(counts.held_requests),
            number(counts.held_bytes),
            number(counts.replay_bytes),
            number(counts.tapped_bytes),
            number(counts.shadow_bytes),
            number(counts.waiting_events),
            number(counts.connections),
            number(counts.open_calls),
            number(counts.sides[0].0),
            number(counts.sides[1].0),
            number(counts.sides[2].0),
        ]) {
            if wanted(name) {
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
            }
        }
        for (((family, help), labels), values) in COUNTERS.into_iter().zip(COUNTER_LABELS).zip([
            self.rejected.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            self.rest_faults.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            vec![counts.refused_requests],
            vec![counts.refused_events],
            vec![counts.dropped_events],
            vec![self.taps.told.load(Ordering::Relaxed)],
            vec![self.taps.dropped.load(Ordering::Relaxed)],
            counts.sides.iter().map(|(_, expelled)| *expelled).collect(),
        ]) {
            if wanted(family) {
                // Only OpenMetrics names the family without its suffix.
                let suffix = if open_metrics { "" } else { "_total" };
                let _ = writeln!(text, "# HELP {family}{suffix} {help}\n# TYPE {family}{suffix} counter");
                for (index, value) in values.iter().enumerate() {
                    let label = match labels {
                        "reason" => format!("{{reason=\"{}\"}}", REJECTIONS[index].1),
                        "status" => format!("{{status=\"{}\"}}", REST_FAULTS[index]),
                        "side" => format!("{{side=\"{}\"}}", Side::ALL[index].text()),
                        _ => String::new(),
                    };
                    let _ = writeln!(text, "{family}_total{label} {value}");
                }
            }
        }
        for (family, help) in OF_TENANTS.into_iter().filter(|(family, _)| wanted(family)) {
            let suffix = if open_metrics { "" } else { "_total" };
            let _ = writeln!(text, "# HELP {family}{suffix} {help}\n# TYPE {family}{suffix} counter");
            for (tenant, used) in &counts.tenants {
                let value = match family {
                    "modelmesh_tenant_calls" => used.calls,
                    "modelmesh_tenant_refused_calls" => used.refused,
                    "modelmesh_tenant_call_milliseconds" => used.time_ms,
                    _ => used.bytes,
                };
                let _ = writeln!(text, "{family}_total{{tenant=\"{}\"}} {value}", escaped(tenant));
            }
        }
        for (family, help) in OF_USAGE.into_iter().filter(|(family, _)| wanted(family)) {
            let suffix = if open_metrics { "" } else { "_total" };
            let _ = writeln!(text, "# HELP {family}{suffix} {help}\n# TYPE {family}{suffix} counter");
            for (tenant, model, used) in &counts.usage {
                let value = match family {
                    "modelmesh_usage_calls" => used.calls,
                    "modelmesh_usage_failed_calls" => used.failed,
                    "modelmesh_usage_call_milliseconds" => used.time_us / 1000,
                    "modelmesh_usage_bytes" => used.bytes,
                    _ => used.loads,
                };
                let (tenant, model) = (escaped(tenant), escaped(model));
                let _ = writeln!(text, "{family}_total{{tenant=\"{tenant}\",modelId=\"{model}\"}} {value}");
            }
        }
        self.by_vmodel(SHADOWS, ("result", &SHADOW_ENDS), &counts.shadows, (open_metrics, &wanted), &mut text);
        self.by_vmodel(FALLBACKS, ("reason", &FALLBACK_REASONS), &counts.fallbacks, (open_metrics, &wanted), &mut text);
        text
    }

    /// Writes a counter of calls of vmodels by how they ended: of all together, or of each vmodel and model.
    fn by_vmodel<const N: usize>(
        &self,
        (family, help): (&str, &str),
        (label, ends): (&str, &[&str; N]),
        counts: &[(String, String, [u64; N])],
        (open_metrics, wanted): (bool, &dyn Fn(&str) -> bool),
        text: &mut String,
    ) {
        if !wanted(family) {
            return;
        }
        let suffix = if open_metrics { "" } else { "_total" };
        let _ = writeln!(text, "# HELP {family}{suffix} {help}\n# TYPE {family}{suffix} counter");
        let mut write = |labels: &str, counts: &[u64; N]| {
            for (end, count) in ends.iter().zip(counts) {
                let _ = writeln!(text, "{family}_total{{{label}=\"{end}\"{labels}}} {count}");
            }
        };
        if !self.counted.per_model {
            let sum = |end: usize| counts.iter().map(|(_, _, counts)| counts[end]).sum();
            return write("", &std::array::from_fn(sum));
        }
        for (vmodel, model, counts) in counts {
            let labels = format!(",modelId=\"{}\",vModelId=\"{}\"", escaped(model), escaped(vmodel));
            write(&labels, counts);
        }
    }
}

/// The value of a label, as the format has it.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n")
}

/// Whether a sample or family of this name is of the family.
fn belongs_to(name: &str, family: &str) -> bool {
    name.strip_prefix(family)
        .is_some_and(|suffix| matches!(suffix, "" | "_bucket" | "_count" | "_sum" | "_total" | "_created"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::observe::metrics::{Counted, HoldEnd};

    #[test]
    fn copies_of_calls_are_counted_together_or_by_vmodel_and_model() {
        let one = |vmodel: &str| (vmodel.to_owned(), "m".to_owned(), [0, 3, 1, 0, 0, 0, 0]);
        let counts = Counts { shadows: vec![one("v"), one("w")], ..Counts::default() };
        let names = ["modelmesh_shadow_calls_total".to_owned()];
        let has = |per_model, line: &str| {
            let metrics = Metrics::new(Counted { per_model, ..Counted::default() });
            let text = metrics.render(&counts, false, &names);
            assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        };
        has(false, r#"modelmesh_shadow_calls_total{result="equal"} 6"#);
        has(true, r#"modelmesh_shadow_calls_total{result="different",modelId="m",vModelId="w"} 1"#);
    }

    #[test]
    fn calls_of_fallbacks_are_counted_together_or_by_vmodel_and_model() {
        let counts = Counts { fallbacks: vec![("v".to_owned(), "small".to_owned(), [2, 5])], ..Counts::default() };
        let names = ["modelmesh_fallback_calls_total".to_owned()];
        let text = |per_model| Metrics::new(Counted { per_model, ..Counted::default() }).render(&counts, false, &names);
        assert!(text(false).contains("modelmesh_fallback_calls_total{reason=\"failed\"} 5\n"));
        let line = "modelmesh_fallback_calls_total{reason=\"cold\",modelId=\"small\",vModelId=\"v\"} 2\n";
        assert!(text(true).contains(line));
    }

    #[test]
    fn names_pick_families_and_open_metrics_names_counters_its_way() {
        let metrics = Metrics::new(Counted::default());
        metrics.held("m", HoldEnd::Served, Duration::ZERO);
        let names = ["modelmesh_tapped_calls_total".to_owned(), "modelmesh_held_bytes".to_owned()];
        let text = metrics.render(&Counts::default(), true, &names);
        assert_eq!(
            text.lines().filter(|line| !line.starts_with("# HELP")).collect::<Vec<_>>(),
            [
                "# TYPE modelmesh_held_bytes gauge",
                "modelmesh_held_bytes 0",
                "# TYPE modelmesh_tapped_calls counter",
                "modelmesh_tapped_calls_total 0",
            ]
        );
    }
}
