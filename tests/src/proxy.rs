//! A TCP proxy between a broker and what it depends on: it can be cut (nothing comes through,
//! nothing is closed) and be slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A running proxy.
pub struct Proxy {
    port: u16,
    target: Arc<AtomicU16>,
    cut: Arc<AtomicBool>,
    delay_ms: Arc<AtomicU64>,
}

impl Proxy {
    /// Starts a proxy in front of a port on loopback.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let port = listener.local_addr().expect("address").port();
        let (cut, delay_ms) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let target = Arc::new(AtomicU16::new(target));
        let (state, delay) = (Arc::clone(&cut), Arc::clone(&delay_ms));
        let towards = Arc::clone(&target);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (state, delay) = (Arc::clone(&state), Arc::clone(&delay));
                let target = towards.load(Ordering::Relaxed);
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else {
                        return;
                    };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::spawn(pump(
                        from_client,
                        to_server,
                        Arc::clone(&state),
                        Arc::clone(&delay),
                    ));
                    pump(from_server, to_client, state, delay).await;
                });
            }
        });
        Self {
            port,
            target,
            cut,
            delay_ms,
        }
    }

    /// Returns the port on which the proxy listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leads new connections to another port, as a load balancer does. Old ones stay where they are.
    pub fn lead_to(&self, target: u16) {
        self.target.store(target, Ordering::Relaxed);
    }

    /// Lets nothing through, or everything again. Held bytes come through late, as on a
    /// network.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    /// Holds each piece for so long.
    pub fn slow(&self, delay: Duration) {
        self.delay_ms.store(
            u64::try_from(delay.as_millis()).expect("delay"),
            Ordering::Relaxed,
        );
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    cut: Arc<AtomicBool>,
    delay: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        tokio::time::sleep(Duration::from_millis(delay.load(Ordering::Relaxed))).await;
        while cut.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
