//! The class `Core`: one engine, and the guard against use in a forked child.

use std::collections::HashSet;
use std::os::fd::RawFd;
use std::process;
use std::time::Duration;

use modelmesh_core::{
    Bounds, Counted, Engine, MethodRule, Naming, NewLocal, NewRoute, Observing, Rules, Series, Settings, TapRule,
};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};

use crate::events::to_tuple;
use crate::resolutions::{Trailers, resolution, status};
use crate::tls::Tls;

/// (local copy, remote copies), as the stub documents it.
/// The active model, and the hundredths of the calls that others get.
type NamingTuple = (String, Vec<(String, u8)>);
type RouteTuple = (Option<(bool, u64, u32, u32)>, Vec<(String, u64)>);
/// (method, extraction path, extracts a vmodel's id, injection path, idempotent).
type MethodTuple = (String, Vec<u32>, bool, Vec<u32>, bool, bool);
/// (model, vmodel, method, fraction).
type TapTuple = (Option<String>, Option<String>, Option<String>, f64);
/// (name, labels, (observations, sum) of each bucket that has any).
type SeriesTuple = (&'static str, Vec<(&'static str, String)>, Vec<(u64, f64)>);

/// The data plane of one instance.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct Core {
    engine: Engine,
    /// Threads do not survive a fork, so a child's copy of the core is dead.
    process: u32,
}

impl Core {
    fn engine(&self) -> PyResult<&Engine> {
        if process::id() == self.process {
            return Ok(&self.engine);
        }
        Err(PyRuntimeError::new_err(
            "the data plane does not survive a fork; start child processes with `spawn` or `forkserver`",
        ))
    }
}

#[pymethods]
impl Core {
    #[new]
    #[pyo3(signature = (
        *, instance, runtime, serving, peer, serving_tls = None, peer_tls = None, threads = 0,
        max_message_bytes = 16_777_216, max_header_bytes = 65_536, connections_max = None,
        max_connection_age_ms = None, max_connection_age_grace_ms = None, memory_max = None, held_requests_max = 4096, held_bytes_max = 268_435_456,
        replay_bytes_max = 268_435_456, events_max = 65_536, multi_parallelism = 4, tapped_bytes_max = 67_108_864,
        metrics = true, metrics_per_model = false, metrics_full_names = false, metrics_models_max = 1000
    ))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn new(
        instance: String,
        runtime: String,
        serving: Option<String>,
        peer: Option<String>,
        serving_tls: Option<&Bound<'_, Tls>>,
        peer_tls: Option<&Bound<'_, Tls>>,
        threads: usize,
        max_message_bytes: usize,
        max_header_bytes: usize,
        connections_max: Option<usize>,
        max_connection_age_ms: Option<u64>,
        max_connection_age_grace_ms: Option<u64>,
        memory_max: Option<usize>,
        held_requests_max: usize,
        held_bytes_max: usize,
        replay_bytes_max: usize,
        events_max: usize,
        multi_parallelism: usize,
        tapped_bytes_max: usize,
        metrics: bool,
        metrics_per_model: bool,
        metrics_full_names: bool,
        metrics_models_max: usize,
    ) -> PyResult<Self> {
        let engine = Engine::new(Settings {
            instance: instance.into(),
            runtime,
            serving,
            peer,
            serving_tls: serving_tls.map(|tls| tls.get().0.clone()),
            peer_tls: peer_tls.map(|tls| tls.get().0.clone()),
            threads,
            max_message_bytes,
            max_header_bytes,
            connections_max,
            max_connection_age: max_connection_age_ms.map(Duration::from_millis),
            max_connection_age_grace: max_connection_age_grace_ms.map(Duration::from_millis),
            memory_max,
            held_requests_max,
            held_bytes_max,
            replay_bytes_max,
            events_max,
            multi_parallelism,
            tapped_bytes_max,
            counted: Counted {
                enabled: metrics,
                per_model: metrics_per_model,
                full_names: metrics_full_names,
                models_max: metrics_models_max,
            },
        })?;
        Ok(Self { engine, process: process::id() })
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine()?;
        Ok(py.detach(|| engine.start())?)
    }

    #[getter]
    fn event_fd(&self) -> PyResult<RawFd> {
        Ok(self.engine()?.event_descriptor())
    }

    #[getter]
    fn serving_port(&self) -> PyResult<Option<u16>> {
        Ok(self.engine()?.serving_port())
    }

    #[getter]
    fn peer_port(&self) -> PyResult<Option<u16>> {
        Ok(self.engine()?.peer_port())
    }

    #[pyo3(signature = (most = 256))]
    fn events<'py>(&self, py: Python<'py>, most: usize) -> PyResult<Vec<Bound<'py, PyTuple>>> {
        let engine = self.engine()?;
        let events = py.detach(|| engine.events(most));
        events.into_iter().map(|event| to_tuple(py, event)).collect()
    }

    fn set_routes(&self, py: Python<'_>, routes: Vec<(String, Option<RouteTuple>)>) -> PyResult<Vec<u32>> {
        let engine = self.engine()?;
        Ok(py.detach(|| {
            engine.set_routes(routes.into_iter().map(|(model, route)| (model, route.map(new_route))).collect())
        }))
    }

    fn set_vmodels(&self, py: Python<'_>, vmodels: Vec<(String, Option<NamingTuple>)>) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| {
            let named = |(active, split): NamingTuple| Naming::new(&active, &split);
            engine.set_vmodels(vmodels.into_iter().map(|(vmodel, naming)| (vmodel, naming.map(named))).collect());
        });
        Ok(())
    }

    fn set_peers(&self, py: Python<'_>, peers: Vec<(String, Option<(String, Option<String>)>)>) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| engine.set_peers(peers));
        Ok(())
    }

    fn set_runtime(&self, py: Python<'_>, runtime: &str) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| engine.set_runtime(runtime));
        Ok(())
    }

    fn set_tls(&self, py: Python<'_>, serving: Option<&Bound<'_, Tls>>, peer: Option<&Bound<'_, Tls>>) -> PyResult<()> {
        let engine = self.engine()?;
        let material = |tls: &Bound<'_, Tls>| tls.get().0.clone();
        let (serving, peer) = (serving.map(material), peer.map(material));
        py.detach(|| engine.set_tls(serving, peer));
        Ok(())
    }

    #[pyo3(signature = (*, serving_services, peer_services, methods, allow_others, forbidden_services))]
    fn set_rules(
        &self,
        py: Python<'_>,
        serving_services: Vec<String>,
        peer_services: Vec<String>,
        methods: Vec<MethodTuple>,
        allow_others: bool,
        forbidden_services: Vec<String>,
    ) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| {
            engine.set_rules(Rules {
                serving_services: serving_services.into_iter().collect(),
                peer_services: peer_services.into_iter().collect(),
                methods: methods.into_iter().map(method_rule).collect(),
                allow_others,
                forbidden_services: forbidden_services.into_iter().collect(),
            });
        });
        Ok(())
    }

    fn resolve(&self, py: Python<'_>, resolutions: Vec<(u64, Bound<'_, PyTuple>)>) -> PyResult<Vec<bool>> {
        let engine = self.engine()?;
        let resolutions =
            resolutions.iter().map(|(token, tuple)| Ok((*token, resolution(tuple)?))).collect::<PyResult<Vec<_>>>()?;
        Ok(py.detach(|| engine.resolve(resolutions)))
    }

    fn reply(&self, py: Python<'_>, token: u64, message: &[u8], last: bool) -> PyResult<bool> {
        let engine = self.engine()?;
        Ok(py.detach(|| engine.reply(token, message, last)))
    }

    fn finish(&self, py: Python<'_>, token: u64, status: u64, message: String, trailers: Trailers) -> PyResult<bool> {
        let engine = self.engine()?;
        let status = self::status(status, message, trailers)?;
        Ok(py.detach(|| engine.finish(token, status)))
    }

    fn end_copy(&self, py: Python<'_>, model: &str, load_id: u64) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| engine.end_copy(model, load_id));
        Ok(())
    }

    fn is_idle(&self, py: Python<'_>, model: &str, load_id: u64) -> PyResult<bool> {
        let engine = self.engine()?;
        Ok(py.detach(|| engine.is_idle(model, load_id)))
    }

    fn runtime_hangs(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| engine.runtime_hangs());
        Ok(())
    }

    fn usage<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let engine = self.engine()?;
        let records = py.detach(|| engine.usage());
        Ok(PyBytes::new(py, &records))
    }

    fn held(&self, py: Python<'_>) -> PyResult<(usize, usize)> {
        let engine = self.engine()?;
        Ok(py.detach(|| engine.held()))
    }

    fn open_calls(&self, py: Python<'_>) -> PyResult<usize> {
        let engine = self.engine()?;
        Ok(py.detach(|| engine.open_calls()))
    }

    fn connections(&self, py: Python<'_>) -> PyResult<usize> {
        let engine = self.engine()?;
        Ok(py.detach(|| engine.connections()))
    }

    #[pyo3(signature = (*, taps, tap_headers, tap_secrets, traced, log_failed, log_all, log_invocations, log_headers))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of Python")]
    fn observe(
        &self,
        py: Python<'_>,
        taps: Vec<TapTuple>,
        tap_headers: Option<HashSet<String>>,
        tap_secrets: HashSet<String>,
        traced: Option<f64>,
        log_failed: bool,
        log_all: bool,
        log_invocations: bool,
        log_headers: Vec<String>,
    ) -> PyResult<()> {
        let engine = self.engine()?;
        if taps.len() > 64 {
            return Err(PyValueError::new_err(format!("{} taps; at most 64 are possible", taps.len())));
        }
        let rule = |(model, vmodel, method, fraction)| TapRule { model, vmodel, method, fraction };
        let taps = taps.into_iter().map(rule).collect();
        py.detach(|| {
            engine.observe(Observing {
                taps,
                tap_headers,
                tap_secrets,
                traced,
                log_failed,
                log_all,
                log_invocations,
                log_headers,
            });
        });
        Ok(())
    }

    #[pyo3(signature = (*, open_metrics = false, names = Vec::new()))]
    fn metrics<'py>(&self, py: Python<'py>, open_metrics: bool, names: Vec<String>) -> PyResult<Bound<'py, PyBytes>> {
        let engine = self.engine()?;
        let text = py.detach(|| engine.metrics(open_metrics, &names));
        Ok(PyBytes::new(py, text.as_bytes()))
    }

    fn take_metrics(&self, py: Python<'_>) -> PyResult<Vec<SeriesTuple>> {
        let engine = self.engine()?;
        let series = py.detach(|| engine.take_metrics());
        Ok(series.into_iter().map(|Series { name, labels, buckets }| (name, labels, buckets)).collect())
    }

    fn forget_series(&self, py: Python<'_>, model: &str) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| engine.forget_series(model));
        Ok(())
    }

    fn thread_ages_ms(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        let engine = self.engine()?;
        Ok(py.detach(|| engine.thread_ages_ms()))
    }

    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| engine.drain());
        Ok(())
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| engine.close());
        Ok(())
    }
}

fn new_route((local, remote): RouteTuple) -> NewRoute {
    let local = local.map(|(ready, load_id, max_concurrency, max_waiting)| NewLocal {
        ready,
        load_id,
        bounds: Bounds { max_concurrency, max_waiting },
    });
    NewRoute { local, remote }
}

fn method_rule(
    (method, extraction_path, extracts_vmodel, injection_path, idempotent, ours): MethodTuple,
) -> (String, MethodRule) {
    (method, MethodRule { extraction_path, extracts_vmodel, injection_path, idempotent, ours })
}
