//! One request, from its head to its answer.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING, VARY,
};
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use modelmesh_core::Purse;
use tokio::sync::mpsc;

use super::body::{self, Payload};
use super::calls;
use super::console;
use super::generation::Generation;
use super::guests::Client;
use super::malformed;
use super::metadata;
use super::names::Kind;
use super::pages;
use super::refusal::{FALLBACK, refused};
use crate::answer::{self, Wanted};
use crate::describe;
use crate::fault::Fault;
use crate::listing::{self, Of, Page};
use crate::openapi;
use crate::options::{self, Options};
use crate::origins::{self, Verdict};
use crate::proto::{
    ListRequest, ListResponse, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelStatus,
    ModelStatusInfo, RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelRequest, ServerMetadataResponse,
    ServerReadyResponse, StatusRequest,
};
use crate::request;
use crate::route::{self, Match, Operation};
use crate::v1;

/// Bytes of a body that says little.
const MOST_OPTIONS: usize = 64 << 10;
const JSON_BYTES: HeaderName = HeaderName::from_static("inference-header-content-length");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const BINARY: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// What is answered with 200.
enum Good {
    /// `json_bytes`: of a body that is not JSON alone.
    Whole {
        body: Vec<u8>,
        json_bytes: Option<usize>,
    },
    Events(mpsc::Receiver<Bytes>),
}

impl Good {
    fn json(body: Vec<u8>) -> Self {
        Self::Whole { body, json_bytes: None }
    }
}

/// Answers one request.
pub async fn answer(client: &Arc<Client>, request: Request<Incoming>) -> Response<Payload> {
    let turn = client.our_turn();
    let mut purse = client.guest.purse();
    let is_head = request.method() == Method::HEAD;
    let (head, body) = request.into_parts();
    let verdict = client.house.origins.judge(&head.headers, head.uri.authority());
    let preflight = head.method == Method::OPTIONS && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if let Some(page) = head.uri.path().strip_prefix(console::PATH)
        && client.house.console.is_some()
        && !matches!(verdict, Verdict::Strange)
    {
        return console::answer(client, &head, page, body, turn).await;
    }
    if !matches!(verdict, Verdict::Strange) {
        let docs = head.uri.path().strip_prefix(pages::DOCS).filter(|page| page.is_empty() || page.starts_with('/'));
        if let Some(page) = docs.or(pages::is_of_a_browser(&head).then_some("")) {
            return pages::docs(client, &head, page, turn).await;
        }
    }
    let mut fallback = None;
    let answered = match &verdict {
        Verdict::Strange => {
            Err(Fault::new(StatusCode::FORBIDDEN, "pages of this origin may not call (MM_REST_ORIGINS)"))
        }
        Verdict::Named(_) if preflight => Ok(Good::json(Vec::new())),
        _ => {
            let mut exchange = Exchange { client, headers: &head.headers, purse: &mut purse, fallback: None };
            let answered = exchange.run(&head.method, &head.uri, body).await;
            fallback = exchange.fallback;
            answered
        }
    };
    drop(turn);
    let mut events = None;
    let (mut status, mut headers, body) = match answered {
        Ok(Good::Whole { body, json_bytes }) => written(client, &head.headers, body, json_bytes).await,
        Ok(Good::Events(from)) => {
            events = Some(from);
            (StatusCode::OK, HeaderMap::from_iter([(CONTENT_TYPE, EVENTS), (CACHE_CONTROL, NO_STORE)]), Vec::new())
        }
        Err(fault) => refused(&fault),
    };
    if let Some(model) = fallback {
        headers.insert(FALLBACK, model);
    }
    if let Verdict::Named(origin) = verdict {
        origins::permit(origin, &mut headers);
        if preflight {
            origins::permit_request(&head.headers, &mut headers);
            headers.remove(CONTENT_TYPE);
            status = StatusCode::NO_CONTENT;
        }
    }
    let body = if is_head {
        headers.insert(CONTENT_LENGTH, body.len().into());
        Vec::new()
    } else {
        body
    };
    let payload = match events {
        Some(events) => Payload::Events(events),
        None => {
            let purse = purse.hold(body.len()).then_some(purse);
            Payload::new(body, purse)
        }
    };
    let mut response = Response::new(payload);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

async fn written(
    client: &Client,
    request: &HeaderMap,
    body: Vec<u8>,
    json_bytes: Option<usize>,
) -> (StatusCode, HeaderMap, Vec<u8>) {
    let mut headers = HeaderMap::with_capacity(4);
    match json_bytes {
        None => headers.insert(CONTENT_TYPE, JSON),
        Some(bytes) => {
            headers.insert(JSON_BYTES, bytes.into());
            headers.insert(CONTENT_TYPE, BINARY)
        }
    };
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    match body::compress(request, body, headers, &client.house.heavy).await {
        Ok((headers, body)) => (StatusCode::OK, headers, body),
        Err(fault) => refused(&fault),
    }
}

struct Exchange<'a> {
    client: &'a Arc<Client>,
    headers: &'a HeaderMap,
    purse: &'a mut Purse,
    /// The model that answered in place of the wanted one.
    fallback: Option<HeaderValue>,
}

impl Exchange<'_> {
    async fn run(&mut self, method: &Method, uri: &Uri, body: Incoming) -> Result<Good, Fault> {
        if self.headers.contains_key(TRANSFER_ENCODING) && self.headers.contains_key(CONTENT_LENGTH) {
            // Two readers of such a request may disagree on where it ends.
            return Err(Fault::bad("a request has either Content-Length or Transfer-Encoding"));
        }
        let header_bytes: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        if header_bytes > self.client.house.door.max_header_bytes() {
            return Err(Fault::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, malformed::TOO_LARGE));
        }
        let Match { operation, name, version } = route::find(method, uri.path())?;
        match operation {
            Operation::Root => Ok(Good::json(describe::root(self.client.house.console.is_some()))),
            Operation::ServerLive => Ok(Good::json(b"{\"live\":true}".to_vec())),
            Operation::ServerReady => self.server_ready().await,
            Operation::ServerMetadata => self.server_metadata().await,
            Operation::Models => self.models(uri.query().unwrap_or_default()).await,
            Operation::ModelReady => self.model_ready(name, &version).await,
            Operation::ModelMetadata => self.model_metadata(name, version).await,
            Operation::Infer => self.infer(name, version, body).await,
            Operation::Generate => Ok(Good::json(self.generation(name, version)?.whole(body).await?)),
            Operation::GenerateStream => Ok(Good::Events(self.generation(name, version)?.events(body).await?)),
            Operation::OpenApi => Ok(Good::json(openapi::document())),
            Operation::V1Predict => self.predict(name, version, body).await,
            Operation::RepositoryIndex => self.index(body).await,
            Operation::RepositoryLoad => self.load(name, body).await,
            Operation::RepositoryUnload => self.unload(name, body).await,
        }
    }

    async fn server_ready(&mut self) -> Result<Good, Fault> {
        let headers = metadata::of(self.headers, None)?;
        let guest = &self.client.guest;
        let answer: ServerReadyResponse = calls::ask(guest, &calls::SERVER_READY, &headers, &(), self.purse).await?;
        if answer.ready {
            return Ok(Good::json(b"{\"ready\":true}".to_vec()));
        }
        Err(Fault::unavailable("the instance takes no calls now"))
    }

    async fn server_metadata(&mut self) -> Result<Good, Fault> {
        let headers = metadata::of(self.headers, None)?;
        let guest = &self.client.guest;
        let answer: ServerMetadataResponse =
            calls::ask(guest, &calls::SERVER_METADATA, &headers, &(), self.purse).await?;
        Ok(Good::json(describe::server(&answer)))
    }

    async fn models(&mut self, query: &str) -> Result<Good, Fault> {
        let Page { limit, of, after } = listing::read(query)?;
        let headers = metadata::of(self.headers, None)?;
        let (mut names, mut next) = self.list(of, limit, after, &headers).await?;
        if of == Of::Models && next.is_none() {
            // Vmodels fill the rest of the page; of a full one it is to be known whether they follow.
            let room = limit.saturating_sub(u32::try_from(names.len()).unwrap_or(u32::MAX));
            let (vmodels, after) = self.list(Of::VModels, room.max(1), String::new(), &headers).await?;
            if room > 0 {
                names.extend(vmodels);
                next = after;
            } else if !vmodels.is_empty() || after.is_some() {
                next = Some(listing::vmodels());
            }
        }
        Ok(Good::json(listing::write(&names, next.as_deref())))
    }

    /// Names of a kind after one, and what the next page is called.
    async fn list(
        &mut self,
        of: Of,
        limit: u32,
        after: String,
        headers: &HeaderMap,
    ) -> Result<(Vec<String>, Option<String>), Fault> {
        let path = match of {
            Of::Models => &calls::LIST_MODELS,
            Of::VModels => &calls::LIST_VMODELS,
        };
        let request = ListRequest { page_size: limit, page_token: after };
        let answer: ListResponse = calls::ask(&self.client.guest, path, headers, &request, self.purse).await?;
        let names = answer.entries.into_iter().map(|one| one.id).collect();
        Ok((names, listing::next(of, &answer.next_page_token)))
    }

    /// Whether calls of the model would be answered at once. It is not loaded for that.
    async fn model_ready(&mut self, name: String, version: &str) -> Result<Good, Fault> {
        let headers = metadata::of(self.headers, None)?;
        let status = match calls::kind_of(self.client, &name, &headers, self.purse).await? {
            Kind::VModel => match self.client.house.door.model_of_version(&name, version) {
                Some(model) => self.model_status(model.to_string(), &headers).await?,
                None => {
                    let status = calls::vmodel_status(self.client, &name, &headers, self.purse).await?;
                    status.and_then(|status| status.active).unwrap_or_default()
                }
            },
            Kind::Model => self.model_status(name.clone(), &headers).await?,
        };
        match status.status() {
            ModelStatus::Loaded => Ok(Good::json(describe::done(&name, "ready"))),
            ModelStatus::NotFound => {
                Err(Fault::new(StatusCode::NOT_FOUND, format!("there is no model or vmodel {name:?}")))
            }
            ModelStatus::Loading => Err(Fault::unavailable(format!("{name:?} is being loaded"))),
            ModelStatus::NotLoaded => {
                Err(Fault::unavailable(format!("{name:?} is not loaded; the first call of it loads it")))
            }
            ModelStatus::LoadingFailed => {
                let why = status.errors.first().map_or("the reason is not known", String::as_str);
                Err(Fault::unavailable(format!("{name:?} cannot be loaded: {why}")))
            }
            ModelStatus::Unknown => {
                Err(Fault::unavailable(format!("it cannot be found out now whether {name:?} is ready")))
            }
        }
    }

    async fn model_status(&mut self, id: String, headers: &HeaderMap) -> Result<ModelStatusInfo, Fault> {
        calls::ask(&self.client.guest, &calls::MODEL_STATUS, headers, &StatusRequest { id }, self.purse).await
    }

    async fn model_metadata(&mut self, name: String, version: String) -> Result<Good, Fault> {
        let mut headers = metadata::of(self.headers, None)?;
        let version = calls::version_of(self.client, &name, version, &mut headers, self.purse).await?;
        let message = calls::framed(&ModelMetadataRequest { name: name.clone(), version });
        let (answer, _) =
            calls::call_model(self.client, &calls::MODEL_METADATA, &name, headers, &message, self.purse).await?;
        Ok(Good::json(describe::model(&calls::read::<ModelMetadataResponse>(answer)?)))
    }

    async fn options(&mut self, body: Incoming) -> Result<Options, Fault> {
        options::read(&body::read(self.headers, body, MOST_OPTIONS, self.purse, &self.client.house.heavy).await?)
    }

    async fn index(&mut self, body: Incoming) -> Result<Good, Fault> {
        let request = RepositoryIndexRequest { ready: self.options(body).await?.ready };
        let headers = metadata::of(self.headers, None)?;
        let guest = &self.client.guest;
        let answer: RepositoryIndexResponse =
            calls::ask(guest, &calls::REPOSITORY_INDEX, &headers, &request, self.purse).await?;
        Ok(Good::json(describe::index(&answer.models)))
    }

    async fn load(&mut self, name: String, body: Incoming) -> Result<Good, Fault> {
        if self.options(body).await?.parameters {
            return Err(Fault::bad("a model is loaded as it is registered; there are no parameters"));
        }
        self.change(name, &calls::REPOSITORY_LOAD, "load").await
    }

    /// What its parameters say (`unload_dependents`) makes no difference: nothing depends on a model.
    async fn unload(&mut self, name: String, body: Incoming) -> Result<Good, Fault> {
        self.options(body).await?;
        self.change(name, &calls::REPOSITORY_UNLOAD, "unload").await
    }

    async fn change(&mut self, name: String, path: &PathAndQuery, what: &str) -> Result<Good, Fault> {
        let headers = metadata::of(self.headers, None)?;
        let request = RepositoryModelRequest { name };
        calls::ask::<()>(&self.client.guest, path, &headers, &request, self.purse).await?;
        Ok(Good::json(describe::done(&request.name, what)))
    }

    async fn infer(&mut self, name: String, version: String, body: Incoming) -> Result<Good, Fault> {
        let (message, headers, wanted) = self.read_infer(&name, version, body).await?;
        let (answer, fallback) =
            calls::call_model(self.client, &calls::INFER, &name, headers, &message, self.purse).await?;
        self.fallback = fallback;
        let answer_bytes = answer.len();
        drop(message);
        let write = move || answer::write(calls::read::<ModelInferResponse>(answer)?, &wanted);
        let written = self.client.house.heavy.run(answer_bytes, write).await?;
        Ok(Good::Whole { body: written.body, json_bytes: written.json_bytes })
    }

    fn generation(&mut self, name: String, version: String) -> Result<Generation<'_>, Fault> {
        self.check_kind(false)?;
        Ok(Generation {
            client: self.client,
            headers: self.headers,
            purse: &mut *self.purse,
            fallback: &mut self.fallback,
            name,
            version,
        })
    }

    /// V1: the model is asked what its input is, and then for the answer.
    async fn predict(&mut self, name: String, version: String, body: Incoming) -> Result<Good, Fault> {
        let max_bytes = self.client.house.door.max_message_bytes();
        self.check_kind(false)?;
        let body = body::read(self.headers, body, max_bytes, self.purse, &self.client.house.heavy).await?;
        let mut headers = metadata::of(self.headers, None)?;
        let (client, purse) = (self.client, &mut *self.purse);
        let version = calls::version_of(client, &name, version, &mut headers, purse).await?;
        let asked = calls::framed(&ModelMetadataRequest { name: name.clone(), version: version.clone() });
        let (told, _) =
            calls::call_model(client, &calls::MODEL_METADATA, &name, headers.clone(), &asked, purse).await?;
        let told: ModelMetadataResponse = calls::read(told)?;
        let (heavy, length) = (&client.house.heavy, body.len());
        let (mut request, format) = heavy.run(length, move || v1::read(&body, &told.inputs, max_bytes)).await?;
        name.clone_into(&mut request.model_name);
        request.model_version = version;
        let message = calls::framed(&request);
        let (answer, fallback) = calls::call_model(client, &calls::INFER, &name, headers, &message, purse).await?;
        self.fallback = fallback;
        let length = answer.len();
        Ok(Good::json(heavy.run(length, move || v1::write(calls::read(answer)?, format)).await?))
    }

    /// The call that an infer request becomes. What the request was read from is gone when this returns.
    async fn read_infer(
        &mut self,
        name: &str,
        version: String,
        body: Incoming,
    ) -> Result<(Bytes, HeaderMap, Wanted), Fault> {
        let max_bytes = self.client.house.door.max_message_bytes();
        let json_bytes = self.json_bytes()?;
        let body = body::read(self.headers, body, max_bytes, self.purse, &self.client.house.heavy).await?;
        let length = body.len();
        let read = move || request::read(&body, json_bytes, max_bytes);
        let mut read = self.client.house.heavy.run(length, read).await?;
        let mut headers = metadata::of(self.headers, read.timeout)?;
        name.clone_into(&mut read.message.model_name);
        read.message.model_version = calls::version_of(self.client, name, version, &mut headers, self.purse).await?;
        let message = calls::framed(&read.message);
        if message.len() > max_bytes {
            return Err(crate::json::too_large(max_bytes));
        }
        Ok((message, headers, read.wanted))
    }

    /// How much of the body is JSON, if that is not all of it.
    fn json_bytes(&self) -> Result<Option<usize>, Fault> {
        let json_bytes = match self.headers.get(JSON_BYTES) {
            None => None,
            Some(value) => {
                let bytes = value.to_str().ok().and_then(|text| text.parse().ok());
                Some(bytes.ok_or_else(|| Fault::bad("Inference-Header-Content-Length must be a number of bytes"))?)
            }
        };
        self.check_kind(json_bytes.is_some())?;
        Ok(json_bytes)
    }

    /// # Errors
    /// 415: the body is said to be nothing that is read here.
    fn check_kind(&self, binary: bool) -> Result<(), Fault> {
        let Some(kind) = self.headers.get(CONTENT_TYPE) else { return Ok(()) };
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        // curl -d says the last of them.
        let json = matches!(kind.as_str(), "" | "application/json" | "application/x-www-form-urlencoded");
        if json || kind.ends_with("+json") || (kind == "application/octet-stream" && binary) {
            return Ok(());
        }
        Err(Fault::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Type may be application/json, or application/octet-stream with Inference-Header-Content-Length",
        ))
    }
}
