//! The small bodies of requests about the repository.

use jiter::{Jiter, Peek};

use crate::fault::Fault;
use crate::json;

/// What such a body says; an empty one says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Only models that are ready.
    pub ready: bool,
    /// Whether there are parameters.
    pub parameters: bool,
}

/// # Errors
/// 400: it is no object of JSON, or a key has no value of its kind.
pub fn read(body: &[u8]) -> Result<Options, Fault> {
    let mut options = Options::default();
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(options);
    }
    if std::str::from_utf8(body).is_err() {
        return Err(Fault::bad("the body is not JSON: it is not UTF-8"));
    }
    let mut json = Jiter::new(body);
    let fault = |error: jiter::JiterError| json::fault(&error, body);
    let mut key = json.next_object().map_err(fault)?.map(str::to_owned);
    while let Some(name) = key {
        let peek = json.peek().map_err(fault)?;
        let begin = json.current_index();
        match (name.as_str(), peek) {
            ("ready", _) => options.ready = json.next_bool().map_err(fault)?,
            ("parameters", Peek::Object) => {
                json.next_skip().map_err(fault)?;
                let inside = json.slice_to_current(begin);
                options.parameters = inside[1..inside.len() - 1].iter().any(|byte| !byte.is_ascii_whitespace());
            }
            _ => json.next_skip().map_err(fault)?,
        }
        json::check_depth(json.slice_to_current(begin), 1)?;
        key = json.next_key().map_err(fault)?.map(str::to_owned);
    }
    json.finish().map_err(fault)?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_bodies_say_little() {
        let options = |text: &str| read(text.as_bytes()).map_err(|fault| fault.status.as_u16());
        let of = |ready, parameters| Ok(Options { ready, parameters });
        assert_eq!(options(""), of(false, false));
        assert_eq!(options(" {}\n"), of(false, false));
        assert_eq!(options(r#"{"ready":true,"repository":"x"}"#), of(true, false));
        assert_eq!(options(r#"{"parameters":{ }}"#), of(false, false));
        assert_eq!(options(r#"{"parameters":null}"#), of(false, false));
        assert_eq!(options(r#"{"parameters":{"config":"{}"}}"#), of(false, true));
        let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(64), "]".repeat(64));
        for wrong in ["[]", "1", "{", "{\"ready\":1}", "{} {}", "\u{feff}{}", deep.as_str()] {
            assert_eq!(options(wrong), Err(400), "{wrong}");
        }
        assert_eq!(read(b"{\"\xff\":1}").unwrap_err().status.as_u16(), 400);
    }
}
