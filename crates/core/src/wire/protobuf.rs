//! Fields of encoded protobuf messages.

/// The bytes are no protobuf message, or the id field is no string.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

fn malformed(what: &str) -> Malformed {
    Malformed(what.to_owned())
}

/// One field: where it begins and ends, and where its content begins if it has a length.
pub struct Field {
    pub number: u32,
    pub wire_type: u8,
    pub start: usize,
    pub content: usize,
    pub end: usize,
}

pub const VARINT: u8 = 0;
const FIXED64: u8 = 1;
pub const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// Iterates over the fields of one level.
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// A number; `next` goes on behind it.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or_else(|| malformed("proto parsing error"))?;
            self.at += 1;
            // Bits beyond the 64th are dropped, as parsers do.
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(malformed("proto parsing error"))
    }

    fn field(&mut self) -> Result<Field, Malformed> {
        let start = self.at;
        let tag = self.varint()?;
        let wire_type = u8::try_from(tag & 7).unwrap_or(7);
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| (1..=0x1fff_ffff).contains(number))
            .ok_or_else(|| malformed("proto parsing error"))?;
        let mut content = self.at;
        let length = match wire_type {
            VARINT => {
                self.varint()?;
                self.at - content
            }
            FIXED64 => 8,
            FIXED32 => 4,
            LENGTH_DELIMITED => {
                let length = self.varint()?;
                content = self.at;
                usize::try_from(length).map_err(|_| malformed("proto parsing error"))?
            }
            other => return Err(Malformed(format!("unsupported protobuf field type:{other}"))),
        };
        let end = content.checked_add(length).filter(|end| *end <= self.bytes.len());
        self.at = end.ok_or_else(|| malformed("proto parsing error"))?;
        Ok(Field { number, wire_type, start, content, end: self.at })
    }
}

impl Iterator for Fields<'_> {
    type Item = Result<Field, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.at = self.bytes.len();
        }
        Some(field)
    }
}

pub fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}
