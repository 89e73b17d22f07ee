//! Single files: their descriptions, entries and blocks, opening links, and removal.

use std::{sync::Arc, time::Duration};

use super::{
    clock::unix_micros,
    damage_cache::DamageCache,
    damaged_entries,
    error::{ErrorCode, NodeError, Reason},
    handles::Events,
    lookup::{FolderEntry, Found},
    network::Network,
    read::{Opened, Reads},
    report::{DirEntryInfo, EntryList, Event, FileInfo, FileKind, RemoveReport},
    withdrawals::{Outcome, Withdrawals},
};
use crate::{
    content::{cid::Cid, link::Link},
    store::RootRecord,
};

/// Maximum number of folder entries in the answer of `info`.
const MAX_ENTRIES: usize = 10_000;

/// Describes and removes files.
pub(super) struct Files {
    pub(super) reads: Reads,
    pub(super) withdrawals: Arc<Withdrawals>,
    pub(super) damage: DamageCache,
    pub(super) events: Events,
}

impl Files {
    /// Describes a file, from its root block if that can be opened, else from its record.
    pub(super) async fn info(&self, found: Found, providers: bool) -> Result<FileInfo, NodeError> {
        let opened = self.open(&found, None).await;
        let (is_kept, root) = (found.is_kept(), found.announced());
        let Found { link, record, namesakes, entry } = found;
        let kept = record.as_ref().filter(|record| record.pinned);
        // Counted after opening, which may find the root block damaged.
        let missing = if is_kept { self.missing(&root).await? } else { 0 };
        let is_kept_and_damaged = missing > 0;
        let mut info = match opened {
            Ok(mut opened) => {
                let mut info = opened.describe();
                if opened.kind() == FileKind::Dir {
                    match self.page(&mut opened, is_kept_and_damaged, 0, MAX_ENTRIES).await {
                        Ok(listed) => (info.entries, info.entries_next) = (Some(listed.entries), listed.next),
                        // The blocks that list the entries are missing: the folder is described without them.
                        Err(_) if is_kept_and_damaged => {}
                        Err(error) => return Err(error),
                    }
                }
                info
            }
            // Without the key, only the visible part of the root block is known.
            Err(error) if error.reason == Some(Reason::KeyMissing) => {
                self.reads.describe_sealed(&link.cid).await?
            }
            // The root block of a kept file is missing: its record, or its entry in its folder, is known all the same.
            Err(error) => match (kept, &entry) {
                (Some(record), _) if missing > 0 => FileInfo::of_record(record, missing),
                (_, Some(FolderEntry { entry, .. })) if is_kept_and_damaged => {
                    let DirEntryInfo { name, kind, size, link: text, .. } = entry.clone().into();
                    let (name, size, text) = (Some(name), Some(size), Some(text));
                    FileInfo { name, size, link: text, ..FileInfo::bare(&link, kind) }
                }
                _ => return Err(error),
            },
        };
        if let Some(record) = record {
            info = FileInfo {
                entries: info.entries,
                entries_next: info.entries_next,
                chunker: info.chunker,
                mtime: info.mtime,
                ..FileInfo::of_record(&record, missing)
            };
        }
        if let Some(FolderEntry { entry, folder_name, folder_record, .. }) = entry {
            info.pinned = is_kept;
            info.mtime = entry.mtime;
            info.created = folder_record.map(|record| record.created / 1_000_000);
            info.folder_name = folder_name;
        }
        info.older = (!namesakes.is_empty()).then_some(namesakes.len() as u64);
        if providers {
            let found = Network::require(self.reads.network.as_ref())?.find_providers(link.cid).await;
            info.providers = Some(found.iter().map(ToString::to_string).collect());
        }
        Ok(info)
    }

    /// Finds and decrypts the root block of a file or of an entry of a folder.
    pub(super) async fn open(&self, found: &Found, timeout: Option<Duration>) -> Result<Opened, NodeError> {
        let opened = self.reads.open_below(found.announced(), &found.link, timeout).await?;
        Ok(match &found.entry {
            Some(FolderEntry { entry, .. }) => opened.named(&entry.name),
            None => opened,
        })
    }

    /// Follows `path` into the folder `found`.
    pub(super) async fn entry(&self, found: Found, path: &str) -> Result<Found, NodeError> {
        let folder = found.link.cid;
        let mut opened = self.reads.open(&found.link, None).await?;
        let folder_name = opened.name().map(String::from);
        let names: Vec<String> = path.split('/').filter(|name| !name.is_empty()).map(String::from).collect();
        for (depth, name) in names.iter().enumerate() {
            let entry = opened.entry(name).await?.ok_or_else(|| {
                let message = format!("the folder has no entry {name:?}");
                NodeError::new(ErrorCode::NotFound, message).reason(Reason::EntryUnknown)
            })?;
            if depth + 1 < names.len() {
                opened = self.reads.open_below(folder, &entry.link, None).await?;
                continue;
            }
            let link = entry.link.clone();
            let entry = FolderEntry { entry, folder, folder_name, folder_record: found.record };
            return Ok(Found { link, record: None, namesakes: Vec::new(), entry: Some(entry) });
        }
        Ok(found)
    }

    /// Lists `limit` entries of a folder after the first `cursor`, which are not read.
    pub(super) async fn entries(
        &self,
        found: &Found,
        cursor: u64,
        limit: usize,
    ) -> Result<EntryList, NodeError> {
        let mut opened = self.open(found, None).await?;
        if opened.kind() != FileKind::Dir {
            return Err(
                NodeError::new(ErrorCode::BadRequest, "a file has no entries").reason(Reason::NotAFolder)
            );
        }
        let is_damaged = found.is_kept() && self.missing(&found.announced()).await? > 0;
        self.page(&mut opened, is_damaged, cursor, limit).await
    }

    /// Counts the blocks of a kept file that are missing here.
    async fn missing(&self, root: &Cid) -> Result<u64, NodeError> {
        Ok(self.damage.missing(vec![*root]).await?.first().copied().unwrap_or(0))
    }

    /// Opens a file and remembers its key. The file is not fetched, kept or announced.
    pub(super) async fn open_link(&self, found: Found) -> Result<FileInfo, NodeError> {
        let Found { link, record, .. } = found;
        let opened = self.reads.open(&link, None).await?;
        let info = opened.describe();
        // A record without a key is replaced: a rebuilt index has lost the keys.
        if let Some(record) = record.filter(|record| record.key.is_some() || link.key.is_none()) {
            return Ok(FileInfo::of_record(&record, self.missing(&record.cid).await?));
        }
        let record = RootRecord {
            cid: link.cid,
            key: link.key.clone(),
            kind: info.kind.into(),
            name: info.name.clone(),
            size: opened.metadata().size,
            blocks: 0,
            stored_len: 0,
            media_type: info.media_type.clone(),
            created: unix_micros(),
            pinned: false,
            owner: Vec::new(),
            public: link.key.is_none(),
        };
        self.reads.store.run(move |store| Ok(store.add_root(record)?)).await?;
        Ok(info)
    }

    /// Removes a file and withdraws its announcement. Frees the cache of a file that is not kept.
    pub(super) async fn remove(&self, found: Found) -> Result<RemoveReport, NodeError> {
        let Found { link: Link { cid, .. }, record, .. } = found;
        let is_kept = record.as_ref().is_some_and(|record| record.pinned);
        let is_known = record.is_some();
        let (name, kept_len) = record.map(|record| (record.name, record.stored_len)).unwrap_or_default();
        let (stored_len, freed_after_s) = if is_kept {
            (kept_len, self.reads.store.0.grace().as_secs())
        } else {
            let freed = self.reads.store.run(move |store| Ok(store.drop_cached_file(&cid)?)).await?;
            if !is_known && freed.blocks == 0 {
                return Err(NodeError::not_kept(&cid));
            }
            (freed.bytes, 0)
        };
        let mut report = RemoveReport {
            cid,
            name,
            stored_len,
            freed_after_s,
            withdrawn_from: 0,
            withdrawal_pending: false,
        };
        if !is_known {
            return Ok(report);
        }
        if is_kept {
            self.withdrawals.note(cid).await?;
        }
        if !self.reads.store.run(move |store| Ok(store.remove_root(&cid)?)).await? {
            return Err(NodeError::not_kept(&cid));
        }
        self.damage.invalidate();
        self.events.emit(Event::Removed { cid });
        if is_kept {
            // The file is removed even if the withdrawal fails.
            match self.withdrawals.withdraw(cid).await {
                Ok(Outcome { notified, pending }) => {
                    (report.withdrawn_from, report.withdrawal_pending) = (notified, pending);
                }
                Err(error) => tracing::warn!(%cid, "cannot withdraw the provider record: {error}"),
            }
        }
        Ok(report)
    }

    /// Reads one stored block.
    pub(super) async fn block(&self, cid: Cid) -> Result<Vec<u8>, NodeError> {
        let block = self.reads.store.run(move |store| Ok(store.get(&cid)?)).await?;
        block.ok_or_else(|| {
            NodeError::new(ErrorCode::NotFound, format!("block {cid} is not on this node"))
                .reason(Reason::BlockNotHere)
        })
    }

    /// Lists `limit` entries of a folder after the first `skip`. `is_damaged`: looks for those that lack blocks.
    async fn page(
        &self,
        opened: &mut Opened,
        is_damaged: bool,
        skip: u64,
        limit: usize,
    ) -> Result<EntryList, NodeError> {
        let count = opened.skip_entries(skip);
        let entries = opened.entries(limit).await?;
        let end = skip.saturating_add(entries.len() as u64);
        let next = (end < count).then(|| end.to_string());
        let roots: Vec<Cid> = entries.iter().map(|entry| entry.link.cid).collect();
        let mut entries: Vec<_> = entries.into_iter().map(DirEntryInfo::from).collect();
        if is_damaged {
            let lacking = self
                .reads
                .store
                .run_while_wanted(move |store, wanted| damaged_entries::lacking(store, &roots, wanted))
                .await?;
            for (entry, damaged) in entries.iter_mut().zip(lacking) {
                entry.damaged = damaged;
            }
        }
        Ok(EntryList { entries, next })
    }
}
