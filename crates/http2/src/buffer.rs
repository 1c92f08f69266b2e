//! The buffer that frames are read into. Large payloads share it; what that keeps of it is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};

/// Payloads below this part of the allocation that they came in are copied out of it. Whoever keeps them keeps no more than
/// so many times their bytes.
pub(crate) const PART: usize = 8;

/// Bytes of read buffers that payloads of a connection may share. What comes beyond that is copied: of the many payloads of a
/// buffer all but one may be dealt with soon.
const MOST_SHARED: usize = 8 << 20;

/// Read buffers of a connection that payloads share, for as long as one of them is there.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Bytes of these buffers.
    buffers: AtomicUsize,
    /// Bytes of the payloads among them.
    payloads: AtomicUsize,
}

impl Shared {
    /// Bytes that are there only because payloads beside them are.
    pub fn beside(&self) -> usize {
        self.buffers.load(Ordering::Relaxed).saturating_sub(self.payloads.load(Ordering::Relaxed))
    }
}

/// An allocation of which payloads are parts.
#[derive(Debug)]
struct Allocation {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.shared.buffers.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A payload and the allocation that it is a part of.
struct Payload {
    bytes: Bytes,
    allocation: Arc<Allocation>,
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.allocation.shared.payloads.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// What was read and not yet dealt with.
pub(crate) struct ReadBuffer {
    pub bytes: BytesMut,
    /// Bytes of the allocation behind `bytes`, what was cut off it included.
    allocated: usize,
    /// The allocation, once a payload is a part of it.
    allocation: Option<Arc<Allocation>>,
    shared: Arc<Shared>,
}

impl ReadBuffer {
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self { bytes: BytesMut::new(), allocated: 0, allocation: None, shared: Arc::clone(shared) }
    }

    /// Bytes that are held for what has not been dealt with, and that no payload shares.
    pub fn held(&self) -> usize {
        if self.allocation.is_some() { 0 } else { self.allocated }
    }

    /// Bytes that can be read without another allocation.
    pub fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// Makes room for so many bytes more.
    pub fn reserve(&mut self, bytes: usize) {
        // Not `BytesMut::reserve`, which does not tell how much it allocates.
        if self.bytes.try_reclaim(bytes) {
            return;
        }
        let mut larger = BytesMut::with_capacity(self.bytes.len() + bytes);
        larger.extend_from_slice(&self.bytes);
        self.allocated = larger.capacity();
        self.allocation = None;
        self.bytes = larger;
    }

    /// Keeps nothing, if there is nothing: of thousands of connections most are idle.
    pub fn rest(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
            self.allocated = 0;
            self.allocation = None;
        }
    }

    /// Whether a payload of so many bytes is copied.
    pub fn copies(&self, length: usize) -> bool {
        length * PART < self.allocated || self.shared.buffers.load(Ordering::Relaxed) >= MOST_SHARED
    }

    /// Cuts off the first `end` bytes; those from `from` to `to` are a payload that shares the allocation.
    pub fn share(&mut self, end: usize, (from, to): (usize, usize)) -> Bytes {
        let bytes = self.bytes.split_to(end).freeze().slice(from..to);
        let allocation = Arc::clone(self.allocation.get_or_insert_with(|| {
            self.shared.buffers.fetch_add(self.allocated, Ordering::Relaxed);
            Arc::new(Allocation { shared: Arc::clone(&self.shared), bytes: self.allocated })
        }));
        self.shared.payloads.fetch_add(bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Payload { bytes, allocation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1 << 10;

    fn filled(buffer: &mut ReadBuffer, bytes: usize) {
        buffer.reserve(bytes);
        buffer.bytes.resize(bytes, 7);
    }

    #[test]
    fn what_payloads_keep_beside_themselves_is_counted() {
        let shared = Arc::new(Shared::default());
        let mut buffer = ReadBuffer::new(&shared);
        filled(&mut buffer, 64 * KIB);
        assert_eq!((buffer.held(), shared.beside()), (64 * KIB, 0));
        assert!(buffer.copies(8 * KIB - 1) && !buffer.copies(8 * KIB));
        let first = buffer.share(16 * KIB, (9, 16 * KIB));
        let second = buffer.share(16 * KIB, (0, 16 * KIB));
        assert_eq!(first.len(), 16 * KIB - 9);
        assert_eq!((buffer.held(), shared.beside()), (0, 32 * KIB + 9));
        // Another allocation: what is not dealt with moves.
        buffer.reserve(64 * KIB);
        assert_eq!((buffer.bytes.len(), buffer.held()), (32 * KIB, 96 * KIB));
        drop(second);
        assert_eq!(shared.beside(), 48 * KIB + 9);
        let part = first.slice(..1);
        drop(first);
        assert_eq!(shared.beside(), 48 * KIB + 9, "a part of it is still there");
        drop(part);
        assert_eq!(shared.beside(), 0);
    }

    #[test]
    fn so_much_is_shared_and_the_rest_is_copied() {
        let shared = Arc::new(Shared::default());
        let mut buffer = ReadBuffer::new(&shared);
        let mut share = || {
            filled(&mut buffer, 64 * KIB);
            let copies = buffer.copies(64 * KIB);
            (!copies).then(|| buffer.share(64 * KIB, (0, 64 * KIB)))
        };
        let mut payloads: Vec<_> = std::iter::from_fn(&mut share).collect();
        assert_eq!(payloads.len(), 128);
        // The read buffer itself counts until there is another one.
        payloads.pop();
        payloads.pop();
        assert!(share().is_some());
    }

    #[test]
    fn an_allocation_that_is_used_again_counts_whole() {
        let shared = Arc::new(Shared::default());
        let mut buffer = ReadBuffer::new(&shared);
        filled(&mut buffer, 64 * KIB);
        drop(buffer.share(63 * KIB, (0, 63 * KIB)));
        buffer.reserve(8 * KIB);
        assert!(buffer.copies(4 * KIB), "of 64 KiB, however much of them can be written now");
        buffer.rest();
        assert_eq!(buffer.held(), 0, "there is something");
        buffer.bytes.clear();
        buffer.rest();
        assert_eq!((buffer.held(), shared.beside(), buffer.room()), (0, 0, 0));
    }
}
