//! A load generator for gRPC: closed loop, or open loop without coordinated omission. The result is JSON on stdout.

#![allow(clippy::cast_precision_loss)] // figures for people, not for machines

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};
use modelmesh_bench_kit::arguments::Arguments;
use modelmesh_bench_kit::cpu::{self, Process, Sample};
use modelmesh_bench_kit::{CONNECTION_WINDOW, STREAM_WINDOW, grpc, socket, tls};
use modelmesh_http2::{Client, Error, Headers, RecvStream, SendStream, Sender, Settings};
use serde_json::json;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;

mod content;
mod held;
mod timer;

use content::{Body, Models};
use held::{Held, held_loop};
use timer::Timer;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
Sends gRPC calls and prints what came back, as JSON. Each answer must hold the bytes that were sent.
  --target host:port|unix:///path  repeat for several; connections take turns
  --method /package.Service/Method default /bench.Echo/Call
  --connections N                  default 4; over all targets
  --streams N                      calls at a time on each connection, default 16 (closed loop)
  --rate N                         open loop instead: calls a second in all, at random (Poisson) times; latency
                                   counts from the time at which a call was to be sent
  --held N                         so many calls in all stay open and carry one message after another, connections x
                                   streams at a time; what is counted are messages
  --idle                           with --held: one message each, at the end
  --tls FILE                       TLS, trusting the authority in this PEM file
  --seconds S                      measured, default 5
  --count N                        stop after so many measured calls, if that is earlier (closed loop)
  --warmup S                       before, default 1
  --payload-bytes N                default 76, without the five of gRPC's prefix
  --message HEX                    this message instead; any answer with status OK will do. Nine ######### in it
                                   stand for a number: counting from --from (default 0), or drawn below --below
  --model ID                       send as mm-model-id
  --models N --zipf A              or one of m-0 … m-(N-1), the k-th with weight 1/k^A; A 0: all alike
  --trace FILE                     or the ids in FILE, one a line, in this order, again and again
  --header name=value              repeat; sent with every call
  --seed N                         of everything that is drawn, default 1
  --pid name=PID                   repeat; CPU time of that process over the measured time, and its memory before
                                   the first call and at the end";

struct Load {
    targets: Vec<String>,
    headers: HeaderMap,
    path: PathAndQuery,
    body: Body,
    models: Models,
    tls: Option<TlsConnector>,
    state: RefCell<State>,
}

struct State {
    random: fastrand::Rng,
    /// Calls that began (closed loop) or were to begin (open loop) between these count for latency.
    measured_from: Option<Instant>,
    latencies: Histogram<u64>,
    statuses: BTreeMap<Status, u64>,
    mismatched: u64,
    /// Answers that arrived in the measured time, whenever their calls began: what the CPU was spent on.
    completed: u64,
    pending: u64,
    /// Calls that stay open, as they are all there.
    opened: usize,
    stopping: bool,
    count: Option<u64>,
}

/// One connection, made again when it is lost.
struct Connection {
    load: Rc<Load>,
    target: String,
    current: RefCell<Option<Rc<Sender>>>,
    /// Held by the call that opens a connection.
    opening: tokio::sync::Mutex<()>,
}

impl Connection {
    fn new(load: &Rc<Load>, index: usize) -> Self {
        let target = load.targets[index % load.targets.len()].clone();
        Self { load: Rc::clone(load), target, current: RefCell::default(), opening: tokio::sync::Mutex::default() }
    }

    /// The handle on which a request can be sent now, if there is one.
    fn open_now(&self) -> Option<Rc<Sender>> {
        self.current.borrow().as_ref().filter(|handle| handle.check().is_ok()).map(Rc::clone)
    }

    /// A handle on which a request can be sent; opens a connection if there is none.
    async fn ready(&self) -> Result<Rc<Sender>, Status> {
        if let Some(handle) = self.open_now() {
            return Ok(handle);
        }
        let _opening = self.opening.lock().await;
        if let Some(handle) = self.open_now() {
            return Ok(handle);
        }
        let socket = socket::connect(&self.target, self.load.tls.as_ref()).await;
        let socket = socket.map_err(|error| Status::from(format!("CONNECT_{:?}", error.kind())))?;
        let settings =
            Settings { stream_window: STREAM_WINDOW, connection_window: CONNECTION_WINDOW, ..Settings::default() };
        let (handle, connection) = Client::new(socket, settings);
        let pinger = connection.pinger();
        tokio::task::spawn_local(connection);
        // Before its first answer nobody knows how many streams the other side takes.
        pinger.ping();
        poll_fn(|cx| pinger.poll_pong(cx)).await.map_err(|_| Status::Borrowed("CONNECT_Lost"))?;
        let handle = Rc::new(handle);
        self.current.replace(Some(Rc::clone(&handle)));
        Ok(handle)
    }

    /// Opens a call.
    async fn begin(&self, model: Option<HeaderValue>) -> Result<(RecvStream, SendStream), Status> {
        let sender = self.ready().await?;
        let authority = if self.target.starts_with("unix:") { "localhost" } else { &self.target };
        let headers = CallHeaders { of_all: &self.load.headers, model: model.as_ref() };
        sender.send(authority, &self.load.path, &headers, false).map_err(|error| reset_name(&error))
    }

    /// A call that stays open.
    async fn open(&self) -> Result<Held, Status> {
        let model = self.load.models.draw(&mut self.load.state.borrow_mut().random);
        let (answer, sending) = self.begin(model).await?;
        Ok(Held::new(sending, answer))
    }

    /// One call: its status, and whether the bytes came back.
    async fn call(&self, model: Option<HeaderValue>) -> Result<(Status, bool), Status> {
        let (mut body, mut stream) = self.begin(model).await?;
        let sent = self.load.body.next(&mut self.load.state.borrow_mut().random);
        // An early answer resets the rest of a long request; that is no error of ours.
        let _ = stream.send_data(sent.clone(), true);
        let head = poll_fn(|cx| body.poll_head(cx)).await.map_err(|error| reset_name(&error))?;
        if head.status != http::StatusCode::OK {
            return Ok((format!("HTTP_{}", head.status.as_u16()).into(), true));
        }
        if let Some(status) = status_name(&head.headers) {
            return Ok((status, true));
        }
        let echoes = matches!(self.load.body, Body::Echo(_));
        let mut received = 0;
        let mut same = true;
        while let Some(chunk) = poll_fn(|cx| body.poll_data(cx)).await {
            let chunk = chunk.map_err(|error| reset_name(&error))?;
            same &= !echoes || sent.get(received..received + chunk.len()) == Some(&chunk[..]);
            received += chunk.len();
            body.release(chunk.len());
        }
        let status = body.trailers().as_ref().and_then(status_name).unwrap_or(Status::Borrowed("NO_STATUS"));
        Ok((status, same && (!echoes || received == sent.len())))
    }

    /// One call, measured from `since`.
    async fn measured_call(&self, since: Instant) {
        let model = self.load.models.draw(&mut self.load.state.borrow_mut().random);
        let outcome = self.call(model).await;
        let failed = outcome.is_err();
        self.load.state.borrow_mut().record(since, outcome);
        if failed {
            // Whoever is restarting is not helped by being asked a million times.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// How a call ended: a status of gRPC, or what stands for one.
type Status = Cow<'static, str>;

fn status_name(headers: &HeaderMap) -> Option<Status> {
    let text = headers.get("grpc-status")?.to_str().unwrap_or("?");
    let name = text.parse::<usize>().ok().and_then(|code| grpc::STATUS_NAMES.get(code));
    Some(name.map_or_else(|| format!("STATUS_{text}").into(), |name| Status::Borrowed(name)))
}

fn reset_name(error: &Error) -> Status {
    match error {
        Error::Reset { reason, .. } => format!("RESET_{reason}").into(),
        _ => Status::Borrowed("CONNECTION_LOST"),
    }
}

impl State {
    fn record(&mut self, since: Instant, outcome: Result<(Status, bool), Status>) {
        let Some(from) = self.measured_from else { return };
        if !self.stopping {
            self.completed += 1;
            if self.count.is_some_and(|count| self.completed >= count) {
                self.stopping = true;
            }
        }
        if since < from {
            return;
        }
        let (status, same) = match outcome {
            Ok(answer) => answer,
            Err(lost) => (lost, true),
        };
        if status == "OK" {
            let microseconds = since.elapsed().as_nanos() / 100;
            self.latencies.saturating_record(u64::try_from(microseconds).unwrap_or(u64::MAX));
            self.mismatched += u64::from(!same);
        }
        *self.statuses.entry(status).or_default() += 1;
    }
}

fn main() {
    let arguments = Arguments::read(USAGE);
    let targets = arguments.all("--target").to_vec();
    if targets.is_empty() {
        arguments.fail("--target is needed");
    }
    let processes: Vec<Process> = arguments
        .all("--pid")
        .iter()
        .map(|text| Process::parse(text).unwrap_or_else(|error| arguments.fail(&error)))
        .collect();
    let mut random = fastrand::Rng::with_seed(arguments.get_or("--seed", 1));
    let body = Body::read(&arguments, &mut random);
    let load = Rc::new(Load {
        targets,
        headers: headers(&arguments),
        path: arguments.get_or("--method", PathAndQuery::from_static("/bench.Echo/Call")),
        body,
        models: Models::read(&arguments),
        tls: arguments.get::<String>("--tls").map(|file| {
            tls::connector(&file).unwrap_or_else(|error| arguments.fail(&format!("--tls {file}: {error}")))
        }),
        state: RefCell::new(State {
            random,
            measured_from: None,
            // Tenths of a microsecond, up to ten minutes, three digits.
            latencies: Histogram::new_with_bounds(1, 6_000_000_000, 3).expect("valid bounds"),
            statuses: BTreeMap::new(),
            mismatched: 0,
            completed: 0,
            pending: 0,
            opened: 0,
            stopping: false,
            count: arguments.get("--count"),
        }),
    });
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
    LocalSet::new().block_on(&tokio, run(Rc::clone(&load), &arguments, &processes));
}

fn headers(arguments: &Arguments) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    for text in arguments.all("--header") {
        let parsed = text
            .split_once('=')
            .and_then(|(name, value)| Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?)));
        match parsed {
            Some((name, value)) => headers.append(name, value),
            None => arguments.fail(&format!("--header {text}: not name=value")),
        };
    }
    headers
}

async fn run(load: Rc<Load>, arguments: &Arguments, processes: &[Process]) {
    let own = Process { name: "load".to_owned(), pid: std::process::id() };
    let sample = || -> Vec<Sample> { processes.iter().chain([&own]).map(Process::sample).collect() };
    let first = sample();
    let rate: Option<f64> = arguments.get("--rate");
    begin(&load, arguments, rate).await;
    tokio::time::sleep(Duration::from_secs_f64(arguments.get_or("--warmup", 1.0))).await;

    let before = sample();
    let from = Instant::now();
    load.state.borrow_mut().measured_from = Some(from);
    let until = from + Duration::from_secs_f64(arguments.get_or("--seconds", 5.0));
    while Instant::now() < until && !load.state.borrow().stopping {
        let left = until.saturating_duration_since(Instant::now());
        // In small steps only if something else than time can end it.
        let step = if arguments.has("--count") { Duration::from_millis(5) } else { Duration::from_secs(60) };
        tokio::time::sleep(left.min(step)).await;
    }
    load.state.borrow_mut().stopping = true;
    let seconds = from.elapsed().as_secs_f64();
    let after = sample();
    let completed = load.state.borrow().completed;
    // What was to be sent in the measured time counts, however late its answer is.
    let patience = Instant::now() + Duration::from_secs(10);
    while load.state.borrow().pending > 0 && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    let state = load.state.borrow();
    let cpu: serde_json::Map<_, _> = processes
        .iter()
        .chain([&own])
        .zip(before.iter().zip(&after))
        .map(|(process, (before, after))| (process.name.clone(), cpu::used(before, after, completed)))
        .collect();
    let memory: serde_json::Map<_, _> = processes
        .iter()
        .zip(first.iter().zip(&after))
        .map(|(process, (first, after))| (process.name.clone(), json!([first.resident_bytes, after.resident_bytes])))
        .collect();
    let us = |tenths: u64| tenths as f64 / 10.0;
    let at = |quantile: f64| us(state.latencies.value_at_quantile(quantile));
    let result = json!({
        "mode": if rate.is_some() { "open" } else { "closed" },
        "targets": load.targets,
        "payload_bytes": load.body.payload_bytes(),
        "seconds": seconds,
        "completed": completed,
        "per_second": completed as f64 / seconds,
        "statuses": state.statuses,
        "mismatched": state.mismatched,
        "unanswered": state.pending,
        "latency_us": {
            "count": state.latencies.len(),
            "mean": state.latencies.mean() / 10.0,
            "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999),
            "max": us(state.latencies.max()),
        },
        "cpu": cpu,
        "resident_bytes": memory,
    });
    println!("{result:#}");
}

/// Starts what sends.
async fn begin(load: &Rc<Load>, arguments: &Arguments, rate: Option<f64>) {
    let count = arguments.get_or("--connections", 4usize).max(1);
    let connections: Vec<Rc<Connection>> = (0..count).map(|i| Rc::new(Connection::new(load, i))).collect();
    if let Some(rate) = rate {
        tokio::task::spawn_local(open_loop(Rc::clone(load), connections, rate));
        return;
    }
    let streams = arguments.get_or("--streams", 16usize).max(1);
    let held = arguments.get_or("--held", 0usize).div_ceil(count * streams);
    for connection in connections {
        for _ in 0..streams {
            let (load, connection) = (Rc::clone(load), Rc::clone(&connection));
            if held > 0 {
                tokio::task::spawn_local(held_loop(load, connection, held, arguments.has("--idle")));
            } else {
                tokio::task::spawn_local(closed_loop(load, connection));
            }
        }
    }
    let patience = Instant::now() + Duration::from_secs(30);
    while load.state.borrow().opened < held * count * streams && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn closed_loop(load: Rc<Load>, connection: Rc<Connection>) {
    while !load.state.borrow().stopping {
        connection.measured_call(Instant::now()).await;
    }
}

/// The headers of a call: those of all, and its model.
struct CallHeaders<'a> {
    of_all: &'a HeaderMap,
    model: Option<&'a HeaderValue>,
}

impl Headers for CallHeaders<'_> {
    fn each(&self, mut take: impl FnMut(&[u8], &[u8], bool)) {
        self.of_all.each(&mut take);
        if let Some(model) = self.model {
            take(b"mm-model-id", model.as_bytes(), false);
        }
    }
}

/// Calls at random times, whether or not earlier ones have been answered.
async fn open_loop(load: Rc<Load>, connections: Vec<Rc<Connection>>, rate: f64) {
    let timer = match Timer::new() {
        Ok(timer) => timer,
        Err(error) => {
            eprintln!("no timer: {error}");
            std::process::exit(1);
        }
    };
    let mut intended = Instant::now();
    for connection in connections.iter().cycle() {
        let gap_s = -(1.0 - load.state.borrow_mut().random.f64()).ln() / rate;
        intended += Duration::from_secs_f64(gap_s);
        timer.sleep_until(intended).await;
        if load.state.borrow().stopping {
            return;
        }
        load.state.borrow_mut().pending += 1;
        let connection = Rc::clone(connection);
        tokio::task::spawn_local(async move {
            connection.measured_call(intended).await;
            connection.load.state.borrow_mut().pending -= 1;
        });
    }
}
