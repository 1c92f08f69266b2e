//! By which of our ports something came in.

/// Which listener a connection came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// For clients.
    Serving,
    /// For other instances.
    Peer,
}

impl Port {
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Peer => "peer",
        }
    }
}
