//! The OpenAPI 3.1 document, generated from the handlers: every route is in it.

use axum::{Extension, body::Bytes, http::header, response::IntoResponse};
use utoipa::{
    Modify, OpenApi, PartialSchema, ToSchema,
    openapi::{
        Components, Content, ContentBuilder, HeaderBuilder, KnownFormat, ObjectBuilder, Ref, RefOr, Required,
        ResponseBuilder, Server, Type,
        path::{Operation, PathItem},
        schema::{Schema, SchemaFormat},
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::{base_path::BasePath, headers::REQUEST_ID_HEADER, problem};
use crate::content::cid::Cid;

impl PartialSchema for Cid {
    fn schema() -> RefOr<Schema> {
        let cid = ObjectBuilder::new().schema_type(Type::String).description(Some("A CIDv1 in base32"));
        cid.examples(["bafyrcifi5zl5wmkkcjxqmxbyzhq5p2fyhlemoyq"]).into()
    }
}

impl ToSchema for Cid {}

/// The document without routes.
#[derive(OpenApi)]
#[openapi(
    info(title = "storgo", description = "The HTTP API of a storgo node: an encrypted, content-addressed, peer-to-peer file store."),
    components(schemas(problem::Document)),
    modifiers(&Access),
    security(("token" = []), ("session" = [])),
    tags(
        (name = "files", description = "Store, list, read, check and remove files"),
        (name = "uploads", description = "Resumable uploads: tus 1.0 with creation, creation-with-upload, checksum, expiration and termination"),
        (name = "node", description = "Peers, status, events, settings and maintenance"),
        (name = "access", description = "Tokens and browser sessions"),
        (name = "diststore", description = "Endpoints compatible with DistStore"),
    )
)]
pub(super) struct Api;

struct Access;

impl Modify for Access {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let components = openapi.components.get_or_insert_with(Components::new);
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// Responses of every endpoint that needs a token.
const COMMON_RESPONSES: [(&str, &str); 6] = [
    ("400", "Invalid request"),
    ("401", "No valid token or session"),
    ("403", "The scope of the token is not sufficient, or the read key is missing"),
    ("421", "The Host is not a name of this node"),
    ("500", "Error of this node"),
    ("503", "The node is stopping, or it is busy: Retry-After says when to try again"),
];

/// Adds the responses and headers that all endpoints share, the name of this node's session cookie, and the path below
/// which a proxy serves the API.
pub(super) fn finish(openapi: &mut utoipa::openapi::OpenApi, cookie: &str, base: &BasePath) {
    openapi.servers = (!base.0.is_empty()).then(|| vec![Server::new(&*base.0)]);
    let session = ApiKeyValue::with_description(cookie, "Over TLS, the name has the prefix `__Host-`");
    let components = openapi.components.get_or_insert_with(Components::new);
    components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(session)));
    for (path, item) in &mut openapi.paths.paths {
        let needs_token = path.starts_with("/api/") || path == "/metrics";
        let open = ["/api/openapi", "/api/docs"].iter().any(|open| path.starts_with(open));
        let PathItem { get, head, post, patch, delete, options, .. } = item;
        for operation in [get, head, post, patch, delete, options].into_iter().flatten() {
            finish_operation(operation, open || !needs_token);
        }
    }
}

fn finish_operation(operation: &mut Operation, open: bool) {
    let responses = &mut operation.responses.responses;
    if let Some(body) = &mut operation.request_body
        && let RefOr::T(body) = body
    {
        if body.content.contains_key("application/json") {
            let late = ResponseBuilder::new().description("The body did not arrive in time").build();
            responses.entry("408".into()).or_insert(RefOr::T(late));
        }
        body.required = Some(Required::True);
        binary(&mut body.content);
    }
    for (status, description) in COMMON_RESPONSES {
        if !open || status == "421" {
            let response = ResponseBuilder::new().description(description).build();
            responses.entry(status.into()).or_insert(RefOr::T(response));
        }
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else { continue };
        if status.starts_with(['4', '5']) && response.content.is_empty() {
            let schema = Ref::from_schema_name("Problem");
            let content = ContentBuilder::new().schema(Some(schema)).build();
            response.content.insert("application/problem+json".into(), RefOr::T(content));
        }
        binary(&mut response.content);
        if response.description.is_empty() {
            let status = status.parse().ok().and_then(|status| axum::http::StatusCode::from_u16(status).ok());
            let reason = status.and_then(|status| status.canonical_reason()).unwrap_or_default();
            reason.clone_into(&mut response.description);
        }
        let id = HeaderBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::String)));
        let id = id.description(Some("The id of this request")).build();
        response.headers.insert(REQUEST_ID_HEADER.into(), RefOr::T(id));
    }
}

/// Describes binary bodies as such: a `Vec<u8>` is an array of numbers to utoipa.
fn binary<'a>(contents: impl IntoIterator<Item = (&'a String, &'a mut RefOr<Content>)>) {
    for (kind, content) in contents {
        if let RefOr::T(content) = content
            && kind.ends_with("octet-stream")
        {
            let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
            let bytes = ObjectBuilder::new().schema_type(Type::String).format(Some(format));
            content.schema = Some(bytes.into());
        }
    }
}

/// The document as JSON.
#[derive(Clone)]
pub(super) struct Document(pub(super) Bytes);

/// Returns this document.
#[utoipa::path(get, path = "/api/openapi.json", tag = "node", security(()),
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = serde_json::Value)))]
pub(super) async fn document(Extension(Document(json)): Extension<Document>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], json)
}
