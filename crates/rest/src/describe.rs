//! What is told of servers and models, as JSON.

use crate::json::{write_integer, write_key, write_list, write_string};
use crate::proto::{ModelIndex, ModelMetadataResponse, ServerMetadataResponse, TensorMetadata};

/// Extensions of the protocol that are REST's alone.
const EXTENSIONS: [&str; 3] = ["binary_tensor_data", "classification", "generate"];

/// Where everything else is.
#[must_use]
pub fn root(with_console: bool) -> Vec<u8> {
    let console = if with_console { ",\"console\":\"/console/\"" } else { "" };
    format!(
        "{{\"server\":\"/v2\",\"models\":\"/v2/models\",\"openapi\":\"/openapi.json\",\"docs\":\"/docs/\"{console}}}"
    )
    .into_bytes()
}

#[must_use]
pub fn server(answer: &ServerMetadataResponse) -> Vec<u8> {
    let mut to = b"{\"name\":".to_vec();
    write_string(&answer.name, &mut to);
    write_key("version", &mut to);
    write_string(&answer.version, &mut to);
    write_key("extensions", &mut to);
    let extensions = answer.extensions.iter().map(String::as_str).chain(EXTENSIONS);
    write_list(extensions, &mut to, write_string);
    to.push(b'}');
    to
}

#[must_use]
pub fn model(answer: &ModelMetadataResponse) -> Vec<u8> {
    let mut to = b"{\"name\":".to_vec();
    write_string(&answer.name, &mut to);
    if !answer.versions.is_empty() {
        write_key("versions", &mut to);
        write_list(&answer.versions, &mut to, |version, to| write_string(version, to));
    }
    write_key("platform", &mut to);
    write_string(&answer.platform, &mut to);
    for (key, tensors) in [("inputs", &answer.inputs), ("outputs", &answer.outputs)] {
        write_key(key, &mut to);
        write_list(tensors, &mut to, tensor);
    }
    to.push(b'}');
    to
}

#[must_use]
pub fn index(models: &[ModelIndex]) -> Vec<u8> {
    let mut to = Vec::with_capacity(64 * models.len());
    write_list(models, &mut to, |model, to| {
        to.extend_from_slice(b"{\"name\":");
        write_string(&model.name, to);
        for (key, value) in [("version", &model.version), ("state", &model.state), ("reason", &model.reason)] {
            write_key(key, to);
            write_string(value, to);
        }
        to.push(b'}');
    });
    to
}

/// `what` has been done with a model.
#[must_use]
pub fn done(name: &str, what: &str) -> Vec<u8> {
    let mut to = b"{\"name\":".to_vec();
    write_string(name, &mut to);
    write_key(what, &mut to);
    to.extend_from_slice(b"true}");
    to
}

fn tensor(tensor: &TensorMetadata, to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"name\":");
    write_string(&tensor.name, to);
    write_key("datatype", to);
    write_string(&tensor.datatype, to);
    write_key("shape", to);
    write_list(&tensor.shape, to, |dimension, to| write_integer(*dimension, to));
    to.push(b'}');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn models_and_servers_are_described_as_the_protocol_has_it() {
        let tensor = TensorMetadata { name: "x".into(), datatype: "FP32".into(), shape: vec![-1, 4] };
        let answer = ModelMetadataResponse { name: "m\"".into(), inputs: vec![tensor], ..Default::default() };
        let expected = json!({
            "name": "m\"", "platform": "", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], "outputs": []
        });
        assert_eq!(serde_json::from_slice::<Value>(&model(&answer)).unwrap(), expected);
        let answer = ModelMetadataResponse { versions: vec!["1".into()], ..answer };
        assert_eq!(serde_json::from_slice::<Value>(&model(&answer)).unwrap()["versions"], json!(["1"]));
        let answer = ServerMetadataResponse { name: "s".into(), version: "1".into(), extensions: vec!["e".into()] };
        let expected = json!({"name": "s", "version": "1", "extensions": ["e", "binary_tensor_data", "classification", "generate"]});
        assert_eq!(serde_json::from_slice::<Value>(&server(&answer)).unwrap(), expected);
        assert_eq!(serde_json::from_slice::<Value>(&done("m", "ready")).unwrap(), json!({"name": "m", "ready": true}));
        let model = ModelIndex { name: "m".into(), state: "READY".into(), ..ModelIndex::default() };
        let expected = json!([{"name": "m", "version": "", "state": "READY", "reason": ""}]);
        assert_eq!(serde_json::from_slice::<Value>(&index(&[model])).unwrap(), expected);
    }
}
