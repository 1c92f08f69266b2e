//! Compressed messages, where they must be read or changed. Elsewhere they pass as they are.
//!
//! A few bytes can grow to a thousand times as many. Each turn of a thread makes only so many of them, and each is paid
//! for before it is there.

use std::future::poll_fn;
use std::io::{self, BufRead, ErrorKind, Read};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use flate2::bufread::GzDecoder;
use http::{HeaderMap, HeaderValue};

use crate::budget::{Budget, Share};
use crate::ledger::{Charge, Holder};
use crate::wire::framing::Message;
use crate::wire::headers::{GRPC_ACCEPT_ENCODING, GRPC_ENCODING};
use crate::wire::status::{Code, Status};

/// Bytes that are inflated, or read of what is to be inflated, in one turn of a thread.
const TURN: usize = 256 << 10;
/// Bytes that a buffer begins with.
const FIRST: usize = 4 << 10;

/// How the messages of a call may be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
    Unknown,
}

impl Encoding {
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity" | b"") => Self::Identity,
            Some(b"gzip") => Self::Gzip,
            Some(_) => Self::Unknown,
        }
    }
}

/// Who pays for what messages grow to: the connection that sent them, and a budget of the process.
#[derive(Debug)]
pub struct Purse {
    share: Share,
    holder: Arc<Holder>,
    /// None: nothing was paid yet.
    charge: Option<Charge>,
    refusal: &'static str,
}

impl Purse {
    /// `refusal`: what the client is told when more cannot be paid.
    #[must_use]
    pub fn new(budget: &Arc<Budget>, holder: &Arc<Holder>, refusal: &'static str) -> Self {
        Self { share: budget.share(), holder: Arc::clone(holder), charge: None, refusal }
    }

    /// For messages of inference calls, of which the process keeps so many bytes.
    #[must_use]
    pub fn of_requests(kept: &Arc<Budget>, holder: &Arc<Holder>) -> Self {
        Self::new(kept, holder, "too many bytes of requests are kept; try again")
    }

    /// Pays for more bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED, and nothing was paid: the connection, or the process, has too many.
    pub fn pay(&mut self, bytes: usize) -> Result<(), Status> {
        let refused = Err(Status::new(Code::ResourceExhausted, self.refusal));
        if !self.share.grow(bytes) {
            return refused;
        }
        let charged = match &mut self.charge {
            Some(charge) => charge.grow(bytes),
            None => {
                self.charge = self.holder.charge(bytes);
                self.charge.is_some()
            }
        };
        if charged {
            return Ok(());
        }
        self.share.shrink(bytes);
        refused
    }

    /// Some of the bytes are gone.
    pub fn give_back(&mut self, bytes: usize) {
        self.share.shrink(bytes);
        if let Some(charge) = &mut self.charge {
            charge.shrink(bytes);
        }
    }

    /// All of them are.
    pub fn clear(&mut self) {
        self.share.clear();
        self.charge = None;
    }
}

/// What may still be done in this turn.
#[derive(Debug)]
pub struct Turn(usize);

impl Default for Turn {
    fn default() -> Self {
        Self(TURN)
    }
}

/// A message that is being made as it was before compression.
#[derive(Debug)]
pub struct Expansion {
    source: Source,
    expanded: Vec<u8>,
    max: usize,
}

#[derive(Debug)]
enum Source {
    Plain(Bytes),
    Gzip(Box<GzDecoder<Rationed>>),
}

impl Expansion {
    /// `max`: the largest message that is taken.
    ///
    /// # Errors
    /// UNIMPLEMENTED for an encoding we do not know (with those we do), INTERNAL if none was named.
    pub fn of(message: Message, encoding: Encoding, max: usize) -> Result<Self, Status> {
        let source = match encoding {
            _ if !message.compressed => Source::Plain(message.payload),
            Encoding::Gzip => Source::Gzip(Box::new(GzDecoder::new(Rationed { bytes: message.payload, left: 0 }))),
            Encoding::Identity => {
                let message = "a message is marked as compressed, but grpc-encoding names no compression";
                return Err(Status::new(Code::Internal, message));
            }
            Encoding::Unknown => {
                return Err(Status::new(Code::Unimplemented, "this compression is not supported")
                    .with(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity,gzip")));
            }
        };
        Ok(Self { source, expanded: Vec::new(), max })
    }

    /// Goes on as far as the turn permits; the message once it is whole, of which the purse has paid every byte.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED if it grows beyond `max` or what can be paid, INVALID_ARGUMENT if it is damaged.
    pub fn go_on(&mut self, turn: &mut Turn, purse: &mut Purse) -> Result<Option<Bytes>, Status> {
        let decoder = match &mut self.source {
            Source::Plain(payload) => return Ok(Some(std::mem::take(payload))),
            Source::Gzip(decoder) => decoder,
        };
        let damaged = || Status::new(Code::InvalidArgument, "a compressed message is damaged");
        while turn.0 > 0 {
            let have = self.expanded.len();
            if have > self.max {
                let message = format!("Received message larger than max after decompression ({})", self.max);
                return Err(Status::new(Code::ResourceExhausted, message));
            }
            if have == self.expanded.capacity() {
                // One byte more than permitted shows that it is too much, without expanding the rest.
                let most = self.max.saturating_add(1) - have;
                let more = have.max(FIRST).min(most);
                purse.pay(more)?;
                self.expanded.reserve_exact(more);
            }
            let room = (self.expanded.capacity() - have).min(turn.0);
            self.expanded.resize(have + room, 0);
            decoder.get_mut().left = turn.0;
            let read = decoder.read(&mut self.expanded[have..]);
            let input_left = decoder.get_ref().left;
            self.expanded.truncate(have + *read.as_ref().unwrap_or(&0));
            let output_left = turn.0 - (self.expanded.len() - have);
            turn.0 = input_left.min(output_left);
            match read {
                Ok(0) => {
                    // Some libraries read what follows the first member, others do not: what they would make of the
                    // message is not what we read.
                    if !decoder.get_ref().bytes.is_empty() {
                        return Err(damaged());
                    }
                    purse.give_back(self.expanded.capacity() - self.expanded.len());
                    self.expanded.shrink_to_fit();
                    return Ok(Some(std::mem::take(&mut self.expanded).into()));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Err(damaged()),
            }
        }
        Ok(None)
    }

    /// As `go_on`, with a turn of its own each time.
    ///
    /// # Errors
    /// As `go_on`.
    pub fn poll(&mut self, purse: &mut Purse, cx: &Context<'_>) -> Poll<Result<Bytes, Status>> {
        match self.go_on(&mut Turn::default(), purse) {
            Ok(Some(payload)) => Poll::Ready(Ok(payload)),
            Ok(None) => {
                // That was work: others have their turn.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Err(status) => Poll::Ready(Err(status)),
        }
    }
}

/// The message as it was before compression; the purse pays for what it has grown to.
///
/// # Errors
/// As those of `Expansion`.
pub async fn expand(message: Message, encoding: Encoding, max: usize, purse: &mut Purse) -> Result<Bytes, Status> {
    let mut expansion = Expansion::of(message, encoding, max)?;
    poll_fn(|cx| expansion.poll(purse, cx)).await
}

/// Bytes of which so many may be read now.
#[derive(Debug)]
struct Rationed {
    bytes: Bytes,
    left: usize,
}

impl BufRead for Rationed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 && !self.bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(&self.bytes[..self.bytes.len().min(self.left)])
    }

    fn consume(&mut self, bytes: usize) {
        self.bytes.advance(bytes);
        self.left -= bytes;
    }
}

impl Read for Rationed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::ledger::{Ledger, Side};

    const MIB: usize = 1 << 20;

    struct Payers {
        budget: Arc<Budget>,
        ledger: Ledger,
    }

    impl Payers {
        fn new(budget: usize) -> Self {
            Self { budget: Budget::new(budget), ledger: Ledger::new(64 * MIB, MIB) }
        }

        fn purse(&self) -> Purse {
            Purse::of_requests(&self.budget, self.ledger.open(Side::Clients, "a").holder())
        }

        fn paid(&self) -> [usize; 2] {
            [self.budget.used(), self.ledger.held(Side::Clients)]
        }
    }

    fn message(plain: &[u8]) -> Message {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        Message { compressed: true, payload: encoder.finish().unwrap().into() }
    }

    /// The whole message, and the turns that it took.
    fn turns(message: Message, max: usize, purse: &mut Purse) -> Result<(Bytes, usize), Status> {
        let mut expansion = Expansion::of(message, Encoding::Gzip, max)?;
        let mut turns = 1;
        loop {
            let before = expansion.expanded.len();
            if let Some(payload) = expansion.go_on(&mut Turn::default(), purse)? {
                return Ok((payload, turns));
            }
            assert!(expansion.expanded.len() - before <= TURN);
            turns += 1;
        }
    }

    fn whole(message: Message, max: usize) -> Result<Bytes, Status> {
        turns(message, max, &mut Payers::new(64 * MIB).purse()).map(|(payload, _)| payload)
    }

    #[test]
    fn gzip_is_read() {
        let plain = vec![7; 100_000];
        assert_eq!(whole(message(&plain), 100_000).unwrap(), plain);
        assert_eq!(whole(message(b""), 0).unwrap(), "");
    }

    #[test]
    fn a_turn_has_a_bound_in_what_is_read_and_what_is_made() {
        let payers = Payers::new(64 * MIB);
        let plain = vec![0; 8 * TURN];
        let (read, turns_taken) = turns(message(&plain), plain.len(), &mut payers.purse()).unwrap();
        assert!(read == plain && (8..=10).contains(&turns_taken), "{turns_taken}");
        // Blocks of nothing: five bytes each.
        let mut bytes = message(b"").payload[..10].to_vec();
        bytes.extend(std::iter::repeat_n([0, 0, 0, 255, 255], TURN).flatten());
        bytes.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let nothing = Message { compressed: true, payload: bytes.into() };
        let (read, turns_taken) = turns(nothing, 10, &mut payers.purse()).unwrap();
        assert!(read.is_empty() && (5..=7).contains(&turns_taken), "{turns_taken}");
    }

    #[test]
    fn what_it_grows_to_is_paid_for() {
        let payers = Payers::new(64 * MIB);
        let mut purse = payers.purse();
        let (payload, _) = turns(message(&vec![7; 3 * TURN]), MIB, &mut purse).unwrap();
        assert_eq!(payers.paid(), [payload.len(); 2]);
        purse.clear();
        assert_eq!(payers.paid(), [0; 2]);
    }

    #[test]
    fn nothing_grows_beyond_what_can_be_paid() {
        for payers in [Payers::new(TURN), Payers::new(64 * MIB)] {
            // The connection: seven eighths of 32 MiB.
            let status = turns(message(&vec![7; 30 * MIB]), 40 * MIB, &mut payers.purse()).unwrap_err();
            assert_eq!(status.code, Code::ResourceExhausted);
            assert_eq!(status.message, "too many bytes of requests are kept; try again");
            assert_eq!(payers.paid(), [0; 2], "the purse has gone");
        }
    }

    #[test]
    fn a_second_member_is_refused() {
        let [one, two] = [message(b"one"), message(b"two")].map(|message| message.payload);
        let both = Message { compressed: true, payload: [one, two].concat().into() };
        assert_eq!(whole(both, 10).unwrap_err().code, Code::InvalidArgument);
    }

    #[test]
    fn a_cut_message_is_refused() {
        let payload = message(&[7; 1000]).payload;
        for length in 0..payload.len() {
            let cut = Message { compressed: true, payload: payload.slice(..length) };
            assert_eq!(whole(cut, 1000).unwrap_err().code, Code::InvalidArgument, "{length}");
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let status = whole(message(&vec![0; 100_001]), 100_000).unwrap_err();
        assert_eq!(status.message, "Received message larger than max after decompression (100000)");
    }

    #[test]
    fn what_cannot_be_read_says_what_can() {
        let status = Expansion::of(message(b"x"), Encoding::Unknown, 10).unwrap_err();
        assert_eq!(status.code, Code::Unimplemented);
        assert_eq!(status.into_trailers()[GRPC_ACCEPT_ENCODING], "identity,gzip");
        let damaged = Message { compressed: true, payload: Bytes::from_static(b"nonsense") };
        assert_eq!(whole(damaged, 10).unwrap_err().code, Code::InvalidArgument);
    }
}
