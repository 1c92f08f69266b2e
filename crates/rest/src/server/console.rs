//! The console: a page for people, what it asks, and what it is told as it happens.
//!
//! The page is a part of the library, so that nothing has to be found at run time. What it asks are calls of the client's own
//! (`proto/console.proto`), so its rights are those of whoever looks at it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, VARY};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::sleep;

use super::body::{self, Payload};
use super::calls;
use super::guests::{Client, Turn};
use super::metadata;
use super::refusal::refused;
use crate::fault::Fault;
use crate::proto::{AskRequest, AskResponse, LookRequest, LookResponse};
use crate::route;

pub const PATH: &str = "/console";

/// Pages that are told what happens. Each costs a call a second.
const MOST_PAGES: usize = 16;
const EVERY: Duration = Duration::from_secs(1);
/// Bytes of what a page asks.
const MOST_ASKED: usize = 64 << 10;

const ASK: PathAndQuery = PathAndQuery::from_static("/modelmesh.v1.Console/Ask");
const LOOK: PathAndQuery = PathAndQuery::from_static("/modelmesh.v1.Console/Look");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// Only what comes from here, nothing inside of the page itself, and in no frame of others.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

struct File {
    path: &'static str,
    kind: &'static str,
    content: &'static str,
}

const FILES: [File; 5] = [
    File { path: "/", kind: "text/html; charset=utf-8", content: include_str!("../../console/index.html") },
    File { path: "/app.js", kind: "text/javascript; charset=utf-8", content: include_str!("../../console/app.js") },
    File { path: "/views.js", kind: "text/javascript; charset=utf-8", content: include_str!("../../console/views.js") },
    File { path: "/style.css", kind: "text/css; charset=utf-8", content: include_str!("../../console/style.css") },
    File { path: "/icon.svg", kind: "image/svg+xml", content: include_str!("../../console/icon.svg") },
];

/// Places for the pages that are told what happens.
#[must_use]
pub fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MOST_PAGES))
}

/// Answers a request for what is at `page` below the console's path. `turn`: it is ours until the answer begins.
pub async fn answer(client: &Arc<Client>, head: &Parts, page: &str, body: Incoming, turn: Turn) -> Response<Payload> {
    let answered = match (&head.method, page) {
        (&Method::POST, page) if page.starts_with("/ask/") => ask(client, head, &page[5..], body).await,
        (&Method::GET, "/events") => events(client, head).await,
        (&Method::GET | &Method::HEAD, page) => file(client, head, page).await,
        _ => {
            Err(Fault { allow: Some("GET, HEAD"), ..Fault::new(StatusCode::METHOD_NOT_ALLOWED, "the console is read") })
        }
    };
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

fn whole(status: StatusCode, headers: HeaderMap, body: Vec<u8>) -> Response<Payload> {
    let mut response = Response::new(Payload::new(body, None));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

async fn file(client: &Client, head: &Parts, page: &str) -> Result<Response<Payload>, Fault> {
    let mut headers = HeaderMap::with_capacity(8);
    if page.is_empty() {
        // The page's parts are found relative to it.
        headers.insert(LOCATION, HeaderValue::from_static("console/"));
        return Ok(whole(StatusCode::PERMANENT_REDIRECT, headers, Vec::new()));
    }
    let file = FILES.iter().find(|file| file.path == page);
    let file = file.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, format!("there is nothing at {PATH}{page}")))?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.kind));
    // Asked about each time, so that the page fits to the instance after an upgrade.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    let (headers, body) =
        body::compress(&head.headers, file.content.as_bytes().to_vec(), headers, &client.house.heavy).await?;
    let body = if head.method == Method::HEAD { Vec::new() } else { body };
    Ok(whole(StatusCode::OK, headers, body))
}

async fn ask(client: &Client, head: &Parts, method: &str, body: Incoming) -> Result<Response<Payload>, Fault> {
    let mut purse = client.guest.purse();
    let json = body::read(&head.headers, body, MOST_ASKED, &mut purse, &client.house.heavy).await?;
    let json = String::from_utf8(json.to_vec()).map_err(|_| Fault::bad("the request is no UTF-8"))?;
    let request = AskRequest { method: route::decode(method)?, json };
    let headers = metadata::of(&head.headers, None)?;
    let answer: AskResponse = calls::ask(&client.guest, &ASK, &headers, &request, &mut purse).await?;
    let mut headers = HeaderMap::with_capacity(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    let (headers, body) = body::compress(&head.headers, answer.json.into_bytes(), headers, &client.house.heavy).await?;
    Ok(whole(StatusCode::OK, headers, body))
}

/// Tells a page what happens, until it goes. A page that comes back says what it has seen.
async fn events(client: &Arc<Client>, head: &Parts) -> Result<Response<Payload>, Fault> {
    let place = client.house.console.clone().and_then(|places| places.try_acquire_owned().ok());
    let place = place.ok_or_else(|| {
        let message = format!("{MOST_PAGES} consoles are open at this instance");
        Fault::new(StatusCode::TOO_MANY_REQUESTS, message)
    })?;
    let since = head.headers.get(LAST_EVENT).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let metadata = metadata::of(&head.headers, None)?;
    // The first one decides the status of the answer.
    let first = look(client, &metadata, since.unwrap_or_default()).await?;
    let (to, from) = mpsc::channel(1);
    tokio::spawn(tell(Arc::clone(client), metadata, first, to, place));
    let mut response = Response::new(Payload::Events(from));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

async fn look(client: &Client, metadata: &HeaderMap, since: u64) -> Result<LookResponse, Fault> {
    let mut purse = client.guest.purse();
    calls::ask(&client.guest, &LOOK, metadata, &LookRequest { since }, &mut purse).await
}

async fn tell(
    client: Arc<Client>,
    metadata: HeaderMap,
    first: LookResponse,
    to: mpsc::Sender<Bytes>,
    place: OwnedSemaphorePermit,
) {
    let mut door = client.house.door.clone();
    let mut seen = first;
    loop {
        let told = format!("id: {}\ndata: {}\n\n", seen.last, seen.json);
        // Waits for a page that reads slowly; the connection of one that reads nothing ends, and this with it.
        if to.send(told.into()).await.is_err() {
            break;
        }
        tokio::select! {
            () = sleep(EVERY) => {}
            () = to.closed() => break,
            () = door.drained() => break,
        }
        match look(&client, &metadata, seen.last).await {
            Ok(next) => seen = next,
            Err(fault) => {
                let body = String::from_utf8_lossy(&fault.body()).into_owned();
                let _ = to.send(format!("event: fault\ndata: {body}\n\n").into()).await;
                break;
            }
        }
    }
    drop(place);
}
