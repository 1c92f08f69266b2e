//! The layout of frames: RFC 9113, sections 4 and 6.

pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes before the payload of each frame.
pub(crate) const HEAD: usize = 9;
/// What every side takes until it is told otherwise.
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;
pub(crate) const DEFAULT_FRAME: u32 = 16_384;
pub(crate) const LARGEST_FRAME: u32 = (1 << 24) - 1;
pub(crate) const LARGEST_WINDOW: u32 = (1 << 31) - 1;
pub(crate) const LARGEST_ID: u32 = (1 << 31) - 1;

pub(crate) mod kind {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PUSH_PROMISE: u8 = 5;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;
}

pub(crate) mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

pub(crate) mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// What precedes a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub length: usize,
    pub kind: u8,
    pub flags: u8,
    /// 0 for the connection itself.
    pub stream: u32,
}

impl Head {
    pub fn read(bytes: &[u8; HEAD]) -> Self {
        let [high, middle, low, kind, flags, stream @ ..] = *bytes;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        Self { length, kind, flags, stream: u32::from_be_bytes(stream) & LARGEST_ID }
    }

    pub fn write(self) -> [u8; HEAD] {
        let [_, high, middle, low] = u32::try_from(self.length).unwrap_or(LARGEST_FRAME).to_be_bytes();
        let mut bytes = [high, middle, low, self.kind, self.flags, 0, 0, 0, 0];
        bytes[5..].copy_from_slice(&self.stream.to_be_bytes());
        bytes
    }

    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Four bytes at the beginning, without the bit that is reserved.
pub(crate) fn number(bytes: &[u8]) -> Option<u32> {
    let (four, _) = bytes.split_first_chunk::<4>()?;
    Some(u32::from_be_bytes(*four) & LARGEST_ID)
}
