//! The accept loop of a TLS listener: bounded connections, bounded and timed handshakes.
//!
//! A3: a connection is pending until its handshake has ended. A silent one holds nothing that others
//! wait for: places of `handshakes` are taken only while something is computed, and a pending
//! connection gives way when there are too many.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sundew_attestation::spiffe::SpiffeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::caller::Caller;
use super::pending::PendingConnections;
use super::places::{Place, Places};
use super::speaking::FirstByte;
use super::tls::{Clients, HandshakeError, handshake, read_hello};
use super::trust::Trust;

/// Longest time for a handshake; one that takes longer is dropped (T81).
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after the operating system gave no connection.
const RETRY_ACCEPT_AFTER: Duration = Duration::from_millis(50);

/// Limits of a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ListenerLimits {
    /// Most connections whose handshake has succeeded.
    pub connections: usize,
    /// Those of them that are kept for operators.
    pub for_operators: usize,
    /// Most handshakes that are computed at a time.
    pub handshakes: usize,
    /// Most connections whose handshake has not ended.
    pub pending: usize,
    /// Most connections from one remote host, operators' not counted.
    pub per_remote: usize,
    /// Most connections of one workload.
    pub per_workload: usize,
}

/// Hears of every connection: counts them by outcome, and puts refusals on the record.
pub(crate) trait AcceptObserver: Send + Sync + 'static {
    /// A handshake succeeded.
    fn accepted(&self);
    /// Whether places are kept for somebody.
    fn is_operator(&self, id: &SpiffeId) -> bool;
    /// A connection was not let in.
    fn refused(&self, remote: SocketAddr, cause: &HandshakeError);
}

/// An accepted connection.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    first_byte: FirstByte,
    _place: Place,
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
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.first_byte.watch(read, cx, buf)
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

/// What the connections of a listener share.
struct Acceptor {
    clients: Clients,
    handshakes: Arc<Semaphore>,
    observer: Arc<dyn AcceptObserver>,
    pending: Arc<PendingConnections>,
    places: Arc<Places>,
    trust: Arc<Trust>,
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
    let acceptor = Arc::new(Acceptor {
        clients,
        handshakes: Arc::new(Semaphore::new(limits.handshakes)),
        observer,
        pending: PendingConnections::new(limits.pending),
        places: Places::new(limits),
        trust,
    });
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
        let (acceptor, connections) = (Arc::clone(&acceptor), connections.clone());
        tokio::spawn(async move {
            match acceptor.let_in(socket, remote).await {
                Ok(connection) => {
                    acceptor.observer.accepted();
                    let _ = connections.send(Ok(connection)).await;
                }
                Err(cause) => acceptor.observer.refused(remote, &cause),
            }
        });
    }
}

impl Acceptor {
    /// Performs the handshake, unless it takes too long or is to give way, and takes a place.
    async fn let_in(
        &self,
        socket: TcpStream,
        remote: SocketAddr,
    ) -> Result<Connection, HandshakeError> {
        let mut pending = self.pending.add(remote);
        let (stream, caller) = tokio::select! {
            biased;
            shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.shake(socket, remote)) => {
                shaken.unwrap_or(Err(HandshakeError::TimedOut))?
            }
            () = pending.gives_way() => return Err(HandshakeError::GaveWay),
        };
        // Who it is decides about the place, so it is taken after the handshake.
        let workload = match &caller {
            Caller::Anonymous(..) => None,
            Caller::Workload(peer) => Some(peer.id()),
        };
        let is_operator = workload.is_some_and(|id| self.observer.is_operator(id));
        let place = self.places.take(remote, workload, is_operator)?;
        Ok(Connection {
            stream,
            caller,
            first_byte: FirstByte::awaited(),
            _place: place,
        })
    }

    async fn shake(
        &self,
        socket: TcpStream,
        remote: SocketAddr,
    ) -> Result<(TlsStream<TcpStream>, Caller), HandshakeError> {
        let hello = read_hello(socket).await?;
        InPlace {
            work: Box::pin(handshake(hello, remote, &self.trust, self.clients)),
            places: &self.handshakes,
            waiting: None,
        }
        .await
        .map_err(HandshakeError::Closed)?
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// Work that has a place only while it is computed, and none while it waits for its caller.
struct InPlace<'a, F> {
    work: Pin<Box<F>>,
    places: &'a Arc<Semaphore>,
    waiting: Option<Waiting>,
}

impl<F: Future> Future for InPlace<'_, F> {
    type Output = Result<F::Output, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let places = self.places;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(Arc::clone(places).acquire_owned()));
        let place = std::task::ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        let _place = place?;
        self.work.as_mut().poll(cx).map(Ok)
    }
}
