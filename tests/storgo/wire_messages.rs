//! Messages of the transfer protocol: round trips, the schema `proto/transfer.cddl`, limits, and invalid input.

use cddl_cat::{cbor::validate_cbor, context::BasicContext, flatten::flatten_from_str};
use proptest::{collection::vec, option, prelude::*};
use serde_bytes::ByteBuf;
use storgo::{
    content::cid::{Cid, Codec},
    wire::{
        MAX_BLOCK, MAX_CIDS, MAX_MESSAGE, MAX_REGION, MAX_REQUEST, Message, PREFIX_LEN, PutBlock, Request,
        Response, WireError, body_len,
    },
};

fn cid() -> impl Strategy<Value = Cid> {
    (any::<[u8; 20]>(), any::<bool>())
        .prop_map(|(digest, node)| Cid::new(if node { Codec::DagCbor } else { Codec::Raw }, digest))
}

fn block_len() -> impl Strategy<Value = u32> {
    0..=MAX_BLOCK
}

fn bytes(most: usize) -> impl Strategy<Value = ByteBuf> {
    vec(any::<u8>(), 0..=most).prop_map(ByteBuf::from)
}

fn request() -> impl Strategy<Value = Request> {
    let put_block = (cid(), block_len()).prop_map(|(cid, len)| PutBlock { cid, len });
    prop_oneof![
        vec(cid(), 0..=MAX_CIDS).prop_map(|cids| Request::Get { cids }),
        cid().prop_map(|root| Request::Have { root }),
        (cid(), vec(put_block, 0..100), option::of(bytes(100)))
            .prop_map(|(root, blocks, ticket)| Request::Put { root, blocks, ticket }),
        (cid(), bytes(200)).prop_map(|(root, signed)| Request::Release { root, signed }),
        cid().prop_map(|root| Request::Withdraw { root }),
        Just(Request::Status {}),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    let bitmap = bytes(2000).prop_flat_map(|bitmap| {
        let most = u32::try_from(bitmap.len() * 8).expect("few");
        (most.saturating_sub(7)..=most)
            .prop_map(move |blocks| Response::Have { blocks, bitmap: bitmap.clone() })
    });
    prop_oneof![
        (cid(), block_len()).prop_map(|(cid, len)| Response::Block { cid, len }),
        cid().prop_map(|cid| Response::Missing { cid }),
        any::<u32>().prop_map(|retry_after_ms| Response::Busy { retry_after_ms }),
        bitmap,
        Just(Response::Stored {}),
        Just(Response::Released {}),
        Just(Response::Withdrawn {}),
        any::<String>().prop_map(|reason| Response::Refused { reason }),
        (option::of(".{0,16}"), any::<Option<u64>>(), any::<Option<u64>>(), any::<String>()).prop_map(
            |(region, capacity, free, version)| Response::Status { region, capacity, free, version }
        ),
    ]
}

/// The schema of encoded messages: without the additional fields that readers ignore.
fn schema() -> BasicContext {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/proto/transfer.cddl"))
        .expect("the file");
    let closed = text.replace(", * tstr => any", "").replace("{ * tstr => any }", "{}");
    BasicContext::new(flatten_from_str(&closed).expect("valid CDDL"))
}

fn validate(schema: &BasicContext, rule: &str, body: &[u8]) -> Result<(), String> {
    let value = ciborium::from_reader(body).map_err(|e| e.to_string())?;
    validate_cbor(&schema.rules[rule], &value, schema).map_err(|e| e.to_string())
}

/// Returns the message of a frame, and checks its length prefix.
fn body(frame: &[u8]) -> &[u8] {
    let (prefix, body) = frame.split_first_chunk::<PREFIX_LEN>().expect("a prefix");
    assert_eq!(body_len(*prefix, MAX_MESSAGE), Ok(body.len()));
    body
}

#[test]
fn the_schema_with_additional_fields_is_valid() {
    let text = include_str!("../../proto/transfer.cddl");
    let open = BasicContext::new(flatten_from_str(text).expect("valid CDDL"));
    let frame = Request::Status {}.encode().expect("encoded");
    assert_eq!(validate(&open, "message", body(&frame)), Ok(()));
}

#[test]
fn the_schema_check_rejects_invalid_messages() {
    let schema = schema();
    let wrong = serde_cbor::to_vec(&serde_json::json!({"get": {"cids": ["text"]}})).expect("encoded");
    assert!(validate(&schema, "request", &wrong).is_err());
    let more =
        serde_cbor::to_vec(&serde_json::json!({"busy": {"retry_after_ms": 1, "more": 2}})).expect("encoded");
    assert!(validate(&schema, "response", &more).is_err());
}

#[test]
fn unknown_fields_are_ignored() {
    let later = serde_json::json!({"busy": {"retry_after_ms": 1, "reason": ["overloaded", {"since": 3}]}});
    let body = serde_cbor::to_vec(&later).expect("encoded");
    assert_eq!(Response::decode(&body), Ok(Response::Busy { retry_after_ms: 1 }));
}

#[test]
fn an_unknown_kind_is_an_error_with_its_name() {
    let body = serde_cbor::to_vec(&serde_json::json!({"later": {"field": 1}})).expect("encoded");
    assert_eq!(Request::decode(&body), Err(WireError::UnknownKind("later".into())));
    // A kind of the other direction is unknown too.
    let busy = Response::Busy { retry_after_ms: 1 }.encode().expect("encoded");
    let refused = Request::decode(&busy[PREFIX_LEN..]);
    assert_eq!(refused, Err(WireError::UnknownKind("busy".into())));
}

#[test]
fn limits_are_inclusive() {
    let cid = Cid::of(Codec::Raw, b"");
    let get = |count| Request::Get { cids: vec![cid; count] }.encode().expect("encoded");
    assert!(Request::decode(body(&get(MAX_CIDS))).is_ok());
    assert!(matches!(Request::decode(body(&get(MAX_CIDS + 1))), Err(WireError::Fields { kind: "get", .. })));

    let put = PutBlock { cid, len: MAX_BLOCK };
    let put =
        Request::Put { root: cid, blocks: vec![put; MAX_CIDS], ticket: None }.encode().expect("encoded");
    assert!(put.len() < MAX_REQUEST && get(MAX_CIDS).len() < MAX_REQUEST);

    let block = |len| Response::Block { cid, len }.encode().expect("encoded");
    assert!(Response::decode(body(&block(MAX_BLOCK))).is_ok());
    assert!(Response::decode(body(&block(MAX_BLOCK + 1))).is_err());

    let region = |len| {
        let region = Some("é".repeat(len / 2));
        let status = Response::Status { region, capacity: None, free: None, version: String::new() };
        status.encode().expect("encoded")
    };
    assert!(Response::decode(body(&region(MAX_REGION))).is_ok());
    assert!(Response::decode(body(&region(MAX_REGION + 2))).is_err());

    let long = Response::Refused { reason: "x".repeat(MAX_MESSAGE) };
    assert!(matches!(long.encode(), Err(WireError::TooLong { .. })));
    assert!(matches!(body_len([0xff; 4], MAX_MESSAGE), Err(WireError::TooLong { .. })));
    assert!(body_len([0; 4], MAX_MESSAGE).is_err());

    let short = Response::Have { blocks: 9, bitmap: ByteBuf::from([0]) }.encode().expect("encoded");
    assert!(Response::decode(body(&short)).is_err());
}

#[test]
fn the_encoding_of_messages_does_not_change() {
    let cid = Cid::new(Codec::Raw, [7; 20]);
    let hex = |frame: Vec<u8>| data_encoding::HEXLOWER.encode(&frame);
    let cid_hex = format!("581801551114{}", "07".repeat(20));
    let get = Request::Get { cids: vec![cid] }.encode().expect("encoded");
    assert_eq!(hex(get), format!("00000026a163676574a1646369647381{cid_hex}"));
    let block = Response::Block { cid, len: 65536 }.encode().expect("encoded");
    assert_eq!(hex(block), format!("0000002fa165626c6f636ba263636964{cid_hex}636c656e1a00010000"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_request_round_trips_and_matches_the_schema(request in request()) {
        let frame = request.encode().expect("encoded");
        prop_assert_eq!(validate(&schema(), "request", body(&frame)), Ok(()));
        prop_assert_eq!(Request::decode(body(&frame)), Ok(request));
    }

    #[test]
    fn every_response_round_trips_and_matches_the_schema(response in response()) {
        let frame = response.encode().expect("encoded");
        prop_assert_eq!(validate(&schema(), "response", body(&frame)), Ok(()));
        prop_assert_eq!(Response::decode(body(&frame)), Ok(response));
    }

    #[test]
    fn the_decoder_does_not_panic_on_any_bytes(bytes in vec(any::<u8>(), 0..2000)) {
        drop(Request::decode(&bytes));
        drop(Response::decode(&bytes));
    }

    #[test]
    fn the_decoder_does_not_panic_on_damaged_messages(
        request in request(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = request.encode().expect("encoded").split_off(PREFIX_LEN);
        for (at, byte) in damage {
            let at = at.index(body.len());
            body[at] = byte;
        }
        drop(Request::decode(&body));
        drop(Request::decode(&body[..cut.index(body.len())]));
    }
}
