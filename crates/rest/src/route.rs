//! Which operation a method and a path mean.

use http::{Method, StatusCode};

use crate::fault::Fault;

/// What may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Where everything else is.
    Root,
    ServerMetadata,
    ServerLive,
    ServerReady,
    Models,
    ModelMetadata,
    ModelReady,
    Infer,
    Generate,
    GenerateStream,
    RepositoryIndex,
    RepositoryLoad,
    RepositoryUnload,
    V1Predict,
    /// A description for machines.
    OpenApi,
}

/// One row of the table of routes.
#[derive(Debug)]
pub struct Route {
    /// GET or POST. What takes GET takes HEAD.
    pub method: Method,
    /// Segments; `{name}` and `{version}` stand for one each.
    pub pattern: &'static str,
    pub operation: Operation,
}

const fn get(pattern: &'static str, operation: Operation) -> Route {
    Route { method: Method::GET, pattern, operation }
}

const fn post(pattern: &'static str, operation: Operation) -> Route {
    Route { method: Method::POST, pattern, operation }
}

/// All routes: those of the Open Inference Protocol with its repository extension, and those of V1 of KServe.
pub const ROUTES: &[Route] = &[
    get("/", Operation::Root),
    get("/v2", Operation::ServerMetadata),
    get("/v2/health/live", Operation::ServerLive),
    get("/v2/health/ready", Operation::ServerReady),
    get("/v2/models", Operation::Models),
    get("/v2/models/{name}", Operation::ModelMetadata),
    get("/v2/models/{name}/versions/{version}", Operation::ModelMetadata),
    get("/v2/models/{name}/ready", Operation::ModelReady),
    get("/v2/models/{name}/versions/{version}/ready", Operation::ModelReady),
    post("/v2/models/{name}/infer", Operation::Infer),
    post("/v2/models/{name}/versions/{version}/infer", Operation::Infer),
    post("/v2/models/{name}/generate", Operation::Generate),
    post("/v2/models/{name}/versions/{version}/generate", Operation::Generate),
    post("/v2/models/{name}/generate_stream", Operation::GenerateStream),
    post("/v2/models/{name}/versions/{version}/generate_stream", Operation::GenerateStream),
    post("/v2/repository/index", Operation::RepositoryIndex),
    post("/v2/repository/models/{name}/load", Operation::RepositoryLoad),
    post("/v2/repository/models/{name}/unload", Operation::RepositoryUnload),
    get("/v1/models/{name}", Operation::ModelReady),
    get("/v1/models/{name}/versions/{version}", Operation::ModelReady),
    post("/v1/models/{name}:predict", Operation::V1Predict),
    post("/v1/models/{name}/versions/{version}:predict", Operation::V1Predict),
    get("/openapi.json", Operation::OpenApi),
];

/// No path of ours has more segments.
const MOST_SEGMENTS: usize = 6;

/// What a request means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    pub operation: Operation,
    /// Of a model or a vmodel; empty where the route has none.
    pub name: String,
    /// Empty: the server chooses.
    pub version: String,
}

/// Finds what a request means. Names are percent-decoded once, so that `%2F` is a slash inside of one; `.` and `..` are
/// names like others. One slash at the end is tolerated.
///
/// # Errors
/// 404 for an unknown path, 405 for another method than the path takes, 400 for a path that is no UTF-8.
pub fn find(method: &Method, path: &str) -> Result<Match, Fault> {
    let unknown = || Fault::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}"));
    let raw = path.strip_prefix('/').ok_or_else(unknown)?;
    let raw = raw.strip_suffix('/').unwrap_or(raw);
    let mut segments = Vec::with_capacity(MOST_SEGMENTS);
    for segment in raw.split('/') {
        if segments.len() == MOST_SEGMENTS {
            return Err(unknown());
        }
        segments.push(segment);
    }
    let wanted = if *method == Method::HEAD { &Method::GET } else { method };
    let mut allow = None;
    for route in ROUTES {
        let Some(found) = fit(route, &segments)? else { continue };
        if route.method == *wanted {
            return Ok(found);
        }
        allow = Some(if route.method == Method::GET { "GET, HEAD" } else { "POST" });
    }
    match allow {
        None => Err(unknown()),
        Some(allow) => Err(Fault {
            allow: Some(allow),
            ..Fault::new(StatusCode::METHOD_NOT_ALLOWED, format!("{path} takes {allow}, not {method}"))
        }),
    }
}

/// Compares a path with one route; only segments that the route names are decoded.
fn fit(route: &Route, segments: &[&str]) -> Result<Option<Match>, Fault> {
    let mut found = Match { operation: route.operation, name: String::new(), version: String::new() };
    let mut pattern = route.pattern[1..].split('/');
    for segment in segments {
        let fits = match pattern.next() {
            None => false,
            Some("{name}") => {
                found.name = decode(segment)?;
                !found.name.is_empty()
            }
            Some(verb @ ("{name}:predict" | "{version}:predict")) => match segment.strip_suffix(":predict") {
                Some(what) if !what.is_empty() => {
                    *(if verb.starts_with("{name}") { &mut found.name } else { &mut found.version }) = decode(what)?;
                    true
                }
                _ => false,
            },
            Some("{version}") => {
                found.version = decode(segment)?;
                !found.version.is_empty()
            }
            Some(fixed) => *segment == fixed,
        };
        if !fits {
            return Ok(None);
        }
    }
    Ok(pattern.next().is_none().then_some(found))
}

/// Undoes percent-encoding, once.
///
/// # Errors
/// 400: it is none, or no UTF-8.
pub fn decode(segment: &str) -> Result<String, Fault> {
    let bad = || Fault::bad(format!("{segment:?} is not percent-encoded UTF-8"));
    if !segment.contains('%') {
        return Ok(segment.to_owned());
    }
    let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16)).ok_or_else(bad);
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let value = digit(bytes.next())? * 16 + digit(bytes.next())?;
            decoded.push(u8::try_from(value).map_err(|_| bad())?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &Method, path: &str) -> (Operation, String, String) {
        let Match { operation, name, version } = find(method, path).unwrap();
        (operation, name, version)
    }

    fn fault(method: &Method, path: &str) -> (u16, Option<&'static str>) {
        let fault = find(method, path).unwrap_err();
        (fault.status.as_u16(), fault.allow)
    }

    #[test]
    fn every_route_is_found_by_its_pattern() {
        for route in ROUTES {
            let path = route.pattern.replace("{name}", "m").replace("{version}", "7");
            let (operation, name, version) = found(&route.method, &path);
            assert_eq!(operation, route.operation, "{path}");
            assert_eq!(name == "m", route.pattern.contains("{name}"));
            assert_eq!(version == "7", route.pattern.contains("{version}"));
            assert_eq!(found(&route.method, &format!("{}/", path.trim_end_matches('/'))).0, route.operation);
        }
    }

    #[test]
    fn names_are_decoded_once_and_dots_are_names() {
        let name = |path: &str| found(&Method::POST, path).1;
        assert_eq!(name("/v2/models/a%2Fb/infer"), "a/b");
        assert_eq!(name("/v2/models/a%252Fb/infer"), "a%2Fb");
        assert_eq!(name("/v2/models/%C3%A9%20+/infer"), "é +");
        assert_eq!(name("/v2/models/../infer"), "..");
        assert_eq!(name("/v2/models/./infer"), ".");
        assert_eq!(name("/v2/models/infer/infer"), "infer");
        assert_eq!(name("/v1/models/a:b:predict"), "a:b");
        assert_eq!(found(&Method::GET, "/v1/models/m%3Apredict").1, "m:predict");
        assert_eq!(found(&Method::POST, "/v1/models/a:b/versions/c:d:predict").2, "c:d");
        assert_eq!(fault(&Method::POST, "/v1/models/m/versions/:predict").0, 405);
    }

    #[test]
    fn what_is_not_there_is_told_apart_from_what_is_not_allowed() {
        for path in ["", "/v3", "/v2/model", "/v2//infer", "/v2/models//infer", "/v2/models/a/b/c/d/e/f", "*"] {
            assert_eq!(fault(&Method::GET, path), (404, None), "{path}");
        }
        assert_eq!(fault(&Method::GET, "/v2/models/m/infer"), (405, Some("POST")));
        assert_eq!(fault(&Method::POST, "/v2"), (405, Some("GET, HEAD")));
        assert_eq!(fault(&Method::TRACE, "/v2/health/live"), (405, Some("GET, HEAD")));
        assert_eq!(found(&Method::HEAD, "/v2/health/live").0, Operation::ServerLive);
        for path in ["/v2/models/%ff/infer", "/v2/models/%2/infer", "/v2/models/%zz/infer", "/v2/models/%+1/infer"] {
            assert_eq!(fault(&Method::POST, path), (400, None), "{path}");
        }
    }
}
