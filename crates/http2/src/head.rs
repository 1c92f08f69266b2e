//! The headers of a request as whoever sends it has them.

use http::HeaderMap;

/// Headers in the order in which they are sent. What makes them up for one request only need not put them into a map
/// first, which costs more than to send them.
pub trait Headers {
    /// Calls `take` with the name (in lower case) and the value of each, and whether it must not be indexed.
    fn each(&self, take: impl FnMut(&[u8], &[u8], bool));

    /// What they count in a header list, by the rule of RFC 9113, 6.5.2.
    fn list_size(&self) -> usize {
        let mut bytes = 0;
        self.each(|name, value, _| bytes += name.len() + value.len() + crate::hpack::ENTRY);
        bytes
    }

    /// At least as much as `list_size`, where that takes time to find out.
    fn list_size_bound(&self) -> usize {
        self.list_size()
    }
}

impl Headers for HeaderMap {
    fn each(&self, mut take: impl FnMut(&[u8], &[u8], bool)) {
        for (name, value) in self {
            take(name.as_str().as_bytes(), value.as_bytes(), value.is_sensitive());
        }
    }
}

/// Headers that outlive whoever had them.
pub(crate) struct Kept(Vec<(Box<[u8]>, Box<[u8]>, bool)>);

impl Kept {
    pub fn of(headers: &impl Headers) -> Self {
        let mut kept = Vec::new();
        headers.each(|name, value, sensitive| kept.push((name.into(), value.into(), sensitive)));
        Self(kept)
    }
}

impl Headers for Kept {
    fn each(&self, mut take: impl FnMut(&[u8], &[u8], bool)) {
        for (name, value, sensitive) in &self.0 {
            take(name, value, *sensitive);
        }
    }
}
