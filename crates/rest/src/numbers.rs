//! Lists of numbers as most clients write them, read in one pass. Whatever else a text may be is left to `data`, which reads all of
//! JSON and has the messages.

use crate::datatype::Datatype;

/// Powers of ten that an FP64 has exactly.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
/// The same, for up to eight digits.
const POWERS: [u64; 9] = [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
/// Whole numbers up to this are FP64.
const WHOLE: u64 = 1 << 53;
/// Digits that fit into 64 bits, whichever they are.
const DIGITS: usize = 19;
/// The bits that an FP64 has beyond an FP32, and what they are in the middle between two FP32.
const BEYOND: u64 = (1 << 29) - 1;
const MIDDLE: u64 = 1 << 28;

/// Reads a list that `text` begins with, nested as `dimensions` say: the raw tensor, and the length of the text. `likely`: bytes that
/// the raw tensor may have.
///
/// None: the text, or the datatype, is for `data` to read.
pub fn read(text: &[u8], datatype: Datatype, dimensions: &[i64], likely: usize) -> Option<(Vec<u8>, usize)> {
    let mut lists = Lists { text, at: 0, raw: Vec::with_capacity(likely) };
    match datatype {
        Datatype::Fp32 => lists.read(dimensions, |raw, number| push(raw, number.fp32().map(f32::to_le_bytes)))?,
        Datatype::Fp64 => lists.read(dimensions, |raw, number| push(raw, number.fp64().map(f64::to_le_bytes)))?,
        Datatype::Uint8 => lists.read(dimensions, |raw, number| push(raw, number.whole().map(u8::to_le_bytes)))?,
        Datatype::Uint16 => lists.read(dimensions, |raw, number| push(raw, number.whole().map(u16::to_le_bytes)))?,
        Datatype::Uint32 => lists.read(dimensions, |raw, number| push(raw, number.whole().map(u32::to_le_bytes)))?,
        Datatype::Uint64 => lists.read(dimensions, |raw, number| push(raw, number.whole().map(u64::to_le_bytes)))?,
        Datatype::Int8 => lists.read(dimensions, |raw, number| push(raw, number.whole().map(i8::to_le_bytes)))?,
        Datatype::Int16 => lists.read(dimensions, |raw, number| push(raw, number.whole().map(i16::to_le_bytes)))?,
        Datatype::Int32 => lists.read(dimensions, |raw, number| push(raw, number.whole().map(i32::to_le_bytes)))?,
        Datatype::Int64 => lists.read(dimensions, |raw, number| push(raw, number.whole().map(i64::to_le_bytes)))?,
        Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => return None,
    }
    Some((lists.raw, lists.at))
}

fn push<const N: usize>(raw: &mut Vec<u8>, bytes: Option<[u8; N]>) -> Option<()> {
    raw.extend_from_slice(&bytes?);
    Some(())
}

struct Lists<'a> {
    text: &'a [u8],
    at: usize,
    raw: Vec<u8>,
}

impl Lists<'_> {
    fn read(&mut self, dimensions: &[i64], each: impl Fn(&mut Vec<u8>, Number<'_>) -> Option<()> + Copy) -> Option<()> {
        let (length, inner) = dimensions.split_first()?;
        self.mark(b'[')?;
        for index in 0..*length {
            if index > 0 {
                self.mark(b',')?;
            }
            if inner.is_empty() {
                self.skip_space();
                let number = Number::read(self.text.get(self.at..)?)?;
                self.at += number.text.len();
                each(&mut self.raw, number)?;
            } else {
                self.read(inner, each)?;
            }
        }
        self.mark(b']')
    }

    /// Reads a mark, and the space before it.
    #[inline]
    fn mark(&mut self, mark: u8) -> Option<()> {
        self.skip_space();
        let is_it = self.text.get(self.at) == Some(&mark);
        self.at += usize::from(is_it);
        is_it.then_some(())
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.text.get(self.at) {
            self.at += 1;
        }
    }
}

/// A number of JSON: ±`digits` · 10^`exponent`.
struct Number<'a> {
    text: &'a [u8],
    is_negative: bool,
    /// None: there are more than fit.
    digits: Option<u64>,
    exponent: i32,
    /// It has neither a point nor an exponent.
    is_whole: bool,
}

impl<'a> Number<'a> {
    /// The number that a text begins with.
    #[inline]
    fn read(text: &'a [u8]) -> Option<Self> {
        let is_negative = *text.first()? == b'-';
        let first = usize::from(is_negative);
        let mut digits = 0;
        let point = run_of_few(text, first, &mut digits);
        let before = point - first;
        if before == 0 || (before > 1 && text[first] == b'0') {
            return None;
        }
        let mut end = point;
        let mut exponent = 0;
        if text.get(point) == Some(&b'.') {
            end = run(text, point + 1, &mut digits);
            let behind = end - (point + 1);
            if behind == 0 {
                return None;
            }
            exponent = -i32::try_from(behind).ok()?;
        }
        let fits = end - first - usize::from(end > point) <= DIGITS;
        if let Some(b'e' | b'E') = text.get(end) {
            let sign = text.get(end + 1);
            let from = end + 1 + usize::from(matches!(sign, Some(b'+' | b'-')));
            let mut power = 0;
            let to = run(text, from, &mut power);
            // One with more digits is for others.
            if to == from || to - from > 3 {
                return None;
            }
            let power = i32::try_from(power).ok()?;
            exponent += if sign == Some(&b'-') { -power } else { power };
            end = to;
        }
        let digits = fits.then_some(digits);
        Some(Self { text: &text[..end], is_negative, digits, exponent, is_whole: end == point })
    }

    fn whole<T: TryFrom<i64>>(&self) -> Option<T> {
        let digits = i64::try_from(self.digits.filter(|_| self.is_whole)?).ok()?;
        if digits == 0 && self.is_negative {
            // Some take it, some do not.
            return None;
        }
        T::try_from(if self.is_negative { -digits } else { digits }).ok()
    }

    /// The nearest FP64, if one operation finds it.
    ///
    /// Source: Clinger, How to Read Floating Point Numbers Accurately, 1990: both operands are exact, so the result is rounded once.
    #[inline]
    fn one_step(&self) -> Option<f64> {
        let digits = self.digits.filter(|digits| *digits <= WHOLE)?;
        let ten = *TENS.get(self.exponent.unsigned_abs() as usize)?;
        #[expect(clippy::cast_precision_loss, reason = "it has none up to there")]
        let digits = digits as f64;
        let value = if self.exponent < 0 { digits / ten } else { digits * ten };
        Some(if self.is_negative { -value } else { value })
    }

    #[inline]
    fn fp64(&self) -> Option<f64> {
        self.one_step().or_else(|| self.parsed()).filter(|value| value.is_finite())
    }

    /// Rounded twice it is the same as rounded once, unless the first result lies in the middle between two FP32. What one step finds
    /// is neither subnormal as FP32 nor too large for it.
    #[inline]
    fn fp32(&self) -> Option<f32> {
        let near = self.one_step().filter(|value| value.to_bits() & BEYOND != MIDDLE);
        #[expect(clippy::cast_possible_truncation, reason = "it is rounded")]
        let value = near.map(|value| value as f32);
        value.or_else(|| self.parsed()).filter(|value| value.is_finite())
    }

    #[cold]
    fn parsed<T: std::str::FromStr>(&self) -> Option<T> {
        std::str::from_utf8(self.text).ok()?.parse().ok()
    }
}

/// Reads digits from `at` on into `value`, which overflows silently, and returns where they end.
#[inline]
fn run(text: &[u8], mut at: usize, value: &mut u64) -> usize {
    while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk) {
        let (digits, number) = up_to_eight(*eight);
        *value = value.wrapping_mul(POWERS[digits]).wrapping_add(number);
        at += digits;
        if digits < 8 {
            return at;
        }
    }
    run_of_few(text, at, value)
}

/// The same, one by one: where there are as many each time, the processor foretells them, and need not wait for their number.
#[inline]
fn run_of_few(text: &[u8], mut at: usize, value: &mut u64) -> usize {
    while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        *value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    at
}

/// How many digits these bytes begin with, and their number. Without branches: how long numbers are cannot be foretold.
#[inline]
fn up_to_eight(bytes: [u8; 8]) -> (usize, u64) {
    const ALL: u64 = 0x0101_0101_0101_0101;
    let value = u64::from_le_bytes(bytes) ^ (ALL * 0x30);
    // Bytes above nine get their highest bit set, those above 127 have it.
    let others = (value | ((value & (ALL * 0x7f)) + ALL * 0x76)) & (ALL * 0x80);
    let digits = others.trailing_zeros() as usize / 8;
    // As if zeros came before them.
    let value = value.unbounded_shl(64 - 8 * u32::try_from(digits).unwrap_or(8));
    // Pairs, fours, eights.
    let value = (value & (ALL * 0x0f)).wrapping_mul(2561) >> 8;
    let value = (value & 0x00ff_00ff_00ff_00ff).wrapping_mul(6_553_601) >> 16;
    (digits, (value & 0x0000_ffff_0000_ffff).wrapping_mul(42_949_672_960_001) >> 32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fp32(text: &str) -> Option<f32> {
        let (raw, length) = read(format!("[{text}]").as_bytes(), Datatype::Fp32, &[1], 4)?;
        assert_eq!(length, text.len() + 2);
        Some(f32::from_le_bytes(raw.try_into().unwrap()))
    }

    fn fp64(text: &str) -> Option<f64> {
        let (raw, _) = read(format!("[{text}]").as_bytes(), Datatype::Fp64, &[1], 8)?;
        Some(f64::from_le_bytes(raw.try_into().unwrap()))
    }

    #[test]
    fn lists_are_read_as_their_dimensions_say_and_what_follows_is_left() {
        let whole = |text: &str, dimensions: &[i64]| read(text.as_bytes(), Datatype::Uint8, dimensions, 0);
        assert_eq!(whole("[1,2],\"x\"", &[2]), Some((vec![1, 2], 5)));
        assert_eq!(whole(" [ [1 ,\n2]\t,[ 3,4 ]\r] ", &[2, 2]), Some((vec![1, 2, 3, 4], 21)));
        assert_eq!(whole("[]", &[0]), Some((vec![], 2)));
        assert_eq!(whole("[[],[]]", &[2, 0]), Some((vec![], 7)));
        for (text, dimensions) in [
            ("", &[1][..]),
            ("[", &[1]),
            ("[1", &[1]),
            ("[1,", &[2]),
            ("[1]", &[2]),
            ("[1,2]", &[1]),
            ("[1,]", &[1]),
            ("[,1]", &[1]),
            ("[1 2]", &[2]),
            ("[[1]]", &[1]),
            ("[1]", &[1, 1]),
            ("1", &[]),
            ("[]", &[i64::MAX]),
            ("[1]", &[-1]),
        ] {
            assert_eq!(whole(text, dimensions), None, "{text}");
        }
    }

    #[test]
    fn digits_are_counted_and_read_whatever_follows() {
        for follows in 0..=u8::MAX {
            for (digits, number) in [(0, 0), (1, 7), (3, 705), (7, 1_234_567), (8, 98_765_432)] {
                let mut bytes = [follows; 8];
                bytes[..digits].copy_from_slice(&number.to_string().as_bytes()[..digits]);
                let (found, read) = up_to_eight(bytes);
                let rest = bytes[digits..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                assert_eq!(found, digits + rest, "{bytes:?}");
                let text = std::str::from_utf8(&bytes[..found]).unwrap();
                assert_eq!(read, text.parse().unwrap_or(0), "{text}");
            }
        }
    }

    #[test]
    fn whole_numbers_are_exact_and_others_left() {
        let int64 = |text: &str| {
            let (raw, _) = read(format!("[{text}]").as_bytes(), Datatype::Int64, &[1], 8)?;
            Some(i64::from_le_bytes(raw.try_into().unwrap()))
        };
        for value in [0, 7, -7, 9_007_199_254_740_993, i64::MAX, -i64::MAX] {
            assert_eq!(int64(&value.to_string()), Some(value));
        }
        for text in
            ["-0", "9223372036854775808", "99999999999999999999", "1.0", "1e2", "01", "+1", "-", "--1", "NaN", "1x"]
        {
            assert_eq!(int64(text), None, "{text}");
        }
        let read_of = |datatype, text: &str| read(text.as_bytes(), datatype, &[1], 8).is_some();
        assert!(
            read_of(Datatype::Uint8, "[255]")
                && !read_of(Datatype::Uint8, "[256]")
                && !read_of(Datatype::Uint8, "[-1]")
        );
        assert!(read_of(Datatype::Int8, "[-128]") && !read_of(Datatype::Int8, "[128]"));
    }

    #[test]
    fn what_is_no_number_of_json_is_left() {
        for text in [
            "", "-", ".5", "1.", "1.e1", "1e", "1e+", "01", "-01", "+1", "0x1", "1_0", "NaN", "Infinity", "nan",
            "1e0001",
        ] {
            assert_eq!(fp32(text), None, "{text}");
        }
        assert_eq!(fp32("1e39"), None, "too large");
        assert_eq!(fp64("1e309"), None, "too large");
        assert_eq!(fp64("-1e309"), None, "too large");
    }

    #[test]
    fn floats_are_rounded_once() {
        for text in [
            "0",
            "-0",
            "0.0",
            "-0.0",
            "1",
            "-1.5",
            "0.1",
            "3.4028235e38",
            "1e-45",
            "1e-60",
            "1.17549435e-38",
            "16777217",
            "16777219",
            "1.00000005960464477540000000000000000001",
            "1.0000000596046447754",
            "9007199254740993",
            "9007199254740992e22",
            "123456789012345678901234567890",
            "0.000000000000000000000012345",
            "1e22",
            "1e23",
            "4503599627370497.5",
        ] {
            assert_eq!(fp32(text).map(f32::to_bits), Some(text.parse::<f32>().unwrap().to_bits()), "{text}");
            assert_eq!(fp64(text).map(f64::to_bits), Some(text.parse::<f64>().unwrap().to_bits()), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn floats_are_those_of_the_standard_library(text in r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,22})?([eE][+-]?[0-9]{1,2})?") {
            let near = text.parse::<f32>().unwrap();
            prop_assert_eq!(fp32(&text).map(f32::to_bits), near.is_finite().then_some(near.to_bits()));
            let near = text.parse::<f64>().unwrap();
            prop_assert_eq!(fp64(&text).map(f64::to_bits), near.is_finite().then_some(near.to_bits()));
        }

        #[test]
        fn the_middle_between_two_is_found(bits in 0x0080_0000_u32..0x7f00_0000, digits in 9_usize..25) {
            let (low, high) = (f64::from(f32::from_bits(bits)), f64::from(f32::from_bits(bits + 1)));
            let middle = f64::midpoint(low, high);
            for text in [format!("{middle:.digits$e}"), format!("{middle:e}"), format!("{middle}")] {
                prop_assert_eq!(fp32(&text), Some(text.parse::<f32>().unwrap()), "{}", text);
            }
        }
    }
}
