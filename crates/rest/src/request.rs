//! The body of an infer request, JSON with or without binary tensors behind it, to the message of the gRPC call.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use crate::answer::{Wanted, WantedOutput};
use crate::fault::Fault;
use crate::proto::{Choice, ModelInferRequest, Parameters};
use crate::reader::{self, Data, Input, Parts, is_base64};
use crate::shape;

/// An infer request that was read.
#[derive(Debug)]
pub struct Request {
    /// Its tensors are raw. The name and the version of the model are for the caller to fill in.
    pub message: ModelInferRequest,
    /// How the answer is to be written.
    pub wanted: Wanted,
    /// What the parameter `timeout` allows.
    pub timeout: Option<Duration>,
}

/// Reads a body. `json_bytes`: how many bytes of it are JSON, if binary tensors follow (`Inference-Header-Content-Length`);
/// `max_bytes`: what the tensors may have together.
///
/// # Errors
/// 400 with a sentence for people, or 413.
pub fn read(body: &Bytes, json_bytes: Option<usize>, max_bytes: usize) -> Result<Request, Fault> {
    let json_bytes = json_bytes.unwrap_or(body.len());
    if json_bytes > body.len() {
        let message = format!("the inference header has {json_bytes} bytes, the body only {}", body.len());
        return Err(Fault::bad(message));
    }
    let text = &body[..json_bytes];
    if std::str::from_utf8(text).is_err() {
        return Err(Fault::bad("the body is not JSON: it is not UTF-8"));
    }
    whole(reader::read(text, max_bytes)?, &body.slice(json_bytes..))
}

/// Puts a request together, with the tensors that follow its JSON.
fn whole(parts: Parts, binary: &Bytes) -> Result<Request, Fault> {
    let Parts { id, parameters, inputs, outputs } = parts;
    let inputs = inputs.filter(|inputs| !inputs.is_empty()).ok_or_else(|| Fault::bad("the request has no inputs"))?;
    let mut names = HashSet::with_capacity(inputs.len());
    if let Some(twice) = inputs.iter().find(|input| !names.insert(input.tensor.name.as_str())) {
        return Err(Fault::bad(format!("input {:?} is there twice", twice.tensor.name)));
    }
    let mut message = ModelInferRequest { id: id.unwrap_or_default(), ..ModelInferRequest::default() };
    let mut at = 0;
    for Input { tensor, datatype, elements, data } in inputs {
        let raw = match data {
            Data::Raw(raw) => raw,
            Data::Missing if elements == 0 => Bytes::new(),
            Data::Missing => return Err(Fault::bad(format!("input {:?} has no data", tensor.name))),
            Data::Behind(size) => {
                if size > binary.len() - at {
                    return Err(wrong_section(binary.len()));
                }
                let raw = binary.slice(at..at + size);
                at += size;
                if !shape::fits(&raw, datatype, elements) {
                    return Err(Fault::bad(format!(
                        "input {:?}: {size} binary bytes are no {} of shape {:?}",
                        tensor.name,
                        datatype.name(),
                        tensor.shape
                    )));
                }
                raw
            }
        };
        message.inputs.push(tensor);
        message.raw_input_contents.push(raw);
    }
    if at != binary.len() {
        return Err(wrong_section(binary.len()));
    }
    let mut parameters = parameters.unwrap_or_default();
    let timeout = match parameters.get("timeout").and_then(|timeout| timeout.choice.as_ref()) {
        Some(Choice::Int64(micros)) => u64::try_from(*micros).ok().filter(|micros| *micros > 0),
        _ => None,
    };
    let mut wanted = Wanted {
        outputs: Vec::new(),
        binary: take_flag(&mut parameters, "binary_data_output")?.unwrap_or(false),
        allow_nan: take_flag(&mut parameters, "allow_nan")?.unwrap_or(false),
    };
    message.parameters = parameters;
    for mut output in outputs.unwrap_or_default() {
        if wanted.outputs.iter().any(|known| known.name == output.name) {
            return Err(Fault::bad(format!("output {:?} is asked for twice", output.name)));
        }
        wanted.outputs.push(WantedOutput {
            name: output.name.clone(),
            binary: take_flag(&mut output.parameters, "binary_data")?,
            classes: take_count(&mut output.parameters, "classification")?,
            base64: is_base64(&output.parameters),
        });
        message.outputs.push(output);
    }
    Ok(Request { message, wanted, timeout: timeout.map(Duration::from_micros) })
}

fn wrong_section(bytes: usize) -> Fault {
    Fault::bad(format!(
        "{bytes} bytes follow the JSON, and the inputs' binary_data_size say otherwise; \
         the header Inference-Header-Content-Length says where they begin"
    ))
}

fn take_flag(parameters: &mut Parameters, name: &str) -> Result<Option<bool>, Fault> {
    match parameters.remove(name).map(|parameter| parameter.choice) {
        None => Ok(None),
        Some(Some(Choice::Bool(flag))) => Ok(Some(flag)),
        Some(_) => Err(Fault::bad(format!("the parameter {name} must be true or false"))),
    }
}

/// A positive number.
fn take_count(parameters: &mut Parameters, name: &str) -> Result<Option<usize>, Fault> {
    match parameters.remove(name).map(|parameter| parameter.choice) {
        None => Ok(None),
        Some(Some(Choice::Int64(count))) if count > 0 => Ok(usize::try_from(count).ok()),
        Some(_) => Err(Fault::bad(format!("the parameter {name} must be a positive whole number"))),
    }
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader::MOST_ENTRIES;

    fn read_text(text: &str) -> Result<Request, String> {
        read(&Bytes::copy_from_slice(text.as_bytes()), None, 1 << 20).map_err(|fault| {
            assert_eq!(fault.status.as_u16(), 400, "{text}");
            fault.message
        })
    }

    fn with_input(input: &str) -> Result<Request, String> {
        read_text(&format!(r#"{{"inputs":[{input}]}}"#))
    }

    const X: &str = r#"{"name":"x","datatype":"UINT8","shape":[2],"data":[1,2]}"#;

    #[test]
    fn a_request_becomes_a_message() {
        let request = read_text(
            r#" {"id":"7", "parameters":{"a":1,"b":"é","c":true,"d":1.5,"e":null,"f":18446744073709551615,"timeout":2500},
                "inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[[1,2.5]],"parameters":{"p":-1},"more":[{}]}],
                "outputs":[{"name":"y","parameters":{"q":"r","binary_data":true,"classification":3}},{"name":"z"}],
                "unknown":{"nested":[1,"]}",{"x":null}]}} "#,
        )
        .unwrap();
        let Request { message, wanted, timeout } = request;
        let choice = |name: &str| message.parameters.get(name).and_then(|parameter| parameter.choice.clone());
        assert_eq!(message.id, "7");
        assert_eq!(choice("a"), Some(Choice::Int64(1)));
        assert_eq!(choice("b"), Some(Choice::String("é".into())));
        assert_eq!(choice("c"), Some(Choice::Bool(true)));
        assert_eq!(choice("d"), Some(Choice::Double(1.5)));
        assert_eq!(choice("e"), None);
        assert_eq!(choice("f"), Some(Choice::Uint64(u64::MAX)));
        assert_eq!(timeout, Some(Duration::from_micros(2500)));
        let x = &message.inputs[0];
        assert_eq!((x.name.as_str(), x.datatype.as_str(), &x.shape[..]), ("x", "FP32", &[1, 2][..]));
        assert_eq!(x.parameters["p"].choice, Some(Choice::Int64(-1)));
        assert_eq!(message.raw_input_contents, [[1_f32.to_le_bytes(), 2.5_f32.to_le_bytes()].concat()]);
        let names: Vec<_> = message.outputs.iter().map(|output| output.name.as_str()).collect();
        assert_eq!(names, ["y", "z"]);
        assert_eq!(message.outputs[0].parameters.len(), 1, "what is for us is not for the model");
        let y = WantedOutput { name: "y".into(), binary: Some(true), classes: Some(3), base64: false };
        let z = WantedOutput { name: "z".into(), ..WantedOutput::default() };
        assert_eq!(wanted, Wanted { outputs: vec![y, z], binary: false, allow_nan: false });
    }

    #[test]
    fn errors_say_where_they_are_in_the_whole_body() {
        let begin = "{\"inputs\":[\n{\"name\":\"x\",\"datatype\":\"UINT8\",\"shape\":[2],\"data\":[1,2]},\n";
        for (rest, place) in [
            ("{]", "line 3 column 2"),
            ("{\"name\":\"y\",\"datatype\":\"UINT8\",\"shape\":[1],\"data\":[?]}]}", "line 3 column 52"),
            ("{\"data\":[?],\"name\":\"y\",\"datatype\":\"UINT8\",\"shape\":[1]}]}", "line 3 column 10"),
        ] {
            let message = read_text(&format!("{begin}{rest}")).unwrap_err();
            assert!(message.contains(place), "{rest}: {message}");
        }
    }

    #[test]
    fn keys_may_come_in_any_order() {
        for input in [
            r#"{"data":[[1],[2]],"shape":[2,1],"name":"x","datatype":"UINT8"}"#,
            r#"{"datatype":"UINT8","data":[1,2],"name":"x","shape":[2,1]}"#,
            r#"{"shape":[2,1],"data":[1,2],"datatype":"UINT8","name":"x","parameters":null}"#,
        ] {
            assert_eq!(with_input(input).unwrap().message.raw_input_contents, [[1, 2].as_slice()], "{input}");
        }
        let bytes =
            r#"{"name":"x","datatype":"BYTES","shape":[1],"data":["YQ=="],"parameters":{"content_type":"base64"}}"#;
        let message = with_input(bytes).unwrap().message;
        assert_eq!(message.raw_input_contents, [b"\x01\0\0\0a".as_slice()]);
        assert!(message.inputs[0].parameters.is_empty(), "it is bytes now");
    }

    #[test]
    fn what_is_not_said_may_be_null_or_missing() {
        let request = read_text(&format!(r#"{{"id":null,"parameters":null,"outputs":null,"inputs":[{X}]}}"#)).unwrap();
        assert_eq!((request.message.id.as_str(), request.message.outputs.len()), ("", 0));
        let empty = r#"{"name":"x","datatype":"FP32","shape":[0,3]}"#;
        assert_eq!(with_input(empty).unwrap().message.raw_input_contents, [b"".as_slice()]);
    }

    #[test]
    fn what_is_no_request_is_refused_with_a_reason() {
        for (body, reason) in [
            ("", "not JSON"),
            ("[]", "expected object"),
            ("{", "not JSON"),
            ("{}", "no inputs"),
            (r#"{"inputs":[]}"#, "no inputs"),
            (r#"{"inputs":null}"#, "no inputs"),
            (r#"{"inputs":{}}"#, "expected array"),
            (r#"{"inputs":[1]}"#, "expected object"),
            (r#"{"inputs":[{}]}"#, "no name"),
            (r#"{"inputs":[{"name":"","datatype":"FP32","shape":[1],"data":[1]}]}"#, "no name"),
            (r#"{"inputs":[{"name":"x","shape":[1],"data":[1]}]}"#, "no datatype"),
            (r#"{"inputs":[{"name":"x","datatype":"FP32","data":[1]}]}"#, "no shape"),
            (r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1]}]}"#, "no data"),
            (r#"{"inputs":[{"name":"x","datatype":"FLOAT","shape":[1],"data":[1]}]}"#, "no datatype; there are BOOL"),
            (r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[-1],"data":[1]}]}"#, "zero or more"),
            (r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1.5],"data":[1]}]}"#, "zero or more"),
            (r#"{"inputs":[{"name":"x","datatype":"FP32","shape":"1","data":[1]}]}"#, "expected array"),
            (r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[9223372036854775807,3],"data":[1]}]}"#, "no memory"),
            (r#"{"inputs":[{"name":"x","name":"y"}]}"#, "twice"),
            (r#"{"inputs":[{"data":[1],"data":[1]}]}"#, "twice"),
            (r#"{"inputs":[{"data":[1],"name":"x","datatype":"FP32","shape":[1],"data":[1]}]}"#, "twice"),
            (r#"{"id":7}"#, "expected string"),
            (r#"{"parameters":{"a":[1]}}"#, "must be a number"),
            (r#"{"parameters":{"a":1,"a":2}}"#, "twice"),
            (r#"{"parameters":{"a":18446744073709551616}}"#, "beyond"),
            (r#"{"parameters":{"a":1e999}}"#, "beyond"),
            (r#"{"parameters":{"a":NaN}}"#, "beyond"),
            (r#"{"x":1} {}"#, "trailing"),
            (r#"{"x":1,}"#, "trailing comma"),
            ("{'x':1}", "not JSON"),
            (r#"{"x":"\ud800"}"#, "not JSON"),
        ] {
            let message = read_text(body).unwrap_err();
            assert!(message.contains(reason), "{body}: {message}");
        }
        for (more, reason) in [
            (r#""parameters":{"binary_data_output":1}"#, "true or false"),
            (r#""outputs":[{"name":"y"},{"name":"y"}]"#, "twice"),
            (r#""outputs":[{}]"#, "no name"),
            (r#""outputs":[{"name":"y","parameters":{"classification":0}}]"#, "positive"),
        ] {
            let message = read_text(&format!(r#"{{"inputs":[{X}],{more}}}"#)).unwrap_err();
            assert!(message.contains(reason), "{more}: {message}");
        }
        assert!(read(&Bytes::from_static(b"{\"id\":\"\xff\"}"), None, 9).unwrap_err().message.contains("UTF-8"));
    }

    #[test]
    fn inputs_of_one_name_are_found_among_any_number() {
        for count in [2, 20, 2000] {
            let input = |at| format!(r#"{{"name":"{at}","datatype":"UINT8","shape":[1],"data":[1]}}"#);
            let mut inputs: Vec<_> = (0..count).map(input).collect();
            assert!(with_input(&inputs.join(",")).is_ok());
            inputs[count - 1] = input(0);
            assert!(with_input(&inputs.join(",")).unwrap_err().contains("twice"));
        }
        let many = vec![X; MOST_ENTRIES + 1].join(",");
        assert!(with_input(&many).unwrap_err().contains("more than 10000 inputs"));
    }

    #[test]
    fn nesting_is_bounded_wherever_it_stands() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(read_text(&format!(r#"{{"unknown":{},"inputs":[{X}]}}"#, deep(63))).is_ok());
        for levels in [64, 150, 100_000] {
            for body in [
                format!(r#"{{"unknown":{}}}"#, deep(levels)),
                format!(r#"{{"inputs":[{{"unknown":{}}}]}}"#, deep(levels)),
                format!(r#"{{"inputs":[{{"data":{}}}]}}"#, deep(levels)),
                format!(r#"{{"inputs":[{{"datatype":"FP32","shape":[1],"data":{}}}]}}"#, deep(levels)),
                deep(levels),
            ] {
                assert!(read_text(&body).is_err());
            }
        }
        let shape = vec!["1"; 63].join(",");
        let input = format!(r#"{{"name":"x","datatype":"UINT8","shape":[{shape}],"data":[1]}}"#);
        assert!(with_input(&input).unwrap_err().contains("62 dimensions"));
    }

    fn binary(inputs: &str, behind: &[u8]) -> Result<Vec<Bytes>, String> {
        let json = format!(r#"{{"inputs":[{inputs}]}}"#);
        let body: Bytes = [json.as_bytes(), behind].concat().into();
        let request = read(&body, Some(json.len()), 1000).map_err(|fault| fault.message)?;
        assert!(request.message.inputs.iter().all(|input| !input.parameters.contains_key("binary_data_size")));
        Ok(request.message.raw_input_contents)
    }

    #[test]
    fn binary_tensors_follow_the_json_in_order() {
        let input = |name: &str, datatype: &str, shape: &str, size: &str| {
            format!(
                r#"{{"name":"{name}","datatype":"{datatype}","shape":[{shape}],"parameters":{{"binary_data_size":{size}}}}}"#
            )
        };
        let (a, b) = (input("a", "FP16", "2", "4"), input("b", "BYTES", "1", "5"));
        let read = binary(&[a.as_str(), X, b.as_str()].join(","), b"\x01\x02\x03\x04\x01\0\0\0z").unwrap();
        assert_eq!(read, [&b"\x01\x02\x03\x04"[..], &[1, 2], b"\x01\0\0\0z"]);
        assert_eq!(binary(&input("e", "FP32", "0", "0"), b"").unwrap(), [b"".as_slice()]);
        for (inputs, behind, reason) in [
            (a.clone(), &b"123"[..], "binary_data_size say otherwise"),
            (a.clone(), b"12345", "binary_data_size say otherwise"),
            (X.to_owned(), b"1", "binary_data_size say otherwise"),
            (input("a", "FP16", "3", "4"), b"1234", "no FP16 of shape [3]"),
            (input("a", "BYTES", "1", "6"), b"\x03\0\0\0ab", "no BYTES"),
            (input("a", "FP16", "2", "-4"), b"1234", "a number of bytes"),
            (input("a", "FP16", "2", "\"4\""), b"1234", "a number of bytes"),
            (input("a", "FP16", "2", "4").replace("\"parameters\"", "\"data\":[1,2],\"parameters\""), b"1234", "both"),
            (input("a", "FP16", "2", "1001"), b"1234", "the limit"),
            (X.replace("\"data\"", r#""parameters":{"shared_memory_region":"r"},"data""#), b"", "shared memory"),
        ] {
            let message = binary(&inputs, behind).unwrap_err();
            assert!(message.contains(reason), "{inputs}: {message}");
        }
        let error = read_text(&format!(r#"{{"inputs":[{a}]}}"#)).unwrap_err();
        assert!(error.contains("Inference-Header-Content-Length"), "{error}");
        assert!(super::read(&Bytes::from_static(b"{}"), Some(3), 9).unwrap_err().message.contains("only 2"));
    }

    #[test]
    fn the_bound_of_tensors_is_for_all_of_them() {
        let input = |name: &str| format!(r#"{{"name":"{name}","datatype":"FP64","shape":[2],"data":[1,2]}}"#);
        let body = |count: usize| {
            let inputs: Vec<_> = (0..count).map(|at| input(&at.to_string())).collect();
            Bytes::from(format!(r#"{{"inputs":[{}]}}"#, inputs.join(",")))
        };
        assert!(read(&body(4), None, 64).is_ok());
        assert_eq!(read(&body(5), None, 64).unwrap_err().status.as_u16(), 413);
    }
}
