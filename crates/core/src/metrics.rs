//! Counters and histograms of the data plane, in the names of the old system.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;

use crate::status::{CODES, Code};

/// Upper bounds in milliseconds, as dashboards of the old system expect them.
const BOUNDS_MS: [f64; 19] = [
    0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 20_000.0,
    60_000.0, 120_000.0, 300_000.0,
];
/// Methods with series of their own. Clients name methods at will; the others share one label.
const MOST_METHODS: usize = 256;
const OTHER: &str = "other";

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    fn observe(&self, time: Duration) {
        let ms = time.as_secs_f64() * 1000.0;
        let bucket = BOUNDS_MS.partition_point(|bound| *bound < ms);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn render(&self, name: &str, labels: &str, text: &mut String) {
        let mut count = 0;
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS_MS) {
            count += bucket.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        count += self.buckets[BOUNDS_MS.len()].load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "a sum of 2^53 microseconds is 285 years")]
        let sum_ms = self.sum_us.load(Ordering::Relaxed) as f64 / 1000.0;
        let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "{name}_sum{{{labels}}} {sum_ms}");
        let _ = writeln!(text, "{name}_count{{{labels}}} {count}");
    }
}

/// One family of histograms by method and code.
#[derive(Default)]
struct Family {
    by_method: RwLock<HashMap<String, Arc<ByCode>>>,
}

#[derive(Default)]
struct ByCode {
    codes: RwLock<[Option<Box<Histogram>>; CODES.len()]>,
}

impl ByCode {
    fn observe(&self, code: Code, time: Duration) {
        if let Some(histogram) = &self.codes.read()[code as usize] {
            return histogram.observe(time);
        }
        self.codes.write()[code as usize].get_or_insert_default().observe(time);
    }
}

impl Family {
    fn observe(&self, method: &str, code: Code, time: Duration) {
        if let Some(series) = self.by_method.read().get(method) {
            return series.observe(code, time);
        }
        let mut methods = self.by_method.write();
        let label = if methods.len() < MOST_METHODS { method } else { OTHER };
        let series = Arc::clone(methods.entry(label.to_owned()).or_default());
        drop(methods);
        series.observe(code, time);
    }

    fn render(&self, name: &str, help: &str, text: &mut String) {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} histogram");
        for (method, series) in self.by_method.read().iter() {
            let method = method.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
            for ((_, code), histogram) in CODES.iter().zip(series.codes.read().iter()) {
                if let Some(histogram) = histogram {
                    histogram.render(name, &format!("method=\"{method}\",code=\"{code}\""), text);
                }
            }
        }
    }
}

/// All metrics of one core.
#[derive(Default)]
pub struct Metrics {
    requests: Family,
    invocations: Family,
}

/// Counts that are kept elsewhere, at the time of rendering.
pub struct Counts {
    pub held_requests: usize,
    pub held_bytes: usize,
    pub refused_requests: u64,
    pub refused_events: u64,
    pub replay_bytes: usize,
    pub connections: usize,
}

impl Metrics {
    /// An inference call of a client has ended.
    pub fn requested(&self, method: &str, code: Code, time: Duration) {
        self.requests.observe(method, code, time);
    }

    /// The runtime has answered; waiting for the gate is not counted.
    pub fn invoked(&self, method: &str, code: Code, time: Duration) {
        self.invocations.observe(method, code, time);
    }

    /// Prometheus text format, without a trailing newline.
    #[must_use]
    pub fn render(&self, counts: &Counts) -> String {
        let mut text = String::new();
        self.requests.render(
            "modelmesh_api_request_milliseconds",
            "Inference calls of clients, from the first header to the last.",
            &mut text,
        );
        self.invocations.render(
            "modelmesh_invoke_model_milliseconds",
            "Calls to the local runtime that it answered.",
            &mut text,
        );
        let mut scalar = |name: &str, kind: &str, help: &str, value: u64| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        };
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        scalar("modelmesh_held_requests", "gauge", "Requests that wait for a decision.", number(counts.held_requests));
        scalar(
            "modelmesh_held_bytes",
            "gauge",
            "Bytes of requests that wait for a decision.",
            number(counts.held_bytes),
        );
        scalar("modelmesh_replay_bytes", "gauge", "Bytes of replay copies.", number(counts.replay_bytes));
        scalar(
            "modelmesh_connections",
            "gauge",
            "Open connections of clients and instances.",
            number(counts.connections),
        );
        scalar(
            "modelmesh_held_requests_refused",
            "counter",
            "Requests refused because too many wait.",
            counts.refused_requests,
        );
        scalar(
            "modelmesh_events_dropped",
            "counter",
            "Events refused because the control plane is behind.",
            counts.refused_events,
        );
        text.truncate(text.trim_end().len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Counts = Counts {
        held_requests: 0,
        held_bytes: 0,
        refused_requests: 0,
        refused_events: 0,
        replay_bytes: 0,
        connections: 0,
    };

    #[test]
    fn buckets_are_cumulative() {
        let metrics = Metrics::default();
        for us in [400, 500, 501, 400_000_000] {
            metrics.requested("p.S/M", Code::Ok, Duration::from_micros(us));
        }
        let text = metrics.render(&NONE);
        let has = |line: &str| assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        has(r#"modelmesh_api_request_milliseconds_bucket{method="p.S/M",code="OK",le="0.5"} 2"#);
        has(r#"modelmesh_api_request_milliseconds_bucket{method="p.S/M",code="OK",le="1"} 3"#);
        has(r#"modelmesh_api_request_milliseconds_bucket{method="p.S/M",code="OK",le="300000"} 3"#);
        has(r#"modelmesh_api_request_milliseconds_bucket{method="p.S/M",code="OK",le="+Inf"} 4"#);
        has(r#"modelmesh_api_request_milliseconds_count{method="p.S/M",code="OK"} 4"#);
        assert!(!text.ends_with('\n'));
    }

    #[test]
    fn methods_that_clients_invent_do_not_grow_the_table() {
        let metrics = Metrics::default();
        for n in 0..1000 {
            metrics.requested(&format!("p.S/M{n}"), Code::Unimplemented, Duration::ZERO);
        }
        assert_eq!(metrics.requests.by_method.read().len(), MOST_METHODS + 1);
        assert!(metrics.render(&NONE).contains(r#"_count{method="other",code="UNIMPLEMENTED"} 744"#));
    }
}
