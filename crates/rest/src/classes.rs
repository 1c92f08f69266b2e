//! The classification extension: the largest values of a tensor and their places, instead of the tensor.

use std::cmp::Ordering;

use bytes::Bytes;
use half::{bf16, f16};

use crate::answer::Output;
use crate::datatype::Datatype;
use crate::shape;

/// The `most` largest values of each row as `value:place`, and the shape of that. The first dimension counts the rows, if
/// there are several dimensions. None: the values have no order.
pub fn of(output: &Output, most: usize) -> Option<(Bytes, Vec<i64>)> {
    let dimensions = &output.tensor.shape;
    let elements = shape::elements(dimensions)?;
    let rows = match dimensions.as_slice() {
        [rows, _, ..] => usize::try_from(*rows).ok()?,
        _ => 1,
    };
    let size = output.datatype.size()?;
    let columns = elements.checked_div(rows).unwrap_or(0);
    let most = most.min(columns);
    let mut raw = Vec::new();
    for row in output.raw.chunks((columns * size).max(1)).take(rows) {
        let mut places: Vec<(usize, &[u8])> = row.chunks(size).enumerate().collect();
        // Stable: of equal values the first place comes first.
        places.sort_by(|(_, one), (_, other)| larger_first(output.datatype, one, other));
        for (place, value) in &places[..most] {
            let class = format!("{}:{place}", text_of(output.datatype, value));
            raw.extend_from_slice(&u32::try_from(class.len()).unwrap_or(u32::MAX).to_le_bytes());
            raw.extend_from_slice(class.as_bytes());
        }
    }
    let most = i64::try_from(most).ok()?;
    let shape = match dimensions.as_slice() {
        [rows, _, ..] => vec![*rows, most],
        _ => vec![most],
    };
    Some((raw.into(), shape))
}

enum Number {
    Whole(i128),
    Real(f64),
}

fn number(datatype: Datatype, bytes: &[u8]) -> Number {
    fn first<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.first_chunk().copied().unwrap_or([0; N])
    }
    match datatype {
        Datatype::Bool | Datatype::Uint8 | Datatype::Bytes => Number::Whole(u8::from_le_bytes(first(bytes)).into()),
        Datatype::Uint16 => Number::Whole(u16::from_le_bytes(first(bytes)).into()),
        Datatype::Uint32 => Number::Whole(u32::from_le_bytes(first(bytes)).into()),
        Datatype::Uint64 => Number::Whole(u64::from_le_bytes(first(bytes)).into()),
        Datatype::Int8 => Number::Whole(i8::from_le_bytes(first(bytes)).into()),
        Datatype::Int16 => Number::Whole(i16::from_le_bytes(first(bytes)).into()),
        Datatype::Int32 => Number::Whole(i32::from_le_bytes(first(bytes)).into()),
        Datatype::Int64 => Number::Whole(i64::from_le_bytes(first(bytes)).into()),
        Datatype::Fp16 => Number::Real(f16::from_le_bytes(first(bytes)).to_f64()),
        Datatype::Bf16 => Number::Real(bf16::from_le_bytes(first(bytes)).to_f64()),
        Datatype::Fp32 => Number::Real(f32::from_le_bytes(first(bytes)).into()),
        Datatype::Fp64 => Number::Real(f64::from_le_bytes(first(bytes))),
    }
}

/// NaN comes last.
fn larger_first(datatype: Datatype, one: &[u8], other: &[u8]) -> Ordering {
    match (number(datatype, one), number(datatype, other)) {
        (Number::Whole(one), Number::Whole(other)) => other.cmp(&one),
        (Number::Real(one), Number::Real(other)) => {
            one.is_nan().cmp(&other.is_nan()).then(other.partial_cmp(&one).unwrap_or(Ordering::Equal))
        }
        _ => Ordering::Equal,
    }
}

/// As Triton writes them: fractions with six digits.
fn text_of(datatype: Datatype, value: &[u8]) -> String {
    match number(datatype, value) {
        Number::Whole(number) => number.to_string(),
        Number::Real(number) => format!("{number:.6}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Tensor;

    fn classes(datatype: Datatype, shape: &[i64], raw: &[u8], most: usize) -> (Vec<String>, Vec<i64>) {
        let tensor = Tensor { shape: shape.to_vec(), ..Tensor::default() };
        let (raw, shape) = of(&Output { tensor, datatype, raw: Bytes::copy_from_slice(raw) }, most).unwrap();
        let text = |one: Option<&[u8]>| String::from_utf8(one.unwrap().to_vec()).unwrap();
        (shape::byte_strings(&raw).map(text).collect(), shape)
    }

    fn fp32(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn each_row_gives_its_largest_values_with_their_places() {
        let raw = fp32(&[0.1, 0.7, 0.2, 0.5, 0.25, 0.25]);
        let (texts, shape) = classes(Datatype::Fp32, &[2, 3], &raw, 2);
        assert_eq!(texts, ["0.700000:1", "0.200000:2", "0.500000:0", "0.250000:1"]);
        assert_eq!(shape, [2, 2]);
        assert_eq!(classes(Datatype::Fp32, &[6], &raw, 1), (vec!["0.700000:1".into()], vec![1]));
    }

    #[test]
    fn odd_values_and_shapes_have_an_order_too() {
        let (texts, _) = classes(Datatype::Fp32, &[4], &fp32(&[f32::NAN, 1.0, f32::INFINITY, -1.0]), 9);
        assert_eq!(texts, ["inf:2", "1.000000:1", "-1.000000:3", "NaN:0"]);
        assert_eq!(classes(Datatype::Int8, &[3], &[0xff, 5, 0x80], 3).0, ["5:1", "-1:0", "-128:2"]);
        assert_eq!(classes(Datatype::Fp32, &[2, 0], &[], 3), (vec![], vec![2, 0]));
        assert_eq!(classes(Datatype::Fp32, &[0, 2], &[], 3).0, Vec::<String>::new());
    }
}
