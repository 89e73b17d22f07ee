//! What happens, as a stream that can be taken up again where it broke off: node events, and the progress of transfers.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Extension,
    extract::State,
    http::HeaderMap,
    response::{
        Sse,
        sse::{self, KeepAlive},
    },
};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::sync::{
    Semaphore,
    broadcast::{self, error::RecvError},
};
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use super::{Door, auth::Caller, problem::Problem};
use crate::node::{Node, report::Event};

/// Events kept for whoever comes back.
const KEPT: usize = 1024;
/// Listeners at most: each holds a connection.
const MAX_LISTENERS: usize = 128;
/// How often the progress of one transfer is told.
const STEP: Duration = Duration::from_millis(250);
/// How often something is sent where nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// After how long a browser comes back.
const RETRY: Duration = Duration::from_secs(2);

/// All events since the node started, the last of them kept.
pub(super) struct Feed {
    /// Tells one run of the node from another.
    run: String,
    kept: Mutex<Kept>,
    sender: broadcast::Sender<Message>,
    /// Who may listen at a time.
    listeners: Arc<Semaphore>,
}

#[derive(Default)]
struct Kept {
    last: u64,
    /// The number of the newest message that is missing for want of room.
    lost: u64,
    messages: VecDeque<Message>,
}

#[derive(Clone)]
struct Message {
    number: u64,
    json: Arc<str>,
    /// The transfer whose progress it tells: a later one takes its place.
    transfer: Option<u64>,
}

/// Which way a transfer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// Into this node.
    Put,
    /// Out of this node.
    Get,
}

/// An event and when it happened.
#[derive(Serialize)]
struct Timed<'a, E> {
    #[serde(flatten)]
    event: &'a E,
    /// Milliseconds since 1970, by this node's clock.
    at_unix_ms: u64,
}

/// An event as it is sent.
fn json(event: &impl Serialize) -> Arc<str> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let timed = Timed { event, at_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX) };
    serde_json::to_string(&timed).unwrap_or_default().into()
}

#[derive(Serialize)]
struct Transfer<'a> {
    r#type: &'static str,
    id: String,
    what: What,
    name: Option<&'a str>,
    done: u64,
    total: Option<u64>,
    /// Bytes per second, since it began, or went on.
    rate: u64,
    /// Whether nothing more comes. A resumable upload ends with its last part.
    ended: bool,
}

impl Feed {
    /// A feed of this node's events, until it stops.
    pub(super) fn start(node: &Node) -> Arc<Self> {
        let feed = Arc::new(Self {
            run: format!("{:08x}", rand::random::<u32>()),
            kept: Mutex::default(),
            sender: broadcast::channel(KEPT).0,
            listeners: Arc::new(Semaphore::new(MAX_LISTENERS)),
        });
        let (mut events, stop, weak) = (node.subscribe(), node.stopping(), Arc::downgrade(&feed));
        node.spawn(async move {
            while let Some(event) = stop.run_until_cancelled(events.recv()).await {
                let event = match event {
                    Ok(event) => event,
                    Err(RecvError::Lagged(count)) => Event::Skipped { count },
                    Err(RecvError::Closed) => return,
                };
                let Some(feed) = weak.upgrade() else { return };
                feed.tell(&event, None);
            }
        });
        feed
    }

    fn tell(&self, event: &impl Serialize, transfer: Option<u64>) {
        let json = json(event);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let message = Message { number: kept.last, json, transfer };
        if transfer.is_some() {
            kept.messages.retain(|message| message.transfer != transfer);
        }
        if kept.messages.len() == KEPT
            && let Some(oldest) = kept.messages.pop_front()
        {
            kept.lost = oldest.number;
        }
        kept.messages.push_back(message.clone());
        // Sent under the lock: whoever begins to listen misses none and sees none twice. Nobody listens: no error.
        drop(self.sender.send(message));
    }

    /// What was missed since `last`, and everything from now on.
    fn since(&self, last: Option<&str>) -> (Vec<Message>, broadcast::Receiver<Message>) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.sender.subscribe();
        let Some(last) = last else { return (Vec::new(), receiver) };
        let seen = last.split_once('-').filter(|(run, _)| *run == self.run);
        let seen = seen.and_then(|(_, number)| number.parse::<u64>().ok()).filter(|seen| *seen <= kept.last);
        let mut missed: Vec<Message> = Vec::new();
        // Another run of the node: how many were missed is not known, and said as none.
        let gap = seen.map_or(Some(0), |seen| kept.lost.checked_sub(seen).filter(|gap| *gap > 0));
        if let Some(count) = gap {
            let json = json(&Event::Skipped { count });
            missed.push(Message { number: kept.lost, json, transfer: None });
        }
        let seen = seen.unwrap_or(0);
        missed.extend(kept.messages.iter().filter(|message| message.number > seen).cloned());
        (missed, receiver)
    }

    /// A transfer that begins; it ends when what is returned is dropped.
    pub(super) fn transfer(
        self: &Arc<Self>,
        what: What,
        name: Option<String>,
        total: Option<u64>,
    ) -> Progress {
        let now = Instant::now();
        Progress {
            feed: Arc::clone(self),
            id: rand::random(),
            what,
            name,
            done: 0,
            from: 0,
            is_part: false,
            total,
            began: now,
            told: now,
            heard: false,
        }
    }
}

/// A transfer that runs.
pub(super) struct Progress {
    feed: Arc<Feed>,
    id: u64,
    what: What,
    name: Option<String>,
    done: u64,
    /// Of it, what had moved before.
    from: u64,
    /// Whether it goes on after its end, where that is not the end of all of it.
    is_part: bool,
    total: Option<u64>,
    began: Instant,
    told: Instant,
    /// Whether anything was told of it: a short one makes no noise.
    heard: bool,
}

impl Progress {
    /// As a part of the transfer of this number, of which `done` bytes have moved before.
    pub(super) fn going_on(mut self, id: u64, done: u64) -> Self {
        (self.id, self.done, self.from, self.is_part) = (id, done, done, true);
        self
    }

    /// Notes bytes that have moved.
    pub(super) fn add(&mut self, bytes: usize) {
        self.done += bytes as u64;
        if self.told.elapsed() >= STEP {
            (self.told, self.heard) = (Instant::now(), true);
            self.tell(false);
        }
    }

    /// The same stream, its bytes noted here.
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

    fn tell(&self, ended: bool) {
        let micros = self.began.elapsed().as_micros().max(1);
        let rate = u128::from(self.done - self.from) * 1_000_000 / micros;
        let transfer = Transfer {
            r#type: "transfer",
            id: format!("{:016x}", self.id),
            what: self.what,
            name: self.name.as_deref(),
            done: self.done,
            total: self.total,
            rate: u64::try_from(rate).unwrap_or(u64::MAX),
            ended,
        };
        self.feed.tell(&transfer, Some(self.id));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.heard {
            self.tell(!self.is_part || self.total == Some(self.done));
        }
    }
}

/// What happens from now on, as server-sent events with an id each; with `Last-Event-ID` also what was missed since, as
/// far as it is kept. `data` is JSON with a `type` and `at_unix_ms` (milliseconds since 1970): node events, and `transfer`
/// for the progress of what runs. Ends when the node stops, and when the caller's token or session does.
#[utoipa::path(get, path = "/events", tag = "node",
    params(("last-event-id" = Option<String>, Header, description = "Go on after this event")),
    responses((status = 200, content_type = "text/event-stream", body = String)))]
pub(super) async fn events(
    State(door): State<Door>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let place = Arc::clone(&door.feed.listeners).try_acquire_owned().map_err(|_| {
        let message = format!("{MAX_LISTENERS} callers listen to events already");
        Problem::busy(message)
    })?;
    let last = headers.get("last-event-id").and_then(|last| last.to_str().ok());
    let (missed, receiver) = door.feed.since(last);
    let run = door.feed.run.clone();
    let live = BroadcastStream::new(receiver).map(|message| match message {
        Ok(message) => (Some(message.number), message.json),
        Err(BroadcastStreamRecvError::Lagged(count)) => (None, json(&Event::Skipped { count })),
    });
    let missed = stream::iter(missed).map(|message| (Some(message.number), message.json));
    let hello = stream::once(async { Ok(sse::Event::default().retry(RETRY).comment("storgo")) });
    let events = missed.chain(live).map(move |(number, json)| {
        let event = sse::Event::default().data(&*json);
        Ok(match number {
            Some(number) => event.id(format!("{run}-{number}")),
            None => event,
        })
    });
    let ended = async move {
        let _place = place;
        door.node.stopping().run_until_cancelled(door.access.end_of(&caller)).await;
    };
    let events = hello.chain(events).take_until(Box::pin(ended));
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
