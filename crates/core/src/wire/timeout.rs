//! `grpc-timeout`: reading it, and writing what is left of it.

use std::time::Duration;

use http::HeaderValue;

/// Reads a `grpc-timeout`; None if it is malformed (more than 8 digits included).
#[must_use]
pub fn parse(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes a duration in the finest unit whose value has at most 8 digits, rounded down.
#[must_use]
pub fn format(left: Duration) -> HeaderValue {
    const MOST: u128 = 99_999_999;
    let (number, unit) = [
        (left.as_micros(), 'u'),
        (left.as_millis(), 'm'),
        (u128::from(left.as_secs()), 'S'),
        (u128::from(left.as_secs() / 60), 'M'),
        (u128::from(left.as_secs() / 3600), 'H'),
    ]
    .into_iter()
    .find(|(number, _)| *number <= MOST)
    .unwrap_or((MOST, 'H'));
    HeaderValue::from_str(&format!("{number}{unit}")).unwrap_or_else(|_| HeaderValue::from_static("0n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_unit() {
        let seconds = |text: &'static str| parse(&HeaderValue::from_static(text)).map(|d| d.as_secs_f64());
        assert_eq!(seconds("2H"), Some(7200.0));
        assert_eq!(seconds("3M"), Some(180.0));
        assert_eq!(seconds("4S"), Some(4.0));
        assert_eq!(seconds("5m"), Some(0.005));
        assert_eq!(seconds("6u"), Some(0.000_006));
        assert_eq!(seconds("7n"), Some(0.000_000_007));
        assert_eq!(seconds("99999999H"), Some(359_999_996_400.0));
    }

    #[test]
    fn refuses_what_is_no_timeout() {
        for text in ["", "S", "1", "123456789S", "-1S", "1x", "1 S", "١S"] {
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            assert_eq!(parse(&value), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_reads_back_and_is_never_longer() {
        for micros in [0, 1, 99_999_999, 100_000_000, 12_345_678_901, u64::MAX / 1000] {
            let left = Duration::from_micros(micros);
            let read = parse(&format(left)).unwrap();
            assert!(read <= left);
            assert!(read >= left.mul_f64(0.999), "{left:?} became {read:?}");
        }
    }
}
