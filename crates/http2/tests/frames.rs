//! Frames of every kind in every order, right and wrong: a server ends such a connection or serves it, but neither
//! panics nor waits for what will not come.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use modelmesh_http2::{Accepted, Client, Error, Server, Settings};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// `:method POST`, `:scheme http`, `:path /`, and a literal `a: b` that enters the table.
const REQUEST: &[u8] = b"\x83\x86\x84\x40\x01a\x01b";
/// `:status 200`.
const ANSWER: &[u8] = b"\x88";

#[derive(Clone, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn write(&self, out: &mut BytesMut) {
        out.put_uint(self.payload.len() as u64, 3);
        out.put_u8(self.kind);
        out.put_u8(self.flags);
        out.put_u32(self.stream);
        out.put_slice(&self.payload);
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: impl Into<Vec<u8>>) -> Frame {
    Frame { kind, flags, stream, payload: payload.into() }
}

/// Mostly what could be said, on few streams; sometimes anything at all.
fn frames() -> impl Strategy<Value = Vec<Frame>> {
    let stream = || prop_oneof![8 => (0u32..8).prop_map(|at| at * 2 + 1), 1 => 0u32..20];
    let flags = || prop_oneof![4 => prop_oneof![Just(0u8), Just(1), Just(4), Just(5)], 1 => any::<u8>()];
    let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
    let block = || prop_oneof![3 => Just(REQUEST.to_vec()), 1 => Just(ANSWER.to_vec()), 1 => bytes(30)];
    let one = prop_oneof![
        6 => (flags(), stream(), block()).prop_map(|(flags, stream, block)| frame(1, flags, stream, block)),
        6 => (flags(), stream(), bytes(3000)).prop_map(|(flags, stream, payload)| frame(0, flags, stream, payload)),
        2 => (stream(), 0u32..13).prop_map(|(stream, reason)| frame(3, 0, stream, reason.to_be_bytes())),
        2 => (stream(), any::<u32>()).prop_map(|(stream, more)| frame(8, 0, stream, more.to_be_bytes())),
        1 => (0u16..8, any::<u32>()).prop_map(|(name, value)| {
            frame(4, 0, 0, [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
        }),
        1 => flags().prop_map(|flags| frame(6, flags, 0, *b"12345678")),
        1 => (flags(), stream(), block()).prop_map(|(flags, stream, block)| frame(9, flags, stream, block)),
        1 => (0u32..20).prop_map(|last| frame(7, 0, 0, [last.to_be_bytes(), [0; 4]].concat())),
        1 => (any::<u8>(), flags(), stream(), bytes(40))
            .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, payload)),
    ];
    proptest::collection::vec(one, 0..40)
}

/// Reads a request and answers it; a request that breaks is dropped.
async fn answer((_, mut body, mut answer): Accepted) -> Result<(), Error> {
    answer.send_head(StatusCode::OK, &HeaderMap::new(), false)?;
    while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
        let piece = piece?;
        body.release(piece.len());
        answer.send_data(piece, false)?;
    }
    answer.send_data(Bytes::new(), true)
}

fn run(test: impl Future<Output = ()>) {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let test = async { tokio::time::timeout(Duration::from_secs(10), test).await.expect("this hangs") };
    tokio.block_on(test);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn a_server_survives(frames in frames(), cut in 1usize..50) {
        run(async move {
            let (mut near, far) = duplex(1 << 20);
            let server = tokio::spawn(async move {
                let mut server = Server::handshake(far, Settings { max_streams: 4, ..Settings::default() }).await?;
                let mut calls = tokio::task::JoinSet::new();
                while let Some(accepted) = poll_fn(|cx| server.poll_accept(cx)).await {
                    calls.spawn(answer(accepted?));
                }
                drop(server);
                while calls.join_next().await.is_some() {}
                Ok::<(), Error>(())
            });
            let mut bytes = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..]);
            for frame in frames {
                frame.write(&mut bytes);
            }
            let (mut read, mut write) = tokio::io::split(&mut near);
            let writing = async {
                for part in bytes.chunks(cut * 20) {
                    if write.write_all(part).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                let _ = write.shutdown().await;
            };
            let mut said = Vec::new();
            let reading = read.read_to_end(&mut said);
            let ((), read) = tokio::join!(writing, reading);
            read.unwrap();
            let _ = server.await.expect("no panic");
            assert!(said.len() >= 9, "it says its settings");
        });
    }

    #[test]
    fn a_client_survives(frames in frames(), cut in 1usize..50) {
        run(async move {
            let (near, mut far) = duplex(1 << 20);
            let (sender, connection) = Client::new(near, Settings::default());
            let client = tokio::spawn(connection);
            let path = http::uri::PathAndQuery::from_static("/");
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..4 {
                let (mut body, mut stream) = sender.send("x", &path, &HeaderMap::new(), false).unwrap();
                calls.spawn(async move {
                    let _ = stream.send_data(Bytes::from_static(b"hello"), true);
                    poll_fn(|cx| body.poll_head(cx)).await?;
                    while let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await {
                        body.release(piece?.len());
                    }
                    Ok::<(), Error>(())
                });
            }
            let mut bytes = BytesMut::from(&b"\0\0\0\x04\0\0\0\0\0"[..]);
            for mut frame in frames {
                if frame.payload == REQUEST {
                    frame.payload = ANSWER.to_vec();
                }
                frame.write(&mut bytes);
            }
            for part in bytes.chunks(cut * 20) {
                if far.write_all(part).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _ = far.shutdown().await;
            while calls.join_next().await.is_some() {}
            let _ = client.await.expect("no panic");
            assert!(sender.check().is_err());
        });
    }
}

/// What a server says to some frames: the kinds of its own, and whether it has closed.
async fn said_to(frames: &[Frame], settings: Settings) -> Vec<(u8, u32, Vec<u8>)> {
    let (mut near, far) = duplex(1 << 24);
    let mut server = tokio::spawn(async move {
        let mut server = Server::handshake(far, settings).await?;
        poll_fn(|cx| {
            while let Poll::Ready(accepted) = server.poll_accept(cx) {
                match accepted {
                    // There is no answer.
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    None => return Poll::Ready(Ok(())),
                }
            }
            Poll::Pending
        })
        .await
    });
    let mut bytes = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..]);
    for frame in frames {
        frame.write(&mut bytes);
    }
    near.write_all(&bytes).await.unwrap();
    near.shutdown().await.unwrap();
    let mut said = Vec::new();
    near.read_to_end(&mut said).await.unwrap();
    let _ = (&mut server).await.unwrap();
    let mut found = Vec::new();
    let mut rest = &said[..];
    while rest.len() >= 9 {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        let stream = u32::from_be_bytes([rest[5], rest[6], rest[7], rest[8]]);
        found.push((rest[3], stream, rest[9..9 + length].to_vec()));
        rest = &rest[9 + length..];
    }
    found
}

fn goes_away_over(said: &[(u8, u32, Vec<u8>)]) -> Option<u8> {
    said.iter().find(|(kind, ..)| *kind == 7).map(|(_, _, payload)| payload[7])
}

#[test]
fn streams_that_are_reset_before_they_are_seen_are_counted() {
    run(async {
        let attack: Vec<Frame> = (0..200)
            .flat_map(|at| [frame(1, 4, at * 2 + 1, REQUEST), frame(3, 0, at * 2 + 1, 8u32.to_be_bytes())])
            .collect();
        let settings = Settings { max_unseen_resets: 100, ..Settings::default() };
        assert_eq!(goes_away_over(&said_to(&attack, settings).await), Some(11));
        assert_eq!(goes_away_over(&said_to(&attack[..150], settings).await), None);
    });
}

#[test]
fn a_header_block_without_end_is_ended() {
    run(async {
        let mut attack = vec![frame(1, 0, 1, REQUEST)];
        attack.extend((0..100).map(|_| frame(9, 0, 1, Vec::new())));
        assert_eq!(goes_away_over(&said_to(&attack, Settings::default()).await), Some(11), "of nothing");
        let mut attack = vec![frame(1, 0, 1, REQUEST)];
        attack.extend((0..10).map(|_| frame(9, 0, 1, vec![0; 16_384])));
        assert_eq!(goes_away_over(&said_to(&attack, Settings::default()).await), Some(11), "of much");
    });
}

#[test]
fn errors_without_end_are_ended() {
    run(async {
        let attack: Vec<Frame> = (0..50).map(|at| frame(1, 5, at * 2 + 1, b"\x83".as_slice())).collect();
        let settings = Settings { max_errors: Some(20), ..Settings::default() };
        assert_eq!(goes_away_over(&said_to(&attack, settings).await), Some(11));
        let said = said_to(&attack, Settings::default()).await;
        assert_eq!(said.iter().filter(|(kind, ..)| *kind == 3).count(), 50, "each is reset");
    });
}

#[test]
fn windows_that_change_without_end_are_ended() {
    run(async {
        let change = |value: u32| frame(4, 0, 0, [&4u16.to_be_bytes()[..], &value.to_be_bytes()].concat());
        let attack: Vec<Frame> = (0..1200).map(|at| change(50_000 + at % 2)).collect();
        assert_eq!(goes_away_over(&said_to(&attack, Settings::default()).await), Some(11));
        assert_eq!(goes_away_over(&said_to(&attack[..900], Settings::default()).await), None);
    });
}

#[test]
fn more_streams_than_permitted_are_refused() {
    run(async {
        let requests: Vec<Frame> = (0..6).map(|at| frame(1, 4, at * 2 + 1, REQUEST)).collect();
        let settings = Settings { max_streams: 4, ..Settings::default() };
        let said = said_to(&requests, settings).await;
        let refused: Vec<u32> =
            said.iter().filter(|(kind, _, payload)| *kind == 3 && payload[3] == 7).map(|(_, id, _)| *id).collect();
        // There is no answer, so each that was accepted is cancelled; the others are told to try again.
        assert_eq!(refused, [9, 11]);
    });
}

#[test]
fn a_client_that_reads_no_answers_to_its_pings_is_not_read_any_more() {
    run(async {
        let (mut near, far) = duplex(1000);
        let server = tokio::spawn(async move {
            let mut server = Server::handshake(far, Settings::default()).await?;
            poll_fn(|cx| server.poll_accept(cx)).await.transpose().map(|_| ())
        });
        near.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut ping = BytesMut::new();
        frame(6, 0, 0, *b"12345678").write(&mut ping);
        let flood = async {
            let mut count = 0u32;
            while tokio::time::timeout(Duration::from_millis(200), near.write_all(&ping)).await.is_ok() {
                count += 1;
            }
            count
        };
        let taken = flood.await;
        assert!((1000..30_000).contains(&taken), "{taken} pings were taken");
        server.abort();
    });
}

#[test]
fn the_first_of_many_requests_goes_on_before_the_last_is_read() {
    run(async {
        let (mut near, far) = duplex(1 << 20);
        let accepted = Arc::new(AtomicUsize::new(0));
        let server = tokio::spawn({
            let accepted = Arc::clone(&accepted);
            async move {
                let mut server = Server::handshake(far, Settings { max_streams: 1000, ..Settings::default() }).await?;
                let mut first = None;
                while let Some(request) = poll_fn(|cx| server.poll_accept(cx)).await.transpose()? {
                    let seen = Arc::clone(&accepted);
                    first.get_or_insert_with(|| tokio::spawn(async move { seen.load(Ordering::Relaxed) }));
                    if accepted.fetch_add(1, Ordering::Relaxed) + 1 == 200 {
                        break;
                    }
                    drop(request);
                }
                Ok::<_, Error>(first.expect("a request").await.expect("no panic"))
            }
        });
        let mut bytes = BytesMut::from(&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..]);
        for at in 0..200 {
            frame(1, 5, at * 2 + 1, REQUEST).write(&mut bytes);
        }
        near.write_all(&bytes).await.unwrap();
        let when_it_went_on = server.await.expect("no panic").expect("all is right");
        assert_eq!(accepted.load(Ordering::Relaxed), 200, "the others are read all the same");
        assert!((1..100).contains(&when_it_went_on), "after {when_it_went_on}");
    });
}
