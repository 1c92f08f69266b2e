//! The answer for one id of a call with several.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};

use crate::transport::flow::Gone;
use crate::wire::compression::{self, Encoding, Purse};
use crate::wire::framing::Deframer;
use crate::wire::headers::{GRPC_ACCEPT_ENCODING, GRPC_ENCODING, GRPC_MESSAGE, GRPC_STATUS, entry_size};
use crate::wire::status::{Code, Status};

/// The answer for one id.
pub struct Part {
    pub head: Option<HeaderMap>,
    pub trailers: HeaderMap,
    body: BytesMut,
    /// Bytes that all parts together may still collect.
    left: Arc<AtomicUsize>,
    pub overflowed: bool,
}

impl Part {
    #[must_use]
    pub fn new(left: &Arc<AtomicUsize>) -> Self {
        Self {
            head: None,
            trailers: HeaderMap::new(),
            body: BytesMut::new(),
            left: Arc::clone(left),
            overflowed: false,
        }
    }

    /// Takes answer bytes in.
    ///
    /// # Errors
    /// All parts together are larger than one message may be.
    pub fn collect(&mut self, chunk: &[u8]) -> Result<(), Gone> {
        let fits = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(chunk.len()));
        if fits.is_err() {
            self.overflowed = true;
            return Err(Gone);
        }
        self.body.extend_from_slice(chunk);
        Ok(())
    }

    /// What it adds to the joined header lists.
    #[must_use]
    pub fn metadata_bytes(&self) -> usize {
        let head = self.head.iter().flat_map(HeaderMap::iter);
        head.chain(&self.trailers).filter(|(name, _)| is_joined(name)).map(entry_size).sum()
    }

    /// Appends the answer's messages without their prefixes, one after the other.
    ///
    /// # Errors
    /// They are damaged, cannot be paid for, or are larger than `max` together.
    pub async fn payload(&self, max: usize, purse: &mut Purse, joined: &mut BytesMut) -> Result<(), Status> {
        let encoding = self.head.as_ref().map_or(Encoding::Identity, Encoding::of);
        let mut deframer = Deframer::default();
        deframer.push(&self.body);
        while let Some(message) = deframer.next_message() {
            joined.extend_from_slice(&compression::expand(message, encoding, max, purse).await?);
            if joined.len() > max {
                return Err(too_large(max));
            }
        }
        Ok(())
    }
}

/// Whether a header of one answer is one of the joined answer: not what says how that one ended or is written.
#[must_use]
pub fn is_joined(name: &HeaderName) -> bool {
    ![CONTENT_TYPE, GRPC_ENCODING, GRPC_ACCEPT_ENCODING, GRPC_STATUS, GRPC_MESSAGE].contains(name)
}

/// The status of a call whose joined answer is larger than one message may be.
#[must_use]
pub fn too_large(max: usize) -> Status {
    Status::new(Code::ResourceExhausted, format!("the joined answer is larger than max ({max})"))
}
