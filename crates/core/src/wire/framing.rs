//! The 5-byte prefixes of gRPC messages, followed through DATA frames that are not aligned with them.

use bytes::{Buf, Bytes, BytesMut};

/// Length of a message prefix: one byte of flags, four of length.
pub const PREFIX: usize = 5;

/// Follows message lengths without keeping bytes, so that an oversized message is refused at its
/// prefix, before any of it is buffered.
#[derive(Debug)]
pub struct Follower {
    max: usize,
    prefix: [u8; PREFIX],
    have: usize,
    /// Bytes of the current message still to come, once its prefix is complete.
    left: usize,
    /// Complete messages seen.
    pub messages: u64,
    /// Bytes seen, prefixes included.
    bytes: u64,
}

/// A message announced more than is permitted.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong {
    pub length: usize,
    pub max: usize,
}

impl TooLong {
    /// The text every gRPC library uses for this.
    #[must_use]
    pub fn message(&self) -> String {
        format!("Received message larger than max ({} vs. {})", self.length, self.max)
    }
}

impl Follower {
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { max, prefix: [0; PREFIX], have: 0, left: 0, messages: 0, bytes: 0 }
    }

    /// Bytes of the messages seen, without their prefixes.
    #[must_use]
    pub fn message_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.messages * PREFIX as u64)
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        self.have > 0
    }

    /// Takes note of the next bytes.
    ///
    /// # Errors
    /// A message longer than the limit begins in them.
    pub fn follow(&mut self, mut chunk: &[u8]) -> Result<(), TooLong> {
        self.bytes += chunk.len() as u64;
        while !chunk.is_empty() {
            if self.have < PREFIX {
                let take = chunk.len().min(PREFIX - self.have);
                self.prefix[self.have..self.have + take].copy_from_slice(&chunk[..take]);
                self.have += take;
                chunk = &chunk[take..];
                if self.have < PREFIX {
                    return Ok(());
                }
                self.left = message_length(self.prefix);
                if self.left > self.max {
                    return Err(TooLong { length: self.left, max: self.max });
                }
            }
            let skip = chunk.len().min(self.left);
            self.left -= skip;
            chunk = &chunk[skip..];
            if self.left == 0 {
                self.have = 0;
                self.messages += 1;
            }
        }
        Ok(())
    }
}

/// The length that a prefix tells.
#[must_use]
pub fn message_length(prefix: [u8; PREFIX]) -> usize {
    u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize
}

/// A whole message, without its prefix.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    pub compressed: bool,
    pub payload: Bytes,
}

/// Cuts a stream of bytes into messages, where somebody reads them.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: BytesMut,
}

impl Deframer {
    /// Of bytes that are all here.
    #[must_use]
    pub fn of(buffer: BytesMut) -> Self {
        Self { buffer }
    }

    pub fn push(&mut self, chunk: &[u8]) {
        self.buffer.extend_from_slice(chunk);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next whole message. Its length was checked by the `Follower` that saw the bytes first.
    pub fn next_message(&mut self) -> Option<Message> {
        let prefix: [u8; PREFIX] = *self.buffer.first_chunk()?;
        let length = message_length(prefix);
        let compressed = prefix[0] & 1 == 1;
        if self.buffer.len() < PREFIX + length {
            return None;
        }
        self.buffer.advance(PREFIX);
        Some(Message { compressed, payload: self.buffer.split_to(length).freeze() })
    }
}

/// The prefix of an uncompressed message.
#[must_use]
pub fn prefix_of(length: usize) -> [u8; PREFIX] {
    // Messages are bounded by a 32-bit limit long before this.
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

/// An uncompressed message with its prefix.
#[must_use]
pub fn framed(payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX + payload.len());
    frame.extend_from_slice(&prefix_of(payload.len()));
    frame.extend_from_slice(payload);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_messages_in_any_cut() {
        let bytes = [framed(b"hello"), framed(b""), framed(&[7; 300])].concat();
        for step in 1..40 {
            let mut follower = Follower::new(300);
            for chunk in bytes.chunks(step) {
                follower.follow(chunk).unwrap();
            }
            assert!(!follower.is_inside());
            assert_eq!((follower.messages, follower.message_bytes()), (3, 305));
        }
    }

    #[test]
    fn refuses_at_the_prefix() {
        let mut follower = Follower::new(10);
        follower.follow(&framed(&[0; 10])).unwrap();
        for byte in 1..15 {
            follower.follow(&framed(&[0; 10])[byte - 1..byte]).unwrap();
            assert!(follower.is_inside());
        }
        follower.follow(&[0]).unwrap();
        assert_eq!(follower.follow(&prefix_of(11)), Err(TooLong { length: 11, max: 10 }));
    }

    #[test]
    fn cuts_messages_apart() {
        let bytes = [framed(b"one"), framed(b""), framed(b"three")].concat();
        for step in 1..bytes.len() {
            let mut deframer = Deframer::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(step) {
                deframer.push(chunk);
                while let Some(message) = deframer.next_message() {
                    seen.push(message.payload);
                }
            }
            assert_eq!(seen, ["one", "", "three"]);
        }
    }
}
