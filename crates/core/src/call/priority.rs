//! The class of a call: which calls go first where calls wait for the same thing, and which are refused first.

use http::{HeaderMap, HeaderValue};

use crate::wire::headers::MM_PRIORITY;
use crate::wire::status::{Code, Status};

/// A class, the lowest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

impl Priority {
    pub const COUNT: usize = 3;

    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        }
    }

    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        [Self::Low, Self::Normal, Self::High].into_iter().find(|one| one.text().as_bytes() == text)
    }

    /// What a client claims.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: there is no such class.
    pub fn claimed(headers: &HeaderMap) -> Result<Self, Status> {
        let Some(value) = headers.get(MM_PRIORITY) else { return Ok(Self::Normal) };
        let message = "the header mm-priority names no class of calls; it must be high, normal or low";
        Self::parse(value.as_bytes()).ok_or_else(|| Status::new(Code::InvalidArgument, message))
    }

    /// What another instance says; a class that only later versions know is taken for the usual one.
    #[must_use]
    pub fn of_hop(headers: &HeaderMap) -> Self {
        Self::claimed(headers).unwrap_or_default()
    }

    /// Says it on a call, to this instance and to others that it is forwarded to.
    pub fn mark(self, headers: &mut HeaderMap) {
        headers.insert(MM_PRIORITY, HeaderValue::from_static(self.text()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(MM_PRIORITY, HeaderValue::from_static(text))])
    }

    #[test]
    fn a_class_is_named_or_the_usual_one() {
        for (text, priority) in [("high", Priority::High), ("normal", Priority::Normal), ("low", Priority::Low)] {
            assert_eq!(Priority::claimed(&said(text)).unwrap(), priority);
            assert_eq!(Priority::of_hop(&said(text)), priority);
        }
        assert_eq!(Priority::claimed(&HeaderMap::new()).unwrap(), Priority::Normal);
    }

    #[test]
    fn a_client_is_told_the_classes_and_an_instance_may_know_more() {
        for text in ["", "HIGH", "urgent", "high,low"] {
            let status = Priority::claimed(&said(text)).unwrap_err();
            assert_eq!(status.code, Code::InvalidArgument);
            assert!(status.message.contains("high, normal or low"), "{}", status.message);
            assert_eq!(Priority::of_hop(&said(text)), Priority::Normal);
        }
    }

    #[test]
    fn what_is_marked_is_read_again() {
        let mut headers = said("high");
        Priority::Low.mark(&mut headers);
        assert_eq!(headers.get_all(MM_PRIORITY).iter().count(), 1);
        assert_eq!(Priority::of_hop(&headers), Priority::Low);
    }
}
