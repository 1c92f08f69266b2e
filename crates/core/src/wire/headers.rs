//! Header names, and which headers pass: towards the runtime, over the hop, and back.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};

use modelmesh_http2::Headers;

use crate::call::subject::Subject;

pub const MM_MODEL_ID: HeaderName = HeaderName::from_static("mm-model-id");
pub const MM_MODEL_ID_BIN: HeaderName = HeaderName::from_static("mm-model-id-bin");
pub const MM_VMODEL_ID: HeaderName = HeaderName::from_static("mm-vmodel-id");
pub const MM_VMODEL_ID_BIN: HeaderName = HeaderName::from_static("mm-vmodel-id-bin");
/// The old name of `mm-model-id`.
pub const TAS_MODEL_ID: HeaderName = HeaderName::from_static("tas-model-id");
pub const MM_BALANCED: HeaderName = HeaderName::from_static("mm-balanced");
pub const MM_SPLIT_KEY: HeaderName = HeaderName::from_static("mm-split-key");
/// Which model of a vmodel a call is for: a label, or the id of the model.
pub const MM_VERSION: HeaderName = HeaderName::from_static("mm-version");
/// In an answer: the model that answered in place of the wanted one.
pub const MM_FALLBACK: HeaderName = HeaderName::from_static("mm-fallback");
pub const MM_HOP: HeaderName = HeaderName::from_static("mm-hop");
pub const MM_TRIED: HeaderName = HeaderName::from_static("mm-tried");
pub const MM_VIEW: HeaderName = HeaderName::from_static("mm-view");
/// The class of a call.
pub const MM_PRIORITY: HeaderName = HeaderName::from_static("mm-priority");
/// How long a client waits for a load, as `grpc-timeout` says it.
pub const MM_WAIT: HeaderName = HeaderName::from_static("mm-wait");
/// Of the one who calls, between instances.
pub const MM_TENANT: HeaderName = HeaderName::from_static("mm-tenant");
pub const MM_REFUSED: HeaderName = HeaderName::from_static("mm-refused");
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
pub const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const GRPC: &str = "application/grpc";

/// gRPC libraries write `-bin` values with and without padding; both are read, the shorter is written.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_encode_padding(false).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the headers of ours that a runtime sees count in a list, but for their values; those of content type and TE
/// included.
const ADDED: usize = 512;

/// What one entry of a header list costs.
#[must_use]
pub fn entry_size((name, value): (&HeaderName, &HeaderValue)) -> usize {
    name.as_str().len() + value.len() + 32
}

/// Writes bytes as a `-bin` value.
#[must_use]
pub fn encode_bin(bytes: &[u8]) -> HeaderValue {
    let text = BASE64.encode(bytes);
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text)).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Reads one `-bin` value; None if it is not base64.
#[must_use]
pub fn decode_bin(value: &[u8]) -> Option<Vec<u8>> {
    BASE64.decode(value).ok()
}

/// Whether a request header passes to the runtime.
///
/// Exact names only: `user`, `content` and `tas` are ordinary headers (the old system dropped them).
fn passes_to_runtime(name: &HeaderName) -> bool {
    let text = name.as_str();
    if text.starts_with("mm-") {
        return false;
    }
    if text.starts_with("grpc-") {
        // The frames pass unchanged, so what says how to read them must pass too.
        return *name == GRPC_ENCODING || *name == GRPC_ACCEPT_ENCODING;
    }
    !(*name == CONTENT_TYPE || *name == USER_AGENT || *name == TE || text == "tas-model-id" || is_transport(text))
}

/// Headers that HTTP/2 forbids, or that say something about one connection only.
fn is_transport(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" | "host" | "content-length"
    )
}

/// The headers of a call to the runtime.
pub struct TowardsRuntime<'a> {
    pub from: &'a HeaderMap,
    /// The list size of `from`.
    pub from_bytes: usize,
    pub model: &'a str,
    /// `grpc-timeout`.
    pub timeout: Option<&'a HeaderValue>,
    /// Instead of the client's own `traceparent`, if the call is traced.
    pub traceparent: Option<&'a HeaderValue>,
}

impl Headers for TowardsRuntime<'_> {
    fn each(&self, mut take: impl FnMut(&[u8], &[u8], bool)) {
        let content_type = self.from.get(CONTENT_TYPE).map_or(GRPC.as_bytes(), HeaderValue::as_bytes);
        take(CONTENT_TYPE.as_str().as_bytes(), content_type, false);
        take(TE.as_str().as_bytes(), b"trailers", false);
        for (name, value) in self.from {
            if passes_to_runtime(name) && (self.traceparent.is_none() || *name != TRACEPARENT) {
                take(name.as_str().as_bytes(), value.as_bytes(), value.is_sensitive());
            }
        }
        take(MM_MODEL_ID_BIN.as_str().as_bytes(), BASE64.encode(self.model).as_bytes(), false);
        if self.model.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
            take(MM_MODEL_ID.as_str().as_bytes(), self.model.as_bytes(), false);
        }
        for (name, value) in [(GRPC_TIMEOUT, self.timeout), (TRACEPARENT, self.traceparent)] {
            if let Some(value) = value {
                take(name.as_str().as_bytes(), value.as_bytes(), false);
            }
        }
    }

    fn list_size_bound(&self) -> usize {
        // Base64 makes four bytes of three.
        let added = [self.timeout, self.traceparent].into_iter().flatten().map(HeaderValue::len).sum::<usize>();
        self.from_bytes + ADDED + 3 * self.model.len() + added
    }
}

/// What the sender of a hop tells the receiver.
#[derive(Clone, Debug)]
pub struct HopHeaders<'a> {
    pub hop: &'static str,
    pub tried: &'a [String],
    pub view: Option<u64>,
}

/// The headers of a call to a peer: those of the client, but for the id, which is the concrete one.
#[must_use]
pub fn towards_peer(from: &HeaderMap, subject: &Subject, hop: &HopHeaders<'_>) -> HeaderMap {
    let mut to = HeaderMap::with_capacity(from.len() + 6);
    copy_content_type(from, &mut to);
    to.insert(TE, HeaderValue::from_static("trailers"));
    for (name, value) in from {
        let text = name.as_str();
        let replaced = text == "mm-hop"
            || text == "mm-tried"
            || text == "mm-view"
            || text == "tas-model-id"
            || text.starts_with("mm-model-id")
            || text.starts_with("mm-vmodel-id")
            || *name == GRPC_TIMEOUT
            || *name == CONTENT_TYPE
            || *name == TE
            || is_transport(text);
        if !replaced {
            to.append(name.clone(), value.clone());
        }
    }
    to.insert(MM_MODEL_ID_BIN, encode_bin(subject.model.as_bytes()));
    if let Some(vmodel) = &subject.vmodel {
        to.insert(MM_VMODEL_ID_BIN, encode_bin(vmodel.as_bytes()));
    }
    to.insert(MM_HOP, HeaderValue::from_static(hop.hop));
    if !hop.tried.is_empty()
        && let Ok(value) = HeaderValue::from_str(&hop.tried.join(","))
    {
        to.insert(MM_TRIED, value);
    }
    if let Some(view) = hop.view {
        to.insert(MM_VIEW, HeaderValue::from(view));
    }
    to
}

/// `application/grpc+proto` and friends say how messages are encoded, so the subtype is kept.
fn copy_content_type(from: &HeaderMap, to: &mut HeaderMap) {
    let value = from.get(CONTENT_TYPE).cloned();
    to.insert(CONTENT_TYPE, value.unwrap_or_else(|| HeaderValue::from_static(GRPC)));
}

/// Takes out of an answer what only instances say to each other.
pub fn strip_mesh_headers(answer: &mut HeaderMap) {
    if answer.keys().any(|name| name.as_str().starts_with("mm-")) {
        let names: Vec<_> = answer.keys().filter(|name| name.as_str().starts_with("mm-")).cloned().collect();
        for name in names {
            answer.remove(name);
        }
    }
}

/// The copy of headers that Python sees, in wire form; `te` and other transport headers left out.
#[must_use]
pub fn metadata(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers
        .iter()
        .filter(|(name, _)| **name != TE && !is_transport(name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn fields(headers: &impl Headers) -> Vec<String> {
        let mut fields = Vec::new();
        headers.each(|name, value, _| {
            fields.push(format!("{}={}", str::from_utf8(name).unwrap(), str::from_utf8(value).unwrap()));
        });
        fields
    }

    fn towards_runtime(from: &HeaderMap, model: &str) -> Vec<String> {
        fields(&TowardsRuntime { from, from_bytes: from.list_size(), model, timeout: None, traceparent: None })
    }

    #[test]
    fn the_runtime_sees_the_clients_headers_but_not_ours() {
        let from = map(&[
            ("content-type", "application/grpc+proto"),
            ("te", "trailers"),
            ("user-agent", "grpc-python/1"),
            ("grpc-timeout", "1S"),
            ("grpc-encoding", "gzip"),
            ("grpc-accept-encoding", "gzip"),
            ("grpc-trace-bin", "AAAA"),
            ("mm-balanced", "true"),
            ("mm-hop", "hit"),
            ("mm-vmodel-id", "v"),
            ("tas-model-id", "old"),
            ("tas", "kept"),
            ("user", "kept"),
            ("content", "kept"),
            ("twice", "1"),
            ("twice", "2"),
        ]);
        let mut names = towards_runtime(&from, "m 1");
        names.sort();
        assert_eq!(
            names,
            [
                "content-type=application/grpc+proto",
                "content=kept",
                "grpc-accept-encoding=gzip",
                "grpc-encoding=gzip",
                "mm-model-id-bin=bSAx",
                "mm-model-id=m 1",
                "tas=kept",
                "te=trailers",
                "twice=1",
                "twice=2",
                "user=kept",
            ]
        );
    }

    #[test]
    fn an_id_beyond_ascii_travels_as_bytes_only() {
        let to = towards_runtime(&HeaderMap::new(), "modèle");
        let id = to.iter().filter_map(|field| field.strip_prefix("mm-model-id-bin=")).collect::<Vec<_>>();
        assert!(!to.iter().any(|field| field.starts_with("mm-model-id=")));
        assert_eq!(decode_bin(id[0].as_bytes()).unwrap(), "modèle".as_bytes());
    }

    #[test]
    fn our_deadline_and_our_span_replace_the_clients() {
        let from = map(&[("traceparent", "theirs"), ("grpc-timeout", "9S"), ("x", "y")]);
        let (timeout, span) = (HeaderValue::from_static("1S"), HeaderValue::from_static("ours"));
        let given = |traceparent| {
            let from_bytes = from.list_size();
            let to = TowardsRuntime { from: &from, from_bytes, model: "m", timeout: Some(&timeout), traceparent };
            assert!(to.list_size() <= to.list_size_bound());
            assert_eq!(to.list_size(), fields(&to).iter().map(|field| field.len() - 1 + 32).sum::<usize>());
            fields(&to).into_iter().filter(|field| !field.starts_with("mm-")).collect::<Vec<_>>()
        };
        let rest = ["content-type=application/grpc", "te=trailers"];
        assert_eq!(given(Some(&span)), [&rest[..], &["x=y", "grpc-timeout=1S", "traceparent=ours"]].concat());
        assert_eq!(given(None), [&rest[..], &["traceparent=theirs", "x=y", "grpc-timeout=1S"]].concat());
    }

    #[test]
    fn over_the_hop_the_concrete_id_replaces_every_other() {
        let from = map(&[("mm-vmodel-id", "v"), ("mm-hop", "load"), ("mm-balanced", "true"), ("grpc-timeout", "1S")]);
        let subject = Subject { model: "m1".into(), vmodel: Some("v".into()) };
        let tried = ["i1".to_owned(), "i2".to_owned()];
        let to = towards_peer(&from, &subject, &HopHeaders { hop: "hit", tried: &tried, view: Some(7) });
        assert_eq!(to.get_all(MM_HOP).iter().collect::<Vec<_>>(), ["hit"]);
        assert_eq!(to[MM_TRIED], "i1,i2");
        assert_eq!(to[MM_VIEW], "7");
        assert_eq!(decode_bin(to[MM_MODEL_ID_BIN].as_bytes()).unwrap(), b"m1");
        assert_eq!(decode_bin(to[MM_VMODEL_ID_BIN].as_bytes()).unwrap(), b"v");
        assert_eq!(to["mm-balanced"], "true");
        assert!(!to.contains_key("mm-vmodel-id") && !to.contains_key(GRPC_TIMEOUT));
    }

    #[test]
    fn bin_values_are_read_with_and_without_padding() {
        assert_eq!(decode_bin(b"bQ").unwrap(), b"m");
        assert_eq!(decode_bin(b"bQ==").unwrap(), b"m");
        assert!(decode_bin(b"b*").is_none());
    }
}
