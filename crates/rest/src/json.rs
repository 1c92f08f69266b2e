//! Writing JSON.

use std::io::Write;

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
