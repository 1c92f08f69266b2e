//! Calls of all kinds at the same time, over tiny pipes and windows: all of them end, and so does the connection.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, StatusCode};
use modelmesh_http2::{Accepted, Client, Error, Reason, RecvStream, SendStream, Sender, Server, Settings};
use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};
use tokio::task::{JoinSet, yield_now};

/// What one side does with its half of a call.
#[derive(Clone, Copy, Debug)]
enum Does {
    /// Sends and reads everything.
    All,
    /// Gives up after so many bytes, by dropping the stream.
    Drops(usize),
    /// The same, by a reset.
    Resets(usize),
    /// Sends everything, and reads nothing.
    ReadsNothing,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    sends: usize,
    answers: usize,
    client: Does,
    server: Does,
    pauses: usize,
    /// Sends without asking for room.
    pushes: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let length = || prop_oneof![Just(0usize), 1usize..200, 1000usize..3000, 10_000usize..60_000];
    let does = || {
        prop_oneof![
            6 => Just(Does::All),
            1 => (0usize..20_000).prop_map(Does::Drops),
            1 => (0usize..20_000).prop_map(Does::Resets),
            1 => Just(Does::ReadsNothing),
        ]
    };
    (length(), length(), does(), does(), 0usize..5, any::<bool>()).prop_map(
        |(sends, answers, client, server, pauses, pushes)| Plan { sends, answers, client, server, pauses, pushes },
    )
}

fn byte(call: usize, at: usize) -> u8 {
    u8::try_from((at * 31 + at / 251 + call) % 256).unwrap()
}

async fn send(stream: &mut SendStream, plan: Plan, call: usize, length: usize, most: usize) -> Result<(), Error> {
    let all: Bytes = (0..length).map(|at| byte(call, at)).collect();
    let mut left = all.slice(..length.min(most));
    if plan.pushes {
        stream.send_data(left, false)?;
        return Ok(());
    }
    while !left.is_empty() {
        let room = poll_fn(|cx| stream.poll_room(cx)).await?;
        stream.send_data(left.split_to(room.min(left.len())), false)?;
    }
    Ok(())
}

/// Reads up to so many bytes; what was read, and the trailers after all of it. The rest is thrown away: unread, it would
/// hold up others, who may be what this one waits for.
async fn receive(
    mut body: RecvStream,
    plan: Plan,
    call: usize,
    most: usize,
) -> Result<(usize, Option<HeaderMap>), Error> {
    let mut received = 0;
    while received < most {
        let Some(piece) = poll_fn(|cx| body.poll_data(cx)).await else { break };
        let piece = piece?;
        for (at, got) in piece.iter().enumerate() {
            assert_eq!(*got, byte(call, received + at), "call {call}, byte {}", received + at);
        }
        received += piece.len();
        for _ in 0..plan.pauses {
            yield_now().await;
        }
        body.release(piece.len());
    }
    Ok((received, body.trailers()))
}

/// One side of a call, to the end it has planned: what it has read.
async fn side(
    does: Does,
    plan: Plan,
    call: usize,
    body: RecvStream,
    mut stream: SendStream,
    length: usize,
) -> Result<(usize, Option<HeaderMap>), Error> {
    let most = match does {
        Does::All | Does::ReadsNothing => usize::MAX,
        Does::Drops(most) | Does::Resets(most) => most,
    };
    let sending = async {
        send(&mut stream, plan, call, length, most).await?;
        let mut trailers = HeaderMap::new();
        trailers.insert("x-end", HeaderValue::from_static("yes"));
        match does {
            Does::All | Does::ReadsNothing => stream.send_trailers(trailers),
            Does::Drops(_) | Does::Resets(_) => Ok(()),
        }
    };
    match does {
        Does::All | Does::ReadsNothing => {
            let most = if matches!(does, Does::All) { usize::MAX } else { 0 };
            let (sent, received) = tokio::join!(sending, receive(body, plan, call, most));
            sent?;
            received
        }
        Does::Drops(_) | Does::Resets(_) => {
            // Whatever it has enough of first.
            let received = tokio::select! {
                sent = sending => sent.map(|()| (0, None)),
                received = receive(body, plan, call, most) => received,
            };
            if matches!(does, Does::Resets(_)) {
                stream.reset(Reason::CANCEL);
            }
            received
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> usize {
    headers[name].to_str().unwrap().parse().unwrap()
}

async fn serve(io: DuplexStream, settings: Settings, plans: Vec<Plan>) -> bool {
    let mut server = Server::handshake(io, settings).await.unwrap();
    let mut calls = JoinSet::new();
    while let Some(accepted) = poll_fn(|cx| server.poll_accept(cx)).await {
        let (head, body, mut stream): Accepted = match accepted {
            Ok(accepted) => accepted,
            // The client is content, and has closed.
            Err(Error::Broken(_)) => break,
            Err(error) => panic!("{error}"),
        };
        let plans = plans.clone();
        calls.spawn(async move {
            let call = number(&head.headers, "x-call");
            let plan = plans[call];
            stream.send_head(StatusCode::OK, &HeaderMap::new(), false)?;
            side(plan.server, plan, call, body, stream, plan.answers).await
        });
    }
    while calls.join_next().await.transpose().unwrap().is_some() {}
    server.has_streams()
}

async fn call(sender: Sender, plan: Plan, call: usize) {
    let mut headers = HeaderMap::new();
    headers.insert("x-call", HeaderValue::from(call));
    let (body, stream) = sender.send("x", &PathAndQuery::from_static("/p.S/M"), &headers, false).unwrap();
    let outcome = side(plan.client, plan, call, body, stream, plan.sends).await;
    if let (Does::All, Does::All) = (plan.client, plan.server) {
        let (received, trailers) = outcome.expect("it was not given up");
        assert_eq!(received, plan.answers, "call {call}");
        assert_eq!(trailers.unwrap()["x-end"], "yes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn all_calls_end(
        plans in proptest::collection::vec(plan(), 1..25),
        pipe in prop_oneof![Just(512usize), Just(4000), Just(65_536)],
        window in prop_oneof![Just(65_535u32), Just(70_000), Just(1 << 20)],
        stream_window in prop_oneof![Just(1u32), Just(100), Just(65_535), Just(1 << 20)],
        max_streams in prop_oneof![Just(1u32), Just(3), Just(100)],
    ) {
        let settings = Settings { stream_window, connection_window: window, max_streams, ..Settings::default() };
        // A stream window of a byte makes long bodies take forever.
        let plans: Vec<Plan> = plans.into_iter().map(|plan| if stream_window > 100 { plan } else {
            Plan { sends: plan.sends % 500, answers: plan.answers % 500, ..plan }
        }).collect();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        tokio.block_on(async {
            let (near, far) = duplex(pipe);
            let server = tokio::spawn(serve(far, settings, plans.clone()));
            let (sender, connection) = Client::new(near, settings);
            let pinger = connection.pinger();
            let client = tokio::spawn(connection);
            pinger.ping();
            poll_fn(|cx| pinger.poll_pong(cx)).await.unwrap();
            let mut calls = JoinSet::new();
            for (number, plan) in plans.iter().enumerate() {
                calls.spawn(call(sender.clone(), *plan, number));
            }
            drop(sender);
            let all = async {
                while calls.join_next().await.transpose().unwrap().is_some() {}
                client.await.unwrap().unwrap();
                assert!(!server.await.unwrap(), "a stream is left");
            };
            tokio::time::timeout(Duration::from_secs(10), all).await.expect("something hangs");
        });
    }
}
