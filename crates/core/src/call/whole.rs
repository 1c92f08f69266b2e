//! The answer of a unary call, for a caller of ours that takes it as a whole.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};

use crate::transport::flow::Gone;
use crate::transport::purse::Purse;
use crate::transport::refused::Refused;
use crate::wire::framing::{Deframer, PREFIX};
use crate::wire::headers::MM_FALLBACK;
use crate::wire::status::{Code, code_of};

/// What has come of an answer.
pub struct Whole {
    pub head: Option<HeaderMap>,
    pub trailers: HeaderMap,
    body: BytesMut,
    /// Bytes that its message may have, with the prefix.
    max: usize,
    /// Pays for it.
    purse: Purse,
    /// Why no more of it is taken.
    refused: Option<Refused>,
}

impl Whole {
    #[must_use]
    pub fn new(max_message: usize, purse: Purse) -> Self {
        Self {
            head: None,
            trailers: HeaderMap::new(),
            body: BytesMut::new(),
            max: max_message.saturating_add(PREFIX),
            purse,
            refused: None,
        }
    }

    /// Takes answer bytes in.
    ///
    /// # Errors
    /// They are more than one message, or cannot be paid for.
    pub fn collect(&mut self, chunk: &[u8]) -> Result<(), Gone> {
        if self.body.len() + chunk.len() > self.max {
            self.refused = Some(not_one());
        } else if !self.purse.hold(chunk.len()) {
            self.refused = Some(Purse::empty());
        } else {
            self.body.extend_from_slice(chunk);
            return Ok(());
        }
        Err(Gone)
    }

    /// The message of the answer, the model that answered in place of the wanted one, if it did; and what pays for them.
    ///
    /// # Errors
    /// The call ended with another status than OK, or the answer is not one message.
    pub fn into_message(self) -> (Result<(Bytes, Option<HeaderValue>), Refused>, Purse) {
        let Self { head, trailers, body, purse, refused, .. } = self;
        let fallback = head.as_ref().and_then(|head| head.get(MM_FALLBACK));
        let message = match message(&trailers, body, refused) {
            Ok(message) => Ok((message, fallback.cloned())),
            Err(refused) => Err(refused.by(fallback)),
        };
        (message, purse)
    }
}

fn message(trailers: &HeaderMap, body: BytesMut, refused: Option<Refused>) -> Result<Bytes, Refused> {
    if let Some(refused) = refused {
        return Err(refused);
    }
    if code_of(trailers) != Some(Code::Ok) {
        return Err(Refused::of_trailers(trailers));
    }
    let mut deframer = Deframer::of(body);
    let message = deframer.next_message().ok_or_else(not_one)?;
    if message.compressed {
        return Err(Refused::new(Code::Internal, "a message of the answer is compressed"));
    }
    if !deframer.is_empty() {
        return Err(not_one());
    }
    Ok(message.payload)
}

fn not_one() -> Refused {
    Refused::new(Code::Internal, "the answer is not one message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Ledger, Side};
    use crate::wire::framing::framed;
    use crate::wire::status::Status;

    const MAX: usize = 1 << 20;

    /// What is read from an answer in these pieces, that ended with a code.
    fn answered(pieces: &[&[u8]], code: Code) -> Result<Bytes, Refused> {
        let ledger = Ledger::new(64 << 20, MAX);
        let account = ledger.open(Side::Clients, "a");
        let mut whole = Whole::new(MAX, Purse::of(account.holder()));
        whole.head = Some(HeaderMap::new());
        let taken = pieces.iter().all(|piece| whole.collect(piece).is_ok());
        if taken {
            whole.trailers = Status::new(code, "why").into_trailers();
        }
        whole.into_message().0.map(|(message, _)| message)
    }

    #[test]
    fn an_answer_is_one_message_however_it_is_cut() {
        let bytes = framed(b"hello");
        assert_eq!(answered(&[&bytes], Code::Ok).unwrap(), "hello");
        assert_eq!(answered(&[&bytes[..1], &bytes[1..7], &bytes[7..]], Code::Ok).unwrap(), "hello");
        let large = vec![7; MAX];
        assert_eq!(answered(&[&framed(&large)], Code::Ok).unwrap(), large);
        for pieces in [&[][..], &[&bytes[..9]], &[&bytes, &bytes[..1]], &[&bytes, &bytes], &[&framed(&large), b"x"]] {
            assert_eq!(answered(pieces, Code::Ok), Err(not_one()), "{} pieces", pieces.len());
        }
        let mut compressed = bytes.to_vec();
        compressed[0] = 1;
        assert_eq!(answered(&[&compressed], Code::Ok).unwrap_err().code, Code::Internal);
    }

    #[test]
    fn a_status_counts_more_than_what_came_before_it() {
        let refused = answered(&[&framed(b"hello")], Code::NotFound).unwrap_err();
        assert_eq!(refused, Refused::new(Code::NotFound, "why"));
    }

    #[test]
    fn an_answer_that_cannot_be_paid_for_is_refused() {
        let ledger = Ledger::new(1 << 20, 1);
        let account = ledger.open(Side::Clients, "a");
        let mut whole = Whole::new(MAX, Purse::of(account.holder()));
        let piece = vec![0; 64 << 10];
        let taken = (0..16).take_while(|_| whole.collect(&piece).is_ok()).count();
        assert!((1..16).contains(&taken), "{taken}");
        assert_eq!(whole.into_message().0.unwrap_err(), Purse::empty());
        assert_eq!(ledger.held(Side::Clients), 0, "it is given back");
    }
}
