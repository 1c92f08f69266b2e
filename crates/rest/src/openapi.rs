//! The description of all this for machines: OpenAPI 3.1, made of the table of routes.

use crate::json::{write_key, write_list, write_string};
use crate::route::{Operation, ROUTES, Route};

/// What the table does not say of an operation.
struct Description {
    id: &'static str,
    summary: &'static str,
    /// The schema of its body, if it takes one.
    body: Option<&'static str>,
    /// The schema of what it answers, or of the data of each event.
    answer: &'static str,
    /// Statuses that are no success, of those of a call.
    faults: &'static [&'static str],
}

/// Of what is answered without a model.
const OF_SERVER: &[&str] = &["503"];
const OF_STATUS: &[&str] = &["400", "404", "503"];
/// Of calls that a runtime answers, or that change something.
const OF_CALL: &[&str] =
    &["400", "401", "403", "404", "408", "409", "413", "415", "429", "499", "500", "501", "503", "504"];

fn describe(operation: Operation) -> Description {
    let of = |id, summary, body, answer, faults| Description { id, summary, body, answer, faults };
    match operation {
        Operation::Root => of("root", "Where to begin", None, "Root", &[]),
        Operation::ServerMetadata => of("serverMetadata", "What the server is", None, "ServerMetadata", OF_SERVER),
        Operation::ServerLive => of("serverLive", "Whether the process lives", None, "Live", &[]),
        Operation::ServerReady => of("serverReady", "Whether the instance takes calls", None, "Ready", OF_SERVER),
        Operation::Models => of("models", "Names of models, then of vmodels, page by page", None, "Models", OF_STATUS),
        Operation::ModelMetadata => {
            of("modelMetadata", "The tensors of a model, which is loaded for it", None, "ModelMetadata", OF_CALL)
        }
        Operation::ModelReady => {
            of("modelReady", "Whether a model is loaded; it is not loaded for that", None, "ModelReady", OF_STATUS)
        }
        Operation::Infer => of("infer", "An inference", Some("InferRequest"), "InferAnswer", OF_CALL),
        Operation::Generate => {
            of("generate", "One answer to named values", Some("GenerateRequest"), "Generated", OF_CALL)
        }
        Operation::GenerateStream => {
            of("generateStream", "Answers to named values as events", Some("GenerateRequest"), "Generated", OF_CALL)
        }
        Operation::RepositoryIndex => {
            of("repositoryIndex", "All models and vmodels, and their states", Some("IndexRequest"), "Index", OF_CALL)
        }
        Operation::RepositoryLoad => {
            of("repositoryLoad", "Load a model, and wait for it", Some("LoadRequest"), "Done", OF_CALL)
        }
        Operation::RepositoryUnload => of(
            "repositoryUnload",
            "Unload a model everywhere; it stays registered",
            Some("UnloadRequest"),
            "Done",
            OF_CALL,
        ),
        Operation::V1Predict => of("predict", "An inference by rows (V1)", Some("Prediction"), "Predicted", OF_CALL),
        Operation::OpenApi => of("openApi", "This description", None, "Any", &[]),
    }
}

/// What a listing of names may be asked with.
const QUERY: &[&str] = &["limit", "page"];

/// What is said by name. A tensor's `data` may be nested.
const SCHEMAS: &str = r##"{
"Any":{"type":"object"},
"Root":{"type":"object","additionalProperties":{"type":"string"}},
"Error":{"type":"object","required":["error"],"properties":{"error":{"type":"string"}}},
"Live":{"type":"object","required":["live"],"properties":{"live":{"type":"boolean"}}},
"Ready":{"type":"object","required":["ready"],"properties":{"ready":{"type":"boolean"}}},
"ServerMetadata":{"type":"object","required":["name","version","extensions"],"properties":{"name":{"type":"string"},"version":{"type":"string"},"extensions":{"type":"array","items":{"type":"string"}}}},
"Models":{"type":"object","required":["models"],"properties":{"models":{"type":"array","items":{"type":"string"}},"next":{"type":"string"}}},
"ModelReady":{"type":"object","required":["name","ready"],"properties":{"name":{"type":"string"},"ready":{"type":"boolean"}}},
"TensorMetadata":{"type":"object","required":["name","datatype","shape"],"properties":{"name":{"type":"string"},"datatype":{"type":"string"},"shape":{"type":"array","items":{"type":"integer"}}}},
"ModelMetadata":{"type":"object","required":["name","platform","inputs","outputs"],"properties":{"name":{"type":"string"},"versions":{"type":"array","items":{"type":"string"}},"platform":{"type":"string"},"inputs":{"type":"array","items":{"$ref":"#/components/schemas/TensorMetadata"}},"outputs":{"type":"array","items":{"$ref":"#/components/schemas/TensorMetadata"}}}},
"Parameters":{"type":"object","additionalProperties":{"type":["string","number","boolean","null"]}},
"Datatype":{"type":"string","enum":["BOOL","UINT8","UINT16","UINT32","UINT64","INT8","INT16","INT32","INT64","FP16","FP32","FP64","BF16","BYTES"]},
"Tensor":{"type":"object","required":["name","datatype","shape"],"properties":{"name":{"type":"string","minLength":1},"datatype":{"$ref":"#/components/schemas/Datatype"},"shape":{"type":"array","items":{"type":"integer","minimum":0}},"parameters":{"$ref":"#/components/schemas/Parameters"},"data":{"type":"array"}}},
"RequestedOutput":{"type":"object","required":["name"],"properties":{"name":{"type":"string","minLength":1},"parameters":{"$ref":"#/components/schemas/Parameters"}}},
"InferRequest":{"type":"object","examples":[{"inputs":[{"name":"input","datatype":"FP32","shape":[1,3],"data":[1,2,3]}]}],"required":["inputs"],"properties":{"id":{"type":"string"},"parameters":{"$ref":"#/components/schemas/Parameters"},"inputs":{"type":"array","minItems":1,"items":{"$ref":"#/components/schemas/Tensor"}},"outputs":{"type":"array","items":{"$ref":"#/components/schemas/RequestedOutput"}}}},
"InferAnswer":{"type":"object","required":["model_name","outputs"],"properties":{"model_name":{"type":"string"},"model_version":{"type":"string"},"id":{"type":"string"},"parameters":{"$ref":"#/components/schemas/Parameters"},"outputs":{"type":"array","items":{"$ref":"#/components/schemas/Tensor"}}}},
"IndexRequest":{"type":"object","properties":{"ready":{"type":"boolean"}}},
"Index":{"type":"array","items":{"type":"object","required":["name","version","state","reason"],"properties":{"name":{"type":"string"},"version":{"type":"string"},"state":{"type":"string","enum":["READY","LOADING","UNAVAILABLE"]},"reason":{"type":"string"}}}},
"GenerateRequest":{"type":"object","examples":[{"text_input":"once upon a time"}],"properties":{"text_input":{"type":["string","array"]},"id":{"type":"string"},"parameters":{"type":"object"}}},
"Generated":{"type":"object","required":["model_name"],"properties":{"model_name":{"type":"string"},"model_version":{"type":"string"},"id":{"type":"string"},"text_output":{"type":["string","array"]}}},
"LoadRequest":{"type":"object","properties":{"parameters":{"type":"object","maxProperties":0}}},
"UnloadRequest":{"type":"object","properties":{"parameters":{"type":"object"}}},
"Done":{"type":"object","required":["name"],"properties":{"name":{"type":"string"},"load":{"type":"boolean"},"unload":{"type":"boolean"}}},
"Prediction":{"type":"object","examples":[{"instances":[[1,2,3]]}],"oneOf":[{"required":["instances"]},{"required":["inputs"]}],"properties":{"instances":{"type":"array"},"inputs":{"type":"array"}}},
"Predicted":{"type":"object","properties":{"predictions":{"type":"array"},"outputs":{}}}
}"##;

/// The document.
#[must_use]
pub fn document() -> Vec<u8> {
    let mut to = b"{\"openapi\":\"3.1.0\",\"info\":{\"title\":\"ModelMesh\",\"version\":".to_vec();
    write_string(env!("CARGO_PKG_VERSION"), &mut to);
    to.extend_from_slice(b"},\"paths\":{");
    for (at, route) in ROUTES.iter().enumerate() {
        if at > 0 {
            to.push(b',');
        }
        write_string(route.pattern, &mut to);
        to.push(b':');
        write_route(route, &mut to);
    }
    to.extend_from_slice(b"},\"components\":{\"schemas\":");
    to.extend_from_slice(SCHEMAS.as_bytes());
    to.extend_from_slice(b"}}");
    to
}

fn write_route(route: &Route, to: &mut Vec<u8>) {
    let Description { id, summary, body, answer, faults } = describe(route.operation);
    let names = ["name", "version"].into_iter().filter(|name| route.pattern.contains(&format!("{{{name}}}")));
    let names: Vec<&str> = names.collect();
    to.push(b'{');
    write_string(&route.method.as_str().to_ascii_lowercase(), to);
    to.extend_from_slice(b":{\"operationId\":");
    let (version, number) = (names.contains(&"version"), if route.pattern.starts_with("/v1") { "V1" } else { "" });
    write_string(&format!("{id}{number}{}", if version { "OfVersion" } else { "" }), to);
    write_key("summary", to);
    write_string(summary, to);
    write_key("parameters", to);
    let query = if route.operation == Operation::Models { QUERY } else { &[] };
    let path = names.into_iter().map(|name| ("path", true, name));
    let parameters = path.chain(query.iter().map(|name| ("query", false, *name)));
    write_list(parameters, to, |(place, required, name), to| {
        to.extend_from_slice(format!("{{\"in\":\"{place}\",\"required\":{required},").as_bytes());
        to.extend_from_slice(b"\"schema\":{\"type\":\"string\"},\"name\":");
        write_string(name, to);
        to.push(b'}');
    });
    if let Some(body) = body {
        write_key("requestBody", to);
        write_content("application/json", body, to);
    }
    write_key("responses", to);
    to.extend_from_slice(b"{\"200\":");
    let kind = if route.operation == Operation::GenerateStream { "text/event-stream" } else { "application/json" };
    write_described("as asked", kind, answer, to);
    for status in faults {
        write_key(status, to);
        write_described("not as asked", "application/json", "Error", to);
    }
    to.extend_from_slice(b"}}}");
}

fn write_described(description: &str, kind: &str, schema: &str, to: &mut Vec<u8>) {
    write_content(kind, schema, to);
    // Its last brace.
    to.pop();
    write_key("description", to);
    write_string(description, to);
    to.push(b'}');
}

fn write_content(kind: &str, schema: &str, to: &mut Vec<u8>) {
    to.extend_from_slice(b"{\"content\":{");
    write_string(kind, to);
    to.extend_from_slice(b":{\"schema\":{\"$ref\":\"#/components/schemas/");
    to.extend_from_slice(schema.as_bytes());
    to.extend_from_slice(b"\"}}}}");
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    fn references(value: &Value, found: &mut HashSet<String>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_route_is_described_once_and_every_reference_leads_somewhere() {
        let document: Value = serde_json::from_slice(&document()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), ROUTES.len(), "a path is there once");
        let mut ids = HashSet::new();
        for route in ROUTES {
            let described = &paths[route.pattern][route.method.as_str().to_ascii_lowercase()];
            assert!(ids.insert(described["operationId"].as_str().unwrap().to_owned()), "{}", route.pattern);
            let parameters = described["parameters"].as_array().unwrap();
            let query = if route.operation == Operation::Models { QUERY.len() } else { 0 };
            assert_eq!(parameters.len(), route.pattern.matches('{').count() + query, "{}", route.pattern);
            assert_eq!(described.get("requestBody").is_some(), route.method == http::Method::POST);
        }
        let mut found = HashSet::new();
        references(&document, &mut found);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for reference in &found {
            assert!(schemas.contains_key(reference.trim_start_matches("#/components/schemas/")), "{reference}");
        }
        for name in schemas.keys() {
            assert!(found.contains(&format!("#/components/schemas/{name}")), "{name} is not used");
        }
    }
}
