//! Node events and the progress of transfers, as a stream that a client can resume.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Extension,
    extract::State,
    http::HeaderMap,
    response::{
        IntoResponse, Sse,
        sse::{self, KeepAlive},
    },
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use super::{
    auth::{Authenticator, Caller, Shares},
    clock::since_epoch,
    problem::Problem,
};
use crate::node::{Node, report::Event};

/// Number of events that are kept for clients that reconnect.
const MAX_ENTRIES: usize = 1024;
const MAX_LISTENERS: usize = 128;
/// Interval between two progress events of one transfer.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a browser waits before it reconnects.
const RECONNECT_DELAY: Duration = Duration::from_secs(2);

/// The events since the node started; the newest are kept.
pub(super) struct EventLog {
    /// Distinguishes the event ids of this run of the node from those of other runs.
    run: String,
    entries: Mutex<Entries>,
    sender: broadcast::Sender<Entry>,
    listeners: Shares,
}

#[derive(Default)]
struct Entries {
    /// The number of the newest entry.
    last: u64,
    /// The number of the newest entry that was dropped because the log was full.
    dropped: u64,
    kept: VecDeque<Entry>,
}

#[derive(Clone)]
struct Entry {
    number: u64,
    json: Arc<str>,
    /// The transfer whose progress this is. A later entry of the same transfer replaces it.
    transfer: Option<u64>,
}

/// The direction of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Direction {
    /// To this node.
    Put,
    /// From this node.
    Get,
}

#[derive(Serialize)]
struct TimedEvent<'a, E> {
    #[serde(flatten)]
    event: &'a E,
    /// Milliseconds since 1970.
    at_unix_ms: u64,
}

fn to_json(event: &impl Serialize) -> Arc<str> {
    let timed =
        TimedEvent { event, at_unix_ms: u64::try_from(since_epoch().as_millis()).unwrap_or(u64::MAX) };
    serde_json::to_string(&timed).unwrap_or_default().into()
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "transfer")]
struct TransferEvent {
    id: String,
    what: Direction,
    name: Option<String>,
    done: u64,
    total: Option<u64>,
    /// Bytes per second of this request.
    rate: u64,
    /// Whether this is the last event of the transfer. A resumable upload ends with its last part.
    ended: bool,
}

impl EventLog {
    /// Starts to log the events of `node`.
    pub(super) fn start(node: &Node) -> Arc<Self> {
        let log = Arc::new(Self {
            run: format!("{:08x}", rand::random::<u32>()),
            entries: Mutex::default(),
            sender: broadcast::channel(MAX_ENTRIES).0,
            listeners: Shares::default(),
        });
        let (mut events, stop, weak) = (node.subscribe(), node.stopping(), Arc::downgrade(&log));
        node.spawn(async move {
            while let Some(event) = stop.run_until_cancelled(events.recv()).await {
                let event = match event {
                    Ok(event) => event,
                    Err(RecvError::Lagged(count)) => Event::Skipped { count },
                    Err(RecvError::Closed) => return,
                };
                let Some(log) = weak.upgrade() else { return };
                log.append(&event, None);
            }
        });
        log
    }

    fn append(&self, event: &impl Serialize, transfer: Option<u64>) {
        let json = to_json(event);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.last += 1;
        let entry = Entry { number: entries.last, json, transfer };
        if transfer.is_some() {
            entries.kept.retain(|entry| entry.transfer != transfer);
        }
        if entries.kept.len() == MAX_ENTRIES
            && let Some(oldest) = entries.kept.pop_front()
        {
            entries.dropped = oldest.number;
        }
        entries.kept.push_back(entry.clone());
        // Sent under the lock, so that a new listener misses none and gets none twice. An error means: no listeners.
        drop(self.sender.send(entry));
    }

    /// Returns the entries after the event id `last`, and a receiver of those to come.
    fn subscribe_after(&self, last: Option<&str>) -> (Vec<Entry>, broadcast::Receiver<Entry>) {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.sender.subscribe();
        let Some(last) = last else { return (Vec::new(), receiver) };
        let seen = last.split_once('-').filter(|(run, _)| *run == self.run);
        let seen =
            seen.and_then(|(_, number)| number.parse::<u64>().ok()).filter(|seen| *seen <= entries.last);
        let mut missed: Vec<Entry> = Vec::new();
        // After another run of the node, the number of skipped events is unknown: 0.
        let skipped =
            seen.map_or(Some(0), |seen| entries.dropped.checked_sub(seen).filter(|skipped| *skipped > 0));
        if let Some(count) = skipped {
            let json = to_json(&Event::Skipped { count });
            missed.push(Entry { number: entries.dropped, json, transfer: None });
        }
        let seen = seen.unwrap_or(0);
        missed.extend(entries.kept.iter().filter(|entry| entry.number > seen).cloned());
        (missed, receiver)
    }

    /// Starts to log the progress of a transfer. It ends when the returned value is dropped.
    pub(super) fn transfer(
        self: &Arc<Self>,
        what: Direction,
        name: Option<String>,
        total: Option<u64>,
    ) -> Progress {
        let event = TransferEvent { id: String::new(), what, name, done: 0, total, rate: 0, ended: false };
        Progress {
            log: Arc::clone(self),
            id: rand::random(),
            event,
            done_before: 0,
            is_part: false,
            started: Instant::now(),
            last_logged: None,
        }
    }
}

/// The progress of one transfer. A transfer that is shorter than [`PROGRESS_INTERVAL`] is not logged.
pub(super) struct Progress {
    log: Arc<EventLog>,
    id: u64,
    event: TransferEvent,
    /// Bytes that earlier parts of the transfer had transferred.
    done_before: u64,
    /// Whether this is a part of the transfer, which goes on unless all of it is done.
    is_part: bool,
    started: Instant,
    last_logged: Option<Instant>,
}

impl Progress {
    /// Makes this a part of the transfer `id`, of which earlier parts transferred `done` bytes.
    pub(super) fn part_of(mut self, id: u64, done: u64) -> Self {
        (self.id, self.event.done, self.done_before, self.is_part) = (id, done, done, true);
        self
    }

    pub(super) fn add(&mut self, len_bytes: usize) {
        self.event.done += len_bytes as u64;
        if self.last_logged.unwrap_or(self.started).elapsed() >= PROGRESS_INTERVAL {
            self.last_logged = Some(Instant::now());
            self.publish();
        }
    }

    /// Counts the bytes of a stream.
    pub(super) fn count<E>(
        mut self,
        bytes: impl Stream<Item = Result<Bytes, E>> + Send + Unpin,
    ) -> impl Stream<Item = Result<Bytes, E>> + Send + Unpin {
        bytes.inspect(move |piece| {
            if let Ok(piece) = piece {
                self.add(piece.len());
            }
        })
    }

    fn publish(&mut self) {
        let micros = self.started.elapsed().as_micros().max(1);
        let rate = u128::from(self.event.done - self.done_before) * 1_000_000 / micros;
        self.event.rate = u64::try_from(rate).unwrap_or(u64::MAX);
        self.event.id = format!("{:016x}", self.id);
        self.log.append(&self.event, Some(self.id));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.last_logged.is_some() {
            self.event.ended = !self.is_part || self.event.total == Some(self.event.done);
            self.publish();
        }
    }
}

/// Streams events as server-sent events, each with an id.
///
/// `data` is JSON with a `type` and `at_unix_ms` (milliseconds since 1970): node events, and `transfer` for the progress of
/// transfers. With `Last-Event-ID`, the stream begins with the events after that id, as far as they are kept. It ends when
/// the node stops, and when the token or session of the caller ends.
#[utoipa::path(get, path = "/events", tag = "node",
    params(("last-event-id" = Option<String>, Header, description = "Resume after the event with this id")),
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(super) async fn events(
    State(node): State<Node>,
    State(log): State<Arc<EventLog>>,
    State(auth): State<Arc<Authenticator>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Problem> {
    let share = log
        .listeners
        .take(&caller, MAX_LISTENERS)
        .ok_or_else(|| Problem::busy("too many event streams are open, of this token or of all"))?;
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok());
    let (missed, receiver) = log.subscribe_after(last);
    let run = log.run.clone();
    let live = BroadcastStream::new(receiver).map(|entry| match entry {
        Ok(entry) => (Some(entry.number), entry.json),
        Err(BroadcastStreamRecvError::Lagged(count)) => (None, to_json(&Event::Skipped { count })),
    });
    let missed = stream::iter(missed).map(|entry| (Some(entry.number), entry.json));
    let hello = stream::once(async {
        Ok::<_, Infallible>(sse::Event::default().retry(RECONNECT_DELAY).comment("storgo"))
    });
    let events = missed.chain(live).map(move |(number, json)| {
        let event = sse::Event::default().data(&*json);
        Ok(match number {
            Some(number) => event.id(format!("{run}-{number}")),
            None => event,
        })
    });
    let ended = async move {
        let _share = share;
        node.stopping().run_until_cancelled(auth.access_ended(&caller)).await;
    };
    let events = hello.chain(events).take_until(Box::pin(ended));
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    // nginx holds responses back otherwise.
    Ok(([("x-accel-buffering", "no")], events))
}
