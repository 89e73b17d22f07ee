//! The table of stream protocols: which protocols this node accepts, and the server of each.
//!
//! A protocol is a module above `net`. It accepts its name here before the network starts, serves the streams from the
//! returned queue, and opens streams with [`Net::open`](super::Net::open). `net` never reads or writes these streams.

use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::mpsc;

/// Maximum incoming streams queued for the server of one protocol.
const INCOMING: usize = 64;

/// Incoming streams of one protocol and the peers that opened them.
pub type IncomingStreams = mpsc::Receiver<(PeerId, Stream)>;

/// Protocols of which peers may open streams.
#[derive(Debug, Default)]
pub struct Protocols(pub(super) Vec<(StreamProtocol, mpsc::Sender<(PeerId, Stream)>)>);

impl Protocols {
    /// Accepts streams of a protocol. Its server takes them from the returned queue.
    ///
    /// # Panics
    /// If the protocol has a server already.
    pub fn accept(&mut self, protocol: StreamProtocol) -> IncomingStreams {
        assert!(self.0.iter().all(|(known, _)| *known != protocol), "{protocol} has two servers");
        let (queue, incoming) = mpsc::channel(INCOMING);
        self.0.push((protocol, queue));
        incoming
    }
}
