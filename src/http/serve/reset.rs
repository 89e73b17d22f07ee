//! Ending a connection with a reset, so that its client sees that the response broke off.

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::write_timeout::WriteTimeout;

/// A connection that can be reset.
pub(super) trait Reset {
    /// Ends the connection with an error for its client. Bytes that were not sent are dropped.
    fn reset(self);
}

impl Reset for TcpStream {
    fn reset(self) {
        // Without it, the connection is closed as if the response were complete.
        drop(self.set_zero_linger());
    }
}

impl<S> Reset for TlsStream<S>
where
    S: Reset,
{
    fn reset(self) {
        self.into_inner().0.reset();
    }
}

impl<S: Reset> Reset for WriteTimeout<S> {
    fn reset(self) {
        self.into_inner().reset();
    }
}
