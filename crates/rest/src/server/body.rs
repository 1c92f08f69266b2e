//! Bodies: read within their bounds and their time, inflated within the same bounds, written with what they hold.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::{GzEncoder, MultiGzDecoder, ZlibDecoder};
use http::StatusCode;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use modelmesh_core::Purse;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::heavy::{Heavy, LARGE};
use super::refusal::fault_of;
use crate::fault::Fault;
use crate::json::too_large;

/// A body may take this long, and longer at `LEAST_RATE`.
const TIME: Duration = Duration::from_secs(30);
/// Bytes a second.
const LEAST_RATE: u64 = 4 << 10;
/// How long the rest of a body is let in that is too large.
const WASTED: Duration = Duration::from_secs(5);
const STEP: usize = 64 << 10;
/// Below this, compression saves no packet.
const LEAST_COMPRESSED: usize = 1400;

/// Reads a body to its end, and undoes its compression; of large ones on the threads of `heavy`.
///
/// # Errors
/// 413: it is too large, before or after. 408: it came too slowly. 429: too much is held for the client. 415: a
/// unknown compression. 400: it ended early, or is not what it says.
pub async fn read(
    headers: &HeaderMap,
    mut body: impl Body<Data = Bytes> + Unpin,
    max_bytes: usize,
    purse: &mut Purse,
    heavy: &Heavy,
) -> Result<Bytes, Fault> {
    let encoding = encoding(headers)?;
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let received = if length.is_some_and(|length: usize| length > max_bytes) {
        Err(too_large(max_bytes))
    } else {
        receive(&mut body, length, max_bytes, |bytes| purse.hold(bytes)).await
    };
    if received.as_ref().is_err_and(|fault| fault.status == StatusCode::PAYLOAD_TOO_LARGE)
        && !headers.contains_key(EXPECT)
    {
        waste(&mut body, max_bytes).await;
    }
    let whole = received?;
    let hold = |bytes| purse.hold(bytes);
    match encoding {
        Encoding::Identity => Ok(whole),
        Encoding::Gzip => inflate(MultiGzDecoder::new(whole.reader()), max_bytes, hold, heavy).await,
        Encoding::Deflate => inflate(ZlibDecoder::new(whole.reader()), max_bytes, hold, heavy).await,
    }
}

enum Encoding {
    Identity,
    Gzip,
    Deflate,
}

fn encoding(headers: &HeaderMap) -> Result<Encoding, Fault> {
    let Some(value) = headers.get(CONTENT_ENCODING) else { return Ok(Encoding::Identity) };
    match value.as_bytes().to_ascii_lowercase().as_slice() {
        b"" | b"identity" => Ok(Encoding::Identity),
        b"gzip" | b"x-gzip" => Ok(Encoding::Gzip),
        b"deflate" => Ok(Encoding::Deflate),
        _ => Err(Fault::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Content-Encoding may be gzip or deflate")),
    }
}

async fn receive(
    body: &mut (impl Body<Data = Bytes> + Unpin),
    length: Option<usize>,
    max_bytes: usize,
    mut hold: impl FnMut(usize) -> bool,
) -> Result<Bytes, Fault> {
    let began = Instant::now();
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    let mut received = 0;
    loop {
        let more = Duration::from_secs(received as u64 / LEAST_RATE);
        let frame = timeout_at(began + TIME + more, next(body)).await;
        let Ok(frame) = frame else {
            return Err(Fault::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly"));
        };
        let piece = match frame {
            None => break,
            Some(Err(_)) => return Err(Fault::bad("the body ended before its end, or is not framed as HTTP says")),
            // Trailers say nothing to us.
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        received += piece.len();
        if received > max_bytes {
            return Err(too_large(max_bytes));
        }
        if !hold(piece.len()) {
            return Err(fault_of(Purse::empty()));
        }
        // Most bodies come in one piece.
        if first.is_empty() && whole.is_empty() {
            first = piece;
        } else {
            if whole.is_empty() {
                // What is promised is not room enough for more than comes.
                whole.reserve(length.unwrap_or_default().min(2 * received));
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&piece);
        }
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// Lets the rest of a body come, as much as a body may have and for a while: clients that still send when the connection
/// closes would see no answer.
async fn waste(body: &mut (impl Body<Data = Bytes> + Unpin), max_bytes: usize) {
    let until = Instant::now() + WASTED;
    let mut left = max_bytes;
    while let Ok(Some(Ok(frame))) = timeout_at(until, next(body)).await {
        let piece = frame.into_data().unwrap_or_default();
        let Some(rest) = left.checked_sub(piece.len()) else { return };
        left = rest;
    }
}

async fn next<B: Body + Unpin>(body: &mut B) -> Option<Result<Frame<B::Data>, B::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

/// Inflates step by step, so that what is held is paid for before more is made. The size of the result is not known before, so the
/// first steps are small and made here.
async fn inflate(
    mut from: impl Read + Send + 'static,
    max_bytes: usize,
    mut hold: impl FnMut(usize) -> bool,
    heavy: &Heavy,
) -> Result<Bytes, Fault> {
    let mut whole = Vec::new();
    loop {
        let before = whole.len();
        let step = if before < LARGE { STEP } else { LARGE };
        let work = move || match from.by_ref().take(step as u64).read_to_end(&mut whole) {
            Ok(_) => Ok((from, whole)),
            Err(error) => Err(Fault::bad(format!("the body is not what its Content-Encoding says: {error}"))),
        };
        (from, whole) = heavy.run(before, work).await?;
        let more = whole.len() - before;
        if more == 0 {
            return Ok(whole.into());
        }
        if whole.len() > max_bytes {
            return Err(too_large(max_bytes));
        }
        if !hold(more) {
            return Err(fault_of(Purse::empty()));
        }
    }
}

/// Whether a body of so many bytes is compressed for a client: it is long enough, and the client says that it can read that.
fn is_compressed(request: &HeaderMap, bytes: usize) -> bool {
    bytes >= LEAST_COMPRESSED && takes_gzip(request)
}

/// Compresses a body, and says so.
fn compressed(body: Vec<u8>, mut headers: HeaderMap) -> (HeaderMap, Vec<u8>) {
    let mut compressed = Vec::with_capacity(body.len() / 2);
    // From memory into memory.
    if GzEncoder::new(&body[..], Compression::fast()).read_to_end(&mut compressed).is_err() {
        return (headers, body);
    }
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    (headers, compressed)
}

/// As both; large bodies on the threads of `heavy`.
///
/// # Errors
/// 500: a thread ended without a result.
pub async fn compress(
    request: &HeaderMap,
    body: Vec<u8>,
    headers: HeaderMap,
    heavy: &Heavy,
) -> Result<(HeaderMap, Vec<u8>), Fault> {
    if !is_compressed(request, body.len()) {
        return Ok((headers, body));
    }
    heavy.run(body.len(), move || Ok(compressed(body, headers))).await
}

/// Whether `Accept-Encoding` names gzip, and not with the weight zero.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=")).and_then(|weight| weight.parse::<f32>().ok());
        is_gzip && weight.is_none_or(|weight| weight > 0.0)
    })
}

/// The body of an answer.
pub enum Payload {
    /// What it holds for its client is given back when it has been written.
    Whole(Option<Bytes>),
    /// It continues until no more is reported.
    Events(mpsc::Receiver<Bytes>),
}

impl Payload {
    #[must_use]
    pub fn new(body: Vec<u8>, purse: Option<Purse>) -> Self {
        let bytes = match purse {
            Some(purse) => Bytes::from_owner(Owned { body, _purse: purse }),
            None => body.into(),
        };
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }
}

struct Owned {
    body: Vec<u8>,
    _purse: Purse,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = match &mut *self {
            Self::Whole(bytes) => bytes.take(),
            Self::Events(events) => ready!(events.poll_recv(cx)),
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread::{self, ThreadId};

    use parking_lot::Mutex;

    use super::*;

    /// Gives a piece, then waits, and so on.
    struct Slow {
        pieces: usize,
        bytes: usize,
        every: Duration,
        wait: Option<Pin<Box<tokio::time::Sleep>>>,
    }

    impl Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.pieces == 0 {
                return Poll::Ready(None);
            }
            let every = self.every;
            let wait = self.wait.get_or_insert_with(|| Box::pin(tokio::time::sleep(every)));
            std::task::ready!(wait.as_mut().poll(cx));
            self.wait = None;
            self.pieces -= 1;
            Poll::Ready(Some(Ok(Frame::data(vec![0; self.bytes].into()))))
        }
    }

    async fn received(pieces: usize, bytes: usize, every: u64) -> Result<usize, u16> {
        let mut body = Slow { pieces, bytes, every: Duration::from_secs(every), wait: None };
        let received = receive(&mut body, None, 1 << 20, |_| true).await;
        received.map(|bytes| bytes.len()).map_err(|fault| fault.status.as_u16())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_given_up_and_one_over_a_slow_line_is_not() {
        assert_eq!(received(100, 1, 1).await, Err(408));
        assert_eq!(received(1, 1, 31).await, Err(408));
        assert_eq!(received(29, 1, 1).await, Ok(29));
        assert_eq!(received(100, 8 << 10, 1).await, Ok(800 << 10));
        assert_eq!(received(3, 1 << 19, 1).await, Err(413));
    }

    #[test]
    fn gzip_is_for_those_who_ask() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert!(takes("gzip") && takes("deflate, GZIP;q=0.5") && takes("br;q=1, gzip ; q=1"));
        assert!(!takes("") && !takes("identity") && !takes("gzip;q=0") && !takes("x-gzip") && !takes("*"));
    }

    #[tokio::test]
    async fn what_is_compressed_can_be_read_again() {
        let heavy = Heavy::new(1);
        let request = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))]);
        for length in [5000, 3 * LARGE] {
            let body = vec![b'7'; length];
            let (headers, compressed) = compress(&request, body.clone(), HeaderMap::new(), &heavy).await.unwrap();
            assert!(compressed.len() < length / 25 && headers[CONTENT_ENCODING] == "gzip");
            let mut read = Vec::new();
            MultiGzDecoder::new(&compressed[..]).read_to_end(&mut read).unwrap();
            assert_eq!(read, body);
        }
        let small = compress(&request, vec![1; 100], HeaderMap::new(), &heavy).await;
        assert_eq!(small, Ok((HeaderMap::new(), vec![1; 100])));
    }

    /// Zeros without end, and on which threads they were read.
    struct Zeros(Arc<Mutex<Vec<(usize, ThreadId)>>>, usize);

    impl Read for Zeros {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            to.fill(0);
            self.0.lock().push((self.1, thread::current().id()));
            self.1 += to.len();
            Ok(to.len())
        }
    }

    #[tokio::test]
    async fn what_grows_large_is_inflated_on_other_threads_and_bounded() {
        let read: Arc<Mutex<Vec<_>>> = Arc::default();
        let inflated = inflate(Zeros(Arc::clone(&read), 0), 3 << 20, |_| true, &Heavy::new(1)).await;
        assert_eq!(inflated.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
        let here = thread::current().id();
        for (at, thread) in read.lock().iter() {
            assert_eq!(*thread == here, *at < LARGE, "{at}");
        }
    }
}
