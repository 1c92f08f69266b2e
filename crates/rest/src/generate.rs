//! The generate extension: a request of named values, and an answer of named values. The model's metadata say which of them are
//! tensors.
//!
//! Source: the generate extension of the Open Inference Protocol, and Triton's mapping of names to tensors.

use std::collections::HashSet;

use jiter::{Jiter, Peek};

use crate::answer::{self, Output};
use crate::data::{self, Form};
use crate::datatype::Datatype;
use crate::fault::Fault;
use crate::json::{self, Rest};
use crate::proto::{
    ModelInferRequest, ModelInferResponse, ModelStreamInferResponse, Parameter, Tensor, TensorMetadata,
};
use crate::reader::{LONGEST_NAME, MOST_ENTRIES, Reader};
use crate::shape::MOST_DIMENSIONS;

/// The input that the extension names. Models that describe no inputs have this one.
const TEXT: &str = "text_input";

/// Reads the body of a request to a model with these inputs. Tensors may have `max_bytes`.
///
/// A key that is the name of an input is that tensor: one value, or a list of values. `id` is the id, and the keys within
/// `parameters` are read as the others. What is left is a parameter of the request. Null is as if the key was not there.
///
/// # Errors
/// 400 with a sentence for people, or 413.
pub fn read(body: &[u8], inputs: &[TensorMetadata], max_bytes: usize) -> Result<ModelInferRequest, Fault> {
    if std::str::from_utf8(body).is_err() {
        return Err(Fault::bad("the body is not JSON: it is not UTF-8"));
    }
    let mut reader = Reader::new(body, max_bytes);
    let mut request = Request { inputs, names: HashSet::new(), message: ModelInferRequest::default() };
    reader.object(str::to_owned, |reader, key| match key.as_str() {
        _ if reader.is_null()? => Ok(()),
        "parameters" => reader.object(str::to_owned, |reader, key| request.field(reader, key, 2)),
        "id" if request.input("id").is_none() => {
            request.note(&key)?;
            request.message.id = reader.string()?;
            Ok(())
        }
        _ => request.field(reader, key, 1),
    })?;
    reader.finish()?;
    if request.message.inputs.is_empty() {
        let names: Vec<_> = inputs.iter().map(|input| input.name.as_str()).collect();
        return Err(Fault::bad(format!("the request has no value for an input of the model; there are {names:?}")));
    }
    Ok(request.message)
}

struct Request<'a> {
    inputs: &'a [TensorMetadata],
    /// Keys that were read.
    names: HashSet<String>,
    message: ModelInferRequest,
}

impl Request<'_> {
    /// Datatype and number of dimensions of an input of the model.
    fn input(&self, name: &str) -> Option<(&str, usize)> {
        if self.inputs.is_empty() && name == TEXT {
            return Some((Datatype::Bytes.name(), 1));
        }
        let input = self.inputs.iter().find(|input| input.name == name)?;
        Some((&input.datatype, input.shape.len()))
    }

    /// # Errors
    /// 400: the key was there before, or there are too many.
    fn note(&mut self, key: &str) -> Result<(), Fault> {
        if key.len() > LONGEST_NAME || self.names.len() == MOST_ENTRIES {
            return Err(Fault::bad("there are too many keys, or one has too long a name"));
        }
        if self.names.insert(key.to_owned()) { Ok(()) } else { Err(Fault::bad(format!("{key:?} is there twice"))) }
    }

    fn field(&mut self, reader: &mut Reader<'_>, key: String, levels_around: usize) -> Result<(), Fault> {
        if reader.is_null()? {
            return Ok(());
        }
        self.note(&key)?;
        let Some((datatype, dimensions)) = self.input(&key) else {
            let choice = reader.parameter(&key)?;
            self.message.parameters.insert(key, Parameter { choice });
            return Ok(());
        };
        let datatype = Datatype::named(datatype).ok_or_else(|| {
            Fault::bad(format!("the input {key:?} of the model is of {datatype:?}, which is no known datatype"))
        })?;
        let text = reader.value(levels_around)?;
        let listed;
        let (count, text) = match count_of(text)? {
            Some(count) => (count, text),
            None => {
                listed = [b"[", text, b"]"].concat();
                (1, listed.as_slice())
            }
        };
        // The values are the last dimension; the others, with the batch, are of one.
        let mut shape = vec![1; dimensions.clamp(1, MOST_DIMENSIONS)];
        if let Some(last) = shape.last_mut() {
            *last = i64::try_from(count).unwrap_or(i64::MAX);
        }
        let (left, max_bytes) = (reader.left, reader.max_bytes);
        let form = Form { input: &key, datatype, shape: &shape, elements: count, base64: false, left, max_bytes };
        let (raw, _) = data::read(Rest::of(text), form)?;
        reader.left -= raw.len();
        self.message.inputs.push(Tensor {
            name: key,
            datatype: datatype.name().to_owned(),
            shape,
            ..Tensor::default()
        });
        self.message.raw_input_contents.push(raw.into());
        Ok(())
    }
}

/// How many values a list has; None: it is no list.
fn count_of(text: &[u8]) -> Result<Option<usize>, Fault> {
    let mut json = Jiter::new(text).with_allow_inf_nan();
    let fault = |error: jiter::JiterError| json::fault(&error, text);
    if json.peek().map_err(fault)? != Peek::Array {
        return Ok(None);
    }
    let mut count = 0;
    let mut next = json.known_array().map_err(fault)?;
    while next.is_some() {
        json.next_skip().map_err(fault)?;
        count += 1;
        next = json.array_step().map_err(fault)?;
    }
    Ok(Some(count))
}

/// Writes an answer: an output of one value is this value, others are flat lists.
///
/// # Errors
/// A value that JSON does not have: 400. The answer contradicts itself: 500.
pub fn write(response: ModelInferResponse) -> Result<Vec<u8>, Fault> {
    let ModelInferResponse { model_name, model_version, id, outputs, raw_output_contents, .. } = response;
    let outputs = answer::whole(outputs, raw_output_contents)?;
    let mut to = vec![b'{'];
    for (key, value) in [("model_name", model_name), ("model_version", model_version), ("id", id)] {
        let is_output = outputs.iter().any(|output| output.tensor.name == key);
        if !is_output && (key == "model_name" || !value.is_empty()) {
            write_key(key, &mut to);
            json::write_string(&value, &mut to);
        }
    }
    for output in &outputs {
        write_key(&output.tensor.name, &mut to);
        write_value(output, &mut to)?;
    }
    to.push(b'}');
    Ok(to)
}

fn write_key(key: &str, to: &mut Vec<u8>) {
    if to.last() != Some(&b'{') {
        to.push(b',');
    }
    json::write_string(key, to);
    to.push(b':');
}

fn write_value(output: &Output, to: &mut Vec<u8>) -> Result<(), Fault> {
    let at = to.len();
    output.write_data(false, false, to)?;
    if output.tensor.shape.iter().all(|dimension| *dimension == 1) {
        // The brackets of a list of one.
        to.remove(at);
        to.pop();
    }
    Ok(())
}

/// One answer of a stream as an event.
///
/// # Errors
/// The model says that it failed: 500 with its words. As `write`.
pub fn event(answer: ModelStreamInferResponse) -> Result<Vec<u8>, Fault> {
    if !answer.error_message.is_empty() {
        return Err(Fault::new(http::StatusCode::INTERNAL_SERVER_ERROR, answer.error_message));
    }
    Ok(framed(&write(answer.infer_response.unwrap_or_default())?))
}

/// JSON without line breaks as an event.
#[must_use]
pub fn framed(json: &[u8]) -> Vec<u8> {
    [b"data: ", json, b"\n\n"].concat()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::proto::Choice;

    fn input(name: &str, datatype: &str, shape: &[i64]) -> TensorMetadata {
        TensorMetadata { name: name.into(), datatype: datatype.into(), shape: shape.to_vec() }
    }

    fn read_for(inputs: &[TensorMetadata], body: &str) -> Result<ModelInferRequest, String> {
        read(body.as_bytes(), inputs, 64).map_err(|fault| fault.message)
    }

    fn model() -> [TensorMetadata; 3] {
        [input("text_input", "BYTES", &[-1, 1]), input("stream", "BOOL", &[1]), input("stops", "BYTES", &[-1])]
    }

    #[test]
    fn keys_that_are_inputs_are_tensors_and_the_others_parameters() {
        let body = r#"{"text_input": "é", "id": "7", "seed": 3, "none": null,
                      "parameters": {"stream": true, "stops": ["a", "b"], "temperature": 0.5, "null": null}}"#;
        let message = read_for(&model(), body).unwrap();
        let inputs: Vec<_> = message.inputs.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape[..])).collect();
        assert_eq!(inputs, [("text_input", &[1, 1][..]), ("stream", &[1]), ("stops", &[2])]);
        assert_eq!(message.raw_input_contents, [&b"\x02\0\0\0\xc3\xa9"[..], b"\x01", b"\x01\0\0\0a\x01\0\0\0b"]);
        assert_eq!(message.id, "7");
        assert_eq!(message.parameters.len(), 2);
        assert_eq!(message.parameters["seed"].choice, Some(Choice::Int64(3)));
        assert_eq!(message.parameters["temperature"].choice, Some(Choice::Double(0.5)));
    }

    #[test]
    fn a_model_that_describes_nothing_takes_text() {
        let message = read_for(&[], r#"{"text_input": "a", "n": 1}"#).unwrap();
        assert_eq!((message.inputs[0].datatype.as_str(), &message.inputs[0].shape[..]), ("BYTES", &[1][..]));
        assert_eq!(message.parameters.len(), 1);
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_reason() {
        let long = "x".repeat(80);
        for (body, reason) in [
            ("", "not JSON"),
            ("[]", "expected object"),
            ("{}", "no value for an input"),
            (r#"{"seed": 1}"#, "no value for an input"),
            (r#"{"text_input": "a", "text_input": "b"}"#, "twice"),
            (r#"{"text_input": "a", "parameters": {"text_input": "b"}}"#, "twice"),
            (r#"{"text_input": "a", "id": 7}"#, "expected string"),
            (r#"{"text_input": "a", "seed": [1]}"#, "must be a number"),
            (r#"{"text_input": "a", "parameters": {"parameters": {"a": 1}}}"#, "must be a number"),
            (r#"{"text_input": "a", "parameters": 1}"#, "expected object"),
            (r#"{"text_input": {"a": 1}}"#, "no BYTES"),
            (r#"{"text_input": 7}"#, "no BYTES"),
            (r#"{"text_input": [["a"], ["b"]]}"#, "elements than its shape"),
            (r#"{"stream": "yes"}"#, "no BOOL"),
            (r#"{"text_input": "a"} {}"#, "trailing"),
            (&format!(r#"{{"text_input": "{long}"}}"#), "the limit"),
            (&format!(r#"{{"text_input": {}1{}}}"#, "[".repeat(70), "]".repeat(70)), "nested"),
        ] {
            let message = read_for(&model(), body).unwrap_err();
            assert!(message.contains(reason), "{body}: {message}");
        }
        assert!(read_for(&[input("x", "FLOAT", &[1])], r#"{"x": 1}"#).unwrap_err().contains("no known datatype"));
        assert!(read(b"{\"text_input\": \"\xff\"}", &model(), 64).unwrap_err().message.contains("UTF-8"));
    }

    fn answer(outputs: &[(&str, &str, &[i64], &[u8])]) -> ModelInferResponse {
        let mut response = ModelInferResponse { model_name: "m".into(), ..ModelInferResponse::default() };
        for (name, datatype, shape, raw) in outputs {
            response.outputs.push(Tensor {
                name: (*name).into(),
                datatype: (*datatype).into(),
                shape: shape.to_vec(),
                ..Tensor::default()
            });
            response.raw_output_contents.push(raw.to_vec().into());
        }
        response
    }

    #[test]
    fn one_value_is_itself_and_several_are_a_list() {
        let text = b"\x02\0\0\0\"\n";
        let response = answer(&[
            ("text_output", "BYTES", &[1, 1], text),
            ("n", "UINT8", &[2], &[1, 2]),
            ("none", "UINT8", &[0], &[]),
            ("id", "UINT8", &[1], &[9]),
        ]);
        let event = event(ModelStreamInferResponse { infer_response: Some(response), ..Default::default() }).unwrap();
        let event = std::str::from_utf8(&event).unwrap().strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
        assert!(!event.contains('\n'), "a line break would end the event");
        let expected = json!({"model_name": "m", "text_output": "\"\n", "n": [1, 2], "none": [], "id": 9});
        assert_eq!(serde_json::from_str::<Value>(event).unwrap(), expected);
    }

    #[test]
    fn an_answer_that_failed_or_contradicts_itself_is_a_fault() {
        let failed = ModelStreamInferResponse { error_message: "no memory".into(), ..Default::default() };
        assert_eq!(event(failed).unwrap_err().message, "no memory");
        assert_eq!(write(answer(&[("n", "UINT8", &[3], &[1])])).unwrap_err().status.as_u16(), 500);
        assert_eq!(write(answer(&[("b", "BYTES", &[1], b"\x01\0\0\0\xff")])).unwrap_err().status.as_u16(), 400);
    }
}
