//! A client with four calls, and a server that says anything.

#![no_main]

mod frames;

use std::future::poll_fn;

use bytes::Bytes;
use http::HeaderMap;
use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use modelmesh_http2::{Client, Error, RecvStream, SendStream, Settings};
use tokio::io::duplex;
use tokio::task::JoinSet;

const PREFACE: usize = 24;

async fn call((mut answer, mut request): (RecvStream, SendStream)) -> Result<(), Error> {
    request.send_data(Bytes::from_static(&[7; 20_000]), true)?;
    poll_fn(|cx| answer.poll_head(cx)).await?;
    while let Some(piece) = poll_fn(|cx| answer.poll_data(cx)).await {
        answer.release(piece?.len());
    }
    drop(answer.trailers());
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, data)) = data.split_first() else { return };
    let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    tokio.block_on(async {
        let (near, far) = duplex(1 << 14);
        let (sender, connection) = Client::new(near, Settings::default());
        let client = tokio::spawn(connection);
        let path = PathAndQuery::from_static("/");
        let mut calls = JoinSet::new();
        for _ in 0..4 {
            calls.spawn(call(sender.send("x", &path, &HeaderMap::new(), false).expect("nothing was said yet")));
        }
        let bytes = frames::frames(data);
        let said = frames::converse(far, *cut, &bytes).await;
        while let Some(ended) = calls.join_next().await {
            let _ = ended.expect("no panic");
        }
        let _ = client.await.expect("no panic");
        assert!(sender.check().is_err(), "the other side has ended");
        frames::check(said.get(PREFACE..).unwrap_or_default());
    });
});
