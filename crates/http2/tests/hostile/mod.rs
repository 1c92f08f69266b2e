//! A server under a client that means harm, moved step by step.

#![allow(dead_code, reason = "each test file uses a part")]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Wake};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use modelmesh_http2::{Accepted, Error, Server, Settings};
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// `:method POST`, `:scheme http`, `:path /`.
pub const REQUEST: &[u8] = b"\x83\x86\x84";
pub const MIB: usize = 1 << 20;

pub fn frame(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.put_uint(payload.len() as u64, 3);
    out.put_u8(kind);
    out.put_u8(flags);
    out.put_u32(stream);
    out.put_slice(payload);
}

/// One test after the other: some look at what the whole process holds.
static TURN: Mutex<()> = Mutex::new(());

pub fn run(test: impl Future<Output = ()>) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio.block_on(async { tokio::time::timeout(Duration::from_secs(30), test).await.expect("this hangs") });
}

/// A server that keeps what it accepts, and the client's end of its connection.
pub struct Held {
    pub server: Server<DuplexStream>,
    pub near: DuplexStream,
    pub calls: Vec<Accepted>,
    pub over: Option<Error>,
}

impl Held {
    pub async fn new(settings: Settings, pipe: usize) -> Self {
        let (mut near, far) = duplex(pipe);
        let mut hello = BytesMut::from(PREFACE);
        hello.put_slice(SETTINGS);
        near.write_all(&hello).await.unwrap();
        let server = Server::handshake(far, settings).await.unwrap();
        Self { server, near, calls: Vec::new(), over: None }
    }

    /// Says something, while the server reads what it will; the bytes that it took.
    pub async fn say(&mut self, bytes: &[u8], mut accepted: impl FnMut(Accepted) -> Option<Accepted>) -> usize {
        let mut said = 0;
        let Self { server, near, calls, over } = self;
        // Nothing is left to do once neither side moves for a while.
        let mut idle = 0;
        while idle < 200 {
            let before = said;
            while said < bytes.len() {
                let write = near.write(&bytes[said..]);
                match poll_once(write).await {
                    Some(Ok(written)) => said += written,
                    Some(Err(_)) | None => break,
                }
            }
            while let Some(outcome) = poll_once(poll_fn(|cx| server.poll_accept(cx))).await {
                match outcome {
                    Some(Ok(call)) => calls.extend(accepted(call)),
                    Some(Err(error)) => {
                        *over = Some(error);
                        return said;
                    }
                    None => return said,
                }
            }
            idle = if said > before { 0 } else { idle + 1 };
            tokio::task::yield_now().await;
        }
        said
    }
}

pub async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Counts how often it is woken.
#[derive(Default)]
pub struct Woken(pub AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
