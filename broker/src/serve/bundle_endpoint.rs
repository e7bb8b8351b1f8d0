//! The bundle endpoint of the embedded CA's trust domain (SPIFFE Federation, sections 4 and 5).
//!
//! Anybody may fetch the bundle, over HTTP/1.1 and TLS. P12: connections have the limits of all
//! listeners, and none lives for longer than ten seconds, whatever it does.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};

use crate::ca::Ca;
use crate::peer::Connection;

/// Longest life of a connection.
const LIFE: Duration = Duration::from_secs(10);

/// The connections of the listener whose handshake has ended.
pub(super) struct Incoming {
    /// The address of the listener.
    pub(super) address: SocketAddr,
    /// The connections.
    pub(super) connections: mpsc::Receiver<io::Result<Connection>>,
}

/// Serves the bundle until `shutdown` resolves.
pub(super) async fn serve(
    incoming: Incoming,
    ca: Arc<Ca>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    // Operators choose the path of the URL, so each one is this document.
    let router = Router::new().fallback(get(document)).with_state(ca);
    axum::serve(incoming, router)
        .with_graceful_shutdown(shutdown)
        .await
}

async fn document(State(ca): State<Arc<Ca>>) -> Response {
    match ca.published() {
        Ok(document) => ([(header::CONTENT_TYPE, "application/json")], document).into_response(),
        Err(error) => {
            tracing::error!(%error, "bundle endpoint");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Timed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Timed, SocketAddr) {
        loop {
            match self.connections.recv().await {
                Some(Ok(connection)) => return (Timed::new(connection), self.address),
                Some(Err(error)) => tracing::debug!(%error, "bundle endpoint"),
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A connection that fails at its deadline.
pub(super) struct Timed {
    connection: Connection,
    deadline: Pin<Box<Sleep>>,
}

impl Timed {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            deadline: Box::pin(sleep(LIFE)),
        }
    }

    fn require_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.require_time(cx)?;
        Pin::new(&mut self.connection).poll_read(cx, buf)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.require_time(cx)?;
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.require_time(cx)?;
        Pin::new(&mut self.connection).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.require_time(cx)?;
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
