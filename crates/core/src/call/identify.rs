//! Whose call is this: a service that Python answers, or inference of some model?
//!
//! Id rules: the headers in order of precedence, and the errors that the old system gave.

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use crate::call::priority::Priority;
use crate::call::subject::{Hop, Subject};
use crate::wire::headers::{MM_MODEL_ID, MM_MODEL_ID_BIN, MM_VMODEL_ID, MM_VMODEL_ID_BIN, TAS_MODEL_ID, decode_bin};
use crate::wire::status::{Code, Status};

/// Ids as a client named them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ids {
    Model(String),
    VModel(String),
    /// At least two, all of one kind, in header order.
    Many {
        ids: Vec<String>,
        vmodels: bool,
    },
}

fn invalid(message: &'static str) -> Status {
    Status::new(Code::InvalidArgument, message)
}

/// No model or vmodel is registered under a longer id, in characters.
const LONGEST_ID: usize = 2048;
/// Ids of one call. Each is a call of its own, and each may be a miss.
const MOST_IDS: usize = 1000;

/// Reads from headers what a client's call is about, and its class.
///
/// # Errors
/// As `ids_of`, and a class that there is not.
pub fn read(headers: &HeaderMap) -> Result<(Ids, Priority), Status> {
    if let Some(value) = only_model_id(headers) {
        return one_id(value.as_bytes(), false, false).map(|id| (Ids::Model(id), Priority::Normal));
    }
    let ids = ids_of(headers)?;
    Ok((ids, Priority::claimed(headers)?))
}

/// Reads the ids a client named in headers.
///
/// # Errors
/// None, two kinds, too many, an empty or endless one, or one that is not UTF-8: INVALID_ARGUMENT, with
/// the old texts where the old system had one.
fn ids_of(headers: &HeaderMap) -> Result<Ids, Status> {
    let model = one_kind(headers, MM_MODEL_ID, MM_MODEL_ID_BIN);
    let vmodel = one_kind(headers, MM_VMODEL_ID, MM_VMODEL_ID_BIN);
    let (values, vmodels) = match (model, vmodel) {
        (Some(_), Some(_)) => return Err(invalid("must include only one of model id and vmodel id")),
        (Some(values), None) => (values, false),
        (None, Some(values)) => (values, true),
        (None, None) if headers.contains_key(TAS_MODEL_ID) => {
            (Values { headers, name: TAS_MODEL_ID, encoded: false }, false)
        }
        (None, None) => return Err(invalid("must include mm-model-id header")),
    };
    let mut all = values.read(vmodels);
    let first = all.next().unwrap_or_else(|| Err(invalid("must include mm-model-id header")))?;
    match all.next() {
        None if vmodels => Ok(Ids::VModel(first)),
        None => Ok(Ids::Model(first)),
        Some(second) => {
            let more = all.take(MOST_IDS - 1);
            let ids: Vec<_> = [Ok(first), second].into_iter().chain(more).collect::<Result<_, _>>()?;
            if ids.len() > MOST_IDS {
                let message = format!("a call may name at most {MOST_IDS} models");
                return Err(Status::new(Code::InvalidArgument, message));
            }
            Ok(Ids::Many { ids, vmodels })
        }
    }
}

/// The value of `mm-model-id`, if it is there once and no other header has an id or a class, as in nearly all calls. One look at
/// all names costs less than looking six of them up.
fn only_model_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut found = None;
    for (name, value) in headers {
        let text = name.as_str();
        let is_other = text.starts_with("mm-vmodel-id")
            || text == "mm-model-id-bin"
            || text == "tas-model-id"
            || text == "mm-priority";
        if is_other || (text == "mm-model-id" && found.replace(value).is_some()) {
            return None;
        }
    }
    found
}

/// Whether a client named a model in headers, well or badly.
#[must_use]
pub fn names_a_model(headers: &HeaderMap) -> bool {
    [MM_MODEL_ID, MM_MODEL_ID_BIN, MM_VMODEL_ID, MM_VMODEL_ID_BIN, TAS_MODEL_ID]
        .iter()
        .any(|name| headers.contains_key(name))
}

/// Values of one header name, that has at least one.
struct Values<'a> {
    headers: &'a HeaderMap,
    name: HeaderName,
    encoded: bool,
}

/// The `-bin` form counts only where the plain one is absent.
fn one_kind(headers: &HeaderMap, plain: HeaderName, bin: HeaderName) -> Option<Values<'_>> {
    if headers.contains_key(&plain) {
        Some(Values { headers, name: plain, encoded: false })
    } else if headers.contains_key(&bin) {
        Some(Values { headers, name: bin, encoded: true })
    } else {
        None
    }
}

impl<'a> Values<'a> {
    fn read(self, vmodels: bool) -> impl Iterator<Item = Result<String, Status>> + 'a {
        let encoded = self.encoded;
        self.headers.get_all(self.name).iter().flat_map(move |value| {
            // Only `-bin` values are joined with commas by gRPC libraries; ids may hold commas.
            value.as_bytes().split(move |byte| encoded && *byte == b',').map(move |part| one_id(part, encoded, vmodels))
        })
    }
}

fn one_id(raw: &[u8], encoded: bool, vmodel: bool) -> Result<String, Status> {
    let bytes = if encoded {
        decode_bin(raw.trim_ascii()).ok_or_else(|| invalid("model id header is not valid base64"))?
    } else {
        raw.to_vec()
    };
    let id = String::from_utf8(bytes).map_err(|_| invalid("model id is not valid UTF-8"))?;
    check_id(&id, vmodel)?;
    Ok(id)
}

/// # Errors
/// INVALID_ARGUMENT: it is empty, or longer than any that is registered.
pub fn check_id(id: &str, vmodel: bool) -> Result<(), Status> {
    if id.is_empty() {
        return Err(invalid(if vmodel {
            "provided vmodel-id header must be non-empty"
        } else {
            "provided model-id header must be non-empty"
        }));
    }
    // Characters are counted only where bytes leave a doubt.
    let length = if id.len() > LONGEST_ID { id.chars().count() } else { 0 };
    if length > LONGEST_ID {
        let what = if vmodel { "vmodel" } else { "model" };
        let message = format!("{what} id has {length} characters, {LONGEST_ID} are allowed");
        return Err(Status::new(Code::InvalidArgument, message));
    }
    Ok(())
}

/// What the hop's headers say, on the peer port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hopped {
    pub hop: Hop,
    pub subject: Subject,
    pub tried: Vec<String>,
    pub view: Option<u64>,
    pub priority: Priority,
}

/// Reads the headers of a forwarded request.
///
/// # Errors
/// INVALID_ARGUMENT if the sender is no instance of ours or speaks another dialect.
pub fn hop_of(headers: &HeaderMap) -> Result<Hopped, Status> {
    let text = |name: &str| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let hop = text("mm-hop")
        .and_then(|text| Hop::parse(text).ok())
        .ok_or_else(|| invalid("the peer port takes forwarded requests only (mm-hop: hit or load)"))?;
    let id =
        |name: &'static str, vmodel| headers.get(name).map(|value| one_id(value.as_bytes(), true, vmodel)).transpose();
    let model =
        id("mm-model-id-bin", false)?.ok_or_else(|| invalid("a forwarded request must carry mm-model-id-bin"))?;
    let vmodel = id("mm-vmodel-id-bin", true)?;
    let tried = text("mm-tried")
        .map(|list| list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect())
        .unwrap_or_default();
    let view = text("mm-view").and_then(|view| view.parse().ok());
    Ok(Hopped { hop, subject: Subject { model, vmodel }, tried, view, priority: Priority::of_hop(headers) })
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;
    use crate::wire::headers::encode_bin;

    fn ids(pairs: &[(&'static str, &str)]) -> Result<Ids, String> {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        read(&map).map(|(ids, _)| ids).map_err(|status| {
            assert_eq!(status.code, Code::InvalidArgument);
            status.message.into_owned()
        })
    }

    #[test]
    fn plain_before_bin_before_legacy() {
        let bin = encode_bin(b"two");
        let bin = bin.to_str().unwrap();
        assert_eq!(ids(&[("mm-model-id-bin", bin), ("mm-model-id", "one")]), Ok(Ids::Model("one".into())));
        assert_eq!(ids(&[("mm-model-id-bin", bin), ("tas-model-id", "old")]), Ok(Ids::Model("two".into())));
        assert_eq!(ids(&[("mm-vmodel-id-bin", bin), ("tas-model-id", "old")]), Ok(Ids::VModel("two".into())));
        assert_eq!(ids(&[("tas-model-id", "old")]), Ok(Ids::Model("old".into())));
        assert_eq!(ids(&[("mm-model-id", "one"), ("tas-model-id", "old")]), Ok(Ids::Model("one".into())));
        assert_eq!(ids(&[("x", "y"), ("mm-model-id", "one"), ("mm-balanced", "true")]), Ok(Ids::Model("one".into())));
    }

    #[test]
    fn a_class_is_read_beside_every_form_of_id() {
        for id in ["mm-model-id", "mm-vmodel-id", "mm-model-id-bin", "tas-model-id"] {
            let said = |class| {
                let headers = [(HeaderName::from_static(id), "YQ"), (HeaderName::from_static("mm-priority"), class)];
                read(&headers.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect())
            };
            assert_eq!(said("high").unwrap().1, Priority::High, "{id}");
            assert_eq!(said("higher").unwrap_err().code, Code::InvalidArgument, "{id}");
        }
        assert_eq!(ids(&[("mm-model-id", "one"), ("mm-priority", "low")]), Ok(Ids::Model("one".into())));
    }

    #[test]
    fn errors_have_the_old_texts() {
        let error = |pairs: &[(&'static str, &str)]| ids(pairs).unwrap_err();
        assert_eq!(error(&[]), "must include mm-model-id header");
        assert_eq!(
            error(&[("mm-model-id", "a"), ("mm-vmodel-id", "b")]),
            "must include only one of model id and vmodel id"
        );
        assert_eq!(error(&[("mm-model-id", "")]), "provided model-id header must be non-empty");
        assert_eq!(error(&[("mm-vmodel-id", "")]), "provided vmodel-id header must be non-empty");
        assert_eq!(error(&[("mm-model-id", "a"), ("mm-model-id", "")]), "provided model-id header must be non-empty");
        assert_eq!(error(&[("tas-model-id", "")]), "provided model-id header must be non-empty");
        assert_eq!(error(&[("mm-model-id-bin", "/w")]), "model id is not valid UTF-8");
        assert_eq!(error(&[("mm-model-id-bin", "?")]), "model id header is not valid base64");
    }

    #[test]
    fn several_ids_keep_their_order_and_only_bin_splits_on_commas() {
        assert_eq!(
            ids(&[("mm-vmodel-id", "b"), ("mm-vmodel-id", "a,c")]),
            Ok(Ids::Many { ids: vec!["b".into(), "a,c".into()], vmodels: true })
        );
        assert_eq!(
            ids(&[("mm-model-id-bin", "Yg==,YQ")]),
            Ok(Ids::Many { ids: vec!["b".into(), "a".into()], vmodels: false })
        );
    }

    #[test]
    fn ids_are_bounded_in_length_and_number() {
        let long = "é".repeat(LONGEST_ID);
        let encode = |id: &str| encode_bin(id.as_bytes()).to_str().unwrap().to_owned();
        assert_eq!(ids(&[("mm-model-id-bin", &encode(&long))]), Ok(Ids::Model(long.clone())));
        let error = ids(&[("mm-vmodel-id-bin", &encode(&(long + "x")))]).unwrap_err();
        assert_eq!(error, "vmodel id has 2049 characters, 2048 are allowed");
        let many = |count| ids(&[("mm-model-id-bin", &vec!["YQ"; count].join(","))]);
        assert!(matches!(many(MOST_IDS), Ok(Ids::Many { ids, .. }) if ids.len() == MOST_IDS));
        assert_eq!(many(MOST_IDS + 1).unwrap_err(), "a call may name at most 1000 models");
        assert_eq!(many(20_000).unwrap_err(), "a call may name at most 1000 models");
    }

    #[test]
    fn a_hop_names_its_concrete_id() {
        let mut map = HeaderMap::new();
        assert!(hop_of(&map).is_err());
        map.insert("mm-hop", HeaderValue::from_static("load"));
        assert!(hop_of(&map).is_err());
        map.insert("mm-model-id-bin", encode_bin("m/é".as_bytes()));
        map.insert("mm-tried", HeaderValue::from_static("i1, i2,"));
        map.insert("mm-view", HeaderValue::from_static("42"));
        map.insert("mm-priority", HeaderValue::from_static("low"));
        let hopped = hop_of(&map).unwrap();
        assert_eq!(hopped.hop, Hop::Load);
        assert_eq!(hopped.subject, Subject { model: "m/é".into(), vmodel: None });
        assert_eq!(hopped.tried, ["i1", "i2"]);
        assert_eq!(hopped.view, Some(42));
        assert_eq!(hopped.priority, Priority::Low);
    }
}
