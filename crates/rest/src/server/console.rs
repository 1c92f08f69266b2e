//! The console: a page for people, what it asks, and what it is told as it happens.
//!
//! The page is a part of the library, so that nothing has to be found at run time. What it asks are calls of the client's own
//! (`proto/console.proto`), so its rights are those of whoever looks at it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, VARY};
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
use super::pages::{self, File};
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
        (&Method::GET | &Method::HEAD, page) => pages::file(client, head, &FILES, PATH, page).await,
        _ => Err(pages::only_read()),
    };
    pages::finish(answered, turn)
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
    Ok(pages::whole(StatusCode::OK, headers, body))
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
