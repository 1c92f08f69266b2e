//! Calls of the Open Inference Protocol with raw tensors, read where they lie.
//!
//! Only what nearly all calls are made of is read here. Of everything else, and of everything that is wrong, `read` says nothing
//! but None: whoever reads all messages says what it is. `proto/open-inference.proto` documents names and field numbers.

use bytes::Bytes;

use crate::wire::framing::{PREFIX, prefix_of};
use crate::wire::protobuf::{Field, Fields, LENGTH_DELIMITED, VARINT, write_varint};

/// More elements do not fit into one message.
const MOST_ELEMENTS: usize = 1 << 31;

/// Datatypes whose elements are as wide as numpy has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Fp16,
    Fp32,
    Fp64,
}

impl Datatype {
    pub const ALL: [Self; 12] = [
        Self::Bool,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
    ];

    /// As messages name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
        }
    }

    /// Bytes of one element.
    #[must_use]
    pub fn width(self) -> usize {
        match self {
            Self::Bool | Self::Int8 | Self::Uint8 => 1,
            Self::Int16 | Self::Uint16 | Self::Fp16 => 2,
            Self::Int32 | Self::Uint32 | Self::Fp32 => 4,
            Self::Int64 | Self::Uint64 | Self::Fp64 => 8,
        }
    }

    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|datatype| datatype.name() == name)
    }
}

/// One tensor of a request. There are as many bytes as its shape and datatype say.
#[derive(Debug, PartialEq, Eq)]
pub struct Input<'a> {
    pub name: &'a str,
    pub datatype: Datatype,
    pub shape: Vec<usize>,
    pub data: &'a [u8],
}

/// A `ModelInferRequest` with raw tensors and no parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    pub model_name: &'a str,
    pub model_version: &'a str,
    pub id: &'a str,
    /// At least one, each name once.
    pub inputs: Vec<Input<'a>>,
    /// Names of the outputs that the client wants; empty: all.
    pub wanted: Vec<&'a str>,
}

/// One tensor of an answer.
#[derive(Debug)]
pub struct Output<'a> {
    pub name: &'a str,
    pub datatype: Datatype,
    pub shape: &'a [usize],
    pub data: &'a [u8],
}

/// Reads a request. None: it is malformed, or not of this kind.
#[must_use]
pub fn read(message: &[u8]) -> Option<Request<'_>> {
    let mut request = Request::default();
    let mut tensors: Vec<(&str, &str, Vec<usize>)> = Vec::new();
    let mut contents: Vec<&[u8]> = Vec::new();
    for field in Fields::new(message) {
        let field = field.ok()?;
        match field.number {
            1 => request.model_name = text(message, &field)?,
            2 => request.model_version = text(message, &field)?,
            3 => request.id = text(message, &field)?,
            4 => return None,
            5 => tensors.push(tensor(content(message, &field)?)?),
            6 => request.wanted.push(requested(content(message, &field)?)?),
            7 => contents.push(content(message, &field)?),
            _ => {}
        }
    }
    if contents.is_empty() || tensors.len() != contents.len() {
        return None;
    }
    for ((name, datatype, shape), data) in tensors.into_iter().zip(contents) {
        let datatype = Datatype::named(datatype)?;
        let elements = shape.iter().try_fold(1_usize, |count, size| count.checked_mul(*size))?;
        let is_known = request.inputs.iter().any(|other| other.name == name);
        if is_known || elements > MOST_ELEMENTS || elements * datatype.width() != data.len() {
            return None;
        }
        request.inputs.push(Input { name, datatype, shape, data });
    }
    Some(request)
}

/// Whether two `ModelInferResponse` have the same outputs. Names of models, versions, ids and parameters may differ.
#[must_use]
pub fn says_the_same(one: &[u8], other: &[u8]) -> bool {
    match (outputs(one), outputs(other)) {
        (Some(one), Some(other)) => one == other,
        _ => false,
    }
}

/// Tensors and raw contents of an answer, as they are written. None: it is malformed.
fn outputs(message: &[u8]) -> Option<Vec<(u32, &[u8])>> {
    let mut outputs = Vec::new();
    for field in Fields::new(message) {
        let field = field.ok()?;
        if matches!(field.number, 5 | 6) {
            outputs.push((field.number, content(message, &field)?));
        }
    }
    Some(outputs)
}

fn content<'a>(message: &'a [u8], field: &Field) -> Option<&'a [u8]> {
    (field.wire_type == LENGTH_DELIMITED).then(|| &message[field.content..field.end])
}

fn text<'a>(message: &'a [u8], field: &Field) -> Option<&'a str> {
    std::str::from_utf8(content(message, field)?).ok()
}

/// Name, datatype and shape.
fn tensor(message: &[u8]) -> Option<(&str, &str, Vec<usize>)> {
    let (mut name, mut datatype, mut shape) = ("", "", Vec::new());
    for field in Fields::new(message) {
        let field = field.ok()?;
        match (field.number, field.wire_type) {
            (1, _) => name = text(message, &field)?,
            (2, _) => datatype = text(message, &field)?,
            (3, LENGTH_DELIMITED) => {
                let mut sizes = Fields::new(&message[field.content..field.end]);
                while !sizes.is_empty() {
                    shape.push(usize::try_from(sizes.varint().ok()?.cast_signed()).ok()?);
                }
            }
            (3, VARINT) => {
                let size = Fields::new(&message[field.content..field.end]).varint().ok()?;
                shape.push(usize::try_from(size.cast_signed()).ok()?);
            }
            // Parameters, and contents that are not raw.
            (3..=5, _) => return None,
            _ => {}
        }
    }
    Some((name, datatype, shape))
}

/// The name of an output that the client wants.
fn requested(message: &[u8]) -> Option<&str> {
    let mut name = "";
    for field in Fields::new(message) {
        let field = field.ok()?;
        match field.number {
            1 => name = text(message, &field)?,
            2 => return None,
            _ => {}
        }
    }
    Some(name)
}

/// The answer to a request, with the prefix of gRPC: a `ModelInferResponse` with the outputs that the client wants. None: it wants
/// one that there is not.
#[must_use]
pub fn write(request: &Request<'_>, model: &str, outputs: &[Output<'_>]) -> Option<Bytes> {
    let chosen: Vec<&Output<'_>> = if request.wanted.is_empty() {
        outputs.iter().collect()
    } else {
        let find = |name: &&str| outputs.iter().find(|output| output.name == *name);
        request.wanted.iter().map(find).collect::<Option<_>>()?
    };
    let sizes = chosen.iter().map(|output| output.data.len() + output.name.len() + 64);
    let mut out = Vec::with_capacity(PREFIX + model.len() + request.id.len() + 64 + sizes.sum::<usize>());
    out.extend_from_slice(&[0; PREFIX]);
    let name = if request.model_name.is_empty() { model } else { request.model_name };
    for (number, text) in [(1, name), (2, request.model_version), (3, request.id)] {
        write_text(number, text, &mut out);
    }
    let (mut inner, mut shape) = (Vec::new(), Vec::new());
    for output in &chosen {
        inner.clear();
        shape.clear();
        write_text(1, output.name, &mut inner);
        write_text(2, output.datatype.name(), &mut inner);
        output.shape.iter().for_each(|size| write_varint(*size as u64, &mut shape));
        if !shape.is_empty() {
            write_content(3, &shape, &mut inner);
        }
        write_content(5, &inner, &mut out);
    }
    for output in &chosen {
        write_content(6, output.data, &mut out);
    }
    let prefix = prefix_of(out.len() - PREFIX);
    out[..PREFIX].copy_from_slice(&prefix);
    Some(out.into())
}

fn write_text(number: u8, text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() {
        write_content(number, text.as_bytes(), out);
    }
}

fn write_content(number: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | LENGTH_DELIMITED);
    write_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Tensor {
        #[prost(string, tag = "1")]
        name: String,
        #[prost(string, tag = "2")]
        datatype: String,
        #[prost(int64, repeated, tag = "3")]
        shape: Vec<i64>,
        #[prost(bytes = "vec", optional, tag = "5")]
        contents: Option<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Wanted {
        #[prost(string, tag = "1")]
        name: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Asked {
        #[prost(string, tag = "1")]
        model_name: String,
        #[prost(string, tag = "2")]
        model_version: String,
        #[prost(string, tag = "3")]
        id: String,
        #[prost(message, repeated, tag = "5")]
        inputs: Vec<Tensor>,
        #[prost(message, repeated, tag = "6")]
        outputs: Vec<Wanted>,
        #[prost(bytes = "vec", repeated, tag = "7")]
        raw: Vec<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Answer {
        #[prost(string, tag = "1")]
        model_name: String,
        #[prost(string, tag = "2")]
        model_version: String,
        #[prost(string, tag = "3")]
        id: String,
        #[prost(message, repeated, tag = "5")]
        outputs: Vec<Tensor>,
        #[prost(bytes = "vec", repeated, tag = "6")]
        raw: Vec<Vec<u8>>,
    }

    fn asked() -> Asked {
        let tensor = Tensor { name: "x".into(), datatype: "FP32".into(), shape: vec![2, 1], contents: None };
        Asked {
            model_name: "m".into(),
            id: "7".into(),
            inputs: vec![tensor],
            raw: vec![vec![1; 8]],
            ..Asked::default()
        }
    }

    #[test]
    fn what_is_unusual_or_wrong_is_left_alone() {
        assert!(read(&asked().encode_to_vec()).is_some());
        let cases: [fn(&mut Asked); 9] = [
            |asked| asked.raw.clear(),
            |asked| asked.raw.push(vec![]),
            |asked| asked.raw[0].push(0),
            |asked| asked.inputs[0].datatype = "BYTES".into(),
            |asked| asked.inputs[0].datatype = "FP8".into(),
            |asked| asked.inputs[0].shape = vec![-2, -1],
            |asked| asked.inputs[0].shape = vec![1 << 40, 1 << 40],
            |asked| asked.inputs[0].contents = Some(vec![]),
            |asked| {
                asked.inputs.push(asked.inputs[0].clone());
                asked.raw.push(vec![0; 8]);
            },
        ];
        for (number, change) in cases.into_iter().enumerate() {
            let mut changed = asked();
            change(&mut changed);
            assert_eq!(read(&changed.encode_to_vec()), None, "{number}");
        }
        let mut with_parameters = asked().encode_to_vec();
        with_parameters.extend([0x22, 0]);
        assert_eq!(read(&with_parameters), None);
    }

    #[test]
    fn sizes_may_be_packed_or_not() {
        for sizes in [&[0x18, 1, 0x18, 3][..], &[0x1a, 2, 1, 3], &[0x1a, 1, 1, 0x18, 3]] {
            let tensor = [&[0x0a, 1, b'x', 0x12, 4][..], b"BOOL", sizes].concat();
            let length = u8::try_from(tensor.len()).unwrap();
            let message = [&[0x2a, length], &tensor[..], &[0x3a, 3, 1, 0, 1]].concat();
            let read = read(&message).expect("one tensor");
            assert_eq!((&read.inputs[0].shape[..], read.inputs[0].data), (&[1, 3][..], &[1, 0, 1][..]));
        }
    }

    #[test]
    fn answers_say_the_same_whoever_gave_them() {
        let answer = |model: &str, raw: u8| {
            let tensor = Tensor { name: "y".into(), datatype: "FP32".into(), shape: vec![1], contents: None };
            let (outputs, raw) = (vec![tensor], vec![vec![raw; 4]]);
            Answer { model_name: model.into(), outputs, raw, ..Answer::default() }
        };
        let [one, two] = [answer("a", 1), answer("b", 1)].map(|answer| answer.encode_to_vec());
        assert!(says_the_same(&one, &two));
        let mut renamed = answer("a", 1);
        renamed.outputs[0].name = "z".into();
        for other in [answer("a", 2), renamed, Answer { raw: vec![], ..answer("a", 1) }] {
            assert!(!says_the_same(&one, &other.encode_to_vec()));
        }
        assert!(!says_the_same(&one, &one[1..]), "what is malformed is not the same");
    }

    proptest! {
        #[test]
        fn a_request_and_its_answer_are_those_of_another_parser(
            name in "[a-zé]{0,8}", version in "[a-z]{0,3}", id in "[a-z]{0,3}",
            tensors in proptest::collection::vec((0..12_usize, proptest::collection::vec(0..4_usize, 0..4)), 1..4),
            wants: bool,
        ) {
            let mut asked = Asked { model_name: name, model_version: version, id, ..Asked::default() };
            for (number, (datatype, shape)) in tensors.iter().enumerate() {
                let datatype = Datatype::ALL[*datatype];
                asked.inputs.push(Tensor {
                    name: format!("t{number}"),
                    datatype: datatype.name().into(),
                    shape: shape.iter().map(|size| i64::try_from(*size).unwrap()).collect(),
                    contents: None,
                });
                asked.raw.push(vec![7; shape.iter().product::<usize>() * datatype.width()]);
            }
            if wants {
                asked.outputs.push(Wanted { name: "t0".into() });
            }
            let message = asked.encode_to_vec();
            let request = read(&message).expect("usual");
            let outputs: Vec<Output<'_>> = request.inputs.iter()
                .map(|input| Output { name: input.name, datatype: input.datatype, shape: &input.shape, data: input.data })
                .collect();
            let framed = write(&request, "its id", &outputs).expect("all are there");
            prop_assert_eq!(&framed[..PREFIX], &prefix_of(framed.len() - PREFIX)[..]);
            let kept = if wants { 1 } else { asked.inputs.len() };
            let expected = Answer {
                model_name: if asked.model_name.is_empty() { "its id".into() } else { asked.model_name.clone() },
                model_version: asked.model_version.clone(),
                id: asked.id.clone(),
                outputs: asked.inputs[..kept].to_vec(),
                raw: asked.raw[..kept].to_vec(),
            };
            prop_assert_eq!(&framed[PREFIX..], &expected.encode_to_vec()[..]);
        }

        /// Whatever comes: nothing panics.
        #[test]
        fn garbage(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn damaged(at in 0..40_usize, byte: u8) {
            let mut message = asked().encode_to_vec();
            let length = message.len();
            message[at % length] = byte;
            let _ = read(&message);
        }
    }
}
