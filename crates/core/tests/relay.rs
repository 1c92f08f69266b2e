//! The engine between a scripted HTTP/2 client and a scripted runtime, over loopback sockets.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use h2::{Reason, client, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use modelmesh_core::{Bounds, Engine, Event, NewLocal, NewRoute, Outcome, Resolution, Rules, Settings};
use tokio::net::{TcpListener, TcpStream};

const MESSAGE: &[u8] = b"\0\0\0\0\x02hi";

/// What the runtime does with its next call.
#[derive(Clone, Copy)]
enum Does {
    Echo,
    Refuse,
    Vanish,
}

/// A runtime that does one thing a call, in order, and then echoes.
async fn runtime(script: &'static [Does]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let script = Arc::new(Mutex::new(script.iter().copied()));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, Arc::clone(&script)));
        }
    });
    address
}

async fn serve(socket: TcpStream, script: Arc<Mutex<impl Iterator<Item = Does>>>) {
    let mut connection = server::handshake(socket).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let does = script.lock().unwrap().next();
        match does.unwrap_or(Does::Echo) {
            Does::Refuse => respond.send_reset(Reason::REFUSED_STREAM),
            Does::Vanish => break,
            Does::Echo => drop(tokio::spawn(echo(request, respond))),
        }
    }
}

async fn echo(request: Request<h2::RecvStream>, mut respond: server::SendResponse<Bytes>) {
    let mut body = request.into_body();
    let mut headers = Response::new(());
    headers.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut answer = respond.send_response(headers, false).unwrap();
    while let Some(Ok(chunk)) = body.data().await {
        body.flow_control().release_capacity(chunk.len()).unwrap();
        answer.send_data(chunk, false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    answer.send_trailers(trailers).unwrap();
}

fn engine(runtime: String) -> Engine {
    with(Settings { runtime, ..Settings::default() })
}

fn with(settings: Settings) -> Engine {
    let engine = Engine::new(Settings { serving: Some("127.0.0.1:0".into()), threads: 1, ..settings }).unwrap();
    engine.start().unwrap();
    engine
}

fn ready(engine: &Engine) {
    let local = NewLocal { ready: true, load_id: 1, bounds: Bounds::default() };
    engine.set_routes(vec![("m".into(), Some(NewRoute { local: Some(local), remote: Vec::new() }))]);
}

/// Calls once; returns the body and the trailers (or the headers of a trailers-only answer).
async fn call(engine: &Engine) -> (Vec<u8>, HeaderMap) {
    let socket = TcpStream::connect(("127.0.0.1", engine.serving_port().unwrap())).await.unwrap();
    let (mut sender, connection) = client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://x/p.S/M")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("mm-model-id", "m")
        .body(())
        .unwrap();
    let (response, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(Bytes::from_static(MESSAGE), true).unwrap();
    let (parts, mut body) = response.await.unwrap().into_parts();
    let mut received = Vec::new();
    while let Some(chunk) = body.data().await {
        received.extend_from_slice(&chunk.unwrap());
    }
    let trailers = body.trailers().await.unwrap();
    (received, trailers.unwrap_or(parts.headers))
}

/// The next event, looked for as Python would; bounded.
async fn next(engine: &Engine) -> Event {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(event) = engine.events(1).pop() {
            return event;
        }
        assert!(Instant::now() < until, "no event came");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_hit_passes_through() {
    let engine = engine(runtime(&[]).await);
    ready(&engine);
    let (body, trailers) = call(&engine).await;
    assert_eq!(body, MESSAGE);
    assert_eq!(trailers["grpc-status"], "0");
    assert!(engine.events(10).is_empty());
}

#[tokio::test]
async fn a_miss_waits_for_its_resolution() {
    let engine = engine(runtime(&[]).await);
    let decide = async {
        let Event::Missed { token, subject, .. } = next(&engine).await else { panic!("no miss") };
        assert_eq!(subject.model, "m");
        ready(&engine);
        assert_eq!(engine.resolve(vec![(token, Resolution::Serve), (0, Resolution::Serve)]), [true, false]);
    };
    let ((body, _), ()) = tokio::join!(call(&engine), decide);
    assert_eq!(body, MESSAGE);
    assert_eq!(engine.held(), (0, 0));
}

#[tokio::test]
async fn a_refused_stream_is_repeated_without_an_event() {
    let engine = engine(runtime(&[Does::Refuse]).await);
    ready(&engine);
    let answered = tokio::time::timeout(Duration::from_secs(10), call(&engine));
    let (body, _) = answered.await.unwrap();
    assert_eq!(body, MESSAGE);
    assert!(engine.events(10).is_empty());
}

#[tokio::test]
async fn a_lost_connection_is_for_python_to_decide() {
    let engine = engine(runtime(&[Does::Vanish]).await);
    ready(&engine);
    let decide = async {
        let Event::AttemptFailed { token, outcome, replayable, .. } = next(&engine).await else {
            panic!("no failed attempt")
        };
        assert_eq!((outcome, replayable), (Outcome::Lost, true));
        engine.resolve(vec![(token, Resolution::Serve)]);
    };
    let ((body, trailers), ()) = tokio::join!(call(&engine), decide);
    assert_eq!((body.as_slice(), &trailers["grpc-status"]), (MESSAGE, &HeaderValue::from_static("0")));
}

/// A megabyte of nothing, as a thousand bytes.
fn bomb() -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&vec![0; 1 << 20]).unwrap();
    let payload = encoder.finish().unwrap();
    let mut frame = BytesMut::new();
    frame.put_u8(1);
    frame.put_u32(u32::try_from(payload.len()).unwrap());
    frame.put_slice(&payload);
    frame.freeze()
}

#[tokio::test]
async fn what_messages_to_python_expand_to_is_paid_for() {
    let engine = with(Settings { held_bytes_max: 8 << 20, ..Settings::default() });
    let serving_services = std::iter::once("p.Python".to_owned()).collect();
    engine.set_rules(Rules { serving_services, ..Rules::default() });
    let socket = TcpStream::connect(("127.0.0.1", engine.serving_port().unwrap())).await.unwrap();
    let (mut sender, connection) = client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let mut open = Vec::new();
    for _ in 0..8 {
        let request = Request::post("http://x/p.Python/Call")
            .header("content-type", "application/grpc")
            .header("grpc-encoding", "gzip")
            .body(())
            .unwrap();
        let (response, mut stream) = sender.send_request(request, false).unwrap();
        // The second one waits: the first has not been taken.
        stream.send_data([bomb(), bomb()].concat().into(), false).unwrap();
        open.push((response, stream));
    }
    // Python takes nothing, and the eighth finds the bytes of the others in its way.
    let (response, _stream) = open.pop().unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(10), response).await.unwrap().unwrap();
    assert_eq!(refused.headers()["grpc-status"], "8");
    assert_eq!(refused.headers()["grpc-message"], "too many bytes of management calls are waiting");
    // What Python takes makes room.
    while !engine.events(100).is_empty() {}
    let request = Request::post("http://x/p.Python/Call")
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "gzip")
        .body(())
        .unwrap();
    let (_response, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(bomb(), true).unwrap();
    loop {
        if let Event::CallMessage { message: Some(message), .. } = next(&engine).await
            && message.len() == 1 << 20
        {
            break;
        }
    }
}
