//! What a model answered, as JSON, with or without binary tensors behind it.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use half::{bf16, f16};
use http::StatusCode;

use crate::classes;
use crate::datatype::Datatype;
use crate::fault::Fault;
use crate::json;
use crate::proto::{Choice, Contents, ModelInferResponse, Parameter, Parameters, Tensor};
use crate::shape;

/// How an answer is to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// In this order; empty: all, in the model's order.
    pub outputs: Vec<WantedOutput>,
    /// Outputs that say nothing of themselves are binary.
    pub binary: bool,
    /// NaN and infinities are written as words, which JSON does not have.
    pub allow_nan: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WantedOutput {
    pub name: String,
    pub binary: Option<bool>,
    /// So many of the largest values with their places, instead of the values.
    pub classes: Option<usize>,
    /// BYTES as base64, even if they are UTF-8.
    pub base64: bool,
}

/// A written answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    pub body: Vec<u8>,
    /// How many bytes of it are JSON, if binary tensors follow.
    pub json_bytes: Option<usize>,
}

/// Writes an answer.
///
/// # Errors
/// 400: an output was asked for that the model does not have, or a value that JSON does not have. 500: the answer
/// contradicts itself.
pub fn write(response: ModelInferResponse, wanted: &Wanted) -> Result<Written, Fault> {
    let ModelInferResponse { model_name, model_version, id, parameters, outputs, raw_output_contents } = response;
    let mut outputs = whole(outputs, raw_output_contents)?;
    if !wanted.outputs.is_empty() {
        outputs = chosen(outputs, &wanted.outputs)?;
    }
    let mut json = Vec::with_capacity(256 + outputs.iter().map(|output| output.raw.len() * 4).sum::<usize>());
    let mut binary: Vec<Bytes> = Vec::new();
    json.extend_from_slice(b"{\"model_name\":");
    json::write_string(&model_name, &mut json);
    for (key, value) in [("model_version", &model_version), ("id", &id)] {
        if !value.is_empty() {
            json::write_key(key, &mut json);
            json::write_string(value, &mut json);
        }
    }
    write_parameters(&parameters, None, &mut json);
    json::write_key("outputs", &mut json);
    json.push(b'[');
    for (at, output) in outputs.into_iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        let form = wanted.outputs.get(at);
        let output = match form.and_then(|form| form.classes) {
            Some(most) => output.classified(most)?,
            None => output,
        };
        if form.and_then(|form| form.binary).unwrap_or(wanted.binary) {
            let size = i64::try_from(output.raw.len()).unwrap_or(i64::MAX);
            output.write_head(Some(("binary_data_size", Choice::Int64(size))), &mut json);
            binary.push(output.raw);
        } else {
            output.write(form.is_some_and(|form| form.base64), wanted.allow_nan, &mut json)?;
        }
        json.push(b'}');
    }
    json.extend_from_slice(b"]}");
    if binary.is_empty() {
        return Ok(Written { body: json, json_bytes: None });
    }
    let json_bytes = json.len();
    json.reserve_exact(binary.iter().map(Bytes::len).sum());
    for raw in binary {
        json.extend_from_slice(&raw);
    }
    Ok(Written { body: json, json_bytes: Some(json_bytes) })
}

/// The model's mistake.
pub fn broken(what: impl std::fmt::Display) -> Fault {
    Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the model's answer contradicts itself: {what}"))
}

/// An output with its elements, checked.
pub struct Output {
    pub tensor: Tensor,
    pub datatype: Datatype,
    /// As raw tensors are on the wire.
    pub raw: Bytes,
}

/// The outputs of an answer, checked.
///
/// # Errors
/// 500: it contradicts itself.
pub fn whole(tensors: Vec<Tensor>, raws: Vec<Bytes>) -> Result<Vec<Output>, Fault> {
    if !raws.is_empty() && raws.len() != tensors.len() {
        return Err(broken(format_args!("{} outputs, {} of them raw", tensors.len(), raws.len())));
    }
    let mut raws = raws.into_iter();
    let output = |mut tensor: Tensor| {
        let name = &tensor.name;
        let datatype = Datatype::named(&tensor.datatype)
            .ok_or_else(|| broken(format_args!("output {name:?} is of {:?}", tensor.datatype)))?;
        let contents = tensor.contents.take();
        let raw = match raws.next() {
            Some(raw) => raw,
            None => raw_of(contents.unwrap_or_default(), datatype),
        };
        if !shape::elements(&tensor.shape).is_some_and(|elements| shape::fits(&raw, datatype, elements)) {
            let what =
                format_args!("output {name:?}: {} bytes of {} for {:?}", raw.len(), datatype.name(), tensor.shape);
            return Err(broken(what));
        }
        Ok(Output { tensor, datatype, raw })
    };
    tensors.into_iter().map(output).collect()
}

/// Typed contents as a raw tensor. Values that their datatype does not have are cut to its width, which is what runtimes
/// that hand them over mean.
fn raw_of(contents: Contents, datatype: Datatype) -> Bytes {
    fn joined<T, const N: usize>(values: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Bytes {
        values.iter().flat_map(bytes).collect()
    }
    match datatype {
        Datatype::Bool => contents.bools.iter().map(|value| u8::from(*value)).collect(),
        Datatype::Int8 => joined(&contents.ints, |value| first_bytes::<4, 1>(value.to_le_bytes())),
        Datatype::Int16 => joined(&contents.ints, |value| first_bytes::<4, 2>(value.to_le_bytes())),
        Datatype::Int32 => joined(&contents.ints, |value| value.to_le_bytes()),
        Datatype::Int64 => joined(&contents.int64s, |value| value.to_le_bytes()),
        Datatype::Uint8 => joined(&contents.uints, |value| first_bytes::<4, 1>(value.to_le_bytes())),
        Datatype::Uint16 => joined(&contents.uints, |value| first_bytes::<4, 2>(value.to_le_bytes())),
        Datatype::Uint32 => joined(&contents.uints, |value| value.to_le_bytes()),
        Datatype::Uint64 => joined(&contents.uint64s, |value| value.to_le_bytes()),
        Datatype::Fp32 => joined(&contents.fp32s, |value| value.to_le_bytes()),
        Datatype::Fp64 => joined(&contents.fp64s, |value| value.to_le_bytes()),
        // They have no typed contents.
        Datatype::Fp16 | Datatype::Bf16 => Bytes::new(),
        Datatype::Bytes => {
            let mut raw = Vec::new();
            for one in &contents.bytes {
                raw.extend_from_slice(&u32::try_from(one.len()).unwrap_or(u32::MAX).to_le_bytes());
                raw.extend_from_slice(one);
            }
            raw.into()
        }
    }
}

fn first_bytes<const N: usize, const M: usize>(bytes: [u8; N]) -> [u8; M] {
    std::array::from_fn(|at| bytes[at])
}

/// The outputs that were asked for, in this order.
fn chosen(outputs: Vec<Output>, wanted: &[WantedOutput]) -> Result<Vec<Output>, Fault> {
    let mut outputs: Vec<Option<Output>> = outputs.into_iter().map(Some).collect();
    let mut choose = |form: &WantedOutput| {
        let is_it =
            |output: &&mut Option<Output>| output.as_ref().is_some_and(|output| output.tensor.name == form.name);
        outputs.iter_mut().find(is_it).and_then(Option::take)
    };
    let mut ordered = Vec::with_capacity(wanted.len());
    for form in wanted {
        match choose(form) {
            Some(output) => ordered.push(output),
            None => return Err(Fault::bad(format!("the model has no output {:?}", form.name))),
        }
    }
    Ok(ordered)
}

impl Output {
    fn classified(self, most: usize) -> Result<Self, Fault> {
        let Some((raw, shape)) = classes::of(&self, most) else {
            let Self { tensor, datatype, .. } = self;
            let message = format!("output {:?} is of {}, which has no classes", tensor.name, datatype.name());
            return Err(Fault::bad(message));
        };
        let datatype = Datatype::Bytes;
        let tensor = Tensor { datatype: datatype.name().to_owned(), shape, ..self.tensor };
        Ok(Self { tensor, datatype, raw })
    }

    /// Everything but the data and the last brace.
    fn write_head(&self, more: Option<(&str, Choice)>, to: &mut Vec<u8>) {
        let Tensor { name, datatype, shape, parameters, .. } = &self.tensor;
        to.extend_from_slice(b"{\"name\":");
        json::write_string(name, to);
        json::write_key("datatype", to);
        json::write_string(datatype, to);
        json::write_key("shape", to);
        json::write_list(shape, to, |dimension, to| json::write_integer(*dimension, to));
        write_parameters(parameters, more, to);
    }

    fn write(&self, base64: bool, allow_nan: bool, to: &mut Vec<u8>) -> Result<(), Fault> {
        let base64 = self.datatype == Datatype::Bytes && (base64 || !self.is_text());
        self.write_head(base64.then(|| ("content_type", Choice::String("base64".into()))), to);
        json::write_key("data", to);
        self.write_data(base64, allow_nan, to)
    }

    /// The elements as a flat list.
    ///
    /// # Errors
    /// 400: a value that JSON does not have.
    pub fn write_data(&self, base64: bool, allow_nan: bool, to: &mut Vec<u8>) -> Result<(), Fault> {
        if self.datatype == Datatype::Bytes && !base64 && !self.is_text() {
            return Err(Fault::bad(format!("output {:?} has bytes that are no text; call it by V2", self.tensor.name)));
        }
        let raw = &self.raw[..];
        let mut finite = true;
        match self.datatype {
            Datatype::Bool => {
                json::write_list(raw, to, |byte, to| to.extend_from_slice(if *byte == 0 { b"false" } else { b"true" }));
            }
            Datatype::Uint8 => numbers(raw, to, |bytes, to| json::write_integer(u8::from_le_bytes(bytes), to)),
            Datatype::Uint16 => numbers(raw, to, |bytes, to| json::write_integer(u16::from_le_bytes(bytes), to)),
            Datatype::Uint32 => numbers(raw, to, |bytes, to| json::write_integer(u32::from_le_bytes(bytes), to)),
            Datatype::Uint64 => numbers(raw, to, |bytes, to| json::write_integer(u64::from_le_bytes(bytes), to)),
            Datatype::Int8 => numbers(raw, to, |bytes, to| json::write_integer(i8::from_le_bytes(bytes), to)),
            Datatype::Int16 => numbers(raw, to, |bytes, to| json::write_integer(i16::from_le_bytes(bytes), to)),
            Datatype::Int32 => numbers(raw, to, |bytes, to| json::write_integer(i32::from_le_bytes(bytes), to)),
            Datatype::Int64 => numbers(raw, to, |bytes, to| json::write_integer(i64::from_le_bytes(bytes), to)),
            Datatype::Fp16 => numbers(raw, to, |bytes, to| {
                finite &= json::write_fp32(f16::from_le_bytes(bytes).to_f32(), to);
            }),
            Datatype::Bf16 => numbers(raw, to, |bytes, to| {
                finite &= json::write_fp32(bf16::from_le_bytes(bytes).to_f32(), to);
            }),
            Datatype::Fp32 => numbers(raw, to, |bytes, to| finite &= json::write_fp32(f32::from_le_bytes(bytes), to)),
            Datatype::Fp64 => numbers(raw, to, |bytes, to| finite &= json::write_fp64(f64::from_le_bytes(bytes), to)),
            Datatype::Bytes => {
                json::write_list(shape::byte_strings(raw).flatten(), to, |one, to| match std::str::from_utf8(one) {
                    Ok(text) if !base64 => json::write_string(text, to),
                    _ => json::write_string(&STANDARD.encode(one), to),
                });
            }
        }
        if finite || allow_nan {
            return Ok(());
        }
        Err(Fault::bad(format!(
            "output {:?} has NaN or infinities, for which JSON has no numbers; ask for it with the parameter \
             binary_data, or for words with the parameter allow_nan of the request",
            self.tensor.name
        )))
    }

    fn is_text(&self) -> bool {
        shape::byte_strings(&self.raw).flatten().all(|one| std::str::from_utf8(one).is_ok())
    }
}

/// Writes a list of numbers of `N` bytes each.
fn numbers<const N: usize>(raw: &[u8], to: &mut Vec<u8>, write: impl FnMut([u8; N], &mut Vec<u8>)) {
    let (numbers, _) = raw.as_chunks::<N>();
    json::write_list(numbers.iter().copied(), to, write);
}

/// Writes parameters, if there are any. `more` wins over one of its name.
fn write_parameters(parameters: &Parameters, more: Option<(&str, Choice)>, to: &mut Vec<u8>) {
    let mut all: BTreeMap<&str, &Choice> = BTreeMap::new();
    for (name, Parameter { choice }) in parameters {
        if let Some(choice) = choice {
            all.insert(name, choice);
        }
    }
    if let Some((name, choice)) = &more {
        all.insert(name, choice);
    }
    if all.is_empty() {
        return;
    }
    json::write_key("parameters", to);
    to.push(b'{');
    for (at, (name, choice)) in all.into_iter().enumerate() {
        if at > 0 {
            to.push(b',');
        }
        json::write_string(name, to);
        to.push(b':');
        match choice {
            Choice::Bool(flag) => to.extend_from_slice(if *flag { b"true" } else { b"false" }),
            Choice::Int64(number) => json::write_integer(*number, to),
            Choice::Uint64(number) => json::write_integer(*number, to),
            Choice::String(text) => json::write_string(text, to),
            Choice::Double(number) if number.is_finite() => drop(json::write_fp64(*number, to)),
            Choice::Double(_) => to.extend_from_slice(b"null"),
        }
    }
    to.push(b'}');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tensor(name: &str, datatype: &str, shape: &[i64]) -> Tensor {
        Tensor { name: name.into(), datatype: datatype.into(), shape: shape.into(), ..Tensor::default() }
    }

    fn raw(outputs: &[(Tensor, &[u8])]) -> ModelInferResponse {
        ModelInferResponse {
            model_name: "m".into(),
            outputs: outputs.iter().map(|(tensor, _)| tensor.clone()).collect(),
            raw_output_contents: outputs.iter().map(|(_, raw)| Bytes::copy_from_slice(raw)).collect(),
            ..ModelInferResponse::default()
        }
    }

    fn of(response: ModelInferResponse, wanted: &Wanted) -> Value {
        let Written { body, json_bytes } = write(response, wanted).unwrap();
        assert_eq!(json_bytes, None);
        serde_json::from_slice(&body).unwrap()
    }

    fn data(datatype: &str, shape: &[i64], bytes: &[u8]) -> Value {
        of(raw(&[(tensor("y", datatype, shape), bytes)]), &Wanted::default())["outputs"][0]["data"].clone()
    }

    fn fault(response: ModelInferResponse, wanted: &Wanted) -> (u16, String) {
        let Fault { status, message, .. } = write(response, wanted).unwrap_err();
        (status.as_u16(), message)
    }

    #[test]
    fn an_answer_has_what_there_is_and_leaves_out_what_is_empty() {
        let mut response = raw(&[(tensor("y", "INT32", &[1, 2]), &[1, 0, 0, 0, 255, 255, 255, 255])]);
        let outputs = json!([{"name": "y", "datatype": "INT32", "shape": [1, 2], "data": [1, -1]}]);
        assert_eq!(of(response.clone(), &Wanted::default()), json!({"model_name": "m", "outputs": outputs}));
        response.id = "7".into();
        response.model_version = "2".into();
        let choices = [
            ("a", Choice::Int64(-1)),
            ("b", Choice::String("\"".into())),
            ("c", Choice::Bool(true)),
            ("d", Choice::Double(0.1)),
            ("e", Choice::Uint64(u64::MAX)),
            ("f", Choice::Double(f64::NAN)),
        ];
        response.parameters =
            choices.into_iter().map(|(name, choice)| (name.into(), Parameter { choice: Some(choice) })).collect();
        let parameters = json!({"a": -1, "b": "\"", "c": true, "d": 0.1, "e": u64::MAX, "f": null});
        assert_eq!(
            of(response, &Wanted::default()),
            json!({"model_name": "m", "model_version": "2", "id": "7", "parameters": parameters, "outputs": outputs})
        );
    }

    #[test]
    fn every_datatype_is_written_exactly() {
        assert_eq!(data("BOOL", &[2], &[0, 1]), json!([false, true]));
        assert_eq!(data("UINT64", &[1], &u64::MAX.to_le_bytes()), json!([u64::MAX]));
        assert_eq!(data("INT64", &[1], &i64::MIN.to_le_bytes()), json!([i64::MIN]));
        assert_eq!(data("INT8", &[1], &[0x80]), json!([-128]));
        assert_eq!(data("UINT16", &[1], &[0xff, 0xff]), json!([65535]));
        assert_eq!(data("FP64", &[1], &0.1_f64.to_le_bytes()), json!([0.1]));
        let written = write(raw(&[(tensor("y", "FP32", &[1]), &0.1_f32.to_le_bytes())]), &Wanted::default()).unwrap();
        assert!(String::from_utf8(written.body).unwrap().contains("\"data\":[0.1]"));
        assert_eq!(data("FP16", &[1], &f16::from_f32(1.5).to_le_bytes()), json!([1.5]));
        assert_eq!(data("BF16", &[1], &bf16::from_f32(-2.0).to_le_bytes()), json!([-2.0]));
        assert_eq!(data("FP32", &[0], &[]), json!([]));
    }

    #[test]
    fn typed_contents_are_written_as_raw_ones_are() {
        let contents = |datatype: &str, contents: Contents| {
            let tensor = Tensor { contents: Some(contents), ..tensor("y", datatype, &[2]) };
            let response = ModelInferResponse { outputs: vec![tensor], ..ModelInferResponse::default() };
            of(response, &Wanted::default())["outputs"][0]["data"].clone()
        };
        let none = Contents::default;
        assert_eq!(contents("BOOL", Contents { bools: vec![true, false], ..none() }), json!([true, false]));
        assert_eq!(contents("INT8", Contents { ints: vec![-1, 127], ..none() }), json!([-1, 127]));
        assert_eq!(contents("INT16", Contents { ints: vec![-1, 300], ..none() }), json!([-1, 300]));
        assert_eq!(contents("INT32", Contents { ints: vec![-1, 1 << 30], ..none() }), json!([-1, 1 << 30]));
        assert_eq!(contents("UINT8", Contents { uints: vec![0, 255], ..none() }), json!([0, 255]));
        assert_eq!(contents("UINT64", Contents { uint64s: vec![0, u64::MAX], ..none() }), json!([0, u64::MAX]));
        assert_eq!(contents("FP64", Contents { fp64s: vec![0.1, 2.0], ..none() }), json!([0.1, 2.0]));
        let bytes = vec![Bytes::from_static(b"a"), Bytes::new()];
        assert_eq!(contents("BYTES", Contents { bytes, ..none() }), json!(["a", ""]));
    }

    #[test]
    fn bytes_that_are_no_text_or_are_wanted_so_are_base64() {
        let output = |raw_bytes: &[u8], base64| {
            let form = WantedOutput { name: "y".into(), base64, ..WantedOutput::default() };
            let wanted = Wanted { outputs: vec![form], ..Wanted::default() };
            of(raw(&[(tensor("y", "BYTES", &[1]), raw_bytes)]), &wanted)["outputs"][0].clone()
        };
        assert_eq!(output(b"\x02\0\0\0\xc3\xa9", false)["data"], json!(["é"]));
        let encoded = output(b"\x01\0\0\0\xff", false);
        assert_eq!((&encoded["data"], &encoded["parameters"]["content_type"]), (&json!(["/w=="]), &json!("base64")));
        assert_eq!(output(b"\x01\0\0\0a", true)["data"], json!(["YQ=="]));
    }

    #[test]
    fn what_json_cannot_say_is_refused_unless_words_are_wanted() {
        let response = || raw(&[(tensor("y", "FP32", &[2]), &[0, 0, 0x80, 0xff, 0, 0, 0xc0, 0x7f])]);
        let (status, message) = fault(response(), &Wanted::default());
        assert!(status == 400 && message.contains("binary_data"), "{message}");
        let words = Wanted { allow_nan: true, ..Wanted::default() };
        let body = String::from_utf8(write(response(), &words).unwrap().body).unwrap();
        assert!(body.contains("\"data\":[-Infinity,NaN]"), "{body}");
    }

    #[test]
    fn binary_outputs_follow_the_json_in_order() {
        let response = || raw(&[(tensor("a", "UINT8", &[2]), &[1, 2]), (tensor("b", "UINT16", &[1]), &[3, 0])]);
        let Written { body, json_bytes } = write(response(), &Wanted { binary: true, ..Wanted::default() }).unwrap();
        let (json, binary) = body.split_at(json_bytes.unwrap());
        let json: Value = serde_json::from_slice(json).unwrap();
        assert_eq!(json["outputs"][0]["parameters"], json!({"binary_data_size": 2}));
        assert!(json["outputs"][1].get("data").is_none());
        assert_eq!(binary, [1, 2, 3, 0]);
        let form = |name: &str, binary| WantedOutput { name: name.into(), binary, ..WantedOutput::default() };
        let wanted = Wanted { outputs: vec![form("b", Some(true)), form("a", None)], ..Wanted::default() };
        let Written { body, json_bytes } = write(response(), &wanted).unwrap();
        let (json, binary) = body.split_at(json_bytes.unwrap());
        let json: Value = serde_json::from_slice(json).unwrap();
        assert_eq!((&json["outputs"][0]["name"], &json["outputs"][1]["data"]), (&json!("b"), &json!([1, 2])));
        assert_eq!(binary, [3, 0]);
    }

    #[test]
    fn an_output_that_is_not_there_is_the_callers_mistake_and_a_broken_one_is_not() {
        let form = WantedOutput { name: "z".into(), ..WantedOutput::default() };
        let wanted = Wanted { outputs: vec![form], ..Wanted::default() };
        assert_eq!(fault(raw(&[(tensor("y", "UINT8", &[1]), &[1])]), &wanted).0, 400);
        for (datatype, shape, bytes) in [
            ("FP32", &[2][..], &[0; 4][..]),
            ("FLOAT", &[1], &[0; 4]),
            ("FP32", &[-1], &[0; 4]),
            ("BYTES", &[1], &[9, 0, 0, 0, 1]),
        ] {
            assert_eq!(fault(raw(&[(tensor("y", datatype, shape), bytes)]), &Wanted::default()).0, 500);
        }
        let mut uneven = raw(&[(tensor("y", "UINT8", &[1]), &[1])]);
        uneven.raw_output_contents.push(Bytes::new());
        assert_eq!(fault(uneven, &Wanted::default()).0, 500);
    }
}
