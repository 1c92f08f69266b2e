//! Pages for people: files that are a part of the library, so that nothing has to be found at run time, and what a browser may do
//! with them. The page to try calls is here; the console has its own module.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, VARY};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::body::{self, Payload};
use super::guests::{Client, Turn};
use super::refusal::refused;
use crate::fault::Fault;

/// Where the page to try calls is.
pub const DOCS: &str = "/docs";

/// Only what comes from here, nothing inside of the page itself, and in no frame of others.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// One file of a page, by its path below that of the page.
pub struct File {
    pub path: &'static str,
    pub kind: &'static str,
    pub content: &'static str,
}

const FILES: [File; 3] = [
    File { path: "/", kind: "text/html; charset=utf-8", content: include_str!("../../docs/index.html") },
    File { path: "/app.js", kind: "text/javascript; charset=utf-8", content: include_str!("../../docs/app.js") },
    File { path: "/style.css", kind: "text/css; charset=utf-8", content: include_str!("../../docs/style.css") },
];

/// What is at `page` below the path of the page to try calls. `turn`: it is ours until the answer begins.
pub async fn docs(client: &Client, head: &Parts, page: &str, turn: Turn) -> Response<Payload> {
    let answered = match head.method {
        Method::GET | Method::HEAD => file(client, head, &FILES, DOCS, page).await,
        _ => Err(only_read()),
    };
    let mut response = finish(answered, turn);
    if is_of_a_browser(head) {
        // The root may become something else.
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    }
    response
}

/// Whether a person asks for the root: browsers say that they show pages.
pub fn is_of_a_browser(head: &Parts) -> bool {
    let accepts = head.headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok());
    head.method == Method::GET && head.uri.path() == "/" && accepts.is_some_and(|kinds| kinds.contains("text/html"))
}

/// # Errors
/// 405: a page is read.
pub fn only_read() -> Fault {
    Fault { allow: Some("GET, HEAD"), ..Fault::new(StatusCode::METHOD_NOT_ALLOWED, "a page is read") }
}

/// The answer of a page, with what browsers must know about it.
pub fn finish(answered: Result<Response<Payload>, Fault>, turn: Turn) -> Response<Payload> {
    drop(turn);
    let mut response = answered.unwrap_or_else(|fault| {
        let (status, headers, body) = refused(&fault);
        whole(status, headers, body)
    });
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("content-security-policy"), HeaderValue::from_static(POLICY));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

pub fn whole(status: StatusCode, headers: HeaderMap, body: Vec<u8>) -> Response<Payload> {
    let mut response = Response::new(Payload::new(body, None));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// One of the files of the page at `base`; without a path, the way to it.
pub async fn file(
    client: &Client,
    head: &Parts,
    files: &[File],
    base: &'static str,
    page: &str,
) -> Result<Response<Payload>, Fault> {
    let mut headers = HeaderMap::with_capacity(8);
    if page.is_empty() {
        // The page's parts are found relative to it.
        let to = HeaderValue::from_str(&format!("{}/", base.trim_start_matches('/')));
        headers.extend(to.map(|to| (LOCATION, to)));
        return Ok(whole(StatusCode::PERMANENT_REDIRECT, headers, Vec::new()));
    }
    let file = files.iter().find(|file| file.path == page);
    let file = file.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, format!("there is nothing at {base}{page}")))?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.kind));
    // Asked about each time, so that the page fits to the instance after an upgrade.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    let content = file.content.as_bytes().to_vec();
    let (headers, body) = body::compress(&head.headers, content, headers, &client.house.heavy).await?;
    let body = if head.method == Method::HEAD { Vec::new() } else { body };
    Ok(whole(StatusCode::OK, headers, body))
}
