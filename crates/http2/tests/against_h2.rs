//! Both sides of a connection against an implementation that people use, over a pipe in memory.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use modelmesh_http2::{Client, Error, Reason, RecvStream, SendStream, Server, Settings};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::time::timeout;

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap()
}

fn trailers(status: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", value(status));
    trailers
}

/// Everything takes milliseconds; what hangs is a failure.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), what).await.expect("this hangs")
}

fn pipe() -> (DuplexStream, DuplexStream) {
    duplex(32 << 10)
}

async fn receive(body: &mut RecvStream) -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
        let piece = piece?;
        all.extend_from_slice(&piece);
        body.release(piece.len());
    }
    Ok(all)
}

async fn send(stream: &mut SendStream, mut bytes: Bytes, last: bool) -> Result<(), Error> {
    while !bytes.is_empty() {
        let room = poll_fn(|cx| stream.poll_room(cx)).await?;
        let part = bytes.split_to(room.min(bytes.len()));
        stream.send_data(part, last && bytes.is_empty())?;
    }
    Ok(())
}

/// Gives every request back, with its headers.
async fn echo(io: impl AsyncRead + AsyncWrite + Unpin, settings: Settings) -> Result<(), Error> {
    let mut server = Server::handshake(io, settings).await?;
    while let Some(accepted) = poll_fn(|cx| server.poll_accept(cx)).await {
        let (head, mut body, mut answer) = accepted?;
        tokio::spawn(async move {
            answer.send_head(StatusCode::OK, &head.headers, false)?;
            while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
                let piece = piece?;
                let length = piece.len();
                send(&mut answer, piece, false).await?;
                body.release(length);
            }
            answer.send_trailers(trailers("0"))
        });
    }
    Ok(())
}

/// The same, by the other implementation.
async fn other_echo(io: DuplexStream, builder: h2::server::Builder) {
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let (parts, mut body) = request.into_parts();
            let mut response = Response::new(());
            *response.headers_mut() = parts.headers;
            let mut answer = respond.send_response(response, false).unwrap();
            while let Some(Ok(piece)) = body.data().await {
                let length = piece.len();
                answer.send_data(piece, false).unwrap();
                let _ = body.flow_control().release_capacity(length);
            }
            answer.send_trailers(trailers("0")).unwrap();
        });
    }
}

fn payload(length: usize) -> Bytes {
    (0..length).map(|at| (at * 7 + length).to_le_bytes()[0]).collect()
}

const LENGTHS: [usize; 9] = [0, 1, 76, 1024, 1025, 16_384, 70_000, 1 << 20, 3 << 20];

/// The other implementation's client, one call.
async fn other_call(sender: &h2::client::SendRequest<Bytes>, sent: Bytes) -> (Vec<u8>, HeaderMap) {
    let mut sender = sender.clone().ready().await.unwrap();
    let request = Request::post("http://x/p.S/M").header("x-length", sent.len()).body(()).unwrap();
    let (response, mut stream) = sender.send_request(request, sent.is_empty()).unwrap();
    if !sent.is_empty() {
        stream.send_data(sent.clone(), true).unwrap();
    }
    let (parts, mut body) = response.await.unwrap().into_parts();
    assert_eq!(parts.headers["x-length"], sent.len().to_string());
    let mut received = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        received.extend_from_slice(&piece);
        let _ = body.flow_control().release_capacity(piece.len());
    }
    (received, body.trailers().await.unwrap().unwrap())
}

async fn call(sender: &modelmesh_http2::Sender, sent: Bytes) -> Result<(Vec<u8>, HeaderMap), Error> {
    let mut headers = HeaderMap::new();
    headers.insert("x-length", value(&sent.len().to_string()));
    let path = PathAndQuery::from_static("/p.S/M");
    let (mut body, mut stream) = sender.send("x", &path, &headers, sent.is_empty())?;
    let length = sent.len();
    let sending = async { if sent.is_empty() { Ok(()) } else { send(&mut stream, sent, true).await } };
    let receiving = async {
        let head = poll_fn(|cx| body.poll_head(cx)).await?;
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.headers["x-length"], length.to_string());
        receive(&mut body).await
    };
    let (sent, received) = tokio::join!(sending, receiving);
    sent?;
    Ok((received?, body.trailers().unwrap_or_default()))
}

#[tokio::test]
async fn a_client_of_theirs_at_our_server() {
    let (near, far) = pipe();
    tokio::spawn(echo(far, Settings::default()));
    let (sender, connection) = soon(h2::client::handshake(near)).await.unwrap();
    tokio::spawn(connection);
    for length in LENGTHS {
        let sent = payload(length);
        let (received, trailers) = soon(other_call(&sender, sent.clone())).await;
        assert!(received == sent, "{length} bytes");
        assert_eq!(trailers["grpc-status"], "0");
    }
}

#[tokio::test]
async fn our_client_at_a_server_of_theirs() {
    let (near, far) = pipe();
    tokio::spawn(other_echo(far, h2::server::Builder::new()));
    let (sender, connection) = Client::new(near, Settings::default());
    tokio::spawn(connection);
    for length in LENGTHS {
        let sent = payload(length);
        let (received, trailers) = soon(call(&sender, sent.clone())).await.unwrap();
        assert!(received == sent, "{length} bytes");
        assert_eq!(trailers["grpc-status"], "0");
    }
}

#[tokio::test]
async fn many_calls_of_all_sizes_at_a_time() {
    let (near, far) = pipe();
    let small = Settings { stream_window: 65_535, connection_window: 100_000, ..Settings::default() };
    tokio::spawn(echo(far, small));
    let (sender, connection) = Client::new(near, small);
    tokio::spawn(connection);
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..200 {
        let sender = sender.clone();
        calls.spawn(async move {
            let sent = payload(LENGTHS[number % 7] + number);
            let (received, _) = call(&sender, sent.clone()).await.unwrap();
            assert!(received == sent);
        });
    }
    soon(async { while calls.join_next().await.transpose().unwrap().is_some() {} }).await;
}

#[tokio::test]
async fn more_calls_than_the_other_side_permits_wait_for_their_turn() {
    let (near, far) = pipe();
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(2);
    tokio::spawn(other_echo(far, builder));
    let (sender, connection) = Client::new(near, Settings::default());
    let pinger = connection.pinger();
    tokio::spawn(connection);
    assert!(pinger.ping());
    soon(poll_fn(|cx| pinger.poll_pong(cx))).await.unwrap();
    assert_eq!(sender.max_streams(), 2);
    let calls = (0..20).map(|number| {
        let sender = sender.clone();
        tokio::spawn(async move { call(&sender, payload(number * 1000)).await.unwrap().0.len() })
    });
    for (number, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(soon(call).await.unwrap(), number * 1000);
    }
}

#[tokio::test]
async fn a_call_that_waits_for_its_turn_may_be_given_up() {
    let (near, far) = pipe();
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1);
    tokio::spawn(other_echo(far, builder));
    let (sender, connection) = Client::new(near, Settings::default());
    let pinger = connection.pinger();
    tokio::spawn(connection);
    pinger.ping();
    soon(poll_fn(|cx| pinger.poll_pong(cx))).await.unwrap();
    let path = PathAndQuery::from_static("/p.S/M");
    let open = || sender.send("x", &path, &HeaderMap::new(), false).unwrap();
    let (first, waiting) = (open(), open());
    drop(waiting);
    let third = open();
    drop(first);
    drop(third);
    assert_eq!(soon(call(&sender, payload(10))).await.unwrap().0.len(), 10);
}

#[tokio::test]
async fn both_sides_learn_of_a_reset() {
    let (near, far) = pipe();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut server = Server::handshake(far, Settings::default()).await.unwrap();
        while let Some(Ok((_, body, mut answer))) = poll_fn(|cx| server.poll_accept(cx)).await {
            let told = told.clone();
            answer.send_head(StatusCode::OK, &HeaderMap::new(), false).unwrap();
            tokio::spawn(async move {
                let error = poll_fn(|cx| answer.poll_reset(cx)).await;
                drop(body);
                told.send(error).unwrap();
            });
        }
    });
    let (sender, connection) = soon(h2::client::handshake(near)).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let (response, mut stream) = sender.send_request(Request::post("http://x/").body(()).unwrap(), false).unwrap();
    let response = soon(response).await.unwrap();
    stream.send_reset(h2::Reason::CANCEL);
    assert_eq!(soon(heard.recv()).await.unwrap(), Error::Reset { reason: Reason::CANCEL, by_peer: true });
    drop(response);

    let (near, far) = pipe();
    tokio::spawn(async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_reset(h2::Reason::REFUSED_STREAM);
        }
    });
    let (sender, connection) = Client::new(near, Settings::default());
    tokio::spawn(connection);
    let error = soon(call(&sender, payload(5))).await.unwrap_err();
    assert_eq!(error, Error::Reset { reason: Reason::REFUSED_STREAM, by_peer: true });
    assert!(error.is_unprocessed());
}

#[tokio::test]
async fn a_server_that_leaves_serves_what_is_open_and_refuses_what_is_not() {
    let (near, far) = pipe();
    let leaving = std::sync::Arc::new(tokio::sync::Notify::new());
    let asked = std::sync::Arc::clone(&leaving);
    let server = tokio::spawn(async move {
        let mut server = Server::handshake(far, Settings::default()).await.unwrap();
        let mut left = false;
        loop {
            let accepted = tokio::select! {
                accepted = poll_fn(|cx| server.poll_accept(cx)) => accepted,
                () = asked.notified(), if !left => {
                    left = true;
                    server.leave();
                    continue;
                }
            };
            let Some(accepted) = accepted else { return };
            let (head, mut body, mut answer) = accepted.unwrap();
            tokio::spawn(async move {
                answer.send_head(StatusCode::OK, &head.headers, false).unwrap();
                let all = receive(&mut body).await.unwrap();
                answer.send_data(all.into(), false).unwrap();
                answer.send_trailers(trailers("0")).unwrap();
            });
        }
    });
    let (sender, connection) = Client::new(near, Settings::default());
    let client = tokio::spawn(connection);
    let path = PathAndQuery::from_static("/p.S/M");
    let (mut body, mut stream) = sender.send("x", &path, &HeaderMap::new(), false).unwrap();
    soon(poll_fn(|cx| body.poll_head(cx))).await.unwrap();
    leaving.notify_one();
    soon(async {
        while sender.check().is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let refused = sender.send("x", &path, &HeaderMap::new(), false).err().unwrap();
    assert!(refused.is_unprocessed());
    stream.send_data(Bytes::from_static(b"still"), true).unwrap();
    assert_eq!(soon(receive(&mut body)).await.unwrap(), b"still");
    assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
    drop((body, stream));
    soon(server).await.unwrap();
    soon(client).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_ends_when_nobody_needs_it() {
    let (near, far) = pipe();
    let server = tokio::spawn(echo(far, Settings::default()));
    let (sender, connection) = Client::new(near, Settings::default());
    let client = tokio::spawn(connection);
    soon(call(&sender, payload(100))).await.unwrap();
    drop(sender);
    soon(client).await.unwrap().unwrap();
    soon(server).await.unwrap().unwrap();
}

#[tokio::test]
async fn whoever_holds_a_stream_learns_that_the_connection_is_lost() {
    let (near, far) = pipe();
    let server = tokio::spawn(echo(far, Settings::default()));
    let (sender, connection) = Client::new(near, Settings::default());
    let client = tokio::spawn(connection);
    let path = PathAndQuery::from_static("/p.S/M");
    let (mut body, mut stream) = sender.send("x", &path, &HeaderMap::new(), false).unwrap();
    soon(poll_fn(|cx| body.poll_head(cx))).await.unwrap();
    server.abort();
    assert!(matches!(soon(poll_fn(|cx| body.poll_data(cx))).await, Some(Err(Error::Broken(_)))));
    assert!(matches!(soon(poll_fn(|cx| stream.poll_reset(cx))).await, Error::Broken(_)));
    assert!(sender.check().is_err());
    soon(client).await.unwrap().ok();
}

#[tokio::test]
async fn an_answer_nobody_reads_holds_up_no_other() {
    let (near, far) = pipe();
    tokio::spawn(echo(far, Settings::default()));
    let (sender, connection) = Client::new(near, Settings::default());
    tokio::spawn(connection);
    let path = PathAndQuery::from_static("/p.S/M");
    let mut ignored = Vec::new();
    for _ in 0..8 {
        let (body, mut stream) = sender.send("x", &path, &HeaderMap::new(), false).unwrap();
        soon(send(&mut stream, payload(1 << 20), true)).await.unwrap();
        ignored.push((body, stream));
    }
    let (received, _) = soon(call(&sender, payload(1 << 20))).await.unwrap();
    assert_eq!(received.len(), 1 << 20);
    drop(ignored);
    let (received, _) = soon(call(&sender, payload(3 << 20))).await.unwrap();
    assert_eq!(received.len(), 3 << 20);
}

#[tokio::test]
async fn headers_larger_than_a_frame_arrive() {
    let (near, far) = pipe();
    tokio::spawn(echo(far, Settings { max_header_list: 1 << 20, ..Settings::default() }));
    let (sender, connection) = Client::new(near, Settings { max_header_list: 1 << 20, ..Settings::default() });
    tokio::spawn(connection);
    let mut headers = HeaderMap::new();
    for number in 0..100 {
        headers.append("x-large", value(&format!("{number}-{}", "v".repeat(2000))));
    }
    let path = PathAndQuery::from_static("/p.S/M");
    let (mut body, _stream) = sender.send("x", &path, &headers, true).unwrap();
    let head = soon(poll_fn(|cx| body.poll_head(cx))).await.unwrap();
    assert_eq!(head.headers, headers);
}

#[tokio::test]
async fn a_header_list_beyond_the_bound_is_answered_with_431() {
    let (near, far) = pipe();
    tokio::spawn(echo(far, Settings::default()));
    let (sender, connection) = Client::new(near, Settings::default());
    tokio::spawn(connection);
    let mut headers = HeaderMap::new();
    for _ in 0..300 {
        // A byte each on the wire, but for the first.
        headers.append("x-bomb", value(&"v".repeat(400)));
    }
    let path = PathAndQuery::from_static("/p.S/M");
    let (mut body, _stream) = sender.send("x", &path, &headers, true).unwrap();
    assert_eq!(soon(poll_fn(|cx| body.poll_head(cx))).await.unwrap().status, 431);
    let (received, _) = soon(call(&sender, payload(5))).await.unwrap();
    assert_eq!(received.len(), 5, "the connection lives on");
}
