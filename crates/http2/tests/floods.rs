//! What one connection can make us do. Looks, turns and frames are counted, never time.

mod hostile;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use hostile::{Held, MIB, REQUEST, SETTINGS, Woken, frame, poll_once, run};
use http::uri::PathAndQuery;
use http::{HeaderMap, StatusCode};
use modelmesh_http2::{Client, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

/// The connection's window is used up, and streams wait for it.
async fn waiting(streams: u32) -> (Held, Arc<Woken>) {
    let mut held = Held::new(Settings::default(), 8 * MIB).await;
    let mut requests = BytesMut::new();
    for at in 0..streams {
        frame(&mut requests, 1, 5, at * 2 + 1, REQUEST);
    }
    held.say(&requests, |mut call| {
        call.2.send_head(StatusCode::OK, &HeaderMap::new(), false).unwrap();
        Some(call)
    })
    .await;
    held.calls[0].2.send_data(Bytes::from(vec![0; 65_535]), false).unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    for (_, _, answer) in &mut held.calls[1..] {
        assert!(answer.poll_room(&mut Context::from_waker(&waker)).is_pending());
    }
    (held, woken)
}

#[test]
fn a_window_of_a_byte_is_told_to_one_who_waits() {
    run(async {
        let (mut held, woken) = waiting(3000).await;
        let mut attack = BytesMut::new();
        for _ in 0..100 {
            frame(&mut attack, 8, 0, 0, &1u32.to_be_bytes());
        }
        held.say(&attack, Some).await;
        let told = woken.0.load(Ordering::Relaxed);
        assert!((1..1000).contains(&told), "{told} were told of 100 bytes");
    });
}

#[test]
fn all_who_wait_go_on_when_there_is_room() {
    run(async {
        let (mut held, _) = waiting(500).await;
        let waker = Waker::from(Arc::new(Woken::default()));
        let mut window = BytesMut::new();
        frame(&mut window, 8, 0, 0, &1_000_000u32.to_be_bytes());
        held.say(&window, Some).await;
        let mut sent = 0;
        for _ in 0..1000 {
            for (_, _, answer) in &mut held.calls[1..] {
                if let Poll::Ready(Ok(room)) = answer.poll_room(&mut Context::from_waker(&waker)) {
                    answer.send_data(Bytes::from(vec![0; room.min(100)]), false).unwrap();
                    sent += room.min(100);
                }
            }
            let mut read = vec![0; MIB];
            let _ = poll_once(held.near.read(&mut read)).await;
            held.say(b"", Some).await;
            if sent >= 1_000_000 {
                return;
            }
        }
        panic!("only {sent} bytes were sent");
    });
}

#[test]
fn windows_of_all_streams_change_no_more_often_than_bytes_pay_for() {
    run(async {
        let mut held = Held::new(Settings::default(), 8 * MIB).await;
        let mut attack = BytesMut::new();
        for at in 0..4000 {
            frame(&mut attack, 1, 4, at * 2 + 1, REQUEST);
        }
        held.say(&attack, Some).await;
        let change = |count: u32| {
            let mut changes = BytesMut::new();
            for at in 0..count {
                let value = 50_000 + at % 2;
                frame(&mut changes, 4, 0, 0, &[&4u16.to_be_bytes()[..], &value.to_be_bytes()].concat());
            }
            changes
        };
        held.say(&change(12), Some).await;
        assert!(held.over.is_none(), "a dozen is what clients do");
        held.say(&change(100), Some).await;
        let over = held.over.expect("it is ended").to_string();
        assert!(over.contains("much work for few bytes"), "{over}");
    });
}

#[test]
fn a_header_list_beyond_all_bounds_is_not_read_to_its_end() {
    run(async {
        let mut held = Held::new(Settings::default(), 8 * MIB).await;
        let mut block = BytesMut::from(REQUEST);
        block.put_slice(b"\x40\x01a\x7f\xa0\x1d"); // a literal of 3,999 bytes that enters the table
        block.put_bytes(b'v', 0x7f + 0x20 + (0x1d << 7));
        block.put_bytes(0xbe, 10_000);
        let mut attack = BytesMut::new();
        frame(&mut attack, 1, 5, 1, &block);
        held.say(&attack, Some).await;
        let over = held.over.expect("it is ended").to_string();
        assert!(over.contains("a header list beyond all bounds"), "{over}");
    });
}

#[test]
fn frames_that_say_nothing_are_a_bounded_part_of_a_connection() {
    let kinds: [(&str, u8, u32, &[u8]); 5] = [
        ("empty DATA", 0, 1, b""),
        ("PRIORITY", 2, 1, b"\0\0\0\0\0"),
        ("PING", 6, 0, b"12345678"),
        ("SETTINGS", 4, 0, b""),
        ("an unknown kind", 0xaa, 0, b""),
    ];
    for (name, kind, stream, payload) in kinds {
        run(async {
            let mut held = Held::new(Settings::default(), 8 * MIB).await;
            let mut attack = BytesMut::new();
            frame(&mut attack, 1, 4, 1, REQUEST);
            for _ in 0..5000 {
                frame(&mut attack, kind, 0, stream, payload);
            }
            held.say(&attack, Some).await;
            assert!(held.over.is_none(), "{name}: {:?}", held.over);
            let flood = attack.split_off(12);
            for _ in 0..10 {
                held.say(&flood, Some).await;
                let mut read = vec![0; MIB];
                let _ = poll_once(held.near.read(&mut read)).await;
            }
            assert!(held.over.is_some(), "{name} without end");
        });
    }
}

#[test]
fn resets_that_a_client_makes_us_do_are_bounded() {
    run(async {
        let mut held = Held::new(Settings { max_errors: Some(1_000_000), ..Settings::default() }, 8 * MIB).await;
        let mut attack = BytesMut::new();
        for at in 0..3000 {
            frame(&mut attack, 1, 4, at * 2 + 1, REQUEST);
            frame(&mut attack, 8, 0, at * 2 + 1, &[0; 4]); // a window that grows by nothing
        }
        held.say(&attack, |_| None).await;
        let over = held.over.expect("it is ended").to_string();
        assert!(over.contains("too many streams had to be reset"), "{over}");
    });
}

#[test]
fn a_turn_ends_after_so_many_frames() {
    run(async {
        let mut held = Held::new(Settings::default(), 8 * MIB).await;
        let mut attack = BytesMut::new();
        frame(&mut attack, 1, 4, 1, REQUEST);
        for _ in 0..6000 {
            frame(&mut attack, 0, 0, 1, b"x");
        }
        held.near.write_all(&attack).await.unwrap();
        let mut turns = 0;
        let mut received = 0;
        while received < 6000 {
            turns += 1;
            match poll_once(poll_fn(|cx| held.server.poll_accept(cx))).await {
                Some(Some(Ok(call))) => held.calls.push(call),
                other => assert!(other.is_none()),
            }
            if let Some((_, body, _)) = held.calls.first_mut() {
                while let Some(Some(Ok(piece))) = poll_once(poll_fn(|cx| body.poll_data(cx))).await {
                    received += piece.len();
                }
            }
        }
        assert!(turns >= 5, "all in {turns} turns");
    });
}

#[test]
fn a_turn_ends_after_so_many_fields() {
    run(async {
        let mut held = Held::new(Settings::default(), 8 * MIB).await;
        let mut block = BytesMut::from(REQUEST);
        for _ in 0..300 {
            block.put_slice(b"\0\x01x\x01y");
        }
        let mut attack = BytesMut::new();
        for at in 0..30 {
            frame(&mut attack, 1, 5, at * 2 + 1, &block);
        }
        held.near.write_all(&attack).await.unwrap();
        let mut turns = 0;
        while held.calls.len() < 30 {
            match poll_once(poll_fn(|cx| held.server.poll_accept(cx))).await {
                Some(Some(Ok(call))) => held.calls.push(call),
                other => {
                    assert!(other.is_none());
                    turns += 1;
                }
            }
        }
        assert!(turns >= 8, "9,000 fields in {turns} turns");
    });
}

#[test]
fn calls_of_a_connection_that_ends_hear_of_it_a_few_in_a_turn() {
    run(async {
        let mut held = Held::new(Settings::default(), 8 * MIB).await;
        let mut requests = BytesMut::new();
        for at in 0..1000 {
            frame(&mut requests, 1, 4, at * 2 + 1, REQUEST);
        }
        held.say(&requests, Some).await;
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        for (_, _, answer) in &mut held.calls {
            assert!(answer.poll_reset(&mut Context::from_waker(&waker)).is_pending());
        }
        drop(held.near);
        let (mut turns, mut before) = (0, 0);
        while poll_once(poll_fn(|cx| held.server.poll_accept(cx))).await.is_none() {
            turns += 1;
            let now = woken.0.load(Ordering::Relaxed);
            assert!(now - before <= 32, "{} in one turn", now - before);
            before = now;
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 1000);
        assert!(turns >= 31, "{turns} turns");
    });
}

#[test]
fn half_a_header_block_is_not_waited_for() {
    run(async {
        let mut held = Held::new(Settings::default(), 8 * MIB).await;
        let mut attack = BytesMut::new();
        frame(&mut attack, 1, 0, 1, REQUEST);
        held.say(&attack, Some).await;
        assert_eq!(held.server.look(), None);
        assert_eq!(held.server.look(), Some("a header block without end"));
        held.server.expel("a header block without end");
        held.say(b"", Some).await;
        assert!(held.over.is_some());
    });
}

#[test]
fn resets_of_many_calls_are_no_burst() {
    run(async {
        let (near, mut far) = duplex(8 * MIB);
        let (sender, mut connection) = Client::new(near, Settings::default());
        let pinger = connection.pinger();
        let path = PathAndQuery::from_static("/");
        let calls: Vec<_> = (0..300).map(|_| sender.send("x", &path, &HeaderMap::new(), true).unwrap()).collect();
        far.write_all(SETTINGS).await.unwrap();
        assert!(poll_once(&mut connection).await.is_none());
        drop(calls);
        let mut said = Vec::new();
        let resets = |said: &mut Vec<u8>| {
            let mut count = 0;
            while let [0, 0, length, kind, _, _, _, _, _, rest @ ..] = &said[..] {
                count += usize::from(*kind == 3);
                *said = rest[usize::from(*length)..].to_vec();
            }
            count
        };
        let mut seen = Vec::new();
        for _ in 0..6 {
            assert!(poll_once(&mut connection).await.is_none());
            let mut read = vec![0; MIB];
            let length = poll_once(far.read(&mut read)).await.map_or(0, Result::unwrap);
            if seen.is_empty() {
                said.extend_from_slice(&read[24..length]);
            } else {
                said.extend_from_slice(&read[..length]);
            }
            seen.push(resets(&mut said));
            pinger.forgive(50);
        }
        assert_eq!(seen, [64, 50, 50, 50, 50, 36]);
    });
}

#[test]
fn headers_without_a_name_are_not_kept() {
    run(async {
        let mut held = Held::new(Settings::default(), 8 * MIB).await;
        let before = held.server.held_bytes();
        let mut attack = BytesMut::new();
        for at in 0..500 {
            frame(&mut attack, 1, 5, at * 2 + 1, &[REQUEST, b"\x00\x00\x01x"].concat());
        }
        held.say(&attack, Some).await;
        assert!(held.calls.is_empty() && held.over.is_none());
        let mut said = vec![0; MIB];
        let length = poll_once(held.near.read(&mut said)).await.unwrap().unwrap();
        assert!(length > 500 * 13, "each is reset");
        held.say(b"", Some).await;
        assert!(held.server.held_bytes() <= before + 1024, "{} bytes are left", held.server.held_bytes() - before);
    });
}

#[test]
fn numbers_without_end_are_not_read() {
    run(async {
        let mut held = Held::new(Settings::default(), 8 * MIB).await;
        let mut block = BytesMut::from(REQUEST);
        block.put_u8(0xff);
        block.put_bytes(0x80, 10_000);
        let mut attack = BytesMut::new();
        frame(&mut attack, 1, 5, 1, &block);
        held.say(&attack, Some).await;
        let over = held.over.expect("it is ended").to_string();
        assert!(over.contains("COMPRESSION_ERROR (a number that is too large)"), "{over}");
    });
}
