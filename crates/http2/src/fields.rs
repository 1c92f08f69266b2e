//! From the fields of a header block to a request, the head of an answer, or trailers: RFC 9113, section 8.

use http::header::{self, HeaderMap};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use crate::hpack::Name;

/// The head of a request.
#[derive(Debug)]
pub struct RequestHead {
    pub method: Method,
    pub path: PathAndQuery,
    pub headers: HeaderMap,
}

/// The head of an answer.
#[derive(Debug)]
pub struct ResponseHead {
    pub status: StatusCode,
    pub headers: HeaderMap,
}

/// A message that breaks the rules of HTTP/2; an error of its stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Most lists have no more; a larger one grows.
const USUAL: usize = 12;
/// Fields of HTTP/2 itself in a request.
const PSEUDO: usize = 4;

/// The fields of one block, as they come.
#[expect(clippy::struct_excessive_bools, reason = "what was seen so far, each by itself")]
pub(crate) struct Fields {
    method: Option<Method>,
    path: Option<PathAndQuery>,
    status: Option<StatusCode>,
    has_scheme: bool,
    has_authority: bool,
    has_pseudo: bool,
    headers: HeaderMap,
    size: usize,
    bound: usize,
    malformed: bool,
}

impl Fields {
    /// `bound`: the largest list that is kept, by the rule of RFC 9113, 6.5.2. `block`: the bytes it comes in, one for each
    /// field that is known.
    pub fn new(bound: usize, block: usize) -> Self {
        Self {
            method: None,
            path: None,
            status: None,
            has_scheme: false,
            has_authority: false,
            has_pseudo: false,
            headers: HeaderMap::with_capacity(block.saturating_sub(PSEUDO).min(USUAL)),
            size: 0,
            bound,
            malformed: false,
        }
    }

    /// What they count so far, by the rule of RFC 9113, 6.5.2.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether there were more than we take. The rest was read, but not kept.
    pub fn is_too_large(&self) -> bool {
        self.size > self.bound
    }

    pub fn take(&mut self, name: &Name, value: &HeaderValue, size: usize) {
        self.size += size;
        if self.size > self.bound {
            return;
        }
        let Name::Regular(name) = name else { return self.take_pseudo(name) };
        if is_of_connection(name) || (*name == header::TE && value != "trailers") {
            self.malformed = true;
        } else if self.headers.try_append(name.clone(), value.clone()).is_err() {
            self.size = usize::MAX;
        }
    }

    fn take_pseudo(&mut self, name: &Name) {
        // They come before all others, and once.
        let early = self.headers.is_empty();
        self.has_pseudo = true;
        let good = early
            && match name {
                Name::Method(method) => {
                    method.is_some() && std::mem::replace(&mut self.method, method.clone()).is_none()
                }
                Name::Path(path) => path.is_some() && std::mem::replace(&mut self.path, path.clone()).is_none(),
                Name::Status(status) => status.is_some() && std::mem::replace(&mut self.status, *status).is_none(),
                Name::Scheme => !std::mem::replace(&mut self.has_scheme, true),
                Name::Authority => !std::mem::replace(&mut self.has_authority, true),
                Name::Protocol | Name::Invalid | Name::Regular(_) => false,
            };
        self.malformed |= !good;
    }

    pub fn into_request(self) -> Result<RequestHead, Malformed> {
        match self {
            Self {
                method: Some(method), path: Some(path), status: None, has_scheme: true, headers, malformed, ..
            } if !malformed && method != Method::CONNECT => Ok(RequestHead { method, path, headers }),
            _ => Err(Malformed),
        }
    }

    pub fn into_response(self) -> Result<ResponseHead, Malformed> {
        let foreign = self.method.is_some() || self.path.is_some() || self.has_scheme || self.has_authority;
        match self.status {
            Some(status) if !self.malformed && !foreign => Ok(ResponseHead { status, headers: self.headers }),
            _ => Err(Malformed),
        }
    }

    pub fn into_trailers(self) -> Result<HeaderMap, Malformed> {
        if self.malformed || self.has_pseudo { Err(Malformed) } else { Ok(self.headers) }
    }
}

/// The bytes of the body, if the headers say how many there are. `ended`: it has ended with them, so there are none.
pub(crate) fn content_length(headers: &HeaderMap, ended: bool) -> Result<Option<u64>, Malformed> {
    let Some(value) = headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Malformed);
    }
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.filter(|length| !ended || *length == 0).map(Some).ok_or(Malformed)
}

/// Fields that say something about one connection of HTTP/1; HTTP/2 has other means.
fn is_of_connection(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regular(name: &'static str) -> Name {
        Name::Regular(HeaderName::from_static(name))
    }

    fn fields(list: &[(Name, &'static str)]) -> Fields {
        let mut fields = Fields::new(10_000, 0);
        for (name, value) in list {
            fields.take(name, &HeaderValue::from_static(value), 40);
        }
        fields
    }

    fn request() -> Vec<(Name, &'static str)> {
        let path = PathAndQuery::from_static("/p.S/M");
        vec![(Name::Method(Some(Method::POST)), ""), (Name::Scheme, ""), (Name::Path(Some(path)), "")]
    }

    #[test]
    fn a_request_has_method_scheme_and_path() {
        assert_eq!(fields(&request()).into_request().unwrap().path, "/p.S/M");
        for missing in 0..3 {
            let mut list = request();
            list.remove(missing);
            assert!(fields(&list).into_request().is_err());
        }
        for twice in 0..3 {
            let mut list = request();
            list.push(list[twice].clone());
            assert!(fields(&list).into_request().is_err());
        }
    }

    #[test]
    fn what_does_not_belong_there_spoils_a_request() {
        for wrong in [
            (Name::Status(Some(StatusCode::OK)), ""),
            (Name::Protocol, ""),
            (Name::Invalid, ""),
            (regular("connection"), "close"),
            (regular("keep-alive"), "1"),
            (regular("te"), "gzip"),
        ] {
            let mut list = request();
            list.push(wrong);
            assert!(fields(&list).into_request().is_err());
        }
        let mut list = request();
        list.insert(0, (regular("x"), ""));
        assert!(fields(&list).into_request().is_err(), "a regular field before one of HTTP/2 itself");
    }

    #[test]
    fn trailers_have_no_fields_of_http_itself() {
        assert_eq!(fields(&[(regular("grpc-status"), "0")]).into_trailers().unwrap()["grpc-status"], "0");
        assert!(fields(&[(Name::Status(Some(StatusCode::OK)), "")]).into_trailers().is_err());
    }

    #[test]
    fn a_list_beyond_the_bound_is_not_kept() {
        let mut fields = Fields::new(100, 0);
        for _ in 0..1000 {
            fields.take(&regular("x"), &HeaderValue::from_static("y"), 34);
        }
        assert!(fields.is_too_large());
        assert_eq!(fields.headers.len(), 2);
    }

    #[test]
    fn a_length_is_digits() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(text));
            content_length(&headers, false)
        };
        assert_eq!(of("12"), Ok(Some(12)));
        for wrong in ["", "-1", "+1", "1 ", "99999999999999999999"] {
            assert_eq!(of(wrong), Err(Malformed), "{wrong}");
        }
        assert_eq!(content_length(&HeaderMap::new(), true), Ok(None));
        for (text, outcome) in [("0", Ok(Some(0))), ("12", Err(Malformed))] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(text));
            assert_eq!(content_length(&headers, true), outcome, "{text} bytes of a body that has ended");
        }
    }
}
