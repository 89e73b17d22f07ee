//! What is stored here: list, look at, announce, open, remove.

use std::time::Duration;

use libp2p::PeerId;

use super::{
    Node, Reference,
    error::{ErrorCode, NodeError, Reason},
    lookup::Found,
    read::{ContentKind, Opened},
    report::{DirEntryInfo, EntryList, Event, FileInfo, Placement, RemoveReport},
    unix_micros,
    withdrawals::Outcome,
};
use crate::{
    content::{cid::Cid, link::Link},
    net::NetError,
    store::RootRecord,
};

/// How long `info` gathers providers.
const PROVIDER_SEARCH: Duration = Duration::from_secs(5);
/// Providers that `info` lists at most.
const MAX_PROVIDERS: usize = 100;
/// Entries of a folder that `info` lists at most.
const MAX_ENTRIES: usize = 10_000;

impl Node {
    /// What is known of a file. With `providers`, also who announces it. A file that is not known here is looked for
    /// in the network.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] and [`ErrorCode::Timeout`] where nobody has it.
    pub async fn info(&self, reference: &Reference, providers: bool) -> Result<FileInfo, NodeError> {
        let Found { link, record, namesakes } = self.find(reference).await?;
        let kept = record.as_ref().filter(|record| record.pinned);
        let opened = self.open_found(&link, None).await;
        // Asked after that: opening it may have found its root damaged.
        let missing = self.missing(&link.cid).await?;
        let mut info = match opened {
            Ok(mut opened) => {
                let mut info = opened.describe();
                if opened.kind() == ContentKind::Dir {
                    let listed = page(&mut opened, 0, MAX_ENTRIES).await?;
                    (info.entries, info.entries_next) = (Some(listed.entries), listed.next);
                }
                info
            }
            // What needs no key is answered without one.
            Err(error) if error.code == ErrorCode::Denied => self.keyless(&link.cid).await?,
            Err(error) => match kept {
                // Its root is among what is missing: what is known here is said all the same.
                Some(record) if missing > 0 => describe(record, missing),
                _ => return Err(error),
            },
        };
        if let Some(record) = record {
            info = FileInfo {
                entries: info.entries,
                entries_next: info.entries_next,
                chunker: info.chunker,
                mtime: info.mtime,
                ..describe(&record, missing)
            };
        }
        info.older = (!namesakes.is_empty()).then_some(namesakes.len() as u64);
        if providers {
            info.providers = Some(self.providers(link.cid).await?.iter().map(PeerId::to_string).collect());
        }
        Ok(info)
    }

    /// A page of the entries of a folder: `limit` of them, from number `cursor` on. What stands before them is not read.
    ///
    /// # Errors
    /// As [`Node::open`]; [`ErrorCode::BadRequest`] for a file.
    pub async fn entries(
        &self,
        reference: &Reference,
        cursor: u64,
        limit: usize,
    ) -> Result<EntryList, NodeError> {
        let mut opened = self.open(reference, None).await?;
        if opened.kind() != ContentKind::Dir {
            return Err(NodeError::new(ErrorCode::BadRequest, "this is a file: it has no entries")
                .reason(Reason::NotAFolder)
                .hint("its bytes are its content"));
        }
        page(&mut opened, cursor, limit).await
    }

    /// How many blocks of a file are missing here.
    async fn missing(&self, root: &Cid) -> Result<u64, NodeError> {
        let roots = [*root];
        self.blocking(move |store| Ok(store.missing(&roots)?.first().copied().unwrap_or(0))).await
    }

    pub(super) async fn providers(&self, root: Cid) -> Result<Vec<PeerId>, NodeError> {
        let mut found = Vec::new();
        let mut search = self.network()?.net.find_providers(root).await;
        let deadline = tokio::time::Instant::now() + PROVIDER_SEARCH;
        while let Ok(Some(peer)) = tokio::time::timeout_at(deadline, search.recv()).await {
            if !found.contains(&peer) {
                found.push(peer);
            }
            if found.len() == MAX_PROVIDERS {
                break;
            }
        }
        Ok(found)
    }

    /// Makes a foreign file readable here by its CID alone: looks at its root and remembers its key. The file is not
    /// fetched, kept or announced.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub async fn open_link(&self, link: &Link) -> Result<FileInfo, NodeError> {
        let Found { link, record, .. } = self.find(&Reference::from(link)).await?;
        let opened = self.open_found(&link, None).await?;
        let info = opened.describe();
        // The key of a file that is kept may have been lost with the index.
        if let Some(record) = record.filter(|record| record.key.is_some() || link.key.is_none()) {
            return Ok(describe(&record, self.missing(&record.cid).await?));
        }
        let record = RootRecord {
            cid: link.cid,
            key: link.key.clone(),
            kind: info.kind.into(),
            name: info.name.clone(),
            size: info.size,
            blocks: 0,
            stored_len: 0,
            media_type: info.media_type.clone(),
            created: unix_micros(),
            pinned: false,
            owner: Vec::new(),
            public: link.key.is_none(),
        };
        self.blocking(move |store| Ok(store.add_root(record)?)).await?;
        Ok(info)
    }

    /// Queues the announcement of a root.
    pub(super) async fn announce(&self, root: &Cid) {
        if let Some(network) = &self.inner.network {
            network.net.provide(*root).await;
        }
    }

    /// How far the announcement of a file has come; waits up to `wait` for its end.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] where the file is not kept here.
    pub async fn placement(&self, reference: &Reference, wait: Duration) -> Result<Placement, NodeError> {
        let Found { link: Link { cid, .. }, record, .. } = self.find(reference).await?;
        if !record.is_some_and(|record| record.pinned) {
            return Err(NodeError::new(ErrorCode::NotFound, format!("{cid} is not kept here"))
                .reason(Reason::NotKept));
        }
        let announced = tokio::time::timeout(wait, self.announced(cid)).await;
        Ok(match announced {
            Ok(Ok(peers)) => Placement { cid, done: true, announced_to: peers },
            Ok(Err(error)) => return Err(error),
            Err(_) => Placement { cid, done: false, announced_to: 0 },
        })
    }

    /// Waits for the announcement of a file that is kept; sees to it where nobody has.
    async fn announced(&self, cid: Cid) -> Result<u32, NodeError> {
        let net = &self.network()?.net;
        match net.announced(cid).await {
            Err(NetError::NotProvided(_)) => {}
            announced => return Ok(announced?),
        }
        net.provide(cid).await;
        if !self.is_kept(cid).await? {
            // It was removed meanwhile, and its withdrawal may have come before this.
            net.unprovide(cid).await;
        }
        Ok(net.announced(cid).await?)
    }

    /// Removes a file from this node and withdraws its announcement. Its blocks are freed when no other file uses
    /// them and the grace period is over. Peers that cannot be told now are told when they are there, also after a
    /// restart of this node.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] where the file is not here, [`ErrorCode::BadRequest`] where several files have the name.
    pub async fn remove(&self, reference: &Reference) -> Result<RemoveReport, NodeError> {
        self.remove_found(self.find(reference).await?.only()?).await
    }

    /// [`Node::remove`]; of several files of one name, the newest.
    ///
    /// # Errors
    /// As [`Node::remove`].
    pub async fn remove_newest(&self, reference: &Reference) -> Result<RemoveReport, NodeError> {
        self.remove_found(self.find(reference).await?).await
    }

    async fn remove_found(&self, found: Found) -> Result<RemoveReport, NodeError> {
        let Found { link: Link { cid, .. }, record, .. } = found;
        let gone =
            || NodeError::new(ErrorCode::NotFound, format!("{cid} is not kept here")).reason(Reason::NotKept);
        let record = record.ok_or_else(gone)?;
        if record.pinned {
            self.note_withdrawal(cid).await?;
        }
        if !self.blocking(move |store| Ok(store.remove_root(&cid)?)).await? {
            return Err(gone());
        }
        self.inner.census.forget();
        self.emit(Event::Removed { cid });
        let mut report =
            RemoveReport { cid, name: record.name, withdrawn_from: 0, withdrawal_pending: false };
        if record.pinned {
            // It is removed, whatever becomes of this.
            match self.withdraw(cid).await {
                Ok(Outcome { told, pending }) => {
                    (report.withdrawn_from, report.withdrawal_pending) = (told, pending);
                }
                Err(error) => tracing::warn!(%cid, "the record could not be withdrawn: {error}"),
            }
        }
        Ok(report)
    }

    /// One block as it is stored here.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`] where it is not here, [`ErrorCode::Integrity`] where it was here and damaged.
    pub async fn block(&self, cid: &Cid) -> Result<Vec<u8>, NodeError> {
        let cid = *cid;
        self.blocking(move |store| {
            store.get(&cid)?.ok_or_else(|| {
                NodeError::new(ErrorCode::NotFound, format!("block {cid} is not here"))
                    .reason(Reason::BlockNotHere)
            })
        })
        .await
    }
}

/// `limit` entries of a folder, from number `skip` on.
async fn page(opened: &mut Opened, skip: u64, limit: usize) -> Result<EntryList, NodeError> {
    let count = opened.skip_entries(skip);
    let entries = opened.entries(limit).await?;
    let end = skip.saturating_add(entries.len() as u64);
    let next = (end < count).then(|| end.to_string());
    Ok(EntryList { entries: entries.into_iter().map(DirEntryInfo::from).collect(), next })
}

/// A root record as users see it; so many of its blocks are missing here.
pub(super) fn describe(record: &RootRecord, missing: u64) -> FileInfo {
    let known = record.key.is_some() || record.public;
    FileInfo {
        cid: record.cid,
        link: known.then(|| Link { cid: record.cid, key: record.key.clone() }.to_string()),
        name: record.name.clone(),
        older: None,
        kind: record.kind.into(),
        size: record.size,
        media_type: record.media_type.clone(),
        mtime: None,
        created: Some(record.created / 1_000_000),
        sealed: !record.public,
        pinned: record.pinned,
        blocks: (record.blocks > 0).then_some(record.blocks),
        stored_len: (record.stored_len > 0).then_some(record.stored_len),
        missing,
        providers: None,
        chunker: None,
        entries: None,
        entries_next: None,
    }
}
