//! Which pages of the web may call: those of our own origin, and those that are named. A browser sends requests for any page that
//! somebody has open, also to this machine, and says which page it was.

use http::HeaderMap;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, HOST, HeaderValue, ORIGIN,
    VARY,
};
use http::uri::Authority;

const EXPOSED: HeaderValue = HeaderValue::from_static("inference-header-content-length, mm-fallback, retry-after");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");
/// Seconds for which a browser need not ask again.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
const ANY: &str = "*";

/// Origins that are named, like `https://app.example.org`; `*`: all.
#[derive(Debug, Default)]
pub struct Origins(Vec<String>);

/// What a request's origin means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is of no page, or of a page of ours.
    Ours,
    /// Its page is one that is named.
    Named(HeaderValue),
    Strange,
}

impl Origins {
    #[must_use]
    pub fn new(named: Vec<String>) -> Self {
        Self(named.into_iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect())
    }

    /// `authority`: of the request line, where HTTP/2 and absolute URIs have it.
    #[must_use]
    pub fn judge(&self, headers: &HeaderMap, authority: Option<&Authority>) -> Verdict {
        let Some(origin) = headers.get(ORIGIN) else { return Verdict::Ours };
        let Ok(text) = origin.to_str().map(str::to_ascii_lowercase) else { return Verdict::Strange };
        if self.0.iter().any(|named| named == ANY || *named == text) {
            return Verdict::Named(origin.clone());
        }
        let called = authority.map(Authority::as_str).or_else(|| headers.get(HOST)?.to_str().ok());
        let page = text.split_once("://").map(|(_, host)| host);
        match (page, called) {
            (Some(page), Some(called)) if called.eq_ignore_ascii_case(page) => Verdict::Ours,
            _ => Verdict::Strange,
        }
    }
}

/// Lets a named page read an answer.
pub fn permit(origin: HeaderValue, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("origin"));
}

/// What a browser is told that asks whether a named page may send a request.
pub fn permit_request(asked: &HeaderMap, headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(named: &[&str], origin: Option<&'static str>, authority: Option<&'static str>) -> Verdict {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost:8008"));
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        let authority = authority.map(Authority::from_static);
        Origins::new(named.iter().map(|&one| one.to_owned()).collect()).judge(&headers, authority.as_ref())
    }

    #[test]
    fn pages_are_ours_named_or_strange() {
        let app = "https://App.example.org";
        assert_eq!(judged(&[], None, None), Verdict::Ours);
        assert_eq!(judged(&[], Some("http://localhost:8008"), None), Verdict::Ours);
        assert_eq!(judged(&[], Some("http://LOCALHOST:8008"), None), Verdict::Ours);
        assert_eq!(judged(&[], Some("https://mesh:8008"), Some("mesh:8008")), Verdict::Ours);
        for strange in
            ["http://localhost:8009", "http://evil.org", "null", "localhost:8008", "http://localhost:8008.evil.org"]
        {
            assert_eq!(judged(&["https://app.example.org"], Some(strange), None), Verdict::Strange, "{strange}");
        }
        assert_eq!(
            judged(&["https://app.example.org/"], Some(app), None),
            Verdict::Named(HeaderValue::from_static(app))
        );
        assert_eq!(judged(&["*"], Some("null"), None), Verdict::Named(HeaderValue::from_static("null")));
    }
}
