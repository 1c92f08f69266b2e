//! A connection's bytes without a socket: what came is put in, what is to be sent is taken out. With TLS in between, or
//! without.

use std::io::{self, ErrorKind, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transport::tls::{ClientTls, speaks_http2};

/// Bytes that wait to be taken before the connection is asked to wait with more.
pub const MOST_UNTAKEN: usize = 256 << 10;

/// Both directions of a connection that somebody else moves the bytes of.
pub struct Pipe {
    came: BytesMut,
    to_send: Vec<u8>,
    /// Bytes that were written and not taken yet.
    untaken: usize,
    /// Whoever writes waits until they are taken.
    writer: Option<Waker>,
    tls: Option<Box<rustls::ClientConnection>>,
    /// Nothing more will come.
    at_end: bool,
    /// Why TLS has failed.
    failure: Option<String>,
}

impl Pipe {
    /// `tls`: with the name that the other side's certificate has to carry.
    ///
    /// # Errors
    /// A sentence for people: the name cannot be one.
    pub fn new(tls: Option<(&ClientTls, &str)>) -> Result<Self, String> {
        let tls = match tls {
            None => None,
            Some((tls, name)) => {
                let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("{name:?}: {error}"))?;
                let mut tls = rustls::ClientConnection::new(tls.config(), name).map_err(|error| error.to_string())?;
                // What waits here is bounded as the rest is, by `MOST_UNTAKEN`.
                tls.set_buffer_limit(None);
                Some(Box::new(tls))
            }
        };
        Ok(Self { tls, ..Self::plain() })
    }

    /// Without TLS.
    pub fn plain() -> Self {
        Self {
            came: BytesMut::new(),
            to_send: Vec::new(),
            untaken: 0,
            writer: None,
            tls: None,
            at_end: false,
            failure: None,
        }
    }

    /// Takes in what the socket gave.
    pub fn put(&mut self, mut bytes: &[u8]) {
        let Some(tls) = &mut self.tls else { return self.came.extend_from_slice(bytes) };
        while !bytes.is_empty() && self.failure.is_none() {
            let taken = tls.read_tls(&mut bytes).map_err(|error| error.to_string());
            let processed = taken.and_then(|_| tls.process_new_packets().map_err(|error| error.to_string()));
            let mut rest = [0; 16 << 10];
            while let Ok(read @ 1..) = tls.reader().read(&mut rest) {
                self.came.extend_from_slice(&rest[..read]);
            }
            self.failure = processed.err();
        }
        if self.failure.is_none() && !tls.is_handshaking() && !speaks_http2(tls) {
            self.failure = Some("the server does not speak HTTP/2".into());
        }
        self.at_end |= self.failure.is_some();
    }

    /// Nothing more will come.
    pub fn end(&mut self) {
        self.at_end = true;
    }

    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// What the socket is to send.
    pub fn take(&mut self) -> Vec<u8> {
        if let Some(tls) = &mut self.tls {
            // Into memory: it cannot fail.
            while tls.wants_write() && tls.write_tls(&mut self.to_send).is_ok() {}
        }
        self.untaken = 0;
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
        std::mem::take(&mut self.to_send)
    }
}

/// The end of a pipe that speaks HTTP/2.
pub struct End(pub Arc<Mutex<Pipe>>);

impl AsyncRead for End {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.0.lock();
        if pipe.came.is_empty() && !pipe.at_end {
            return Poll::Pending;
        }
        let read = pipe.came.len().min(buffer.remaining());
        buffer.put_slice(&pipe.came[..read]);
        pipe.came.advance(read);
        if pipe.came.is_empty() {
            // Most connections are idle most of the time.
            pipe.came = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.0.lock();
        if pipe.at_end {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        }
        if pipe.untaken >= MOST_UNTAKEN {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.untaken += bytes.len();
        match &mut pipe.tls {
            Some(tls) => tls.writer().write_all(bytes)?,
            None => pipe.to_send.extend_from_slice(bytes),
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.0.lock();
        if let Some(tls) = &mut pipe.tls {
            tls.send_close_notify();
        }
        pipe.at_end = true;
        Poll::Ready(Ok(()))
    }
}
