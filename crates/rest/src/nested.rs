//! Tensors as nested lists, as V1 has them.

use crate::answer::{Output, broken};
use crate::fault::Fault;
use crate::proto::Tensor;
use crate::shape::{self, MOST_DIMENSIONS};

/// The rows of a tensor, along its first dimension.
///
/// # Errors
/// 500: it has no dimensions, or more than can be nested.
pub fn rows(output: &Output) -> Result<Vec<Output>, Fault> {
    let name = &output.tensor.name;
    let Some((count, inner)) = output.tensor.shape.split_first().filter(|(_, inner)| inner.len() < MOST_DIMENSIONS)
    else {
        let what = format_args!("output {name:?} of shape {:?} has no rows", output.tensor.shape);
        return Err(broken(what));
    };
    let count = usize::try_from(*count).unwrap_or_default();
    let elements = shape::elements(inner).unwrap_or_default();
    let mut rows = Vec::new();
    let mut at = 0;
    // A shape alone makes no rows: of elements there is at least a byte each.
    for _ in 0..count.min(output.raw.len()) {
        let length = match output.datatype.size() {
            Some(size) => elements * size,
            None => shape::byte_strings(&output.raw[at..]).take(elements).flatten().map(|one| 4 + one.len()).sum(),
        };
        let tensor = Tensor { shape: inner.to_vec(), name: name.clone(), ..Tensor::default() };
        rows.push(Output { tensor, datatype: output.datatype, raw: output.raw.slice(at..at + length) });
        at += length;
    }
    Ok(rows)
}

/// Appends a tensor as lists within lists; a scalar as itself.
///
/// # Errors
/// 400: a value that JSON does not have. 500: more dimensions than can be nested.
pub fn write(output: &Output, to: &mut Vec<u8>) -> Result<(), Fault> {
    match output.tensor.shape.as_slice() {
        [] => {
            let at = to.len();
            output.write_data(false, false, to)?;
            // The brackets of a list of one.
            to.remove(at);
            to.pop();
            Ok(())
        }
        [_] => output.write_data(false, false, to),
        _ => {
            to.push(b'[');
            for (at, row) in rows(output)?.iter().enumerate() {
                if at > 0 {
                    to.push(b',');
                }
                write(row, to)?;
            }
            to.push(b']');
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::datatype::Datatype;

    fn output(datatype: Datatype, shape: &[i64], raw: &[u8]) -> Output {
        let tensor = Tensor { name: "y".into(), shape: shape.to_vec(), ..Tensor::default() };
        Output { tensor, datatype, raw: Bytes::copy_from_slice(raw) }
    }

    fn written(output: &Output) -> Value {
        let mut to = Vec::new();
        write(output, &mut to).unwrap();
        serde_json::from_slice(&to).unwrap()
    }

    #[test]
    fn tensors_are_nested_as_their_shape_says() {
        let bytes = [1, 2, 3, 4, 5, 6];
        assert_eq!(written(&output(Datatype::Uint8, &[], &[7])), json!(7));
        assert_eq!(written(&output(Datatype::Uint8, &[6], &bytes)), json!([1, 2, 3, 4, 5, 6]));
        assert_eq!(written(&output(Datatype::Uint8, &[2, 3], &bytes)), json!([[1, 2, 3], [4, 5, 6]]));
        assert_eq!(written(&output(Datatype::Uint16, &[1, 3, 1], &bytes)), json!([[[513], [1027], [1541]]]));
        assert_eq!(written(&output(Datatype::Uint8, &[0, 3], &[])), json!([]));
        let strings = b"\x01\0\0\0a\0\0\0\0\x02\0\0\0bc\x01\0\0\0d";
        assert_eq!(written(&output(Datatype::Bytes, &[2, 2], strings)), json!([["a", ""], ["bc", "d"]]));
    }

    #[test]
    fn what_cannot_be_nested_is_refused() {
        assert!(rows(&output(Datatype::Uint8, &[], &[7])).is_err());
        assert!(rows(&output(Datatype::Uint8, &[1; 70], &[7])).is_err());
        assert!(rows(&output(Datatype::Uint8, &[1 << 60, 0], &[])).unwrap().is_empty());
        assert!(write(&output(Datatype::Fp32, &[1], &f32::NAN.to_le_bytes()), &mut Vec::new()).is_err());
        assert!(write(&output(Datatype::Bytes, &[1], b"\x01\0\0\0\xff"), &mut Vec::new()).is_err());
    }
}
