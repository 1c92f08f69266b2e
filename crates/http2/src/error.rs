//! Why a stream or a connection ended.

use std::fmt;
use std::io;

/// An error code of RFC 9113, section 7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason(pub u32);

impl Reason {
    pub const NO_ERROR: Self = Self(0);
    pub const PROTOCOL_ERROR: Self = Self(1);
    pub const INTERNAL_ERROR: Self = Self(2);
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    pub const SETTINGS_TIMEOUT: Self = Self(4);
    pub const STREAM_CLOSED: Self = Self(5);
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    pub const REFUSED_STREAM: Self = Self(7);
    pub const CANCEL: Self = Self(8);
    pub const COMPRESSION_ERROR: Self = Self(9);
    pub const CONNECT_ERROR: Self = Self(10);
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
    pub const INADEQUATE_SECURITY: Self = Self(12);
    pub const HTTP_1_1_REQUIRED: Self = Self(13);
}

const NAMES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match usize::try_from(self.0).ok().and_then(|code| NAMES.get(code)) {
            Some(name) => formatter.write_str(name),
            None => write!(formatter, "error code {:#x}", self.0),
        }
    }
}

/// How a stream, or the connection it is on, came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The stream was reset, by the other side or by us.
    Reset { reason: Reason, by_peer: bool },
    /// The other side goes away, and has not processed the stream.
    Refused { reason: Reason },
    /// The connection ended over an error of protocol; `why` is said by the side that found it, if it is ours.
    Protocol { reason: Reason, why: &'static str },
    /// The socket broke or was closed.
    Broken(io::ErrorKind),
    /// All stream ids of the connection have been used.
    UsedUp,
    /// A header list is larger than the other side takes. Nothing was sent: many would end the connection over it.
    TooLarge { bytes: usize, most: usize },
}

impl Error {
    /// Whether the other side says that it has not processed anything of the stream.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::UsedUp | Self::TooLarge { .. } => true,
            Self::Reset { reason, by_peer } => *by_peer && *reason == Reason::REFUSED_STREAM,
            Self::Protocol { .. } | Self::Broken(_) => false,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset { reason, by_peer: true } => write!(formatter, "stream reset by the other side: {reason}"),
            Self::Reset { reason, by_peer: false } => write!(formatter, "stream reset: {reason}"),
            Self::Refused { reason } => write!(formatter, "the other side goes away: {reason}"),
            Self::Protocol { reason, why } => write!(formatter, "connection error: {reason} ({why})"),
            Self::Broken(kind) => write!(formatter, "{kind}"),
            Self::UsedUp => formatter.write_str("all stream ids of the connection are used up"),
            Self::TooLarge { bytes, most } => {
                write!(formatter, "a header list of {bytes} bytes, and the other side takes {most}")
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Broken(kind) => kind.into(),
            error => Self::other(error),
        }
    }
}

/// An error that ends the connection: its reason, and what was wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub reason: Reason,
    pub why: &'static str,
}

impl Fault {
    pub fn new(reason: Reason, why: &'static str) -> Self {
        Self { reason, why }
    }

    pub fn protocol(why: &'static str) -> Self {
        Self::new(Reason::PROTOCOL_ERROR, why)
    }
}
