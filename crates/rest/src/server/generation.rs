//! The generate extension: one answer, or answers as server-sent events while the model makes them.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use hyper::body::Incoming;
use modelmesh_core::{AnswerStream, Purse};
use tokio::sync::mpsc;

use super::body;
use super::calls;
use super::guests::Client;
use super::metadata;
use super::refusal::fault_of;
use crate::fault::Fault;
use crate::generate;
use crate::proto::{ModelMetadataRequest, ModelMetadataResponse};

/// A request to generate.
pub struct Generation<'a> {
    pub client: &'a Arc<Client>,
    pub headers: &'a HeaderMap,
    pub purse: &'a mut Purse,
    /// The model that answers in place of the wanted one.
    pub fallback: &'a mut Option<HeaderValue>,
    pub name: String,
    pub version: String,
}

impl Generation<'_> {
    /// One answer, as JSON.
    ///
    /// # Errors
    /// What the call ended with.
    pub async fn whole(mut self, body: Incoming) -> Result<Vec<u8>, Fault> {
        let (message, metadata) = self.read(body).await?;
        let (answer, fallback) =
            calls::call_model(self.client, &calls::INFER, &self.name, metadata, &message, self.purse).await?;
        *self.fallback = fallback;
        let length = answer.len();
        self.client.house.heavy.run(length, move || generate::write(calls::read(answer)?)).await
    }

    /// The answers as events. The first of them decides the status.
    ///
    /// # Errors
    /// What the call ended with before its first answer, or what the first one says.
    pub async fn events(mut self, body: Incoming) -> Result<mpsc::Receiver<Bytes>, Fault> {
        let (message, metadata) = self.read(body).await?;
        let (first, messages) =
            calls::call_model_stream(self.client, &calls::STREAM_INFER, &self.name, metadata, &message, self.purse)
                .await?;
        *self.fallback = messages.fallback().cloned();
        let (to, from) = mpsc::channel(1);
        if let Some(first) = first {
            let event = generate::event(calls::read(first)?)?;
            tokio::spawn(tell(Arc::clone(self.client), event, messages, to));
        }
        Ok(from)
    }

    /// The call that the request becomes, once the model has said what its inputs are.
    async fn read(&mut self, body: Incoming) -> Result<(Bytes, HeaderMap), Fault> {
        let (client, purse) = (self.client, &mut *self.purse);
        let (max_bytes, heavy) = (client.house.door.max_message_bytes(), &client.house.heavy);
        let body = body::read(self.headers, body, max_bytes, purse, heavy).await?;
        let mut metadata = metadata::of(self.headers, None)?;
        let version = std::mem::take(&mut self.version);
        self.version = calls::version_of(client, &self.name, version, &mut metadata, purse).await?;
        let asked = ModelMetadataRequest { name: self.name.clone(), version: self.version.clone() };
        let asked = calls::framed(&asked);
        let (told, _) =
            calls::call_model(client, &calls::MODEL_METADATA, &self.name, metadata.clone(), &asked, purse).await?;
        let told: ModelMetadataResponse = calls::read(told)?;
        let length = body.len();
        let mut request = heavy.run(length, move || generate::read(&body, &told.inputs, max_bytes)).await?;
        self.name.clone_into(&mut request.model_name);
        self.version.clone_into(&mut request.model_version);
        let message = calls::framed(&request);
        if message.len() > max_bytes {
            return Err(crate::json::too_large(max_bytes));
        }
        Ok((message, metadata))
    }
}

/// Sends event after event. The next answer is received when the one before it has been taken, and the call is cancelled when
/// the client goes.
async fn tell(client: Arc<Client>, first: Vec<u8>, mut messages: AnswerStream, to: mpsc::Sender<Bytes>) {
    let mut event = first;
    // A client that reads nothing is disconnected, because this is not our turn; then the event is not taken.
    while to.send(event.into()).await.is_ok() {
        let mut purse = client.guest.purse();
        let turn = client.our_turn();
        let answer = tokio::select! {
            answer = messages.next(&mut purse) => answer,
            () = to.closed() => return,
        };
        drop(turn);
        let read = |message: Bytes| generate::event(calls::read(message)?);
        event = match answer {
            None => return,
            Some(answer) => match answer.map_err(fault_of).and_then(read) {
                Ok(event) => event,
                Err(fault) => {
                    let _ = to.send(generate::framed(&fault.body()).into()).await;
                    return;
                }
            },
        };
    }
}
