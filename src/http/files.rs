//! `/files`: store, list, look at, check and remove.

use std::time::Duration;

use axum::{Extension, Json, extract::State, http::HeaderMap};
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    Door, KEY_HEADER,
    auth::{Caller, Scope},
    extract::{JsonBody, Params, Segment, flag},
    problem::Problem,
};
use crate::{
    content::{link::LinkError, secret::Key},
    node::{
        ListOptions, Reference, Sort, Whole,
        report::{
            BlockList, DirEntryInfo, EntryList, FileInfo, FileList, HealthReport, Placement, RemoveReport,
            RepairReport, VerifyReport,
        },
    },
};

/// Longest wait of a long poll.
const MAX_WAIT: Duration = Duration::from_secs(300);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// `next` of the page before.
    cursor: Option<String>,
    /// Files on a page, 1 to 1000; 100 where it is not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only names that contain this, letter case aside.
    q: Option<String>,
    /// all; ok: lacking no block here; damaged: kept, with blocks that are not here. Looks for every block of every file.
    #[serde(default)]
    #[param(inline)]
    health: Wholeness,
    /// By what: cid, name, size or created.
    #[serde(default)]
    #[param(inline)]
    sort: By,
    /// asc or desc.
    #[serde(default)]
    #[param(inline)]
    order: Order,
}

/// By what a list is sorted.
#[derive(Default, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum By {
    #[default]
    Cid,
    Name,
    Size,
    Created,
}

/// Which files, by what of them is here.
#[derive(Default, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Wholeness {
    #[default]
    All,
    Ok,
    Damaged,
}

/// Which way.
#[derive(Default, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Order {
    #[default]
    Asc,
    Desc,
}

/// What stands on a page: as much as asked for, within bounds.
fn page_size(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(100) {
        limit @ 1..=1000 => Ok(limit),
        limit => {
            let message = format!("limit: {limit} is not between 1 and 1000");
            Err(Problem::bad_request(message, "ask for the next page by `cursor`"))
        }
    }
}

/// A page of the list of files.
#[utoipa::path(get, path = "/files", tag = "files", params(ListQuery), responses((status = 200, body = FileList)))]
pub(super) async fn list(
    State(door): State<Door>,
    Extension(caller): Extension<Caller>,
    Params(query): Params<ListQuery>,
) -> Result<Json<FileList>, Problem> {
    let sort = match query.sort {
        By::Cid => Sort::Cid,
        By::Name => Sort::Name,
        By::Size => Sort::Size,
        By::Created => Sort::Created,
    };
    let options = ListOptions {
        cursor: query.cursor,
        limit: page_size(query.limit)?,
        query: query.q,
        health: match query.health {
            Wholeness::All => Whole::All,
            Wholeness::Ok => Whole::Ok,
            Wholeness::Damaged => Whole::Damaged,
        },
        sort,
        descending: query.order == Order::Desc,
    };
    let mut list = door.node.list(options).await?;
    list.files.iter_mut().for_each(|info| hide_links(&caller, info));
    Ok(Json(list))
}

/// The file that a path and the key header name.
pub(super) fn reference(text: &str, headers: &HeaderMap) -> Result<Reference, Problem> {
    let key = headers.get(KEY_HEADER).map(|value| parse_key(value.as_bytes())).transpose()?;
    Ok(Reference::new(text, key))
}

fn parse_key(text: &[u8]) -> Result<Key, Problem> {
    BASE64URL_NOPAD
        .decode(text)
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .map(Key::new)
        .ok_or_else(|| {
            let hint = "it is the part of a link behind #: 43 characters";
            Problem::bad_request("the read key is not 32 bytes in base64url", hint)
        })
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InfoQuery {
    /// Also look for who announces it.
    #[serde(default, deserialize_with = "flag")]
    providers: bool,
}

/// What is known of a file. `link` is for the scopes write and admin. Of a folder's entries the first 10,000 are listed;
/// where there are more, `entries_next` is the cursor for `GET /files/{reference}/entries`.
#[utoipa::path(method(get, head), path = "/files/{reference}", tag = "files", params(("reference" = String, Path, description = "CID or name"), InfoQuery, ("storgo-key" = Option<String>, Header, description = "Read key, base64url, where this node does not know it")),
    responses((status = 200, body = FileInfo), (status = 404), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn info(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    Params(query): Params<InfoQuery>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Json<FileInfo>, Problem> {
    let mut info = door.node.info(&reference(&text, &headers)?, query.providers).await?;
    hide_links(&caller, &mut info);
    Ok(Json(info))
}

/// Whoever may only look is shown no link: it can be handed on, and be used when the token is gone.
fn hide_links(caller: &Caller, info: &mut FileInfo) {
    if caller.scope < Scope::Write {
        info.link = None;
        hide_entry_links(caller, info.entries.iter_mut().flatten());
    }
}

fn hide_entry_links<'a>(caller: &Caller, entries: impl IntoIterator<Item = &'a mut DirEntryInfo>) {
    if caller.scope < Scope::Write {
        entries.into_iter().for_each(|entry| entry.link.clear());
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EntriesQuery {
    /// `entries_next` of the folder, or `next` of the page before.
    cursor: Option<u64>,
    /// Entries on a page, 1 to 1000; 100 where it is not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// A page of the entries of a folder, by name. `link` is for the scopes write and admin, and empty for others.
#[utoipa::path(get, path = "/files/{reference}/entries", tag = "files",
    params(("reference" = String, Path, description = "CID or name"), EntriesQuery,
        ("storgo-key" = Option<String>, Header, description = "Read key, base64url, where this node does not know it")),
    responses((status = 200, body = EntryList), (status = 404), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn entries(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    Params(query): Params<EntriesQuery>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Json<EntryList>, Problem> {
    let (reference, limit) = (reference(&text, &headers)?, page_size(query.limit)?);
    let mut list = door.node.entries(&reference, query.cursor.unwrap_or(0), limit).await?;
    hide_entry_links(&caller, &mut list.entries);
    Ok(Json(list))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Seconds to wait for its end.
    #[serde(default)]
    #[param(minimum = 0)]
    wait: f64,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BlocksQuery {
    /// `next` of the page before.
    cursor: Option<u64>,
    /// Blocks on a page, 1 to 1000; 100 where it is not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Also ask the peers that announce the file, and those that are connected, how many nodes have each block.
    #[serde(default, deserialize_with = "flag")]
    holders: bool,
}

/// The blocks of a file, in their order, and whether they are here.
#[utoipa::path(get, path = "/files/{reference}/blocks", tag = "files",
    params(("reference" = String, Path, description = "CID or name"), BlocksQuery),
    responses((status = 200, body = BlockList), (status = 404), (status = 422), (status = 502)))]
pub(super) async fn blocks(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    Params(query): Params<BlocksQuery>,
    headers: HeaderMap,
) -> Result<Json<BlockList>, Problem> {
    let (reference, limit) = (reference(&text, &headers)?, page_size(query.limit)?);
    let cursor = query.cursor.unwrap_or(0);
    Ok(Json(if query.holders {
        door.node.block_holders(&reference, cursor, limit).await?
    } else {
        door.node.blocks(&reference, cursor, limit).await?
    }))
}

/// How well a file is: which blocks are here, which nodes have the others, and how many nodes may be lost. Peers are asked
/// now; bytes are not read.
#[utoipa::path(get, path = "/files/{reference}/health", tag = "files", params(("reference" = String, Path, description = "CID or name")),
    responses((status = 200, body = HealthReport), (status = 404), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn health(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    headers: HeaderMap,
) -> Result<Json<HealthReport>, Problem> {
    Ok(Json(door.node.health(&reference(&text, &headers)?).await?))
}

/// Fetches the blocks of a kept file that are missing here from peers.
#[utoipa::path(post, path = "/files/{reference}/repair", tag = "files", params(("reference" = String, Path, description = "CID or name")),
    responses((status = 200, body = RepairReport), (status = 404), (status = 422), (status = 502), (status = 507)))]
pub(super) async fn repair(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    headers: HeaderMap,
) -> Result<Json<RepairReport>, Problem> {
    Ok(Json(door.node.repair(Some(&reference(&text, &headers)?)).await?))
}

/// How far the announcement of a file is.
#[utoipa::path(get, path = "/files/{reference}/placement", tag = "files", params(("reference" = String, Path, description = "CID or name"), WaitQuery, ("storgo-key" = Option<String>, Header, description = "Read key, base64url, where this node does not know it")),
    responses((status = 200, body = Placement), (status = 404), (status = 502)))]
pub(super) async fn placement(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    Params(query): Params<WaitQuery>,
    headers: HeaderMap,
) -> Result<Json<Placement>, Problem> {
    let wait = Duration::try_from_secs_f64(query.wait).map_err(|_| {
        Problem::bad_request("wait is no number of seconds", "it is not negative, and 300 at most counts")
    })?;
    Ok(Json(door.node.placement(&reference(&text, &headers)?, wait.min(MAX_WAIT)).await?))
}

/// Removes a file from this node. Its blocks go when no other file needs them.
#[utoipa::path(delete, path = "/files/{reference}", tag = "files", params(("reference" = String, Path, description = "CID or name"), ("storgo-key" = Option<String>, Header, description = "Read key, base64url, where this node does not know it")),
    responses((status = 200, body = RemoveReport), (status = 404)))]
pub(super) async fn remove(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    headers: HeaderMap,
) -> Result<Json<RemoveReport>, Problem> {
    Ok(Json(door.node.remove(&reference(&text, &headers)?).await?))
}

/// Reads a file's blocks again and checks them; bad ones are fetched from peers.
#[utoipa::path(post, path = "/files/{reference}/verify", tag = "files", params(("reference" = String, Path, description = "CID or name"), ("storgo-key" = Option<String>, Header, description = "Read key, base64url, where this node does not know it")),
    responses((status = 200, body = VerifyReport), (status = 404), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn verify(
    State(door): State<Door>,
    Segment(text): Segment<String>,
    headers: HeaderMap,
) -> Result<Json<VerifyReport>, Problem> {
    Ok(Json(door.node.verify(Some(&reference(&text, &headers)?)).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenBody {
    /// `storgo://<cid>#<key>`.
    link: String,
}

/// Makes a foreign file readable here, by its link.
#[utoipa::path(post, path = "/links/open", tag = "files", request_body = OpenBody,
    responses((status = 200, body = FileInfo), (status = 404), (status = 413), (status = 415), (status = 422),
        (status = 502), (status = 504)))]
pub(super) async fn open_link(
    State(door): State<Door>,
    JsonBody(body): JsonBody<OpenBody>,
) -> Result<Json<FileInfo>, Problem> {
    let link = body.link.trim().parse().map_err(|error| {
        let message = match error {
            LinkError::Key => "the part of this link behind # is not a read key",
            _ => "this is no link",
        };
        Problem::bad_request(message, "a link looks like storgo://<cid>#<key>: check that all of it is there")
    })?;
    Ok(Json(door.node.open_link(&link).await?))
}
