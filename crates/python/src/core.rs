//! The class `Core`: one engine, its REST listener, and the guard against use in a forked child.

use std::os::fd::RawFd;
use std::process;
use std::time::Duration;

use modelmesh_core::{Consumed, Counted, Engine, Identity, Series, Settings, ShadowCounts, Tally, Verdict};
use modelmesh_rest::Front;
use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::events::to_object;
use crate::give_back_memory;
use crate::given::{self, Naming, Observing, PeerAddress, Route, Rules, Trailers};
use crate::tls::Tls;

/// (tenant, model, calls, those that failed, µs, bytes, loads).
type ConsumedTuple = (String, String, u64, u64, u64, u64, u64);
/// (model, calls, those that failed, how many of the others took how long).
type TallyTuple = (String, u64, u64, Vec<u64>);
/// (name, labels, (observations, sum) of each bucket that has any).
type SeriesTuple = (&'static str, Vec<(&'static str, String)>, Vec<(u64, f64)>);

/// The data plane of one instance.
#[pyclass(frozen, module = "modelmesh._core._native")]
pub struct Core {
    engine: Engine,
    /// `host:port` of the REST listener, if there is to be one.
    rest: Option<String>,
    rest_origins: Vec<String>,
    console: bool,
    front: Mutex<Option<Front>>,
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
        *, instance, runtime, serving, peer, management = None, rest = None, rest_origins = Vec::new(), console = false, serving_tls = None, peer_tls = None, threads = 0,
        max_message_bytes = 16_777_216, max_header_bytes = 65_536, connections_max = None,
        max_connection_age_ms = None, max_connection_age_grace_ms = None, memory_max = None, held_requests_max = 4096, held_bytes_max = 268_435_456,
        replay_bytes_max = 268_435_456, events_max = 65_536, multi_parallelism = 4, tapped_bytes_max = 67_108_864, shadow_bytes_max = 67_108_864,
        metrics = true, metrics_per_model = false, metrics_full_names = false, metrics_models_max = 1000
    ))]
    #[expect(clippy::too_many_arguments, clippy::fn_params_excessive_bools, reason = "keyword arguments of Python")]
    fn new(
        instance: String,
        runtime: String,
        serving: Option<String>,
        peer: Option<String>,
        management: Option<String>,
        rest: Option<String>,
        rest_origins: Vec<String>,
        console: bool,
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
        shadow_bytes_max: usize,
        metrics: bool,
        metrics_per_model: bool,
        metrics_full_names: bool,
        metrics_models_max: usize,
    ) -> PyResult<Self> {
        let engine = Engine::new(Settings {
            instance: instance.into(),
            runtime,
            serving,
            management,
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
            shadow_bytes_max,
            counted: Counted {
                enabled: metrics,
                per_model: metrics_per_model,
                full_names: metrics_full_names,
                models_max: metrics_models_max,
            },
            give_back_memory,
        })?;
        Ok(Self { engine, rest, rest_origins, console, front: Mutex::new(None), process: process::id() })
    }

    fn start(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.engine()?;
        Ok(py.detach(|| {
            engine.start()?;
            if let (Some(address), Some(door)) = (&self.rest, engine.door()) {
                *self.front.lock() = Some(Front::start(&door, address, self.rest_origins.clone(), self.console)?);
            }
            Ok::<_, std::io::Error>(())
        })?)
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
    fn management_port(&self) -> PyResult<Option<u16>> {
        Ok(self.engine()?.management_port())
    }

    #[getter]
    fn peer_port(&self) -> PyResult<Option<u16>> {
        Ok(self.engine()?.peer_port())
    }

    #[getter]
    fn rest_port(&self) -> PyResult<Option<u16>> {
        self.engine()?;
        Ok(self.front.lock().as_ref().map(Front::port))
    }

    #[pyo3(signature = (most = 256))]
    fn events(&self, py: Python<'_>, most: usize) -> PyResult<Vec<Py<PyAny>>> {
        let engine = self.engine()?;
        let events = py.detach(|| engine.events(most));
        events.into_iter().map(|event| to_object(py, event)).collect()
    }

    fn set_routes(&self, py: Python<'_>, routes: Vec<(String, Option<Route>)>) -> PyResult<Vec<u32>> {
        let engine = self.engine()?;
        Ok(py.detach(|| {
            engine.set_routes(routes.into_iter().map(|(model, route)| (model, route.map(Into::into))).collect())
        }))
    }

    fn set_vmodels(&self, py: Python<'_>, vmodels: Vec<(String, Option<Naming>)>) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| {
            engine.set_vmodels(vmodels.into_iter().map(|(vmodel, naming)| (vmodel, naming.map(Into::into))).collect());
        });
        Ok(())
    }

    fn set_peers(&self, py: Python<'_>, peers: Vec<(String, Option<PeerAddress>)>) -> PyResult<()> {
        let engine = self.engine()?;
        let pair = |PeerAddress { address, tls_name }| (address, tls_name);
        py.detach(|| {
            engine.set_peers(peers.into_iter().map(|(instance, address)| (instance, address.map(pair))).collect());
        });
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

    fn set_rules(&self, py: Python<'_>, rules: Rules) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| engine.set_rules(rules.into()));
        Ok(())
    }

    fn set_access(&self, py: Python<'_>, tenants: Option<Vec<given::Tenant>>) -> PyResult<()> {
        let engine = self.engine()?;
        let tenants =
            tenants.map(|tenants| tenants.into_iter().map(given::limits).collect::<PyResult<_>>()).transpose()?;
        py.detach(|| engine.set_access(tenants));
        Ok(())
    }

    fn accept(
        &self,
        py: Python<'_>,
        token: u64,
        identity: (String, Vec<String>, String),
        rights: Vec<given::Right>,
        highest: &str,
        valid_ms: Option<u64>,
    ) -> PyResult<bool> {
        let engine = self.engine()?;
        let (name, groups, tenant) = identity;
        let verdict = Verdict::Known {
            identity: Identity { name, groups, tenant },
            rights: rights.into_iter().map(given::right).collect::<PyResult<_>>()?,
            highest: given::priority(highest)?,
            valid: valid_ms.map(Duration::from_millis),
        };
        Ok(py.detach(|| engine.answer(token, verdict)))
    }

    fn reject(&self, py: Python<'_>, token: u64, status: u64, message: String, kept: bool) -> PyResult<bool> {
        let engine = self.engine()?;
        let status = given::status(status, message, Vec::new())?;
        Ok(py.detach(|| engine.answer(token, Verdict::Refused { status, kept })))
    }

    fn resolve(&self, py: Python<'_>, resolutions: Vec<(u64, Bound<'_, PyAny>)>) -> PyResult<Vec<bool>> {
        let engine = self.engine()?;
        let read = |(token, one): (u64, Bound<'_, PyAny>)| Ok((token, given::resolution(&one)?));
        let resolutions = resolutions.into_iter().map(read).collect::<PyResult<Vec<_>>>()?;
        Ok(py.detach(|| engine.resolve(resolutions)))
    }

    fn reply(&self, py: Python<'_>, token: u64, message: &[u8], last: bool) -> PyResult<bool> {
        let engine = self.engine()?;
        Ok(py.detach(|| engine.reply(token, message, last)))
    }

    fn finish(&self, py: Python<'_>, token: u64, status: u64, message: String, trailers: Trailers) -> PyResult<bool> {
        let engine = self.engine()?;
        let status = given::status(status, message, trailers)?;
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

    fn observe(&self, py: Python<'_>, observing: Observing) -> PyResult<()> {
        let engine = self.engine()?;
        let observing = observing.try_into()?;
        py.detach(|| engine.observe(observing));
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

    fn count_load(&self, py: Python<'_>, tenant: &str, model: &str) -> PyResult<()> {
        let engine = self.engine()?;
        py.detach(|| engine.count_load(tenant, model));
        Ok(())
    }

    fn consumption(&self, py: Python<'_>) -> PyResult<Vec<ConsumedTuple>> {
        let engine = self.engine()?;
        let consumption = py.detach(|| engine.consumption());
        let tuple = |(tenant, model, used): (String, String, Consumed)| {
            (tenant, model, used.calls, used.failed, used.time_us, used.bytes, used.loads)
        };
        Ok(consumption.into_iter().map(tuple).collect())
    }

    fn shadows(&self, py: Python<'_>) -> PyResult<Vec<(String, String, ShadowCounts)>> {
        let engine = self.engine()?;
        Ok(py.detach(|| engine.shadows()))
    }

    fn tallies_of(&self, py: Python<'_>, vmodel: &str) -> PyResult<Option<(u64, Vec<TallyTuple>)>> {
        let engine = self.engine()?;
        let tuple = |tally: Tally| (tally.model, tally.calls, tally.failed, tally.times);
        let found = py.detach(|| engine.tallies_of(vmodel));
        Ok(found.map(|(id, tallies)| (id, tallies.into_iter().map(tuple).collect())))
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
        py.detach(|| {
            engine.close();
            // Taken out first: others may ask for its port meanwhile.
            let front = self.front.lock().take();
            if let Some(front) = front {
                front.join();
            }
        });
        Ok(())
    }
}
