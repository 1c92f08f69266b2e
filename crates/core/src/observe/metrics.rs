//! Counters and histograms of the data plane, in the names of the old system and some of ours.

mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

use crate::call::rejection::{REJECTIONS, Rejection};
use crate::observe::histogram::{ByCode, HOLDS, Histogram, SIZES, TIMES, Taken};
use crate::wire::status::Code;

pub use text::Counts;

/// Methods with series of their own. Clients name methods at will; the others share one label.
const MOST_METHODS: usize = 256;
const OTHER_METHOD: &str = "other";
/// Stands for the models beyond the bound. No header can carry it as an id of a registered model by accident.
const OTHER_MODEL: &str = "(other)";

/// What an operator chose.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Nothing is counted by method if false.
    pub enabled: bool,
    /// Labels `modelId` and `vModelId`.
    pub per_model: bool,
    /// The label `method` is `package.Service/Method`, else the part after the slash.
    pub full_names: bool,
    /// Models with series of their own; the others share one label.
    pub models_max: usize,
}

impl Default for Counted {
    fn default() -> Self {
        Self { enabled: true, per_model: false, full_names: false, models_max: 1000 }
    }
}

/// How the wait for a decision ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEnd {
    Served,
    Routed,
    Forwarded,
    Failed,
    Gone,
}

/// Statuses of REST that are no success. What is none of them counts as the last.
const REST_FAULTS: [u16; 15] = [400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 499, 501, 503, 504, 500];

const HOLD_ENDS: [&str; 5] = ["served", "routed", "forwarded", "failed", "gone"];

/// A wait shorter than this is no cache miss, as in the old system.
const MISS: Duration = Duration::from_millis(10);

/// The series of one method (of one model, if models are told apart).
struct OfMethod {
    requests: ByCode,
    invocations: ByCode,
    request_bytes: ByCode,
    response_bytes: ByCode,
}

impl Default for OfMethod {
    fn default() -> Self {
        Self {
            requests: ByCode::new(&TIMES),
            invocations: ByCode::new(&TIMES),
            request_bytes: ByCode::new(&SIZES),
            response_bytes: ByCode::new(&SIZES),
        }
    }
}

/// The series of one model; of all models, if they are not told apart.
struct OfModel {
    methods: RwLock<HashMap<MethodKey, Box<OfMethod>>>,
    queued: Histogram,
    missed: Histogram,
}

#[derive(PartialEq, Eq, Hash)]
struct MethodKey {
    vmodel: String,
    method: String,
}

/// A `MethodKey` to look one up by. Hashes as that does: field by field, in the same order.
#[derive(Hash)]
struct MethodLookup<'a> {
    vmodel: &'a str,
    method: &'a str,
}

impl Equivalent<MethodKey> for MethodLookup<'_> {
    fn equivalent(&self, key: &MethodKey) -> bool {
        self.method == key.method && self.vmodel == key.vmodel
    }
}

impl Default for OfModel {
    fn default() -> Self {
        Self { methods: RwLock::default(), queued: Histogram::new(&TIMES), missed: Histogram::new(&TIMES) }
    }
}

impl OfModel {
    /// The series are written under the lock that reads the table: cheaper than counting references.
    fn method(&self, vmodel: &str, method: &str, observe: impl FnOnce(&OfMethod)) {
        if let Some(series) = self.methods.read().get(&MethodLookup { vmodel, method }) {
            return observe(series);
        }
        let mut methods = self.methods.write();
        let of_vmodel = methods.keys().filter(|key| key.vmodel == vmodel).count();
        let label = if of_vmodel < MOST_METHODS { method } else { OTHER_METHOD };
        let key = MethodKey { vmodel: vmodel.to_owned(), method: label.to_owned() };
        observe(methods.entry(key).or_default());
    }
}

/// How a client's call ended.
pub struct Ended<'a> {
    pub method: &'a str,
    pub model: &'a str,
    pub vmodel: &'a str,
    pub code: Code,
    pub time: Duration,
    pub request_bytes: u64,
    pub response_bytes: u64,
    /// How the runtime beside us answered it, and how long that took.
    pub invoked: Option<(Code, Duration)>,
}

/// All metrics of one core.
pub struct Metrics {
    counted: Counted,
    /// Of all models, if they are not told apart; else of those without a name.
    all: OfModel,
    models: RwLock<HashMap<String, Arc<OfModel>>>,
    managed: RwLock<HashMap<String, Arc<ByCode>>>,
    rejected: [AtomicU64; REJECTIONS.len()],
    rest_faults: [AtomicU64; REST_FAULTS.len()],
    held: [Histogram; HOLD_ENDS.len()],
    pub taps: Taps,
}

/// Payloads that were wanted.
#[derive(Default)]
pub struct Taps {
    pub told: AtomicU64,
    pub dropped: AtomicU64,
}

/// What one series has observed since it was last taken.
#[derive(Debug, PartialEq)]
pub struct Series {
    pub name: &'static str,
    pub labels: Vec<(&'static str, String)>,
    pub buckets: Vec<Taken>,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Metrics {
    #[must_use]
    pub fn new(counted: Counted) -> Self {
        Self {
            counted,
            all: OfModel::default(),
            models: RwLock::default(),
            managed: RwLock::default(),
            rejected: Default::default(),
            rest_faults: Default::default(),
            held: std::array::from_fn(|_| Histogram::new(&HOLDS)),
            taps: Taps::default(),
        }
    }

    fn label<'a>(&self, method: &'a str) -> &'a str {
        if self.counted.full_names { method } else { method.rsplit_once('/').map_or(method, |(_, name)| name) }
    }

    fn of_model(&self, model: &str, observe: impl FnOnce(&OfModel)) {
        if !self.counted.per_model || model.is_empty() {
            return observe(&self.all);
        }
        let known = self.models.read().get(model).cloned();
        let series = known.unwrap_or_else(|| {
            let mut models = self.models.write();
            let label = if models.len() < self.counted.models_max { model } else { OTHER_MODEL };
            Arc::clone(models.entry(label.to_owned()).or_default())
        });
        observe(&series);
    }

    /// Whether these ids have series, of whatever method.
    fn has_series(&self, model: &str, vmodel: &str) -> bool {
        if !self.counted.per_model {
            return true;
        }
        let models = self.models.read();
        models.get(model).is_some_and(|series| series.methods.read().keys().any(|key| key.vmodel == vmodel))
    }

    fn of_method(&self, model: &str, vmodel: &str, method: &str, observe: impl FnOnce(&OfMethod)) {
        let vmodel = if self.counted.per_model { vmodel } else { "" };
        self.of_model(model, |series| series.method(vmodel, self.label(method), observe));
    }

    /// An inference call of a client has ended.
    pub fn requested(&self, ended: &Ended<'_>) {
        if !self.counted.enabled {
            return;
        }
        // Clients can invent ids without end, and a call can fail before it is known whether its ids exist: only one that
        // a copy has answered begins series of their own.
        let answered = ended.code == Code::Ok || ended.invoked.is_some();
        let invented = ended.code == Code::NotFound || !answered && !self.has_series(ended.model, ended.vmodel);
        let (model, vmodel) = if invented { ("", "") } else { (ended.model, ended.vmodel) };
        let invoked = ended.invoked.filter(|_| !invented);
        self.of_method(model, vmodel, ended.method, |series| {
            series.requests.observe(ended.code, micros(ended.time));
            series.request_bytes.observe(ended.code, ended.request_bytes);
            if ended.code == Code::Ok {
                series.response_bytes.observe(ended.code, ended.response_bytes);
            }
            if let Some((code, time)) = invoked {
                series.invocations.observe(code, micros(time));
            }
        });
        if let (true, Some((code, time))) = (invented, ended.invoked) {
            self.invoked(ended.model, ended.vmodel, ended.method, code, time);
        }
    }

    /// The runtime has answered, and that is not told with the end of a client's call; waiting for the gate is not counted.
    pub fn invoked(&self, model: &str, vmodel: &str, method: &str, code: Code, time: Duration) {
        if self.counted.enabled {
            self.of_method(model, vmodel, method, |series| series.invocations.observe(code, micros(time)));
        }
    }

    /// A request had its turn at a copy whose concurrency is limited.
    pub fn queued(&self, model: &str, time: Duration) {
        if self.counted.enabled {
            self.of_model(model, |series| series.queued.observe(micros(time)));
        }
    }

    /// A request waited for a decision.
    pub fn held(&self, model: &str, end: HoldEnd, time: Duration) {
        if !self.counted.enabled {
            return;
        }
        self.held[end as usize].observe(micros(time));
        if end == HoldEnd::Served && time > MISS {
            self.of_model(model, |series| series.missed.observe(micros(time)));
        }
    }

    /// A call of a service that Python answers has ended.
    pub fn managed(&self, method: &str, code: Code, time: Duration) {
        if !self.counted.enabled {
            return;
        }
        let method = self.label(method);
        let known = self.managed.read().get(method).cloned();
        let series = known.unwrap_or_else(|| {
            let mut methods = self.managed.write();
            let label = if methods.len() < MOST_METHODS { method } else { OTHER_METHOD };
            Arc::clone(methods.entry(label.to_owned()).or_insert_with(|| Arc::new(ByCode::new(&TIMES))))
        });
        series.observe(code, micros(time));
    }

    /// A request by REST was answered with a status that is no success.
    pub fn rest_fault(&self, status: u16) {
        let index = REST_FAULTS.iter().position(|known| *known == status).unwrap_or(REST_FAULTS.len() - 1);
        self.rest_faults[index].fetch_add(1, Ordering::Relaxed);
    }

    pub fn rejected(&self, why: Rejection) {
        self.rejected[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The model is gone, and its series with it.
    pub fn forget(&self, model: &str) {
        if self.counted.per_model && !model.is_empty() {
            self.models.write().remove(model);
        }
    }

    /// Calls `each` with every series by method or model that was ever used: name, labels, histogram.
    fn visit(&self, mut each: impl FnMut(&'static str, &[(&'static str, &str)], &Histogram)) {
        let models = self.models.read();
        let named = models.iter().map(|(model, series)| (model.as_str(), &**series));
        for (model, of_model) in std::iter::once(("", &self.all)).chain(named) {
            let labels = |method, code, vmodel| {
                let mut labels = vec![("method", method), ("code", code)];
                if self.counted.per_model {
                    labels.extend([("modelId", model), ("vModelId", vmodel)]);
                }
                labels
            };
            for (key, series) in of_model.methods.read().iter() {
                for (name, by_code) in [
                    (REQUESTS, &series.requests),
                    (INVOCATIONS, &series.invocations),
                    (REQUEST_BYTES, &series.request_bytes),
                    (RESPONSE_BYTES, &series.response_bytes),
                ] {
                    for (code, histogram) in by_code.seen() {
                        each(name, &labels(key.method.as_str(), code, key.vmodel.as_str()), histogram);
                    }
                }
            }
            let labels = if self.counted.per_model { vec![("modelId", model), ("vModelId", "")] } else { Vec::new() };
            for (name, histogram) in [(QUEUED, &of_model.queued), (MISSED, &of_model.missed)] {
                if histogram.is_used() {
                    each(name, &labels, histogram);
                }
            }
        }
        for (method, by_code) in self.managed.read().iter() {
            for (code, histogram) in by_code.seen() {
                each(MANAGED, &[("method", method), ("code", code)], histogram);
            }
        }
        for (end, histogram) in HOLD_ENDS.iter().zip(&self.held) {
            if histogram.is_used() {
                each(HELD, &[("end", end)], histogram);
            }
        }
    }

    /// What every series has observed since the last call, for a sink that adds up by itself.
    #[must_use]
    pub fn take(&self) -> Vec<Series> {
        let mut taken = Vec::new();
        self.visit(|name, labels, histogram| {
            let buckets = histogram.take();
            if !buckets.is_empty() {
                let labels = labels.iter().map(|(label, value)| (*label, (*value).to_owned())).collect();
                taken.push(Series { name, labels, buckets });
            }
        });
        taken
    }
}

const REQUESTS: &str = "modelmesh_api_request_milliseconds";
const INVOCATIONS: &str = "modelmesh_invoke_model_milliseconds";
const REQUEST_BYTES: &str = "modelmesh_request_size_bytes";
const RESPONSE_BYTES: &str = "modelmesh_response_size_bytes";
const QUEUED: &str = "modelmesh_req_queue_delay_milliseconds";
const MISSED: &str = "modelmesh_cache_miss_milliseconds";
const MANAGED: &str = "modelmesh_management_milliseconds";
const HELD: &str = "modelmesh_hold_milliseconds";

#[cfg(test)]
mod tests {
    use hashbrown::HashSet;

    use super::*;

    fn call<'a>(method: &'a str, model: &'a str, code: Code) -> Ended<'a> {
        let time = Duration::from_micros(700);
        Ended { method, model, vmodel: "", code, time, request_bytes: 5, response_bytes: 600, invoked: None }
    }

    fn per_model(models_max: usize) -> Metrics {
        Metrics::new(Counted { per_model: true, models_max, ..Counted::default() })
    }

    #[test]
    fn a_call_is_counted_by_short_method_and_code() {
        let metrics = Metrics::new(Counted::default());
        metrics.requested(&call("p.S/M", "m", Code::Ok));
        metrics.requested(&call("q.T/M", "m", Code::Internal));
        let text = metrics.render(&Counts::default(), false, &[]);
        let has = |line: &str| assert!(text.lines().any(|other| other == line), "{line} in\n{text}");
        has(r#"modelmesh_api_request_milliseconds_bucket{method="M",code="OK",le="0.5"} 0"#);
        has(r#"modelmesh_api_request_milliseconds_bucket{method="M",code="OK",le="1.0"} 1"#);
        has(r#"modelmesh_api_request_milliseconds_sum{method="M",code="INTERNAL"} 0.7"#);
        has(r#"modelmesh_request_size_bytes_bucket{method="M",code="OK",le="128.0"} 1"#);
        has(r#"modelmesh_response_size_bytes_count{method="M",code="OK"} 1"#);
        has(r#"modelmesh_rejected_requests_total{reason="not-allowed"} 0"#);
        assert!(!text.contains(r#"modelmesh_response_size_bytes_count{method="M",code="INTERNAL"}"#));
        assert!(!text.contains("modelId"));
    }

    #[test]
    fn an_answer_of_the_runtime_is_counted_with_the_call_and_under_the_model_that_was_asked() {
        let metrics = per_model(2);
        for (code, model) in [(Code::Ok, "a"), (Code::NotFound, "b")] {
            let invoked = Some((code, Duration::from_micros(300)));
            metrics.requested(&Ended { invoked, ..call("p.S/M", model, code) });
        }
        let text = metrics.render(&Counts::default(), false, &[]);
        for (model, code) in [("a", "OK"), ("b", "NOT_FOUND")] {
            let line = format!(
                "modelmesh_invoke_model_milliseconds_sum{{method=\"M\",code=\"{code}\",modelId=\"{model}\",vModelId=\"\"}} 0.3"
            );
            assert!(text.contains(&line), "{line} in\n{text}");
        }
    }

    #[test]
    fn models_are_told_apart_bounded_and_forgotten() {
        let metrics = per_model(2);
        for model in ["a", "b", "c", "d"] {
            metrics.requested(&call("p.S/M", model, Code::Ok));
        }
        metrics.requested(&call("p.S/M", "invented", Code::NotFound));
        let count = |model: &str, code: &str| {
            format!(
                "modelmesh_api_request_milliseconds_count{{method=\"M\",code=\"{code}\",modelId=\"{model}\",vModelId=\"\"}}"
            )
        };
        let text = metrics.render(&Counts::default(), false, &[]);
        for line in [count("a", "OK") + " 1", count("(other)", "OK") + " 2", count("", "NOT_FOUND") + " 1"] {
            assert!(text.contains(&line), "{line} in\n{text}");
        }
        assert!(!text.contains("invented"));
        metrics.forget("a");
        assert!(!metrics.render(&Counts::default(), false, &[]).contains(&count("a", "OK")));
    }

    #[test]
    fn ids_that_clients_invent_get_no_series_however_their_calls_end() {
        let metrics = per_model(1000);
        metrics.requested(&Ended { vmodel: "v", ..call("p.S/M", "a", Code::Ok) });
        for n in 0..2000 {
            let (model, vmodel) = (format!("m{n}"), format!("v{n}"));
            for code in [Code::Unavailable, Code::ResourceExhausted, Code::DeadlineExceeded, Code::Cancelled] {
                metrics.requested(&Ended { vmodel: &vmodel, ..call("p.S/M", "", code) });
                metrics.requested(&Ended { vmodel: &vmodel, ..call("p.S/M", "a", code) });
                metrics.requested(&call("p.S/M", &model, code));
            }
        }
        metrics.requested(&Ended { vmodel: "v", ..call("p.S/M", "a", Code::Internal) });
        let text = metrics.render(&Counts::default(), false, &[]);
        let ids = |line: &str| {
            line.split_once("modelId=").map(|(_, ids)| ids.split_once('}').map_or("", |(ids, _)| ids).to_owned())
        };
        let series: HashSet<_> =
            text.lines().filter_map(ids).map(|ids| ids.split(",le").next().unwrap_or("").to_owned()).collect();
        assert_eq!(series, HashSet::from([r#""",vModelId="""#.to_owned(), r#""a",vModelId="v""#.to_owned()]));
        let failed =
            r#"modelmesh_api_request_milliseconds_count{method="M",code="INTERNAL",modelId="a",vModelId="v"} 1"#;
        assert!(text.contains(failed), "{text}");
    }

    #[test]
    fn methods_that_clients_invent_do_not_grow_the_table() {
        let metrics = Metrics::new(Counted { full_names: true, ..Counted::default() });
        for n in 0..1000 {
            metrics.requested(&call(&format!("p.S/M{n}"), "", Code::Unimplemented));
        }
        let text = metrics.render(&Counts::default(), false, &[]);
        assert!(text.contains(r#"_count{method="other",code="UNIMPLEMENTED"} 744"#));
        assert!(text.contains(r#"_count{method="p.S/M0",code="UNIMPLEMENTED"} 1"#));
    }

    #[test]
    fn a_wait_is_a_cache_miss_only_beyond_ten_milliseconds() {
        let metrics = Metrics::new(Counted::default());
        for ms in [9, 11] {
            metrics.held("m", HoldEnd::Served, Duration::from_millis(ms));
            metrics.held("m", HoldEnd::Gone, Duration::from_millis(ms));
        }
        let text = metrics.render(&Counts::default(), false, &[]);
        assert!(text.contains("modelmesh_cache_miss_milliseconds_count 1"), "{text}");
        assert!(text.contains(r#"modelmesh_hold_milliseconds_count{end="served"} 2"#));
        let taken = metrics.take();
        assert!(taken.iter().any(|series| series.name == MISSED && series.buckets == [(1, 11.0)]));
        assert!(metrics.take().is_empty());
    }

    #[test]
    fn nothing_is_counted_when_off() {
        let metrics = Metrics::new(Counted { enabled: false, ..Counted::default() });
        metrics.requested(&call("p.S/M", "", Code::Ok));
        metrics.managed("p.S/M", Code::Ok, Duration::ZERO);
        assert!(metrics.take().is_empty());
    }
}
