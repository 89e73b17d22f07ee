//! Files for the tests of the store. Their number determines their bytes.

use storgo::{
    content::cid::{Cid, Codec},
    store::{PutMode, RootKind, RootRecord, Store, StoreError, Upload},
};

/// Long enough for a file of its own.
pub(crate) const LONG: usize = 40_000;

/// A block of `len` bytes that depend on `seed`.
pub(crate) fn block(seed: u64, len: usize) -> (Cid, Vec<u8>) {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    (Cid::of(Codec::Raw, &bytes), bytes)
}

/// File number `n`, root first: long and short blocks of its own, and one that it shares with every fourth file.
pub(crate) fn file(n: u64) -> Vec<(Cid, Vec<u8>)> {
    let own = (0..4).map(|part| {
        let seed = n * 16 + part;
        block(
            seed,
            if part % 2 == 0 { 500 } else { LONG + usize::try_from(seed * 7919 % 200_000).expect("small") },
        )
    });
    own.chain([block(u64::MAX - n % 4, LONG)]).collect()
}

/// The record of the root `cid`.
pub(crate) fn record(cid: Cid) -> RootRecord {
    RootRecord {
        cid,
        key: None,
        kind: RootKind::File,
        name: Some("a name".into()),
        size: 1,
        blocks: 1,
        stored_len: 1,
        media_type: None,
        created: 1,
        pinned: true,
        owner: Vec::new(),
        public: false,
    }
}

/// Stores `blocks` as one file, the first of them its root.
pub(crate) fn store(store: &Store, blocks: &[(Cid, Vec<u8>)]) -> Result<(), StoreError> {
    let upload: Upload = store.upload();
    for (cid, bytes) in blocks {
        upload.put(cid, bytes, PutMode::Sealed)?;
    }
    upload.commit(record(blocks[0].0))
}

/// Checks that the store returns the bytes of all blocks.
pub(crate) fn assert_readable(store: &Store, blocks: &[(Cid, Vec<u8>)]) {
    for (cid, bytes) in blocks {
        let read = store.get(cid).expect("readable");
        assert!(
            read.as_ref() == Some(bytes),
            "{cid} is {}",
            if read.is_some() { "wrong" } else { "missing" }
        );
    }
}
