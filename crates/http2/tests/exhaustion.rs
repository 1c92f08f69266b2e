//! What one connection can make us hold. Bytes are counted, never time.

mod hostile;

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use hostile::{Held, MIB, REQUEST, SETTINGS, Woken, frame, poll_once, run};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode};
use modelmesh_http2::{Accepted, Client, RecvStream, SendStream, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

fn refuse((_, _, mut answer): Accepted) -> Option<Accepted> {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-message", HeaderValue::from_bytes(&[b'x'; 6000]).unwrap());
    answer.send_head(StatusCode::OK, &headers, true).unwrap();
    None
}

#[test]
fn answers_that_nobody_reads_stop_the_reading() {
    run(async {
        let mut held = Held::new(Settings::default(), 64 << 10).await;
        let mut attack = BytesMut::new();
        for at in 0..40_000 {
            frame(&mut attack, 1, 5, at * 2 + 1, REQUEST);
        }
        let said = held.say(&attack, refuse).await;
        assert!(said < attack.len(), "it is not read any more");
        assert!(held.server.held_bytes() < 4 * MIB, "{} bytes are held", held.server.held_bytes());
        let whys: Vec<_> = (0..10).filter_map(|_| held.server.look()).collect();
        assert!(whys.contains(&"what is said to it is not read"), "{whys:?}");
    });
}

#[test]
fn who_reads_later_gets_all_answers() {
    run(async {
        let mut held = Held::new(Settings::default(), 64 << 10).await;
        let mut requests = BytesMut::new();
        for at in 0..12_000 {
            frame(&mut requests, 1, 5, at * 2 + 1, REQUEST);
        }
        let said = held.say(&requests, refuse).await;
        assert!(said < requests.len());
        let Held { mut server, near, .. } = held;
        let serving = tokio::spawn(async move {
            while let Some(Ok(call)) = poll_fn(|cx| server.poll_accept(cx)).await {
                refuse(call);
            }
        });
        let (mut read, mut write) = tokio::io::split(near);
        let rest = requests.split_off(said);
        let writing = async move {
            write.write_all(&rest).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut answers = Vec::new();
        let ((), outcome) = tokio::join!(writing, read.read_to_end(&mut answers));
        outcome.unwrap();
        serving.await.unwrap();
        let mut ends = 0;
        let mut rest = &answers[..];
        while let [a, b, c, kind, flags, _, _, _, _, after @ ..] = rest {
            ends += usize::from(*kind == 1 && flags & 1 == 1);
            rest = &after[usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c)..];
        }
        assert_eq!(ends, 12_000);
    });
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn small_payloads_do_not_keep_the_buffers_that_they_came_in() {
    run(async {
        let mut held = Held::new(Settings::default(), 256 << 10).await;
        let mut attack = BytesMut::new();
        for at in 0..3000 {
            frame(&mut attack, 1, 4, at * 2 + 1, REQUEST);
        }
        for at in 0..3000 {
            frame(&mut attack, 0, 0, at * 2 + 1, &[7; 1025]);
            // What fills the rest of the buffer.
            for _ in 0..4 {
                frame(&mut attack, 0xff, 0, 0, &[0; 16_000]);
            }
        }
        let before = resident();
        assert_eq!(held.say(&attack, Some).await, attack.len());
        assert_eq!(held.calls.len(), 3000);
        assert!(held.over.is_none(), "{:?}", held.over);
        let grown = resident().saturating_sub(before);
        assert!(grown < 64 * MIB, "3 MB hold {} MiB", grown / MIB);
        assert!(held.server.held_bytes() > 3 * MIB, "{} bytes are counted", held.server.held_bytes());
    });
}

#[test]
fn what_a_payload_keeps_of_the_buffer_that_it_came_in_is_counted() {
    run(async {
        let mut held = Held::new(Settings::default(), 256 << 10).await;
        let mut attack = BytesMut::new();
        frame(&mut attack, 1, 4, 1, REQUEST);
        held.say(&attack, Some).await;
        let mut kept = Vec::new();
        for at in 0..800 {
            let mut attack = BytesMut::new();
            frame(&mut attack, 0, 0, 1, &[7; 16 << 10]);
            held.say(&attack, Some).await;
            let body = &mut held.calls[0].1;
            while let Poll::Ready(Some(Ok(payload))) = body.poll_data(&mut Context::from_waker(Waker::noop())) {
                // As the copy of a request is, that another attempt may need: dealt with, and there.
                body.release(payload.len());
                if at % 4 == 0 {
                    kept.push(payload);
                }
            }
        }
        assert_eq!(kept.iter().map(Bytes::len).sum::<usize>(), 200 * (16 << 10));
        assert!(held.server.held_bytes() > 5 * MIB, "{} bytes are counted", held.server.held_bytes());
        drop(kept);
        assert!(held.server.held_bytes() < MIB, "{} bytes are counted", held.server.held_bytes());
    });
}

#[test]
fn streams_that_ended_while_they_waited_are_forgotten() {
    run(async {
        let mut held = Held::new(Settings { max_unseen_resets: usize::MAX, ..Settings::default() }, 8 * MIB).await;
        let mut request = BytesMut::new();
        frame(&mut request, 1, 5, 1, REQUEST);
        let begin = |mut call: Accepted| {
            call.2.send_head(StatusCode::OK, &HeaderMap::new(), false).unwrap();
            Some(call)
        };
        held.say(&request, begin).await;
        held.calls[0].2.send_data(Bytes::from(vec![0; 65_535]), false).unwrap();
        let waker = Waker::from(Arc::new(Woken::default()));
        let before = held.server.held_bytes();
        for round in 0..20u32 {
            let mut attack = BytesMut::new();
            for at in 1..1000 {
                frame(&mut attack, 1, 5, (round * 1000 + at) * 2 + 1, REQUEST);
            }
            held.say(&attack, begin).await;
            for (_, _, answer) in &mut held.calls[1..] {
                assert!(answer.poll_room(&mut Context::from_waker(&waker)).is_pending());
            }
            held.calls.truncate(1);
            let mut read = vec![0; MIB];
            let _ = poll_once(held.near.read(&mut read)).await;
        }
        held.say(b"", Some).await;
        assert!(held.server.held_bytes() < before + 100_000, "{} bytes", held.server.held_bytes());
    });
}

#[test]
fn what_waits_for_windows_after_its_call_is_counted() {
    run(async {
        let mut held = Held::new(Settings::default(), 8 * MIB).await;
        let mut attack = BytesMut::new();
        frame(&mut attack, 4, 0, 0, &[0, 4, 0, 0, 0, 0]); // no windows
        for at in 0..1000 {
            frame(&mut attack, 1, 5, at * 2 + 1, REQUEST);
        }
        held.say(&attack, |(_, _, mut answer)| {
            answer.send_head(StatusCode::OK, &HeaderMap::new(), false).unwrap();
            answer.send_data(Bytes::from(vec![7; 10_000]), false).unwrap();
            answer.send_trailers(HeaderMap::new()).unwrap();
            None
        })
        .await;
        assert!(held.server.held_bytes() > 10_000_000, "{} bytes", held.server.held_bytes());
        let whys: Vec<_> = (0..10).filter_map(|_| held.server.look()).collect();
        assert!(whys.contains(&"what is said to it is not read"), "{whys:?}");
        let mut windows = BytesMut::new();
        frame(&mut windows, 8, 0, 0, &100_000_000u32.to_be_bytes());
        frame(&mut windows, 4, 0, 0, &[&[0, 4][..], &20_000u32.to_be_bytes()].concat());
        let Held { server, near, .. } = &mut held;
        near.write_all(&windows).await.unwrap();
        let mut read = vec![0; MIB];
        for _ in 0..400 {
            let _ = poll_once(poll_fn(|cx| server.poll_accept(cx))).await;
            let _ = poll_once(near.read(&mut read)).await;
        }
        assert!(server.held_bytes() < 300_000, "{} bytes are left", server.held_bytes());
    });
}

#[test]
fn header_lists_of_open_streams_are_counted_and_given_back() {
    run(async {
        let mut held = Held::new(Settings::default(), 8 * MIB).await;
        let mut block = BytesMut::from(REQUEST);
        for at in 0..100u8 {
            block.put_slice(&[0, 3, b'x', b'0' + at / 10, b'0' + at % 10, 1, b'y']);
        }
        let mut attack = BytesMut::new();
        for at in 0..1000 {
            frame(&mut attack, 1, 4, at * 2 + 1, &block);
        }
        let before = resident();
        held.say(&attack, Some).await;
        let counted = held.server.held_bytes();
        let grown = resident().saturating_sub(before);
        assert!(counted > grown, "{counted} bytes are counted, and {grown} are held");
        let mut resets = BytesMut::new();
        for at in 0..1000 {
            frame(&mut resets, 3, 0, at * 2 + 1, &[0, 0, 0, 8]);
        }
        held.calls.clear();
        held.say(&resets, Some).await;
        assert!(held.server.held_bytes() < 300_000, "{} bytes are left", held.server.held_bytes());
    });
}

#[test]
fn a_server_that_pings_and_does_not_read_is_left() {
    run(async {
        let (near, mut far) = duplex(64 << 10);
        let (sender, mut connection) = Client::new(near, Settings::default());
        let path = PathAndQuery::from_static("/");
        let _call: (RecvStream, SendStream) = sender.send("x", &path, &HeaderMap::new(), false).unwrap();
        let mut pings = BytesMut::from(SETTINGS);
        for _ in 0..1000 {
            frame(&mut pings, 6, 0, 0, b"12345678");
        }
        for _ in 0..200 {
            let mut left = &pings[..];
            while !left.is_empty() {
                match poll_once(far.write(left)).await {
                    Some(Ok(written)) => left = &left[written..],
                    Some(Err(_)) | None => {
                        if let Some(outcome) = poll_once(&mut connection).await {
                            let error = outcome.unwrap_err().to_string();
                            return assert!(error.contains("what is said to it is not read"), "{error}");
                        }
                    }
                }
            }
            assert!(connection.held_bytes() < MIB, "{} bytes are held", connection.held_bytes());
        }
        panic!("it is still there");
    });
}
