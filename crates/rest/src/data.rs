//! The `data` of an input: JSON numbers, strings and booleans to the bytes of a raw tensor, in one pass. Most lists of numbers are read
//! by `numbers`.
//!
//! Integers never pass through a float, a float is rounded once, from its decimal form to its own width.

use std::str::FromStr;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use half::{bf16, f16};
use jiter::{Jiter, JiterError, JiterErrorType, Peek};

use crate::datatype::Datatype;
use crate::fault::Fault;
use crate::json::{self, Rest};
use crate::numbers;

/// Clients write base64 with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What one input says of itself before its data.
#[derive(Clone, Copy, Debug)]
pub struct Form<'a> {
    /// For messages.
    pub input: &'a str,
    pub datatype: Datatype,
    pub shape: &'a [i64],
    /// The product of the shape.
    pub elements: usize,
    /// BYTES come as base64.
    pub base64: bool,
    /// Bytes that the raw tensor may have.
    pub left: usize,
    /// Bytes that all of them may have, for messages.
    pub max_bytes: usize,
}

/// Reads the value that `rest` begins with, flat or nested exactly as the shape says, in row-major order: the raw tensor, and how many
/// bytes of text it was.
///
/// # Errors
/// It is no array, its nesting or number of elements differs from the shape, or an element is none of the datatype: 400;
/// the tensor is too large: 413.
pub fn read(rest: Rest<'_>, form: Form<'_>) -> Result<(Vec<u8>, usize), Fault> {
    let text = rest.text();
    let mut json = Jiter::new(text).with_allow_inf_nan();
    let peek = json.peek().map_err(|error| rest.fault(&error))?;
    if peek != Peek::Array {
        return Err(Fault::bad(format!("input {:?}: data must be an array", form.input)));
    }
    let begin = json.current_index();
    let list = &text[begin..];
    let (levels, byte_lists) = nesting(list, form)?;
    let flat = [i64::try_from(form.elements).unwrap_or(i64::MAX)];
    let depth = depth_of(form.shape);
    let dimensions = if levels == depth { &form.shape[..depth] } else { &flat };
    // An element takes two bytes of text at least: a shape alone reserves nothing.
    let size = form.datatype.size().unwrap_or(8);
    let likely = form.elements.min(list.len() / 2 + 1).saturating_mul(size).min(form.left);
    if form.elements.saturating_mul(size) <= form.left
        && let Some((raw, length)) = numbers::read(list, form.datatype, dimensions, likely)
    {
        return Ok((raw, begin + length));
    }
    let mut reader = Reader { json, rest, form, byte_lists, raw: Vec::with_capacity(likely), count: 0 };
    reader.array(dimensions)?;
    Ok((reader.raw, reader.json.current_index()))
}

/// How many levels of arrays there are around the first element, and whether elements are lists of byte values, which
/// BYTES may be.
fn nesting(text: &[u8], form: Form<'_>) -> Result<(usize, bool), Fault> {
    let mut levels = 0;
    let mut symbols = text.iter().filter(|byte| !byte.is_ascii_whitespace());
    let first = symbols.find(|byte| {
        levels += usize::from(**byte == b'[');
        **byte != b'['
    });
    let fits = |levels| levels == 1 || levels == depth_of(form.shape);
    let lists = match first {
        Some(b']') => !fits(levels),
        first => first.is_some_and(u8::is_ascii_digit),
    };
    if form.datatype == Datatype::Bytes && levels > 1 && lists && fits(levels - 1) {
        Ok((levels - 1, true))
    } else if fits(levels) {
        Ok((levels, false))
    } else {
        Err(wrong_nesting(form))
    }
}

/// How many levels of lists a shape has: within a list of no elements there are none.
fn depth_of(shape: &[i64]) -> usize {
    shape.iter().position(|dimension| *dimension == 0).map_or(shape.len(), |at| at + 1)
}

fn wrong_nesting(form: Form<'_>) -> Fault {
    let Form { input, shape, .. } = form;
    Fault::bad(format!("input {input:?}: data is nested otherwise than its shape {shape:?} says"))
}

struct Reader<'a> {
    json: Jiter<'a>,
    rest: Rest<'a>,
    form: Form<'a>,
    byte_lists: bool,
    raw: Vec<u8>,
    /// Elements read.
    count: usize,
}

impl Reader<'_> {
    /// Reads an array that begins here.
    fn array(&mut self, dimensions: &[i64]) -> Result<(), Fault> {
        let Some((length, inner)) = dimensions.split_first() else { return Err(wrong_nesting(self.form)) };
        let length = usize::try_from(*length).unwrap_or_default();
        let mut next = self.json.known_array().map_err(|error| self.rest.fault(&error))?;
        let mut count = 0;
        while let Some(peek) = next {
            if count == length {
                return Err(self.wrong_count("more"));
            }
            count += 1;
            if inner.is_empty() {
                self.element(peek)?;
            } else if peek == Peek::Array {
                self.array(inner)?;
            } else {
                return Err(wrong_nesting(self.form));
            }
            next = self.json.array_step().map_err(|error| self.rest.fault(&error))?;
        }
        if count == length { Ok(()) } else { Err(self.wrong_count("fewer")) }
    }

    fn wrong_count(&self, what: &str) -> Fault {
        let Form { input, shape, elements, .. } = self.form;
        Fault::bad(format!("input {input:?}: data has {what} elements than its shape {shape:?} says ({elements})"))
    }

    fn element(&mut self, peek: Peek) -> Result<(), Fault> {
        if peek == Peek::Array && !self.byte_lists {
            return Err(wrong_nesting(self.form));
        }
        match self.form.datatype {
            Datatype::Bool => {
                let value = self.json.known_bool(peek).map_err(|error| self.fault(&error))?;
                self.raw.push(u8::from(value));
            }
            Datatype::Uint8 => self.integer::<u8, 1>(peek, u8::to_le_bytes)?,
            Datatype::Uint16 => self.integer::<u16, 2>(peek, u16::to_le_bytes)?,
            Datatype::Uint32 => self.integer::<u32, 4>(peek, u32::to_le_bytes)?,
            Datatype::Uint64 => self.integer::<u64, 8>(peek, u64::to_le_bytes)?,
            Datatype::Int8 => self.integer::<i8, 1>(peek, i8::to_le_bytes)?,
            Datatype::Int16 => self.integer::<i16, 2>(peek, i16::to_le_bytes)?,
            Datatype::Int32 => self.integer::<i32, 4>(peek, i32::to_le_bytes)?,
            Datatype::Int64 => self.integer::<i64, 8>(peek, i64::to_le_bytes)?,
            Datatype::Fp32 => self.float(peek, |text| text.parse().ok(), f32::is_infinite, f32::to_le_bytes)?,
            Datatype::Fp64 => self.float(peek, |text| text.parse().ok(), f64::is_infinite, f64::to_le_bytes)?,
            Datatype::Fp16 => {
                let parse = |text: &str| text.parse().ok().map(f16::from_f64);
                self.float(peek, parse, f16::is_infinite, f16::to_le_bytes)?;
            }
            Datatype::Bf16 => {
                let parse = |text: &str| text.parse().ok().map(bf16::from_f64);
                self.float(peek, parse, bf16::is_infinite, bf16::to_le_bytes)?;
            }
            Datatype::Bytes => self.bytes(peek)?,
        }
        self.count += 1;
        if self.raw.len() > self.form.left { Err(json::too_large(self.form.max_bytes)) } else { Ok(()) }
    }

    /// What the caller is told of JSON that is wrong here.
    fn fault(&self, error: &JiterError) -> Fault {
        match &error.error_type {
            JiterErrorType::WrongType { .. } => self.unfit(&error.error_type.to_string()),
            JiterErrorType::JsonError(_) => self.rest.fault(error),
        }
    }

    fn unfit(&self, why: &str) -> Fault {
        let Form { input, datatype, .. } = self.form;
        Fault::bad(format!("input {input:?}: element {} is no {}: {why}", self.count, datatype.name()))
    }

    /// The next number, as it is written.
    fn number(&mut self, peek: Peek) -> Result<&str, Fault> {
        let before = self.json.current_index();
        match self.json.known_number_bytes(peek).map(<[u8]>::len) {
            // Digits, signs, points and words: ASCII.
            Ok(length) => Ok(std::str::from_utf8(&self.rest.text()[before..before + length]).unwrap_or_default()),
            Err(error) => Err(self.fault(&error)),
        }
    }

    fn integer<T: FromStr, const N: usize>(&mut self, peek: Peek, bytes: impl Fn(T) -> [u8; N]) -> Result<(), Fault> {
        let number = self.number(peek)?;
        match number.parse() {
            Ok(value) => {
                let bytes = bytes(value);
                self.raw.extend_from_slice(&bytes);
                Ok(())
            }
            Err(_) => {
                let why = shortened(number);
                Err(self.unfit(&why))
            }
        }
    }

    fn float<T: Copy, const N: usize>(
        &mut self,
        peek: Peek,
        parse: impl Fn(&str) -> Option<T>,
        is_infinite: impl Fn(T) -> bool,
        bytes: impl Fn(T) -> [u8; N],
    ) -> Result<(), Fault> {
        let number = self.number(peek)?;
        // The words NaN, Infinity and -Infinity mean what they say; digits that end there are too large.
        let is_word = number.ends_with(|last: char| last.is_ascii_alphabetic());
        match parse(number) {
            Some(value) if is_word || !is_infinite(value) => {
                self.raw.extend_from_slice(&bytes(value));
                Ok(())
            }
            _ => {
                let why = shortened(number);
                Err(self.unfit(&why))
            }
        }
    }

    fn bytes(&mut self, peek: Peek) -> Result<(), Fault> {
        let at = self.raw.len();
        self.raw.extend_from_slice(&[0; 4]);
        if self.byte_lists && peek == Peek::Array {
            self.byte_list()?;
        } else if peek == Peek::String {
            let rest = self.rest;
            let string = self.json.known_str().map_err(|error| rest.fault(&error))?;
            if !self.form.base64 {
                self.raw.extend_from_slice(string.as_bytes());
            } else if BASE64.decode_vec(string, &mut self.raw).is_err() {
                return Err(self.unfit("its text is not base64"));
            }
        } else {
            return Err(self.unfit("it must be a string"));
        }
        let length = u32::try_from(self.raw.len() - at - 4).map_err(|_| json::too_large(self.form.max_bytes))?;
        self.raw[at..at + 4].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }

    /// An element as a list of byte values.
    fn byte_list(&mut self) -> Result<(), Fault> {
        let mut next = self.json.known_array().map_err(|error| self.fault(&error))?;
        while let Some(peek) = next {
            let number = self.number(peek)?;
            match number.parse() {
                Ok(byte) => self.raw.push(byte),
                Err(_) => {
                    let why = format!("{} is no byte", shortened(number));
                    return Err(self.unfit(&why));
                }
            }
            next = self.json.array_step().map_err(|error| self.fault(&error))?;
        }
        Ok(())
    }
}

/// A number for a message: strangers write long ones.
fn shortened(number: &str) -> String {
    match number.get(..40) {
        Some(begin) if number.len() > 40 => format!("{begin}…"),
        _ => number.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape;

    fn raw(datatype: Datatype, shape: &[i64], text: &str) -> Result<Vec<u8>, String> {
        let elements = shape::elements(shape).unwrap();
        let form = Form { input: "x", datatype, shape, elements, base64: false, left: 1000, max_bytes: 1000 };
        read_of(text, form).map_err(|fault| fault.message)
    }

    fn is_refused(datatype: Datatype, shape: &[i64], text: &str) {
        let read = raw(datatype, shape, text);
        assert!(read.is_err(), "{text} of {datatype:?} {shape:?} was read as {read:?}");
    }

    #[test]
    fn integers_are_exact_to_their_bounds_and_refused_beyond() {
        let bounds: [(Datatype, &str, &str, i128, i128); 8] = [
            (Datatype::Uint8, "-1", "256", 0, 255),
            (Datatype::Uint16, "-1", "65536", 0, 65535),
            (Datatype::Uint32, "-1", "4294967296", 0, u32::MAX.into()),
            (Datatype::Uint64, "-1", "18446744073709551616", 0, u64::MAX.into()),
            (Datatype::Int8, "-129", "128", -128, 127),
            (Datatype::Int16, "-32769", "32768", -32768, 32767),
            (Datatype::Int32, "-2147483649", "2147483648", i32::MIN.into(), i32::MAX.into()),
            (Datatype::Int64, "-9223372036854775809", "9223372036854775808", i64::MIN.into(), i64::MAX.into()),
        ];
        for (datatype, below, above, least, most) in bounds {
            let size = datatype.size().unwrap();
            let read = raw(datatype, &[2], &format!("[{least}, {most}]")).unwrap();
            assert_eq!(read[..size], least.to_le_bytes()[..size]);
            assert_eq!(read[size..], most.to_le_bytes()[..size]);
            for wrong in [below, above, "1.0", "1e2", "null", "true", "\"1\"", "[1]", "{}", "NaN", "01", "+1", "1_0"] {
                is_refused(datatype, &[1], &format!("[{wrong}]"));
            }
        }
        assert_eq!(raw(Datatype::Int64, &[1], "[9007199254740993]").unwrap(), 9_007_199_254_740_993_i64.to_le_bytes());
    }

    #[test]
    fn floats_are_rounded_once_and_too_large_ones_refused() {
        let one = |datatype, text: &str| raw(datatype, &[1], &format!("[{text}]"));
        assert_eq!(one(Datatype::Fp32, "0.1").unwrap(), 0.1_f32.to_le_bytes());
        // Just above the middle of two FP32: by way of FP64 it would be rounded down.
        let above = "1.00000005960464477540000000000000000001";
        assert_eq!(one(Datatype::Fp32, above).unwrap(), (1.0 + f32::EPSILON).to_le_bytes());
        assert_eq!(one(Datatype::Fp64, "0.1").unwrap(), 0.1_f64.to_le_bytes());
        assert_eq!(one(Datatype::Fp64, "-3").unwrap(), (-3.0_f64).to_le_bytes());
        assert_eq!(one(Datatype::Fp16, "65504").unwrap(), f16::MAX.to_le_bytes());
        assert_eq!(one(Datatype::Bf16, "3.0e38").unwrap(), bf16::from_f64(3.0e38).to_le_bytes());
        assert_eq!(one(Datatype::Fp32, "1e-60").unwrap(), 0.0_f32.to_le_bytes());
        assert_eq!(one(Datatype::Fp32, "-Infinity").unwrap(), f32::NEG_INFINITY.to_le_bytes());
        assert!(f32::from_le_bytes(one(Datatype::Fp32, "NaN").unwrap().try_into().unwrap()).is_nan());
        assert_eq!(one(Datatype::Fp16, "Infinity").unwrap(), f16::INFINITY.to_le_bytes());
        for (datatype, large) in
            [(Datatype::Fp16, "65520"), (Datatype::Bf16, "3.4e38"), (Datatype::Fp32, "1e39"), (Datatype::Fp64, "1e309")]
        {
            is_refused(datatype, &[1], &format!("[{large}]"));
            is_refused(datatype, &[1], &format!("[-{large}]"));
            for wrong in ["null", "true", "\"1\"", "[1]", "{}", "nan", "inf", "1.", ".1", "1e", "0x1", "--1", "1 2"] {
                is_refused(datatype, &[1], &format!("[{wrong}]"));
            }
        }
    }

    #[test]
    fn an_element_that_does_not_fit_is_shown() {
        let message = raw(Datatype::Int8, &[3], "[1, 2, 300]").unwrap_err();
        assert_eq!(message, "input \"x\": element 2 is no INT8: 300");
        let message = raw(Datatype::Fp32, &[2], "[1, null]").unwrap_err();
        assert_eq!(message, "input \"x\": element 1 is no FP32: expected float but found null");
    }

    #[test]
    fn data_is_flat_or_nested_exactly_as_the_shape() {
        let read = |shape: &[i64], text: &str| raw(Datatype::Uint8, shape, text);
        assert_eq!(read(&[2, 3], "[1,2,3,4,5,6]").unwrap(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(read(&[2, 3], " [ [ 1,2,3 ] , [4,5,6] ] ").unwrap(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(read(&[1, 2, 1], "[[[1],[2]]]").unwrap(), [1, 2]);
        assert_eq!(read(&[], "[7]").unwrap(), [7]);
        assert_eq!(read(&[0], "[]").unwrap(), [0_u8; 0]);
        assert_eq!(read(&[0, 3], "[]").unwrap(), [0_u8; 0]);
        assert_eq!(read(&[2, 0], "[[],[]]").unwrap(), [0_u8; 0]);
        assert_eq!(read(&[2, 0, 3], "[[],[]]").unwrap(), [0_u8; 0]);
        for (shape, text) in [
            (&[3][..], "[[1,2],[3]]"),
            (&[3], "[1,2]"),
            (&[3], "[1,2,3,4]"),
            (&[3], "1"),
            (&[3], "[]"),
            (&[0], "[1]"),
            (&[], "[]"),
            (&[], "7"),
            (&[2, 3], "[[1,2],[3,4],[5,6]]"),
            (&[2, 3], "[[1,2,3],4,5,6]"),
            (&[2, 3], "[1,2,3,[4,5,6]]"),
            (&[2, 3], "[[[1,2,3],[4,5,6]]]"),
            (&[1, 2, 1], "[[1],[2]]"),
            (&[3], "[1,2,3"),
            (&[3], "[1,2,3,]"),
            (&[3], "[1 2 3]"),
            (&[3], "{\"0\":1}"),
        ] {
            is_refused(Datatype::Uint8, shape, text);
        }
    }

    #[test]
    fn booleans_are_words() {
        assert_eq!(raw(Datatype::Bool, &[2], "[true,false]").unwrap(), [1, 0]);
        for wrong in ["1", "0", "null", "\"true\"", "True", "tru"] {
            is_refused(Datatype::Bool, &[1], &format!("[{wrong}]"));
        }
    }

    #[test]
    fn bytes_are_text_base64_or_lists_of_bytes() {
        let read = |shape: &[i64], text: &str| raw(Datatype::Bytes, shape, text);
        let expected = "\x03\0\0\0a\u{e9}\x04\0\0\0\u{1F600}".as_bytes();
        assert_eq!(read(&[2], r#"["a\u00e9","\ud83d\ude00"]"#).unwrap(), expected);
        assert_eq!(read(&[2, 1], "[[\"a\u{e9}\"],[\"\u{1F600}\"]]").unwrap(), expected);
        assert_eq!(read(&[2], "[[97,195,169],[240,159,152,128]]").unwrap(), expected);
        assert_eq!(read(&[2, 1], "[[[97,195,169]],[[240,159,152,128]]]").unwrap(), expected);
        assert_eq!(read(&[1], "[[]]").unwrap(), [0; 4]);
        assert_eq!(read(&[2, 0], "[[],[]]").unwrap(), [0_u8; 0]);
        for (shape, text) in
            [(&[1][..], "[1]"), (&[1], "[null]"), (&[1], "[[256]]"), (&[1], r#"["\ud83d"]"#), (&[1], "[\"\n\"]")]
        {
            is_refused(Datatype::Bytes, shape, text);
        }
        let base64 = |text: &str| {
            let form = Form {
                input: "x",
                datatype: Datatype::Bytes,
                shape: &[1],
                elements: 1,
                base64: true,
                left: 100,
                max_bytes: 100,
            };
            read_of(text, form)
        };
        assert_eq!(base64(r#"["/wA="]"#).unwrap(), b"\x02\0\0\0\xff\0");
        assert_eq!(base64(r#"["/wA"]"#).unwrap(), b"\x02\0\0\0\xff\0");
        assert!(base64(r#"["?"]"#).is_err());
    }

    fn read_of(text: &str, form: Form<'_>) -> Result<Vec<u8>, Fault> {
        read(Rest::of(text.as_bytes()), form).map(|(raw, length)| {
            assert_eq!(length, text.trim_end().len());
            raw
        })
    }

    #[test]
    fn a_shape_reserves_nothing_and_a_tensor_is_bounded() {
        let elements = 1 << 50;
        let shape = [1 << 50];
        let form = Form {
            input: "x",
            datatype: Datatype::Fp64,
            shape: &shape,
            elements,
            base64: false,
            left: usize::MAX,
            max_bytes: usize::MAX,
        };
        assert!(read_of("[1,2]", form).is_err());
        let form = Form { elements: 3, shape: &[3], left: 16, ..form };
        assert_eq!(read_of("[1,2,3]", form).unwrap_err().status.as_u16(), 413);
    }
}
