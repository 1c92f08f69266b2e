//! Shapes of tensors, and how many elements they have.

use crate::datatype::Datatype;

/// Nested arrays of data stand within two levels of the request, and 64 levels are permitted.
pub const MOST_DIMENSIONS: usize = 62;

/// The number of elements; None if a dimension is negative or no memory holds so many.
#[must_use]
pub fn elements(shape: &[i64]) -> Option<usize> {
    let dimensions = shape.iter().map(|dimension| usize::try_from(*dimension).ok());
    dimensions.collect::<Option<Vec<_>>>()?.into_iter().try_fold(1_usize, usize::checked_mul)
}

/// Whether `raw` is a whole tensor of so many elements.
#[must_use]
pub fn fits(raw: &[u8], datatype: Datatype, elements: usize) -> bool {
    match datatype.size() {
        Some(size) => elements.checked_mul(size) == Some(raw.len()),
        None => byte_strings(raw).try_fold(0, |count, one| one.map(|_| count + 1)) == Some(elements),
    }
}

/// The elements of a raw BYTES tensor, each behind its length; None where the bytes lie.
pub fn byte_strings(raw: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = rest.split_first_chunk().and_then(|(length, after)| {
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            after.split_at_checked(length)
        });
        let Some((one, after)) = cut else {
            rest = &[];
            return Some(None);
        };
        rest = after;
        Some(Some(one))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_the_product_and_never_wrap() {
        assert_eq!(elements(&[]), Some(1));
        assert_eq!(elements(&[2, 3]), Some(6));
        assert_eq!(elements(&[2, 0, 3]), Some(0));
        assert_eq!(elements(&[-1, 3]), None);
        assert_eq!(elements(&[i64::MAX, 3]), None);
        assert_eq!(elements(&[1 << 32, 1 << 32]), None);
    }

    #[test]
    fn byte_strings_that_lie_are_noticed() {
        let fits = |raw: &[u8], elements| super::fits(raw, Datatype::Bytes, elements);
        assert!(fits(b"", 0) && fits(b"\x02\0\0\0ab\0\0\0\0", 2));
        assert!(!fits(b"\x02\0\0\0ab", 2));
        for lie in [&b"\x03\0\0\0ab"[..], b"\x02\0\0", b"\xff\xff\xff\xffab", b"\0\0\0\0\x01"] {
            assert!(!fits(lie, 1) && !fits(lie, 2), "{lie:?}");
        }
        assert!(!super::fits(&[0; 7], Datatype::Fp32, 2) && super::fits(&[0; 8], Datatype::Fp32, 2));
    }
}
