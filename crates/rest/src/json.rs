//! JSON: what is wrong with it, and writing it.

use std::io::Write;

use http::StatusCode;
use jiter::{JiterError, JiterErrorType, LinePosition};

use crate::fault::Fault;

/// Levels of arrays and objects within each other.
const MOST_LEVELS: usize = 64;

/// What the caller is told of JSON that cannot be read.
#[must_use]
pub fn fault(error: &JiterError, text: &[u8]) -> Fault {
    fault_at(error, text, error.index)
}

fn fault_at(error: &JiterError, text: &[u8], index: usize) -> Fault {
    let LinePosition { line, column } = LinePosition::find(text, index);
    match &error.error_type {
        JiterErrorType::WrongType { .. } => Fault::bad(format!("{} at line {line} column {column}", error.error_type)),
        JiterErrorType::JsonError(what) => {
            Fault::bad(format!("the body is not JSON: {what} at line {line} column {column}"))
        }
    }
}

/// A text from some place on.
#[derive(Clone, Copy)]
pub struct Rest<'a> {
    whole: &'a [u8],
    from: usize,
}

impl<'a> Rest<'a> {
    #[must_use]
    pub fn of(whole: &'a [u8]) -> Self {
        Self { whole, from: 0 }
    }

    #[must_use]
    pub fn text(self) -> &'a [u8] {
        &self.whole[self.from..]
    }

    /// What comes after so many bytes more.
    #[must_use]
    pub fn after(self, bytes: usize) -> Self {
        Self { from: self.from + bytes, ..self }
    }

    /// So many bytes of it, and no more.
    #[must_use]
    pub fn first(self, bytes: usize) -> Self {
        Self { whole: &self.whole[..self.from + bytes], ..self }
    }

    /// As the function `fault`, of an error in what is left.
    #[must_use]
    pub fn fault(self, error: &JiterError) -> Fault {
        fault_at(error, self.whole, self.from + error.index)
    }
}

/// A body or message beyond the limit of messages.
#[must_use]
pub fn too_large(max_bytes: usize) -> Fault {
    Fault::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the request has more than {max_bytes} bytes, which is the limit"),
    )
}

/// # Errors
/// A value that was read over is nested too deep.
pub fn check_depth(value: &[u8], levels_around: usize) -> Result<(), Fault> {
    let (mut level, mut in_string, mut escaped) = (levels_around, false, false);
    for byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                level += 1;
                if level > MOST_LEVELS {
                    return Err(Fault::bad(format!("the body is nested more than {MOST_LEVELS} levels deep")));
                }
            }
            b']' | b'}' if !in_string => level = level.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Appends a string with its quotes.
pub fn write_string(text: &str, to: &mut Vec<u8>) {
    to.push(b'"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        to.extend_from_slice(&text.as_bytes()[plain_from..at]);
        plain_from = at + 1;
        match byte {
            b'"' | b'\\' => to.extend_from_slice(&[b'\\', byte]),
            b'\n' => to.extend_from_slice(b"\\n"),
            b'\r' => to.extend_from_slice(b"\\r"),
            b'\t' => to.extend_from_slice(b"\\t"),
            // Into memory: it cannot fail.
            _ => drop(write!(to, "\\u{byte:04x}")),
        }
    }
    to.extend_from_slice(&text.as_bytes()[plain_from..]);
    to.push(b'"');
}

/// Appends a comma, a key that needs no escapes, and a colon.
pub fn write_key(key: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(b",\"");
    to.extend_from_slice(key.as_bytes());
    to.extend_from_slice(b"\":");
}

/// Appends a list; `write` appends one of its values.
pub fn write_list<T>(values: impl IntoIterator<Item = T>, to: &mut Vec<u8>, mut write: impl FnMut(T, &mut Vec<u8>)) {
    to.push(b'[');
    for (at, value) in values.into_iter().enumerate() {
        if at > 0 {
            to.push(b',');
        }
        write(value, to);
    }
    to.push(b']');
}

pub fn write_integer(value: impl itoa::Integer, to: &mut Vec<u8>) {
    to.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends the shortest form that reads back as the same number; of what is none, a word, and returns false.
pub fn write_fp32(value: f32, to: &mut Vec<u8>) -> bool {
    write_float(value, f64::from(value), to)
}

/// As `write_fp32`.
pub fn write_fp64(value: f64, to: &mut Vec<u8>) -> bool {
    write_float(value, value, to)
}

fn write_float(value: impl ryu::Float, wide: f64, to: &mut Vec<u8>) -> bool {
    if wide.is_finite() {
        to.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
        return true;
    }
    let word = if wide.is_nan() {
        "NaN"
    } else if wide > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    };
    to.extend_from_slice(word.as_bytes());
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_back_by_others() {
        for text in ["", "plain", "\"\\\n\r\t\u{0}\u{1f}\u{7f}", "é中\u{1F600}\u{2028}", "a\"b\\c"] {
            let mut written = Vec::new();
            write_string(text, &mut written);
            assert_eq!(serde_json::from_slice::<String>(&written).unwrap(), text);
        }
    }
}
