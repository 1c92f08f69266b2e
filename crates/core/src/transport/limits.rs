//! HTTP/2 settings of both sides: what we accept from strangers, and what we ask of runtimes and peers.

use crate::settings::Settings;

/// Window of one stream. Smaller ones cost rate with large bodies, larger ones memory.
const STREAM_WINDOW: u32 = 1 << 20;
/// Window of a connection: so large that a few streams whose readers are slow cannot block the others.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Frames we take, and give to peers, who are as we are: four times HTTP/2's default need a quarter of the reads.
const FRAME: u32 = 64 << 10;
/// Answers that are not read may hold half of a connection's window; beyond that they are ended.
pub const MOST_STALLED: usize = (CONNECTION_WINDOW / STREAM_WINDOW / 2) as usize;
const STREAMS_PER_CONNECTION: u32 = 4096;
/// Resets a client may cause us over the life of its connection: a rapid-reset attack ends here,
/// deadlines and cancels of an honest client in a month do not.
const RESETS_PER_CONNECTION: usize = 1_000_000;
/// Streams reset before we saw them: bursts of tiny deadlines.
const PENDING_RESETS: usize = 1024;
/// Headers up to this many times the configured bound reach us, and are refused with a gRPC status.
const HEADER_FACTOR: u32 = 4;

fn header_bound(settings: &Settings) -> u32 {
    u32::try_from(settings.max_header_bytes).unwrap_or(u32::MAX).saturating_mul(HEADER_FACTOR)
}

/// For connections that clients and peers open to us.
#[must_use]
pub fn server(settings: &Settings) -> modelmesh_http2::Settings {
    modelmesh_http2::Settings {
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
        max_frame: FRAME,
        max_streams: STREAMS_PER_CONNECTION,
        max_header_list: header_bound(settings),
        max_unseen_resets: PENDING_RESETS,
        max_errors: Some(RESETS_PER_CONNECTION),
    }
}

/// For connections that we open.
#[must_use]
pub fn client(settings: &Settings) -> modelmesh_http2::Settings {
    modelmesh_http2::Settings { max_errors: None, ..server(settings) }
}
