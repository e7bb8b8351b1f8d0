//! Harness: real brokers, a real Redis, real certificates and tokens, all as child processes on
//! free loopback ports.
//!
//! Children are ended by their handle. Nothing here skips: what is missing on the machine is an
//! error.

pub mod broker;
pub mod calls;
pub mod clock;
pub mod dev;
pub mod disk;
pub mod document;
pub mod hardware;
pub mod issuer;
pub mod joining;
pub mod pki;
pub mod pod;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod replicated;
pub mod selectors;
pub mod terminal;
pub mod tls;
pub mod tpm;
pub mod workload_api;
pub mod world;

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Ports that are given out: below those that the kernel takes for connections that go out, so that
/// none of these takes one meanwhile.
const PORTS: std::ops::Range<u32> = 10_240..32_000;

/// Returns a port that nobody listens on, and that this process gives out once.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// Returns the first of so many ports in a row.
pub fn free_ports(count: u32) -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let length = PORTS.end - PORTS.start - count;
    for _ in 0..length {
        // Another process begins elsewhere.
        let at = std::process::id()
            .wrapping_mul(7919)
            .wrapping_add(GIVEN.fetch_add(count, Ordering::Relaxed))
            % length;
        let first = u16::try_from(PORTS.start + at).expect("port");
        let last = first + u16::try_from(count - 1).expect("port");
        if (first..=last).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return first;
        }
    }
    panic!("no free port");
}

/// Returns the binary under test: the one that was built with these tests, or what `SUNDEW_UNDER_TEST`
/// names.
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
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --bin sundew` first, or ./tests/run",
        path.display()
    );
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

/// Returns the milliseconds since the epoch.
pub fn now_ms() -> i64 {
    i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("clock")
            .as_millis(),
    )
    .expect("clock")
}

/// Installs the crypto provider once.
pub fn init() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
