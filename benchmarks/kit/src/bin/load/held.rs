//! Calls that stay open in both directions and carry one message after another.

use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};

use crate::{Connection, Load, reset_name};

/// One open call.
pub struct Held {
    sending: SendStream<Bytes>,
    answer: Answer,
}

enum Answer {
    Headers(ResponseFuture),
    Body(RecvStream),
}

impl Held {
    pub fn new(sending: SendStream<Bytes>, response: ResponseFuture) -> Self {
        Self { sending, answer: Answer::Headers(response) }
    }

    /// Sends a message and waits until it has come back: whether it is the same.
    async fn exchange(&mut self, message: &Bytes) -> Result<bool, String> {
        self.sending.send_data(message.clone(), false).map_err(|error| reset_name(&error))?;
        if let Answer::Headers(response) = &mut self.answer {
            let response = response.await.map_err(|error| reset_name(&error))?;
            self.answer = Answer::Body(response.into_body());
        }
        let Answer::Body(body) = &mut self.answer else { unreachable!("headers came") };
        let (mut received, mut same) = (0, true);
        while received < message.len() {
            let chunk = body.data().await.ok_or("ENDED")?.map_err(|error| reset_name(&error))?;
            same &= message.get(received..received + chunk.len()) == Some(&chunk[..]);
            received += chunk.len();
            let _ = body.flow_control().release_capacity(chunk.len());
        }
        Ok(same)
    }
}

/// Opens `count` calls, and then sends a message on each in turn; with `idle` only one, at the end.
pub async fn held_loop(load: Rc<Load>, connection: Rc<Connection>, count: usize, idle: bool) {
    let mut calls = Vec::with_capacity(count);
    for _ in 0..count {
        let message = load.body.next(&mut load.state.borrow_mut().random);
        let opened = match connection.open().await {
            Ok(mut held) => held.exchange(&message).await.map(|_| held),
            Err(error) => Err(error),
        };
        match opened {
            Ok(held) => calls.push(held),
            Err(error) => return fail(&load, &error),
        }
    }
    load.state.borrow_mut().opened += count;
    if idle {
        load.state.borrow_mut().pending += count as u64;
        while !load.state.borrow().stopping {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    loop {
        for held in &mut calls {
            if load.state.borrow().stopping && !idle {
                return;
            }
            let message = load.body.next(&mut load.state.borrow_mut().random);
            let began = Instant::now();
            let outcome = held.exchange(&message).await;
            let failed = outcome.is_err();
            let mut state = load.state.borrow_mut();
            state.record(began, outcome.map(|same| ("OK".to_owned(), same)));
            state.pending -= u64::from(idle);
            if failed {
                return;
            }
        }
        if idle {
            return;
        }
    }
}

/// A call that cannot be opened spoils the run: the others must not make it look well.
fn fail(load: &Load, error: &str) {
    eprintln!("an open call failed: {error}");
    let mut state = load.state.borrow_mut();
    *state.statuses.entry(error.to_owned()).or_default() += 1;
}
