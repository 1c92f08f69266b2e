//! Pages of the names that are registered: models first, then vmodels.

use crate::fault::Fault;
use crate::json::{write_key, write_list, write_string};
use crate::route::decode;

/// Names on a page: by default, and at most.
const USUAL: u32 = 100;
const MOST: u32 = 1000;

/// Which page is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    pub limit: u32,
    pub of: Of,
    /// Names after this one.
    pub after: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Models,
    VModels,
}

impl Of {
    /// Begins what a page is called.
    fn prefix(self) -> &'static str {
        match self {
            Self::Models => "models:",
            Self::VModels => "vmodels:",
        }
    }
}

/// Reads `limit` and `page` of a query; other keys say nothing.
///
/// # Errors
/// 400: a value that is none.
pub fn read(query: &str) -> Result<Page, Fault> {
    let mut page = Page { limit: USUAL, of: Of::Models, after: String::new() };
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value)?;
        match key {
            "limit" => {
                page.limit = value
                    .parse()
                    .ok()
                    .filter(|limit| (1..=MOST).contains(limit))
                    .ok_or_else(|| Fault::bad(format!("limit may be 1 to {MOST}")))?;
            }
            "page" if !value.is_empty() => {
                let of = [Of::Models, Of::VModels].into_iter().find(|of| value.starts_with(of.prefix()));
                page.of = of.ok_or_else(|| Fault::bad("page may be what an answer says under next"))?;
                value[page.of.prefix().len()..].clone_into(&mut page.after);
            }
            _ => {}
        }
    }
    Ok(page)
}

/// What the page is called at which the list goes on; None: it does not. `after`: where those of this kind go on, if they do.
#[must_use]
pub fn next(of: Of, after: &str) -> Option<String> {
    (!after.is_empty()).then(|| format!("{}{after}", of.prefix()))
}

/// What the first page of vmodels is called.
#[must_use]
pub fn vmodels() -> String {
    Of::VModels.prefix().to_owned()
}

/// Writes a page.
#[must_use]
pub fn write(names: &[String], next: Option<&str>) -> Vec<u8> {
    let mut to = b"{\"models\":".to_vec();
    write_list(names, &mut to, |name, to| write_string(name, to));
    if let Some(next) = next {
        write_key("next", &mut to);
        write_string(next, &mut to);
    }
    to.push(b'}');
    to
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn pages_lead_from_models_to_vmodels_and_to_an_end() {
        let page = |query: &str| read(query).map_err(|fault| fault.status.as_u16());
        let of = |limit, of, after: &str| Ok(Page { limit, of, after: after.into() });
        assert_eq!(page(""), of(100, Of::Models, ""));
        assert_eq!(page("limit=7&x=%31"), of(7, Of::Models, ""));
        assert_eq!(page("page=models:a%2Fb&limit=1000"), of(1000, Of::Models, "a/b"));
        assert_eq!(page("page=vmodels%3A"), of(100, Of::VModels, ""));
        for wrong in ["limit=0", "limit=1001", "limit=x", "limit", "page=x", "page=%ff"] {
            assert_eq!(page(wrong), Err(400), "{wrong}");
        }
        let written =
            |next: Option<String>| serde_json::from_slice::<Value>(&write(&["a".into()], next.as_deref())).unwrap();
        assert_eq!(written(next(Of::Models, "a")), json!({"models": ["a"], "next": "models:a"}));
        assert_eq!(written(next(Of::VModels, "v")), json!({"models": ["a"], "next": "vmodels:v"}));
        assert_eq!(written(next(Of::VModels, "")), json!({"models": ["a"]}));
        assert_eq!(
            read(&format!("page={}", vmodels())),
            Ok(Page { limit: 100, of: Of::VModels, after: String::new() })
        );
    }
}
