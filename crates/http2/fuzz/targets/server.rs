//! A server that echoes, and a client that says anything.

#![no_main]

mod frames;

use std::future::poll_fn;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use modelmesh_http2::{Accepted, Error, Server, Settings};
use tokio::io::duplex;
use tokio::task::JoinSet;

async fn answer((head, mut body, mut answer): Accepted) -> Result<(), Error> {
    let mut headers = head.headers;
    headers.insert("path", HeaderValue::from_str(head.path.as_str()).expect("a path is a value"));
    answer.send_head(StatusCode::OK, &headers, false)?;
    while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
        let piece = piece?;
        body.release(piece.len());
        answer.send_data(piece, false)?;
    }
    match body.trailers() {
        Some(trailers) => answer.send_trailers(trailers),
        None => answer.send_data(Bytes::new(), true),
    }
}

async fn serve(io: tokio::io::DuplexStream) -> Result<(), Error> {
    let settings = Settings { max_streams: 4, ..Settings::default() };
    let mut server = Server::handshake(io, settings).await?;
    let mut calls = JoinSet::new();
    while let Some(accepted) = poll_fn(|cx| server.poll_accept(cx)).await {
        calls.spawn(answer(accepted?));
    }
    drop(server);
    while calls.join_next().await.is_some() {}
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, data)) = data.split_first() else { return };
    let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    tokio.block_on(async {
        let (near, far) = duplex(1 << 14);
        let server = tokio::spawn(serve(far));
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend_from_slice(&frames::frames(data));
        let said = frames::converse(near, *cut, &bytes).await;
        let _ = server.await.expect("no panic");
        frames::check(&said);
    });
});
