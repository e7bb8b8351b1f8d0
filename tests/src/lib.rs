//! Harness: real brokers, a real Redis, real certificates and tokens, all as child processes on free loopback ports.
//!
//! Children are ended by their handle. Nothing here skips: what is missing on the machine is an error.

pub mod broker;
pub mod calls;
pub mod dev;
pub mod hardware;
pub mod issuer;
pub mod pki;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod replicated;
pub mod tpm;

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// The binary under test: the one that was built with these tests, or what `SUNDEW_UNDER_TEST` names.
pub fn sundew() -> PathBuf {
    if let Some(path) = std::env::var_os("SUNDEW_UNDER_TEST") {
        return path.into();
    }
    let mut path = std::env::current_exe().expect("own path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    let path = path.join("sundew");
    assert!(path.exists(), "{} is not built: run `cargo build --bin sundew` first, or ./tests/run", path.display());
    path
}

/// Waits until something holds; panics after ten seconds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within 10 seconds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("clock").as_millis()).expect("clock")
}

/// Installs the crypto provider once.
pub fn init() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
