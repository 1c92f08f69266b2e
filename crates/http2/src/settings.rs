//! What we permit the other side.

/// Of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes that may be on their way on one stream.
    pub stream_window: u32,
    /// Bytes that may be on their way on all streams together.
    pub connection_window: u32,
    /// The largest frame, 16,384 to 16,777,215 bytes.
    pub max_frame: u32,
    /// Streams that a client may have open.
    pub max_streams: u32,
    /// The largest list of headers, by the rule of RFC 9113, 6.5.2. A request beyond it is answered with 431.
    pub max_header_list: u32,
    /// Streams reset before they were seen here, in excess of those that were not: beyond that the connection ends, for
    /// it is an attack.
    pub max_unseen_resets: usize,
    /// Errors of single streams that the other side may make in all.
    pub max_errors: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            max_frame: 64 << 10,
            max_streams: 4096,
            max_header_list: 64 << 10,
            max_unseen_resets: 1024,
            max_errors: None,
        }
    }
}
