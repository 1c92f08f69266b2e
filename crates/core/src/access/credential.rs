//! What a call shows of the one who makes it.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName};

use crate::wire::headers::MM_TENANT;

pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// No key and no token is longer.
const LONGEST: usize = 16 << 10;

/// By which listener a call came in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listener {
    #[default]
    Grpc,
    Rest,
    /// Of management alone, if it has a port of its own.
    Management,
}

impl Listener {
    /// Its bit in a set of listeners.
    #[must_use]
    pub fn bit(self) -> u8 {
        1 << self as u8
    }

    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Rest => "rest",
            Self::Management => "management",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Grpc, Self::Rest, Self::Management].into_iter().find(|listener| listener.text() == text)
    }
}

/// Where the calls of a connection come from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub listener: Listener,
    /// The certificate that the client proved to be its own (DER), if it showed one.
    pub certificate: Option<Arc<[u8]>>,
}

/// Of which kind a credential is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An API key or a signed token; empty: none, and no certificate either.
    Token,
    Certificate,
}

impl Kind {
    pub const COUNT: usize = 2;
}

/// What a call shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential<'a> {
    Nothing,
    Token(&'a [u8]),
    Certificate(&'a [u8]),
}

impl<'a> Credential<'a> {
    /// A header counts before the certificate, `authorization` before `x-api-key`.
    ///
    /// # Errors
    /// What is wrong with the header.
    pub fn of(headers: &'a HeaderMap, origin: &'a Origin) -> Result<Self, &'static str> {
        let mut bearer = headers.get_all(AUTHORIZATION).iter();
        let (value, is_bearer, another) = match bearer.next() {
            Some(value) => (value, true, bearer.next()),
            None => {
                let mut keys = headers.get_all(API_KEY).iter();
                let Some(value) = keys.next() else {
                    return Ok(origin.certificate.as_deref().map_or(Self::Nothing, Self::Certificate));
                };
                (value, false, keys.next())
            }
        };
        if another.is_some() {
            return Err("a call has one credential, and this one has several");
        }
        let token = if is_bearer { after_bearer(value.as_bytes()) } else { Some(value.as_bytes().trim_ascii()) };
        match token {
            Some(token) if !token.is_empty() && token.len() <= LONGEST => Ok(Self::Token(token)),
            _ => {
                Err("the credential must be `authorization: Bearer TOKEN` or `x-api-key: KEY`, of 16384 bytes at most")
            }
        }
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Nothing | Self::Token(_) => Kind::Token,
            Self::Certificate(_) => Kind::Certificate,
        }
    }

    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Nothing => b"",
            Self::Token(bytes) | Self::Certificate(bytes) => bytes,
        }
    }
}

/// Takes out of the headers what proves who calls, which must not leave this instance, and what only instances
/// say of callers.
pub fn strip(headers: &mut HeaderMap) {
    for name in [AUTHORIZATION, API_KEY, MM_TENANT] {
        headers.remove(name);
    }
}

fn after_bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn shown(pairs: &[(HeaderName, &'static str)], origin: &Origin) -> Result<(Kind, Vec<u8>), &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        Credential::of(&headers, origin).map(|shown| (shown.kind(), shown.bytes().to_vec()))
    }

    #[test]
    fn a_header_counts_before_the_certificate() {
        let with = Origin { certificate: Some(Arc::from(*b"der")), ..Origin::default() };
        let token = |text: &str| Ok((Kind::Token, text.as_bytes().to_vec()));
        assert_eq!(shown(&[], &Origin::default()), token(""));
        assert_eq!(shown(&[], &with), Ok((Kind::Certificate, b"der".to_vec())));
        assert_eq!(shown(&[(API_KEY, "k")], &with), token("k"));
        assert_eq!(shown(&[(API_KEY, "k"), (AUTHORIZATION, "bearer t ")], &with), token("t"));
    }

    #[test]
    fn what_is_no_credential_is_refused_and_not_taken_for_none() {
        let with = Origin { certificate: Some(Arc::from(*b"der")), ..Origin::default() };
        for pairs in [
            &[(AUTHORIZATION, "Basic YTpi")][..],
            &[(AUTHORIZATION, "Bearer ")],
            &[(AUTHORIZATION, "")],
            &[(AUTHORIZATION, "Bearer")],
            &[(API_KEY, " ")],
            &[(API_KEY, "k"), (API_KEY, "l")],
            &[(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer b")],
        ] {
            assert!(shown(pairs, &with).is_err(), "{pairs:?}");
        }
    }
}
