//! Spans of one traced call, and the W3C header that ties them to those of others.
//!
//! Source: W3C Trace Context, `traceparent`. `tracestate` passes as any header does.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue};

use crate::wire::headers::TRACEPARENT;
use crate::wire::status::Code;

/// What a span covers; the native stub documents the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Call,
    Hold,
    Queue,
    Hop,
    Infer,
}

impl Stage {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Hold => "hold",
            Self::Queue => "queue",
            Self::Hop => "hop",
            Self::Infer => "infer",
        }
    }
}

/// A span that has ended. Times in epoch nanoseconds; `parent` 0: none.
#[derive(Debug)]
pub struct Span {
    pub stage: Stage,
    pub id: u64,
    pub parent: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    /// How it ended, if it ended with a status.
    pub code: Option<Code>,
    /// The instance of a hop or inference, or what the hold ended in.
    pub detail: String,
}

impl Span {
    /// The name of what it covers.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        self.stage.text()
    }
}

/// A span that has begun.
#[derive(Clone, Copy)]
pub struct Begun {
    stage: Stage,
    pub id: u64,
    start_ns: u64,
}

/// The trace of one call here.
pub struct Trace {
    pub id: u128,
    parent: u64,
    call: Begun,
    spans: Vec<Span>,
}

impl Trace {
    /// None if this call is not traced. Whoever sent it decides, if he says; else `fraction` of those that
    /// enter here.
    #[must_use]
    pub fn begin(headers: &HeaderMap, ingress: bool, fraction: f64) -> Option<Self> {
        let (id, parent) = match headers.get(TRACEPARENT).and_then(parse) {
            Some((id, parent, true)) => (id, parent),
            None if ingress && fastrand::f64() < fraction => (fastrand::u128(1..), 0),
            Some((_, _, false)) | None => return None,
        };
        Some(Self { id, parent, call: begin(Stage::Call), spans: Vec::new() })
    }

    /// Notes a stage that has ended.
    pub fn note(&mut self, begun: Begun, code: Option<Code>, detail: impl Into<String>) {
        self.add(begun, self.call.id, code, detail.into());
    }

    fn add(&mut self, begun: Begun, parent: u64, code: Option<Code>, detail: String) {
        let Begun { stage, id, start_ns } = begun;
        self.spans.push(Span { stage, id, parent, start_ns, end_ns: now_ns().max(start_ns), code, detail });
    }

    /// The header for the other side of a stage.
    #[must_use]
    pub fn header(&self, begun: Begun) -> HeaderValue {
        let text = format!("00-{:032x}-{:016x}-01", self.id, begun.id);
        HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// All spans, that of the call itself last.
    #[must_use]
    pub fn end(mut self, code: Code) -> Vec<Span> {
        self.add(self.call, self.parent, Some(code), String::new());
        self.spans
    }
}

/// Begins a stage.
#[must_use]
pub fn begin(stage: Stage) -> Begun {
    Begun { stage, id: fastrand::u64(1..), start_ns: now_ns() }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// (trace id, span id, sampled); None if the header is not one.
fn parse(header: &HeaderValue) -> Option<(u128, u64, bool)> {
    let text = header.to_str().ok()?;
    let mut parts = text.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let lower_hex =
        |part: &str, length| part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    // A later version may have more parts; this one may not.
    if !lower_hex(version, 2) || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    if !lower_hex(trace, 32) || !lower_hex(span, 16) || !lower_hex(flags, 2) {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok()?;
    let span = u64::from_str_radix(span, 16).ok()?;
    let flags = u8::from_str_radix(flags, 16).ok()?;
    (trace != 0 && span != 0).then_some((trace, span, flags & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(TRACEPARENT, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn the_sender_decides() {
        let trace = Trace::begin(&headers(GIVEN), true, 0.0).unwrap();
        assert_eq!((trace.id, trace.parent), (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331));
        assert!(Trace::begin(&headers(&GIVEN.replace("-01", "-00")), true, 1.0).is_none());
        assert!(Trace::begin(&HeaderMap::new(), true, 0.0).is_none());
        assert!(Trace::begin(&HeaderMap::new(), true, 1.0).is_some());
        assert!(Trace::begin(&HeaderMap::new(), false, 1.0).is_none(), "the ingress has drawn already");
    }

    #[test]
    fn what_is_no_traceparent_counts_as_none() {
        for text in [
            "",
            "00",
            &GIVEN.replace('a', "A"),
            &GIVEN.replace("00-", "ff-"),
            &format!("{GIVEN}-more"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(parse(&HeaderValue::from_str(text).unwrap()).is_none(), "{text}");
        }
        assert!(parse(&HeaderValue::from_str(&format!("01{}-more", &GIVEN[2..])).unwrap()).is_some());
    }

    #[test]
    fn stages_are_children_of_the_call_and_their_header_names_them() {
        let mut trace = Trace::begin(&headers(GIVEN), true, 0.0).unwrap();
        let hop = begin(Stage::Hop);
        let header = trace.header(hop);
        assert_eq!(parse(&header), Some((trace.id, hop.id, true)));
        trace.note(hop, Some(Code::Ok), "i2");
        let spans = trace.end(Code::Ok);
        let call = spans.last().unwrap();
        assert_eq!((call.stage, call.parent), (Stage::Call, 0xb7ad_6b71_6920_3331));
        assert_eq!((spans[0].stage, spans[0].parent, spans[0].detail.as_str()), (Stage::Hop, call.id, "i2"));
    }
}
