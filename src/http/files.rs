//! `/files`: list, describe, check, repair and remove files.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use utoipa::{
    IntoParams, ToSchema,
    openapi::{
        ObjectBuilder, Required, Type,
        path::{Parameter, ParameterBuilder, ParameterIn},
    },
};

use super::{
    auth::{Caller, Scope},
    extract::{JsonBody, NoParams, PathParam, QueryParams, boolean},
    headers::KEY_HEADER,
    problem::Problem,
};
use crate::{
    content::{link::LinkError, secret::Key},
    node::{
        HealthFilter, ListOptions, Node, Reference, Sort,
        report::{
            BlockList, EntryList, FileInfo, FileList, HealthReport, Placement, RemoveReport, RepairReport,
            VerifyReport,
        },
    },
};

/// Maximum time that a request waits for an announcement.
const MAX_WAIT: Duration = Duration::from_secs(300);

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// The `next` of the previous page.
    cursor: Option<String>,
    /// Maximum number of files on the page. Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Only files whose name contains this text, ignoring case.
    q: Option<String>,
    /// `ok`: only kept files with all their blocks on this disk. `damaged`: only kept files that lack blocks. Both check
    /// every block of every file.
    #[serde(default)]
    #[param(inline)]
    health: HealthFilter,
    /// The order of the files.
    #[serde(default)]
    #[param(inline)]
    sort: Sort,
    /// The direction of sorting.
    #[serde(default)]
    #[param(inline)]
    order: Order,
}

#[derive(Default, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Order {
    #[default]
    Asc,
    Desc,
}

fn page_size(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(100) {
        limit @ 1..=1000 => Ok(limit),
        _ => Err(Problem::bad_request(
            "invalid value of query parameter `limit`: expected an integer from 1 to 1000",
            "request further pages with `cursor`",
        )),
    }
}

/// Lists files, page by page.
#[utoipa::path(get, path = "/files", tag = "files", params(ListQuery), responses((status = 200, body = FileList)))]
pub(super) async fn list(
    State(node): State<Node>,
    Extension(caller): Extension<Caller>,
    QueryParams(query): QueryParams<ListQuery>,
) -> Result<Json<FileList>, Problem> {
    let options = ListOptions {
        cursor: query.cursor,
        limit: page_size(query.limit)?,
        query: query.q,
        health: query.health,
        sort: query.sort,
        descending: query.order == Order::Desc,
    };
    let mut list = node.list(options).await?;
    list.files.iter_mut().for_each(|info| hide_links(&caller, info));
    Ok(Json(list))
}

/// The file that a path names as `{reference}`, with the read key from the headers.
pub(super) struct FileRef(pub(super) Reference);

impl<S: Send + Sync> FromRequestParts<S> for FileRef {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let PathParam(text) = PathParam::<String>::from_request_parts(parts, state).await?;
        let key = parts.headers.get(KEY_HEADER).map(|value| parse_key(value.as_bytes())).transpose()?;
        Ok(Self(Reference::new(&text, key)))
    }
}

impl IntoParams for FileRef {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let param = |name: &str, place, required, description: &str| {
            let text = ObjectBuilder::new().schema_type(Type::String);
            let param = ParameterBuilder::new().name(name).parameter_in(place).required(required);
            param.description(Some(description)).schema(Some(text)).build()
        };
        let (reference, key) =
            ("CID, or name of a file on this node", "Read key in base64url, if this node does not know it");
        vec![
            param("reference", ParameterIn::Path, Required::True, reference),
            param(KEY_HEADER, ParameterIn::Header, Required::False, key),
        ]
    }
}

fn parse_key(text: &[u8]) -> Result<Key, Problem> {
    BASE64URL_NOPAD
        .decode(text)
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .map(Key::new)
        .ok_or_else(|| {
            let hint = "send the part of a link after #, up to a slash: 43 characters";
            Problem::bad_request("invalid Storgo-Key: expected 32 bytes in base64url", hint)
        })
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InfoQuery {
    /// Also search for the peers that provide the file.
    #[serde(default, deserialize_with = "boolean")]
    providers: bool,
    /// Path of an entry inside this folder: names separated by slashes.
    path: Option<String>,
}

/// Describes a file or folder.
///
/// `link` needs the scope `write`. Of a folder, the first 10,000 entries are listed; if there are more, `entries_next` is
/// the cursor for `GET /files/{reference}/entries`.
#[utoipa::path(method(get, head), path = "/files/{reference}", tag = "files", params(FileRef, InfoQuery),
    responses((status = 200, body = FileInfo), (status = 404), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn info(
    State(node): State<Node>,
    FileRef(reference): FileRef,
    QueryParams(query): QueryParams<InfoQuery>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<FileInfo>, Problem> {
    let mut info = node.info(&reference.at(query.path), query.providers).await?;
    hide_links(&caller, &mut info);
    Ok(Json(info))
}

/// Removes links for callers without the scope `write`: a link outlives the token.
fn hide_links(caller: &Caller, info: &mut FileInfo) {
    if caller.scope < Scope::Write {
        info.link = None;
        info.entries.iter_mut().flatten().for_each(|entry| entry.link.clear());
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EntriesQuery {
    /// The `entries_next` of the folder, or the `next` of the previous page.
    cursor: Option<u64>,
    /// Maximum number of entries on the page. Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Path of an entry inside this folder: names separated by slashes.
    path: Option<String>,
}

/// Lists the entries of a folder by name, page by page. `link` is empty without the scope `write`.
#[utoipa::path(get, path = "/files/{reference}/entries", tag = "files", params(FileRef, EntriesQuery),
    responses((status = 200, body = EntryList), (status = 404), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn entries(
    State(node): State<Node>,
    FileRef(reference): FileRef,
    QueryParams(query): QueryParams<EntriesQuery>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<EntryList>, Problem> {
    let limit = page_size(query.limit)?;
    let mut list = node.entries(&reference.at(query.path), query.cursor.unwrap_or(0), limit).await?;
    if caller.scope < Scope::Write {
        list.entries.iter_mut().for_each(|entry| entry.link.clear());
    }
    Ok(Json(list))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WaitQuery {
    /// Maximum number of seconds to wait until the file is announced. At most 300 count.
    #[serde(default)]
    #[param(minimum = 0)]
    wait: f64,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BlocksQuery {
    /// The `next` of the previous page.
    cursor: Option<u64>,
    /// Maximum number of blocks on the page. Default: 100.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Also count the nodes that have each block: providers of the file and connected peers are asked.
    #[serde(default, deserialize_with = "boolean")]
    holders: bool,
    /// Path of an entry inside this folder: names separated by slashes.
    path: Option<String>,
}

/// Lists the blocks of a file in order, and whether this node has them.
#[utoipa::path(get, path = "/files/{reference}/blocks", tag = "files", params(FileRef, BlocksQuery),
    responses((status = 200, body = BlockList), (status = 404), (status = 422), (status = 502)))]
pub(super) async fn blocks(
    State(node): State<Node>,
    FileRef(reference): FileRef,
    QueryParams(query): QueryParams<BlocksQuery>,
) -> Result<Json<BlockList>, Problem> {
    let limit = page_size(query.limit)?;
    let cursor = query.cursor.unwrap_or(0);
    let reference = reference.at(query.path);
    Ok(Json(if query.holders {
        node.block_holders(&reference, cursor, limit).await?
    } else {
        node.blocks(&reference, cursor, limit).await?
    }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HealthQuery {
    /// Path of an entry inside this folder: names separated by slashes.
    path: Option<String>,
}

/// Reports which blocks of a file this node has, which nodes have the others, and how many nodes may be lost.
///
/// Peers are asked during the request. Blocks are not read; `verify` does that.
#[utoipa::path(get, path = "/files/{reference}/health", tag = "files", params(FileRef, HealthQuery),
    responses((status = 200, body = HealthReport), (status = 404), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn health(
    State(node): State<Node>,
    FileRef(reference): FileRef,
    QueryParams(query): QueryParams<HealthQuery>,
) -> Result<Json<HealthReport>, Problem> {
    Ok(Json(node.health(&reference.at(query.path)).await?))
}

/// Keeps a file that was only read. Blocks that are not here are fetched. No effect on a file that is kept.
#[utoipa::path(post, path = "/files/{reference}/keep", tag = "files", params(FileRef),
    responses((status = 200, body = FileInfo), (status = 403), (status = 404), (status = 422), (status = 502), (status = 504),
        (status = 507)))]
pub(super) async fn keep(
    State(node): State<Node>,
    FileRef(reference): FileRef,
    QueryParams(NoParams {}): QueryParams<NoParams>,
) -> Result<Json<FileInfo>, Problem> {
    Ok(Json(node.keep(&reference).await?))
}

/// Fetches the missing blocks of a kept file from peers.
#[utoipa::path(post, path = "/files/{reference}/repair", tag = "files", params(FileRef),
    responses((status = 200, body = RepairReport), (status = 404), (status = 422), (status = 502), (status = 507)))]
pub(super) async fn repair(
    State(node): State<Node>,
    FileRef(reference): FileRef,
    QueryParams(NoParams {}): QueryParams<NoParams>,
) -> Result<Json<RepairReport>, Problem> {
    Ok(Json(node.repair(Some(&reference)).await?))
}

/// Reports whether a file has been announced to the network.
#[utoipa::path(get, path = "/files/{reference}/placement", tag = "files", params(FileRef, WaitQuery),
    responses((status = 200, body = Placement), (status = 404), (status = 502)))]
pub(super) async fn placement(
    State(node): State<Node>,
    FileRef(reference): FileRef,
    QueryParams(query): QueryParams<WaitQuery>,
) -> Result<Json<Placement>, Problem> {
    let wait = Duration::try_from_secs_f64(query.wait).map_err(|_| {
        let hint = "pass a number of seconds up to 300";
        Problem::bad_request("invalid value of query parameter `wait`: expected a number of at least 0", hint)
    })?;
    Ok(Json(node.placement(&reference, wait.min(MAX_WAIT)).await?))
}

/// Removes a file from this node. Blocks that no other file needs are collected later.
#[utoipa::path(delete, path = "/files/{reference}", tag = "files", params(FileRef),
    responses((status = 200, body = RemoveReport), (status = 404)))]
pub(super) async fn remove(
    State(node): State<Node>,
    FileRef(reference): FileRef,
    QueryParams(NoParams {}): QueryParams<NoParams>,
) -> Result<Json<RemoveReport>, Problem> {
    Ok(Json(node.remove(&reference).await?))
}

/// Reads and checks every block of a file. Damaged blocks are fetched from peers.
#[utoipa::path(post, path = "/files/{reference}/verify", tag = "files", params(FileRef),
    responses((status = 200, body = VerifyReport), (status = 404), (status = 422), (status = 502), (status = 504)))]
pub(super) async fn verify(
    State(node): State<Node>,
    FileRef(reference): FileRef,
    QueryParams(NoParams {}): QueryParams<NoParams>,
) -> Result<Json<VerifyReport>, Problem> {
    Ok(Json(node.verify(Some(&reference)).await?))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenBody {
    /// The link: `storgo://<cid>#<key>`.
    link: String,
}

/// Adds a file to this node by its link, so that it can be read here by its CID.
#[utoipa::path(post, path = "/links/open", tag = "files", request_body = OpenBody,
    responses((status = 200, body = FileInfo), (status = 404), (status = 413), (status = 415), (status = 422),
        (status = 502), (status = 504)))]
pub(super) async fn open_link(
    State(node): State<Node>,
    JsonBody(body): JsonBody<OpenBody>,
) -> Result<Json<FileInfo>, Problem> {
    let link = body.link.trim().parse().map_err(|error| {
        let detail = match error {
            LinkError::Key => "invalid link: the part after # is not a read key",
            _ => "invalid link",
        };
        Problem::bad_request(detail, "pass a complete link: storgo://<cid>#<key>")
    })?;
    Ok(Json(node.open_link(&link).await?))
}
