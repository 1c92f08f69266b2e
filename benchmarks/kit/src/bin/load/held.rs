//! Calls that stay open in both directions and carry one message after another.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use modelmesh_http2::{RecvStream, SendStream};

use crate::{Connection, Load, Status, reset_name};

/// One open call.
pub struct Held {
    sending: SendStream,
    answer: RecvStream,
    has_begun: bool,
}

impl Held {
    pub fn new(sending: SendStream, answer: RecvStream) -> Self {
        Self { sending, answer, has_begun: false }
    }

    /// Sends a message and waits until it has come back: whether it is the same.
    async fn exchange(&mut self, message: &Bytes) -> Result<bool, Status> {
        self.sending.send_data(message.clone(), false).map_err(|error| reset_name(&error))?;
        if !self.has_begun {
            poll_fn(|cx| self.answer.poll_head(cx)).await.map_err(|error| reset_name(&error))?;
            self.has_begun = true;
        }
        let (mut received, mut same) = (0, true);
        while received < message.len() {
            let chunk = poll_fn(|cx| self.answer.poll_data(cx)).await.ok_or("ENDED")?;
            let chunk = chunk.map_err(|error| reset_name(&error))?;
            same &= message.get(received..received + chunk.len()) == Some(&chunk[..]);
            received += chunk.len();
            self.answer.release(chunk.len());
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
            state.record(began, outcome.map(|same| (Status::Borrowed("OK"), same)));
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
fn fail(load: &Load, error: &Status) {
    eprintln!("an open call failed: {error}");
    let mut state = load.state.borrow_mut();
    *state.statuses.entry(error.clone()).or_default() += 1;
}
