//! The calls that requests become, on their client's connection to the core.

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use modelmesh_core::{AnswerStream, Code, Guest, Purse, Refused, prefix_of};
use prost::Message;

use super::guests::Client;
use super::metadata;
use super::names::Kind;
use super::refusal::fault_of;
use crate::fault::Fault;
use crate::proto::{StatusRequest, VModelStatusInfo};

pub const INFER: PathAndQuery = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelInfer");
pub const STREAM_INFER: PathAndQuery = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelStreamInfer");
pub const MODEL_METADATA: PathAndQuery = PathAndQuery::from_static("/inference.GRPCInferenceService/ModelMetadata");
pub const SERVER_METADATA: PathAndQuery = PathAndQuery::from_static("/inference.GRPCInferenceService/ServerMetadata");
pub const SERVER_READY: PathAndQuery = PathAndQuery::from_static("/inference.GRPCInferenceService/ServerReady");
pub const REPOSITORY_INDEX: PathAndQuery = PathAndQuery::from_static("/inference.GRPCInferenceService/RepositoryIndex");
pub const REPOSITORY_LOAD: PathAndQuery =
    PathAndQuery::from_static("/inference.GRPCInferenceService/RepositoryModelLoad");
pub const REPOSITORY_UNLOAD: PathAndQuery =
    PathAndQuery::from_static("/inference.GRPCInferenceService/RepositoryModelUnload");
pub const LIST_MODELS: PathAndQuery = PathAndQuery::from_static("/modelmesh.v1.Admin/ListModels");
pub const LIST_VMODELS: PathAndQuery = PathAndQuery::from_static("/modelmesh.v1.Admin/ListVModels");
pub const MODEL_STATUS: PathAndQuery = PathAndQuery::from_static("/mmesh.ModelMesh/getModelStatus");
pub const VMODEL_STATUS: PathAndQuery = PathAndQuery::from_static("/mmesh.ModelMesh/getVModelStatus");

/// A message with its prefix.
#[must_use]
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_slice(&prefix_of(length));
    // The only error is a buffer without room, and this one grows.
    let _ = message.encode(&mut frame);
    frame.freeze()
}

/// Reads a message of an answer.
///
/// # Errors
/// 500: it is none.
pub fn read<M: Message + Default>(answer: Bytes) -> Result<M, Fault> {
    M::decode(answer)
        .map_err(|error| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer cannot be read: {error}")))
}

/// Makes a call and reads its answer.
///
/// # Errors
/// What the call ended with.
pub async fn ask<M: Message + Default>(
    guest: &Guest,
    path: &PathAndQuery,
    headers: &HeaderMap,
    message: &impl Message,
    purse: &mut Purse,
) -> Result<M, Fault> {
    read(guest.call(path, headers, &framed(message), purse).await.map_err(fault_of)?)
}

/// What the name of a path stands for: a vmodel, else a model.
///
/// # Errors
/// It cannot be found out now.
pub async fn kind_of(client: &Client, name: &str, headers: &HeaderMap, purse: &mut Purse) -> Result<Kind, Fault> {
    let house = &client.house;
    if house.door.knows_vmodel(name) {
        return Ok(Kind::VModel);
    }
    if house.names.is_no_vmodel(name) {
        return Ok(Kind::Model);
    }
    match vmodel_status(client, name, headers, purse).await {
        Ok(Some(_)) => Ok(Kind::VModel),
        Ok(None) => Ok(Kind::Model),
        // Who may not ask whether there is such a vmodel may not call it either.
        Err(fault) if fault.status == StatusCode::FORBIDDEN => Ok(Kind::Model),
        // The store is away, say. What is loaded is served all the same.
        Err(_) if house.door.knows_model(name) => Ok(Kind::Model),
        Err(fault) => Err(fault),
    }
}

/// What the version of a path is to the runtime: nothing, if it is a version of the vmodel, which the headers then choose.
///
/// # Errors
/// It cannot be found out now whether the name is that of a vmodel.
pub async fn version_of(
    client: &Client,
    name: &str,
    version: String,
    headers: &mut HeaderMap,
    purse: &mut Purse,
) -> Result<String, Fault> {
    if version.is_empty() || metadata::names_model(headers) {
        return Ok(version);
    }
    let kind = kind_of(client, name, headers, purse).await?;
    if kind == Kind::Model || client.house.door.model_of_version(name, &version).is_none() {
        return Ok(version);
    }
    metadata::choose(headers, &version);
    Ok(String::new())
}

/// The status of a vmodel; None: there is none of this name.
///
/// # Errors
/// It cannot be found out now.
pub async fn vmodel_status(
    client: &Client,
    name: &str,
    headers: &HeaderMap,
    purse: &mut Purse,
) -> Result<Option<VModelStatusInfo>, Fault> {
    let request = StatusRequest { id: name.to_owned() };
    let status: VModelStatusInfo = ask(&client.guest, &VMODEL_STATUS, headers, &request, purse).await?;
    let found = status.status != 0;
    if !found {
        client.house.names.remember(name);
    }
    Ok(found.then_some(status))
}

/// Makes a call about the model that a path names, unless the client names one itself. The answer, and the model that answered
/// in place of the wanted one, if it did.
///
/// # Errors
/// What the call ended with.
pub async fn call_model(
    client: &Client,
    path: &PathAndQuery,
    name: &str,
    mut headers: HeaderMap,
    message: &Bytes,
    purse: &mut Purse,
) -> Result<(Bytes, Option<HeaderValue>), Fault> {
    let guest = &client.guest;
    if metadata::names_model(&headers) {
        return guest.call_model(path, &headers, message, purse).await.map_err(fault_of);
    }
    let kind = named(client, name, &mut headers, purse).await?;
    match guest.call_model(path, &headers, message, purse).await {
        Err(refused) if refused.code == Code::NotFound => {
            renamed(client, name, (kind, refused), &mut headers, purse).await?;
            guest.call_model(path, &headers, message, purse).await.map_err(fault_of)
        }
        answer => answer.map_err(fault_of),
    }
}

/// Says in the headers whose call it is, and returns as what it is called.
async fn named(client: &Client, name: &str, headers: &mut HeaderMap, purse: &mut Purse) -> Result<Kind, Fault> {
    let kind = kind_of(client, name, headers, purse).await?;
    metadata::name(headers, kind, name);
    Ok(kind)
}

/// The name was not found. It may have become another's since it was looked at, which the headers say then.
///
/// # Errors
/// It has not.
async fn renamed(
    client: &Client,
    name: &str,
    (kind, refused): (Kind, Refused),
    headers: &mut HeaderMap,
    purse: &mut Purse,
) -> Result<(), Fault> {
    client.house.names.forget(name);
    metadata::unname(headers);
    if named(client, name, headers, purse).await? == kind { Err(fault_of(refused)) } else { Ok(()) }
}

/// As `call_model`, for an answer of many messages. Returns with the first of them; None: there are none.
///
/// # Errors
/// What the call ended with before its first message.
pub async fn call_model_stream(
    client: &Client,
    path: &PathAndQuery,
    name: &str,
    mut headers: HeaderMap,
    message: &Bytes,
    purse: &mut Purse,
) -> Result<(Option<Bytes>, AnswerStream), Fault> {
    let guest = &client.guest;
    if metadata::names_model(&headers) {
        return guest.call_stream(path, &headers, message, purse).await.map_err(fault_of);
    }
    let kind = named(client, name, &mut headers, purse).await?;
    match guest.call_stream(path, &headers, message, purse).await {
        Err(refused) if refused.code == Code::NotFound => {
            renamed(client, name, (kind, refused), &mut headers, purse).await?;
            guest.call_stream(path, &headers, message, purse).await.map_err(fault_of)
        }
        answer => answer.map_err(fault_of),
    }
}
