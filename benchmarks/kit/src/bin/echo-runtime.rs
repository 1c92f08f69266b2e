//! A model runtime that costs next to nothing: it loads any model and answers any call with the call's own bytes, and an
//! inference of the Open Inference Protocol with its own tensors.

use std::cell::RefCell;
use std::collections::HashSet;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use modelmesh_bench_kit::arguments::Arguments;
use modelmesh_bench_kit::socket::{Listener, Socket};
use modelmesh_bench_kit::{CONNECTION_WINDOW, STREAM_WINDOW, grpc};
use tokio::task::LocalSet;

const USAGE: &str = "\
Speaks mmesh.ModelRuntime, gives the tensors of ModelInfer back, and echoes every other method. Prints where it listens.
  --listen host:port|unix:///path   default 127.0.0.1:0
  --capacity-bytes N                default 1 GiB
  --default-size-bytes N            of every model, default 1 MiB
  --loading-concurrency N           as reported, default 10
  --load-ms N --unload-ms N         how long they take, default 0
  --fail PREFIX                     loads of models whose ids begin so fail
  --strict                          NOT_FOUND for models that are not loaded";

const PREFIX: &str = "/mmesh.ModelRuntime/";
const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Calls of a connection that are answered before their answers are written. More, and those that came first wait for
/// those that came last, and whoever is between with them; fewer cost more writes.
const AT_A_TIME: usize = 16;

struct Runtime {
    capacity_bytes: u64,
    default_size_bytes: u64,
    loading_concurrency: u64,
    load: Duration,
    unload: Duration,
    strict: bool,
    fail: Option<String>,
    loaded: RefCell<HashSet<Vec<u8>>>,
    /// Cloned into each answer: building them anew costs half a microsecond.
    headers: HeaderMap,
    trailers: HeaderMap,
}

fn main() {
    let arguments = Arguments::read(USAGE);
    let mut headers = HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let runtime = Rc::new(Runtime {
        capacity_bytes: arguments.get_or("--capacity-bytes", 1 << 30),
        default_size_bytes: arguments.get_or("--default-size-bytes", 1 << 20),
        loading_concurrency: arguments.get_or("--loading-concurrency", 10),
        load: Duration::from_millis(arguments.get_or("--load-ms", 0)),
        unload: Duration::from_millis(arguments.get_or("--unload-ms", 0)),
        strict: arguments.has("--strict"),
        fail: arguments.get("--fail"),
        loaded: RefCell::default(),
        headers,
        trailers,
    });
    let address: String = arguments.get_or("--listen", "127.0.0.1:0".to_owned());
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
    LocalSet::new().block_on(&tokio, async move {
        let listener = match Listener::bind(&address).await {
            Ok(listener) => listener,
            Err(error) => arguments.fail(&format!("cannot listen on {address}: {error}")),
        };
        println!("listening on {}", listener.address().unwrap_or(address));
        loop {
            match listener.accept().await {
                Ok(socket) => {
                    tokio::task::spawn_local(serve(Rc::clone(&runtime), socket));
                }
                Err(error) => {
                    // Out of descriptors, most likely: wait for some to be closed.
                    eprintln!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
}

async fn serve(runtime: Rc<Runtime>, socket: Socket) {
    let handshake = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(100_000)
        .max_pending_accept_reset_streams(1_024)
        .max_send_buffer_size(16 << 20)
        .handshake::<_, Bytes>(socket);
    let Ok(mut connection) = handshake.await else { return };
    let mut answers = Vec::with_capacity(AT_A_TIME);
    poll_fn(|cx| {
        loop {
            while answers.len() < AT_A_TIME
                && let Poll::Ready(accepted) = connection.poll_accept(cx)
            {
                let Some(Ok((request, respond))) = accepted else { return Poll::Ready(()) };
                answers.push(Box::pin(answer(Rc::clone(&runtime), request, respond)));
            }
            if answers.is_empty() {
                return Poll::Pending;
            }
            // The connection writes when it is asked for the next call: once for all of these. A call whose message is
            // here needs no task. One whose client has gone ends by itself, with an error that nobody needs.
            for mut answer in answers.drain(..) {
                if answer.as_mut().poll(cx).is_pending() {
                    tokio::task::spawn_local(answer);
                }
            }
        }
    })
    .await;
}

async fn answer(
    runtime: Rc<Runtime>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let path = request.uri().path();
    if let Some(method) = path.strip_prefix(PREFIX) {
        let method = method.to_owned();
        let body = collect(request.into_body()).await?;
        let Some(model) = grpc::unframed(&body).and_then(grpc::first_field) else {
            return refuse(&runtime, &mut respond, 3, "a broken message");
        };
        if method == "loadModel" && runtime.fail.as_ref().is_some_and(|prefix| model.starts_with(prefix.as_bytes())) {
            return refuse(&runtime, &mut respond, 13, "this model cannot be loaded");
        }
        let Some(message) = runtime.manage(&method, model).await else {
            return refuse(&runtime, &mut respond, 12, "no such method");
        };
        let mut stream = start(&runtime, &mut respond)?;
        stream.send_data(grpc::framed(&message), false)?;
        return stream.send_trailers(runtime.trailers.clone());
    }
    if path == INFER {
        let body = collect(request.into_body()).await?;
        let Some(message) = grpc::unframed(&body).and_then(grpc::mirrored) else {
            return refuse(&runtime, &mut respond, 3, "a broken message");
        };
        let mut stream = start(&runtime, &mut respond)?;
        send(&mut stream, grpc::framed(&message)).await?;
        return stream.send_trailers(runtime.trailers.clone());
    }
    if runtime.strict && !runtime.knows(request.headers()) {
        return refuse(&runtime, &mut respond, 5, "the model is not loaded");
    }
    let mut stream = start(&runtime, &mut respond)?;
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        let size = chunk.len();
        send(&mut stream, chunk).await?;
        if !body.is_end_stream() {
            // What came last is released with the stream.
            body.flow_control().release_capacity(size)?;
        }
    }
    stream.send_trailers(runtime.trailers.clone())
}

impl Runtime {
    /// The answer of a method of `mmesh.ModelRuntime`, or None if it has none of that name.
    async fn manage(&self, method: &str, model: &[u8]) -> Option<Vec<u8>> {
        let mut message = Vec::new();
        match method {
            "runtimeStatus" => {
                // Ready says: nothing is loaded.
                self.loaded.borrow_mut().clear();
                grpc::put_integer(&mut message, 1, 1);
                grpc::put_integer(&mut message, 2, self.capacity_bytes);
                grpc::put_integer(&mut message, 3, self.loading_concurrency);
                grpc::put_integer(&mut message, 4, 60_000);
                grpc::put_integer(&mut message, 5, self.default_size_bytes);
            }
            "loadModel" => {
                pause(self.load).await;
                self.loaded.borrow_mut().insert(model.to_vec());
                grpc::put_integer(&mut message, 1, self.default_size_bytes);
            }
            "unloadModel" => {
                pause(self.unload).await;
                self.loaded.borrow_mut().remove(model);
            }
            "predictModelSize" | "modelSize" => grpc::put_integer(&mut message, 1, self.default_size_bytes),
            _ => return None,
        }
        Some(message)
    }

    /// Whether the model that a call names is loaded. The mesh sends ids that are no plain text in base64 only;
    /// such are not known here.
    fn knows(&self, headers: &HeaderMap) -> bool {
        headers.get("mm-model-id").is_some_and(|id| self.loaded.borrow().contains(id.as_bytes()))
    }
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

fn start(runtime: &Runtime, respond: &mut SendResponse<Bytes>) -> Result<SendStream<Bytes>, h2::Error> {
    let mut response = Response::new(());
    *response.headers_mut() = runtime.headers.clone();
    respond.send_response(response, false)
}

fn refuse(
    runtime: &Runtime,
    respond: &mut SendResponse<Bytes>,
    status: u16,
    message: &'static str,
) -> Result<(), h2::Error> {
    let mut response = Response::new(());
    *response.headers_mut() = runtime.headers.clone();
    response.headers_mut().insert("grpc-status", HeaderValue::from(status));
    response.headers_mut().insert("grpc-message", HeaderValue::from_static(message));
    respond.send_response(response, true).map(drop)
}

async fn send(stream: &mut SendStream<Bytes>, mut chunk: Bytes) -> Result<(), h2::Error> {
    while !chunk.is_empty() {
        stream.reserve_capacity(chunk.len());
        while stream.capacity() == 0 {
            match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(granted) => granted?,
                None => return Ok(()), // the client has gone
            };
        }
        let size = stream.capacity().min(chunk.len());
        stream.send_data(chunk.split_to(size), false)?;
    }
    Ok(())
}

async fn collect(mut body: RecvStream) -> Result<Bytes, h2::Error> {
    let mut collected = BytesMut::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        collected.extend_from_slice(&chunk);
    }
    Ok(collected.freeze())
}
