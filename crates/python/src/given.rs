//! What Python gives: values of `modelmesh.values.dataplane`, read field by field. One that has not the fields, or a number
//! without a place in its own, is an error that names the field.

use std::collections::HashSet;

use modelmesh_core::{Bounds, Code, Hop, Limits, Listener, Priority, Resolution, Status};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// Trailers in wire form.
pub type Trailers = Vec<(String, Vec<u8>)>;

#[derive(FromPyObject)]
pub struct LocalCopy {
    load_id: u64,
    ready: bool,
    max_concurrency: u32,
    max_waiting: u32,
}

#[derive(FromPyObject)]
pub struct RemoteCopy {
    instance: String,
    load_id: u64,
}

#[derive(FromPyObject)]
pub struct Route {
    local: Option<LocalCopy>,
    remote: Vec<RemoteCopy>,
}

impl From<Route> for modelmesh_core::NewRoute {
    fn from(route: Route) -> Self {
        let local = route.local.map(|LocalCopy { load_id, ready, max_concurrency, max_waiting }| {
            modelmesh_core::NewLocal { ready, load_id, bounds: Bounds { max_concurrency, max_waiting } }
        });
        let remote = route.remote.into_iter().map(|copy| (copy.instance, copy.load_id)).collect();
        Self { local, remote }
    }
}

#[derive(FromPyObject)]
pub struct Shadow {
    model: String,
    percent: u8,
    compares: bool,
}

#[derive(FromPyObject)]
pub struct Naming {
    active: String,
    split: Vec<(String, u8)>,
    target: Option<String>,
    labels: Vec<(String, String)>,
    kept: Vec<String>,
    fallback: Option<String>,
    shadow: Option<Shadow>,
    trial: Option<u64>,
}

impl From<Naming> for modelmesh_core::Naming {
    fn from(naming: Naming) -> Self {
        let target = naming.target.as_deref().unwrap_or(&naming.active);
        Self::new(&naming.active, &naming.split)
            .with_versions(target, &naming.labels, &naming.kept)
            .with_fallback(naming.fallback.as_deref())
            .with_trial(naming.trial)
            .with_shadow(naming.shadow.map(|one| modelmesh_core::Shadow::new(&one.model, one.percent, one.compares)))
    }
}

#[derive(FromPyObject)]
pub struct PeerAddress {
    pub address: String,
    pub tls_name: Option<String>,
}

#[derive(FromPyObject)]
#[expect(clippy::struct_excessive_bools, reason = "as `modelmesh_core::MethodRule`")]
pub struct MethodRule {
    method: String,
    extraction_path: Vec<u32>,
    extracts_vmodel: bool,
    header_first: bool,
    injection_path: Vec<u32>,
    version_field: u32,
    idempotent: bool,
    ours: bool,
}

#[derive(FromPyObject)]
pub struct Rules {
    serving_services: Vec<String>,
    peer_services: Vec<String>,
    management_services: Vec<String>,
    methods: Vec<MethodRule>,
    allow_others: bool,
    forbidden_services: Vec<String>,
    open_methods: Vec<String>,
}

impl From<Rules> for modelmesh_core::Rules {
    fn from(rules: Rules) -> Self {
        let rule = |rule: MethodRule| {
            let known = modelmesh_core::MethodRule {
                extraction_path: rule.extraction_path,
                extracts_vmodel: rule.extracts_vmodel,
                header_first: rule.header_first,
                injection_path: rule.injection_path,
                version_field: rule.version_field,
                idempotent: rule.idempotent,
                ours: rule.ours,
            };
            (rule.method, known)
        };
        Self {
            serving_services: rules.serving_services.into_iter().collect(),
            peer_services: rules.peer_services.into_iter().collect(),
            management_services: rules.management_services.into_iter().collect(),
            methods: rules.methods.into_iter().map(rule).collect(),
            allow_others: rules.allow_others,
            forbidden_services: rules.forbidden_services.into_iter().collect(),
            open_methods: rules.open_methods.into_iter().collect(),
        }
    }
}

/// (Name, calls a second, calls at once).
pub type Tenant = (String, Option<f64>, Option<usize>);

pub fn limits((name, calls_per_second, calls_at_once): Tenant) -> PyResult<(String, Limits)> {
    if let Some(rate) = calls_per_second
        && (rate <= 0.0 || !rate.is_finite())
    {
        return Err(PyValueError::new_err(format!("tenant {name} may make {rate} calls a second; it must be above 0")));
    }
    Ok((name, Limits { calls_per_second, calls_at_once }))
}

/// (Pattern, whether of vmodels, listeners).
pub type Right = (String, bool, Vec<String>);

pub fn right((pattern, vmodels, listeners): Right) -> PyResult<modelmesh_core::Right> {
    let mut bits = 0;
    for text in listeners {
        let listener = Listener::parse(&text).ok_or_else(|| {
            PyValueError::new_err(format!("the listener is {text:?}; it must be grpc, rest or management"))
        })?;
        bits |= listener.bit();
    }
    Ok(modelmesh_core::Right { pattern, vmodels, listeners: bits })
}

pub fn priority(text: &str) -> PyResult<Priority> {
    Priority::parse(text.as_bytes())
        .ok_or_else(|| PyValueError::new_err(format!("the class of calls is {text:?}; it must be high, normal or low")))
}

#[derive(FromPyObject)]
pub struct Tap {
    model: Option<String>,
    vmodel: Option<String>,
    method: Option<String>,
    fraction: f64,
}

#[derive(FromPyObject)]
pub struct Observing {
    taps: Vec<Tap>,
    tap_headers: Option<HashSet<String>>,
    tap_secrets: HashSet<String>,
    traced: Option<f64>,
    log_failed: bool,
    log_all: bool,
    log_invocations: bool,
    log_headers: Vec<String>,
}

impl TryFrom<Observing> for modelmesh_core::Observing {
    type Error = PyErr;

    fn try_from(given: Observing) -> PyResult<Self> {
        if given.taps.len() > 64 {
            return Err(PyValueError::new_err(format!("{} taps; at most 64 are possible", given.taps.len())));
        }
        let rule =
            |Tap { model, vmodel, method, fraction }| modelmesh_core::TapRule { model, vmodel, method, fraction };
        Ok(Self {
            taps: given.taps.into_iter().map(rule).collect(),
            tap_headers: given.tap_headers,
            tap_secrets: given.tap_secrets,
            traced: given.traced,
            log_failed: given.log_failed,
            log_all: given.log_all,
            log_invocations: given.log_invocations,
            log_headers: given.log_headers,
        })
    }
}

#[derive(FromPyObject)]
struct Word {
    value: String,
}

#[derive(FromPyObject)]
struct Forward {
    instance: String,
    hop: Word,
    tried: Vec<String>,
    view: Option<u64>,
}

#[derive(FromPyObject)]
struct Fail {
    status: u64,
    message: String,
    trailers: Trailers,
}

/// A class of `modelmesh.values.dataplane`.
macro_rules! class {
    ($py:expr, $name:literal) => {{
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        CLASS.import($py, "modelmesh.values.dataplane", $name)?
    }};
}

pub fn resolution(given: &Bound<'_, PyAny>) -> PyResult<Resolution> {
    let (py, kind) = (given.py(), given.get_type());
    if kind.is(class!(py, "Serve")) {
        return Ok(Resolution::Serve);
    }
    if kind.is(class!(py, "Reroute")) {
        return Ok(Resolution::Route);
    }
    if kind.is(class!(py, "Forward")) {
        let Forward { instance, hop, tried, view } = given.extract()?;
        let hop = Hop::parse(&hop.value)
            .map_err(|hop| PyValueError::new_err(format!("the hop is {hop:?}; it must be hit or load")))?;
        return Ok(Resolution::Forward { instance, hop, tried, view });
    }
    if kind.is(class!(py, "ReturnAnswer")) {
        return Ok(Resolution::Return);
    }
    if kind.is(class!(py, "Fail")) {
        let Fail { status: code, message, trailers } = given.extract()?;
        return Ok(Resolution::Fail(status(code, message, trailers)?));
    }
    Err(PyTypeError::new_err(format!("{} is no resolution", kind.name()?)))
}

pub fn status(code: u64, message: String, trailers: Trailers) -> PyResult<Status> {
    let mut status = Status::new(Code::from_number(code), message);
    for (name, value) in trailers {
        status = status
            .with_pair(&name, &value)
            .ok_or_else(|| PyValueError::new_err(format!("{name:?} is no valid trailer in wire form")))?;
    }
    Ok(status)
}
