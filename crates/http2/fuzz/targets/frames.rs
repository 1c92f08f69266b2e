//! From arbitrary bytes to frames: most of them with a right length, so that what is in them is reached.

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// What both sides begin with, after the client's preface.
pub const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// Each frame is a kind, flags, a stream and a length, one byte each, and its payload. A kind of 255 says that the payload
/// stands for itself, without a frame around it.
pub fn frames(mut data: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::from(SETTINGS);
    while let [kind, flags, stream, length, rest @ ..] = data {
        // Long enough to use up windows, now and then.
        let length = if *length < 250 { usize::from(*length) } else { usize::from(*length - 249) * 4000 };
        let (payload, after) = rest.split_at(length.min(rest.len()));
        data = after;
        let padding = length - payload.len();
        if *kind != 255 {
            bytes.put_uint(length as u64, 3);
            bytes.put_u8(*kind % 12);
            bytes.put_u8(*flags);
            bytes.put_u32(u32::from(*stream % 32));
            bytes.put_bytes(0, if length > 250 { padding } else { 0 });
        }
        bytes.put_slice(payload);
    }
    bytes
}

/// Says the bytes in pieces, closes, and returns all that the other side said.
pub async fn converse(mut io: DuplexStream, cut: u8, bytes: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(&mut io);
    let writing = async {
        for part in bytes.chunks(usize::from(cut) * 8 + 8) {
            if write.write_all(part).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        let _ = write.shutdown().await;
    };
    let mut said = Vec::new();
    let ((), read) = tokio::join!(writing, read.read_to_end(&mut said));
    read.expect("a pipe");
    said
}

/// Written frames must be complete, and not longer than the default limit.
pub fn check(mut said: &[u8]) {
    while said.len() >= 9 {
        let length = usize::from(said[0]) << 16 | usize::from(said[1]) << 8 | usize::from(said[2]);
        assert!(length <= 16_384, "a frame of {length} bytes");
        assert!(said[3] < 10, "a frame of the unknown kind {}", said[3]);
        said = &said[(9 + length).min(said.len())..];
    }
}
