//! V1 of KServe: rows in, rows out, for clients that have nothing else. The model's metadata say what the tensor is.

use jiter::{Jiter, Peek};

use crate::answer::{self, Output};
use crate::data::{self, Form};
use crate::datatype::Datatype;
use crate::fault::Fault;
use crate::json::{self, Rest};
use crate::nested;
use crate::proto::{ModelInferRequest, ModelInferResponse, Tensor, TensorMetadata};
use crate::shape::{self, MOST_DIMENSIONS};

/// How a request was said, and how its answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `instances`, answered with `predictions`: a list of rows.
    Rows,
    /// `inputs`, answered with `outputs`: whole tensors.
    Columns,
}

/// Reads the body of a prediction for a model with these inputs. Tensors may have `max_bytes`.
///
/// # Errors
/// 400 with a sentence for people, or 413.
pub fn read(body: &[u8], inputs: &[TensorMetadata], max_bytes: usize) -> Result<(ModelInferRequest, Format), Fault> {
    let [input] = inputs else {
        let count = inputs.len();
        return Err(Fault::bad(format!("V1 is for models with one input, and this one has {count}; call it by V2")));
    };
    let Some(datatype) = Datatype::named(&input.datatype) else {
        return Err(Fault::bad(format!("the model's input is of the unknown datatype {:?}", input.datatype)));
    };
    if std::str::from_utf8(body).is_err() {
        return Err(Fault::bad("the body is not JSON: it is not UTF-8"));
    }
    let (format, values) = values(body)?;
    let shape = shape_of(values)?;
    let Some(elements) = shape::elements(&shape) else { return Err(Fault::bad("no memory holds so many values")) };
    let form =
        Form { input: &input.name, datatype, shape: &shape, elements, base64: false, left: max_bytes, max_bytes };
    let (raw, _) = data::read(Rest::of(values), form)?;
    let tensor = Tensor { name: input.name.clone(), datatype: input.datatype.clone(), shape, ..Tensor::default() };
    let message = ModelInferRequest {
        inputs: vec![tensor],
        raw_input_contents: vec![raw.into()],
        ..ModelInferRequest::default()
    };
    Ok((message, format))
}

/// Finds what is to be predicted, and how it is said.
fn values(body: &[u8]) -> Result<(Format, &[u8]), Fault> {
    let mut json = Jiter::new(body).with_allow_inf_nan();
    let fault = |error: jiter::JiterError| json::fault(&error, body);
    let mut found = None;
    let mut key = json.next_object().map_err(fault)?.map(format_of);
    while let Some(format) = key {
        json.peek().map_err(fault)?;
        let begin = json.current_index();
        json.next_skip().map_err(fault)?;
        let value = json.slice_to_current(begin);
        json::check_depth(value, 1)?;
        if let Some(format) = format
            && found.replace((format, value)).is_some()
        {
            return Err(Fault::bad("say instances or inputs, once"));
        }
        key = json.next_key().map_err(fault)?.map(format_of);
    }
    json.finish().map_err(fault)?;
    found.ok_or_else(|| Fault::bad("the request has neither instances nor inputs"))
}

fn format_of(key: &str) -> Option<Format> {
    match key {
        "instances" => Some(Format::Rows),
        "inputs" => Some(Format::Columns),
        _ => None,
    }
}

/// The shape that the first of each level has; that the others have it, too, is seen when they are read.
fn shape_of(values: &[u8]) -> Result<Vec<i64>, Fault> {
    let mut shape = Vec::new();
    let mut level = values;
    loop {
        let mut json = Jiter::new(level).with_allow_inf_nan();
        let fault = |error: jiter::JiterError| json::fault(&error, level);
        if json.peek().map_err(fault)? != Peek::Array {
            break;
        }
        if shape.len() == MOST_DIMENSIONS {
            return Err(Fault::bad(format!("the values have more than {MOST_DIMENSIONS} dimensions")));
        }
        let (mut count, mut first) = (0, None);
        let mut next = json.next_array().map_err(fault)?;
        while next.is_some() {
            let begin = json.current_index();
            json.next_skip().map_err(fault)?;
            first.get_or_insert_with(|| json.slice_to_current(begin));
            count += 1;
            next = json.array_step().map_err(fault)?;
        }
        shape.push(count);
        let Some(inner) = first else { break };
        level = inner;
    }
    if shape.is_empty() { Err(Fault::bad("what is to be predicted must be a list")) } else { Ok(shape) }
}

/// Writes the answer.
///
/// # Errors
/// A value that JSON does not have: 400. The answer contradicts itself, or has no rows: 500.
pub fn write(response: ModelInferResponse, format: Format) -> Result<Vec<u8>, Fault> {
    let outputs = answer::whole(response.outputs, response.raw_output_contents)?;
    let mut to = Vec::new();
    match format {
        Format::Columns => {
            to.extend_from_slice(b"{\"outputs\":");
            write_values(&outputs, &mut to, nested::write)?;
        }
        Format::Rows => {
            to.extend_from_slice(b"{\"predictions\":[");
            let rows = outputs.iter().map(nested::rows).collect::<Result<Vec<_>, _>>()?;
            let count = rows.first().map_or(0, Vec::len);
            if rows.iter().any(|rows| rows.len() != count) {
                return Err(answer::broken("its outputs have different numbers of rows"));
            }
            for at in 0..count {
                if at > 0 {
                    to.push(b',');
                }
                let row: Vec<&Output> = rows.iter().map(|rows| &rows[at]).collect();
                write_values(row, &mut to, nested::write)?;
            }
            to.push(b']');
        }
    }
    to.push(b'}');
    Ok(to)
}

/// One output by itself, several by name.
fn write_values<'a>(
    outputs: impl IntoIterator<Item = &'a Output>,
    to: &mut Vec<u8>,
    mut write: impl FnMut(&Output, &mut Vec<u8>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let outputs: Vec<&Output> = outputs.into_iter().collect();
    if let [output] = outputs.as_slice() {
        return write(output, to);
    }
    to.push(b'{');
    for (at, output) in outputs.into_iter().enumerate() {
        if at > 0 {
            to.push(b',');
        }
        json::write_string(&output.tensor.name, to);
        to.push(b':');
        write(output, to)?;
    }
    to.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::slice;

    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;

    fn input(datatype: &str) -> TensorMetadata {
        TensorMetadata { name: "x".into(), datatype: datatype.into(), shape: vec![-1, 2] }
    }

    fn read_as(datatype: &str, body: &str) -> Result<(ModelInferRequest, Format), String> {
        read(body.as_bytes(), &[input(datatype)], 1000).map_err(|fault| fault.message)
    }

    #[test]
    fn rows_become_the_models_one_input() {
        let (request, format) = read_as("UINT8", r#"{"instances": [[1, 2], [3, 4], [5, 6]], "other": {}}"#).unwrap();
        assert_eq!((&request.inputs[0].shape[..], format), (&[3, 2][..], Format::Rows));
        assert_eq!(request.raw_input_contents, [[1, 2, 3, 4, 5, 6].as_slice()]);
        let (request, format) = read_as("BYTES", r#"{"inputs": ["a", "b"]}"#).unwrap();
        assert_eq!((&request.inputs[0].shape[..], format), (&[2][..], Format::Columns));
        assert_eq!(read_as("FP32", r#"{"instances": []}"#).unwrap().0.inputs[0].shape, [0]);
    }

    #[test]
    fn what_are_no_rows_is_refused_with_a_reason() {
        let deep = format!(r#"{{"instances":{}1{}}}"#, "[".repeat(64), "]".repeat(64));
        for (body, reason) in [
            ("{}", "neither"),
            (r#"{"instances":[1],"inputs":[1]}"#, "once"),
            (r#"{"instances":1}"#, "must be a list"),
            (r#"{"instances":[[1,2],[3]]}"#, "fewer elements"),
            (r#"{"instances":[[1],2]}"#, "nested otherwise"),
            (r#"{"instances":[{"x":1}]}"#, "no UINT8"),
            (r#"{"instances":[300]}"#, "no UINT8"),
            (r#"{"instances":[1]"#, "not JSON"),
            ("[]", "expected object"),
            (&deep, "levels deep"),
        ] {
            let message = read_as("UINT8", body).unwrap_err();
            assert!(message.contains(reason), "{body}: {message}");
        }
        let two = read(b"{}", &[input("FP32"), input("FP32")], 9).unwrap_err();
        assert!(two.message.contains("call it by V2") && read(b"{\"instances\":[1]}", &[input("FP8")], 9).is_err());
    }

    #[test]
    fn answers_are_rows_or_columns_by_name_where_there_are_several() {
        let tensor = |name: &str, shape: &[i64]| Tensor {
            name: name.into(),
            datatype: "UINT8".into(),
            shape: shape.into(),
            ..Tensor::default()
        };
        let response = |outputs: &[Tensor]| ModelInferResponse {
            outputs: outputs.to_vec(),
            raw_output_contents: vec![Bytes::from_static(&[1, 2]), Bytes::from_static(&[3, 4])][..outputs.len()]
                .to_vec(),
            ..ModelInferResponse::default()
        };
        let of = |outputs: &[Tensor], format| -> Result<Value, u16> {
            let written = write(response(outputs), format).map_err(|fault| fault.status.as_u16())?;
            Ok(serde_json::from_slice(&written).unwrap())
        };
        let (a, b) = (tensor("a", &[2]), tensor("b", &[2, 1]));
        assert_eq!(of(slice::from_ref(&a), Format::Rows), Ok(json!({"predictions": [1, 2]})));
        assert_eq!(of(slice::from_ref(&a), Format::Columns), Ok(json!({"outputs": [1, 2]})));
        let both = [a.clone(), b];
        assert_eq!(of(&both, Format::Rows), Ok(json!({"predictions": [{"a": 1, "b": [3]}, {"a": 2, "b": [4]}]})));
        assert_eq!(of(&both, Format::Columns), Ok(json!({"outputs": {"a": [1, 2], "b": [[3], [4]]}})));
        assert_eq!(of(&[a, tensor("b", &[1, 2])], Format::Rows), Err(500));
    }
}
