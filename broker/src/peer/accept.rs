//! The accept loop of a TLS listener: bounded connections, bounded and timed handshakes.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::caller::Caller;
use super::tls::{Clients, HandshakeError, handshake};
use super::trust::Trust;

/// Longest time for a handshake; one that takes longer is dropped (T81).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the operating system gave no connection.
const RETRY_ACCEPT_AFTER: Duration = Duration::from_millis(50);

/// Limits of a listener.
#[derive(Clone, Copy, Debug)]
pub struct ListenerLimits {
    /// Most connections.
    pub connections: usize,
    /// Most handshakes at a time.
    pub handshakes: usize,
}

/// Hears of every connection: counts them by outcome, and puts refusals on the record.
pub(crate) trait AcceptObserver: Send + Sync + 'static {
    /// A handshake succeeded.
    fn accepted(&self);
    /// A connection was not let in.
    fn refused(&self, remote: SocketAddr, cause: &HandshakeError);
}

/// An accepted connection.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Accepts until `connections` is dropped.
pub(crate) async fn accept(
    listener: TcpListener,
    trust: Arc<Trust>,
    clients: Clients,
    limits: ListenerLimits,
    observer: Arc<dyn AcceptObserver>,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let connection_permits = Arc::new(Semaphore::new(limits.connections));
    let handshakes = Arc::new(Semaphore::new(limits.handshakes));
    loop {
        let accepted = tokio::select! {
            () = connections.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // T82: out of file descriptors, or a connection that went away: not the end of the
                // listener.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(RETRY_ACCEPT_AFTER).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&connection_permits).try_acquire_owned() else {
            observer.refused(remote, &HandshakeError::TooManyConnections);
            continue;
        };
        let (trust, observer, handshakes, connections) = (
            Arc::clone(&trust),
            Arc::clone(&observer),
            Arc::clone(&handshakes),
            connections.clone(),
        );
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, async {
                let _permit = handshakes.acquire().await.map_err(HandshakeError::Closed)?;
                handshake(socket, remote, &trust, clients).await
            });
            match shaken.await.unwrap_or(Err(HandshakeError::TimedOut)) {
                Ok((stream, caller)) => {
                    observer.accepted();
                    let connection = Connection {
                        stream,
                        caller,
                        _permit: permit,
                    };
                    let _ = connections.send(Ok(connection)).await;
                }
                Err(cause) => observer.refused(remote, &cause),
            }
        });
    }
}
