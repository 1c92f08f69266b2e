//! Generated requests, read here and by `serde_json`; damaged ones must be refused.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::read;
use crate::datatype::Datatype;

const CASES: u32 = 3_000;

/// A tensor's datatype, shape and elements, and whether they are nested.
type Input = (Datatype, Vec<i64>, Vec<Value>, bool);

fn element(datatype: Datatype) -> BoxedStrategy<Value> {
    match datatype {
        Datatype::Bool => any::<bool>().prop_map(Value::from).boxed(),
        Datatype::Uint8 => any::<u8>().prop_map(Value::from).boxed(),
        Datatype::Uint16 => any::<u16>().prop_map(Value::from).boxed(),
        Datatype::Uint32 => any::<u32>().prop_map(Value::from).boxed(),
        Datatype::Uint64 => any::<u64>().prop_map(Value::from).boxed(),
        Datatype::Int8 => any::<i8>().prop_map(Value::from).boxed(),
        Datatype::Int16 => any::<i16>().prop_map(Value::from).boxed(),
        Datatype::Int32 => any::<i32>().prop_map(Value::from).boxed(),
        Datatype::Int64 => any::<i64>().prop_map(Value::from).boxed(),
        Datatype::Fp16 | Datatype::Bf16 => (-1000_i16..1000).prop_map(|value| json!(f64::from(value) / 8.0)).boxed(),
        Datatype::Fp32 => prop::num::f32::NORMAL.prop_map(|value| json!(value)).boxed(),
        Datatype::Fp64 => prop::num::f64::NORMAL.prop_map(|value| json!(value)).boxed(),
        Datatype::Bytes => any::<String>().prop_map(Value::from).boxed(),
    }
}

fn input() -> impl Strategy<Value = Input> {
    let shape = prop::collection::vec(0_i64..4, 0..4);
    (prop::sample::select(Datatype::ALL.to_vec()), shape, any::<bool>()).prop_flat_map(|(datatype, shape, nested)| {
        let count = usize::try_from(shape.iter().product::<i64>()).unwrap();
        let elements = prop::collection::vec(element(datatype), count);
        elements.prop_map(move |elements| (datatype, shape.clone(), elements, nested && !shape.is_empty()))
    })
}

fn nest(shape: &[i64], elements: &mut impl Iterator<Item = Value>) -> Value {
    match shape.split_first() {
        None => elements.next().unwrap(),
        Some((count, inner)) => (0..*count).map(|_| nest(inner, elements)).collect(),
    }
}

/// The request as text, the keys of its tensors turned round by `turn`.
fn text(inputs: &[Input], turn: usize) -> String {
    let tensor = |(at, (datatype, shape, elements, nested)): (usize, &Input)| {
        let mut all = elements.iter().cloned();
        let data = if *nested { nest(shape, &mut all) } else { all.collect() };
        let mut keys = [
            format!("\"name\":\"{at}\""),
            format!("\"datatype\":\"{}\"", datatype.name()),
            format!("\"shape\":{}", json!(shape)),
            format!("\"data\": {data}"),
        ];
        keys.rotate_left(turn % 4);
        format!("{{{}}}", keys.join(", "))
    };
    let tensors: Vec<_> = inputs.iter().enumerate().map(tensor).collect();
    format!("{{\"id\":\"7\",\"inputs\":[{}]}}", tensors.join(","))
}

/// The raw tensor that the elements mean.
#[expect(clippy::cast_possible_truncation, reason = "they were made of such")]
fn raw(datatype: Datatype, elements: &[Value]) -> Vec<u8> {
    let one = |value: &Value| match datatype {
        Datatype::Bool => vec![u8::from(value.as_bool().unwrap())],
        Datatype::Fp32 => (value.as_f64().unwrap() as f32).to_le_bytes().to_vec(),
        Datatype::Fp64 => value.as_f64().unwrap().to_le_bytes().to_vec(),
        Datatype::Fp16 => half::f16::from_f64(value.as_f64().unwrap()).to_le_bytes().to_vec(),
        Datatype::Bf16 => half::bf16::from_f64(value.as_f64().unwrap()).to_le_bytes().to_vec(),
        Datatype::Bytes => {
            let text = value.as_str().unwrap().as_bytes();
            [&u32::try_from(text.len()).unwrap().to_le_bytes()[..], text].concat()
        }
        whole => {
            let bytes = value.as_i64().map_or_else(|| value.as_u64().unwrap().to_le_bytes(), i64::to_le_bytes);
            bytes[..whole.size().unwrap()].to_vec()
        }
    };
    elements.iter().flat_map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn requests_are_read_as_another_parser_reads_them(inputs in prop::collection::vec(input(), 1..4), turn in 0_usize..4) {
        let text = text(&inputs, turn);
        let request = read(&Bytes::from(text.clone()), None, 1 << 20);
        prop_assert!(request.is_ok(), "{text}: {request:?}");
        let message = request.unwrap().message;
        for (at, (datatype, shape, elements, _)) in inputs.iter().enumerate() {
            prop_assert_eq!(&message.inputs[at].shape, shape);
            prop_assert_eq!(&message.raw_input_contents[at][..], &raw(*datatype, elements)[..], "{}", text);
        }
    }

    #[test]
    fn damaged_requests_are_refused_and_end_nothing(
        inputs in prop::collection::vec(input(), 1..3),
        at in any::<prop::sample::Index>(),
        byte in prop::option::of(any::<u8>()),
        cut in any::<bool>(),
    ) {
        let mut damaged = text(&inputs, 0).into_bytes();
        let at = at.index(damaged.len());
        match byte {
            Some(byte) => damaged[at] = byte,
            None if cut => damaged.truncate(at),
            None => drop(damaged.remove(at)),
        }
        let taken = read(&Bytes::from(damaged.clone()), None, 1 << 20).is_ok();
        // Words for numbers are ours alone.
        let plain = !damaged.windows(3).any(|word| word == b"NaN" || word == b"Inf");
        if taken && plain {
            prop_assert!(serde_json::from_slice::<Value>(&damaged).is_ok(), "{}", String::from_utf8_lossy(&damaged));
        }
    }

    #[test]
    fn bytes_that_mean_nothing_end_nothing(body in prop::collection::vec(any::<u8>(), 0..200), json_bytes in 0_usize..250) {
        let body = Bytes::from(body);
        let _ = read(&body, None, 100);
        let _ = read(&body, Some(json_bytes), 100);
        let _ = crate::options::read(&body);
    }
}
