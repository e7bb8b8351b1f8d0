//! Many callers at a time: of floods, and those that write secrets.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sundew_proto::v1::PutSecretRequest;
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::world::World;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

/// How many callers without a certificate there are in a flood.
const FLOODERS: usize = 48;
/// How many connections one of them holds open.
const HELD: usize = 32;
/// How many callers write secrets.
const WRITERS: usize = 16;

/// Floods both listeners of a broker for so long.
pub(crate) async fn flood(broker: &Broker, time: Duration) {
    let until = Instant::now() + time;
    let flooder = |n| flooder(n, broker.address(), broker.operations(), until);
    let flooders: JoinSet<()> = (0..FLOODERS).map(flooder).collect();
    flooders.join_all().await;
}

/// Floods the socket for local callers of a broker for so long: some callers say nothing, some garbage.
pub(crate) async fn flood_socket(world: &World, time: Duration) {
    let until = Instant::now() + time;
    let socket = world.folder().join("api.sock");
    let flooder = |n| local_flooder(n, socket.clone(), until);
    let flooders: JoinSet<()> = (0..FLOODERS).map(flooder).collect();
    flooders.join_all().await;
}

/// Writes so many secrets. Where the store does not take one, there is one less.
pub(crate) async fn write_secrets(operator: &Caller, secrets: usize) {
    let writer = |from| write_each_sixteenth(operator.clone(), from, secrets);
    let writers: JoinSet<()> = (0..WRITERS).map(writer).collect();
    writers.join_all().await;
}

async fn write_each_sixteenth(operator: Caller, from: usize, to: usize) {
    for n in (from..to).step_by(WRITERS) {
        let request = PutSecretRequest {
            name: format!("many/{n}"),
            value: b"sealed".to_vec(),
            ..PutSecretRequest::default()
        };
        let _ = operator.registry().put_secret(request).await;
    }
}

/// Opens connections until the time is over, one after another or many at once.
async fn flooder(n: usize, workloads: String, operations: String, until: Instant) {
    let mut held = Vec::new();
    while Instant::now() < until {
        match n % 3 {
            0 => drop(Caller::new(workloads.clone(), None).nonce().await),
            which => {
                let address = if which == 1 { &workloads } else { &operations };
                held.extend(TcpStream::connect(address).await.ok());
                if held.len() > HELD {
                    held.clear();
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn local_flooder(n: usize, socket: PathBuf, until: Instant) {
    let mut held = Vec::new();
    while Instant::now() < until {
        if let Ok(mut stream) = UnixStream::connect(&socket).await {
            if n.is_multiple_of(2) {
                let _ = stream.write_all(&[0x16; 64]).await;
            }
            held.push(stream);
        }
        if held.len() > HELD {
            held.clear();
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
