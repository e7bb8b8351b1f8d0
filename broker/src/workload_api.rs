//! The SPIFFE Workload API of the embedded CA, on a Unix socket: X.509 profile, for local processes that the kernel vouches for.
//!
//! P1: an identity is issued to a process whose uid, gid, executable or its digest a registration names. What is read in
//! /proc is read through a pidfd that the kernel gave with the connection, and believed only if that process still lives
//! afterwards, so that a reused pid proves nothing. Where the kernel has no such pidfd (before Linux 6.5), registrations that
//! name an executable do not match.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use ring::digest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::LocalSelector;
use sundew_core::store::DocumentKind;
use sundew_proto::spiffe::spiffe_workload_api_server::SpiffeWorkloadApi;
use sundew_proto::spiffe::{X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest, X509svidResponse};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

use crate::broker::Broker;
use crate::ca::Ca;
use crate::clock;
use crate::journal;
use crate::refusal::Refusal;

/// How often a stream looks whether what it serves has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most SVIDs remembered.
const MAX_ISSUED: usize = 4096;

/// What the kernel says of the process at the other end.
pub(crate) struct LocalProcess {
    uid: u32,
    gid: u32,
    pidfd: Option<OwnedFd>,
}

/// A local connection.
pub(crate) struct LocalConnection {
    stream: UnixStream,
    process: Arc<LocalProcess>,
}

impl LocalConnection {
    fn new(stream: UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let pidfd = getsockopt(&stream.as_fd(), sockopt::PeerPidfd).ok();
        Ok(Self { process: Arc::new(LocalProcess { uid: credentials.uid(), gid: credentials.gid(), pidfd }), stream })
    }
}

impl Connected for LocalConnection {
    type ConnectInfo = Arc<LocalProcess>;
    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.process)
    }
}

impl AsyncRead for LocalConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for LocalConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Makes the socket; anybody may connect, the kernel says who did.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    Ok(listener)
}

/// Accepts until `connections` is dropped.
pub(crate) async fn accept(listener: UnixListener, connections: mpsc::Sender<io::Result<LocalConnection>>) {
    loop {
        let accepted = tokio::select! {
            () = connections.closed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted.and_then(|(stream, _)| LocalConnection::new(stream)) {
            Ok(connection) => drop(connections.send(Ok(connection)).await),
            Err(error) => {
                tracing::warn!(%error, "workload api: accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// What /proc says of the executable; nothing if the process cannot be held on to.
#[derive(Default)]
struct Executable {
    path: Option<String>,
    sha256: Option<String>,
}

impl LocalProcess {
    /// Blocking: reads the executable if its digest is wanted.
    fn executable(&self, want_digest: bool) -> Executable {
        self.read_executable(want_digest).unwrap_or_default()
    }

    fn pid(&self) -> Option<u32> {
        let number = std::os::fd::AsRawFd::as_raw_fd(self.pidfd.as_ref()?);
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
        info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
    }

    /// Pid and start time: names a process as long as the machine runs.
    fn name(&self) -> Option<(u32, String)> {
        let pid = self.pid()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; what counts comes after it (proc(5): starttime is field 22).
        let started = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.to_owned();
        self.lives().then_some((pid, started))
    }

    fn read_executable(&self, want_digest: bool) -> Option<Executable> {
        let pid = self.pid()?;
        let link = format!("/proc/{pid}/exe");
        let path = std::fs::read_link(&link).ok()?.to_str()?.to_owned();
        let sha256 = if want_digest { Some(digest_of(&std::fs::File::open(&link).ok()?)?) } else { None };
        // Only now is it certain that /proc/<pid> was this process all the time.
        let found = Executable { path: Some(path), sha256 };
        self.lives().then_some(found)
    }

    fn lives(&self) -> bool {
        let Some(pidfd) = &self.pidfd else { return true };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    fn matches(&self, selector: &LocalSelector, executable: &Executable) -> bool {
        let holds = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        selector.uid.is_none_or(|uid| uid == self.uid)
            && selector.gid.is_none_or(|gid| gid == self.gid)
            && holds(&selector.exe, &executable.path)
            && holds(&selector.exe_sha256, &executable.sha256)
    }
}

fn digest_of(mut file: &std::fs::File) -> Option<String> {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = io::Read::read(&mut file, &mut buffer).ok()?;
        if count == 0 {
            return Some(crate::task::hex(context.finish().as_ref()));
        }
        context.update(buffer.get(..count)?);
    }
}

/// The service.
#[derive(Clone)]
pub(crate) struct WorkloadApi {
    broker: Arc<Broker>,
    issued: Arc<Mutex<HashMap<Holder, Issued>>>,
}

/// A process, and one of its identities.
type Holder = (u32, String, SpiffeId);

/// What a process has. It gets the same again when it asks again, as clients do that open several streams.
#[derive(Clone)]
struct Issued {
    svid: X509svid,
    renew_at_ms: i64,
    generation: u64,
}

type Svids = BTreeMap<SpiffeId, X509svid>;

impl WorkloadApi {
    pub(crate) fn new(broker: Arc<Broker>) -> Self {
        Self { broker, issued: Arc::default() }
    }

    fn caller<T>(request: &Request<T>) -> Result<Arc<LocalProcess>, Status> {
        // SPIFFE Workload Endpoint, section 4.1: without this header the call may come from a confused deputy.
        if request.metadata().get("workload.spiffe.io").map(tonic::metadata::MetadataValue::as_bytes) != Some(b"true") {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        request.extensions().get::<Arc<LocalProcess>>().cloned().ok_or_else(|| Status::unavailable("no peer"))
    }

    fn ca(&self) -> Result<&Ca, Refusal> {
        self.broker.ca.as_ref().ok_or(Refusal::Unsupported("embedded CA"))
    }

    /// The IDs of registrations that match the process.
    async fn identities(&self, process: &Arc<LocalProcess>) -> Result<Vec<SpiffeId>, Refusal> {
        let ca = self.ca()?;
        let mut candidates = Vec::new();
        for (name, bytes) in self.broker.records.store().documents(DocumentKind::Workload).await? {
            let registration = self.broker.records.open_workload(&name, &bytes)?.registration;
            if registration.spiffe_id.trust_domain() == ca.trust_domain() && !registration.local.is_empty() {
                candidates.push(registration);
            }
        }
        let want_digest = candidates.iter().any(|r| r.local.iter().any(|s| s.exe_sha256.is_some()));
        let looked_at = Arc::clone(process);
        let executable = tokio::task::spawn_blocking(move || looked_at.executable(want_digest)).await.unwrap_or_default();
        let matching = candidates.into_iter().filter(|r| r.local.iter().any(|s| process.matches(s, &executable)));
        Ok(matching.map(|r| r.spiffe_id).collect())
    }

    /// What the process has for this identity, or a new SVID; with the time to renew it, half of its life.
    async fn svid_for(&self, process: &LocalProcess, id: &SpiffeId, generation: u64) -> Result<Issued, Refusal> {
        let holder = process.name().map(|(pid, started)| (pid, started, id.clone()));
        let now_ms = clock::now_ms();
        let known = |issued: &HashMap<Holder, Issued>| issued.get(holder.as_ref()?).filter(|i| now_ms < i.renew_at_ms && i.generation == generation).cloned();
        if let Some(issued) = known(&self.lock()) {
            return Ok(issued);
        }
        let (svid, not_after_ms) = self.issue(id).await?;
        // Half of its life: there is time to come back if renewal fails.
        let fresh = Issued { svid, renew_at_ms: now_ms.saturating_add(not_after_ms.saturating_sub(now_ms) / 2), generation };
        if let Some(holder) = holder {
            let mut issued = self.lock();
            issued.retain(|_, i| now_ms < i.renew_at_ms);
            if issued.len() < MAX_ISSUED {
                issued.insert(holder, fresh.clone());
            }
        }
        Ok(fresh)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Holder, Issued>> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn issue(&self, id: &SpiffeId) -> Result<(X509svid, i64), Refusal> {
        let (svid, key) = self.ca()?.issue_with_key(id).map_err(crate::enrollment::ca_refusal)?;
        self.broker.record_svid(id, &svid, "local process").await?;
        let message = X509svid {
            spiffe_id: id.to_string(),
            x509_svid: svid.chain.concat_der(),
            x509_svid_key: key.expose().to_vec(),
            bundle: svid.bundle.concat_der(),
            hint: String::new(),
        };
        Ok((message, svid.not_after_ms))
    }

    fn federated(&self) -> HashMap<String, Vec<u8>> {
        let own = self.broker.ca.as_ref().map(|ca| ca.trust_domain().clone());
        let snapshot = self.broker.trust.current();
        let others = snapshot.bundles.iter().filter(|b| Some(b.trust_domain()) != own.as_ref());
        others.map(|b| (b.trust_domain().id(), b.certificates().flat_map(|c| c.to_vec()).collect())).collect()
    }

    async fn serve_svids(self, process: Arc<LocalProcess>, answers: mpsc::Sender<Result<X509svidResponse, Status>>) -> Result<(), Refusal> {
        let (mut svids, mut renew_at_ms, mut generation) = (Svids::new(), 0, 0);
        loop {
            let ids = self.identities(&process).await?;
            if ids.is_empty() {
                let record = journal::record("refused").with("rpc", "FetchX509SVID").with("reason", "no registration matches the process");
                self.broker.journal.note(record.with("uid", process.uid).with("gid", process.gid));
                let _ = answers.send(Err(Status::permission_denied("no identity issued"))).await;
                return Ok(());
            }
            let trust = self.broker.trust.current().generation;
            let stale = clock::now_ms() >= renew_at_ms || trust != generation || !svids.keys().eq(ids.iter());
            if stale {
                svids.clear();
                renew_at_ms = i64::MAX;
                for id in ids {
                    let issued = self.svid_for(&process, &id, trust).await?;
                    renew_at_ms = renew_at_ms.min(issued.renew_at_ms);
                    svids.insert(id, issued.svid);
                }
                generation = trust;
                let response = X509svidResponse { svids: svids.values().cloned().collect(), crl: Vec::new(), federated_bundles: self.federated() };
                if answers.send(Ok(response)).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                () = answers.closed() => return Ok(()),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if !process.lives() {
                return Ok(());
            }
        }
    }

    async fn serve_bundles(self, process: Arc<LocalProcess>, answers: mpsc::Sender<Result<X509BundlesResponse, Status>>) {
        let mut generation = None;
        while process.lives() {
            let current = self.broker.trust.current();
            if generation != Some(current.generation) {
                generation = Some(current.generation);
                let bundles = current.bundles.iter().map(|b| (b.trust_domain().id(), b.certificates().flat_map(|c| c.to_vec()).collect())).collect();
                if answers.send(Ok(X509BundlesResponse { crl: Vec::new(), bundles })).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = answers.closed() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

trait ConcatDer {
    fn concat_der(&self) -> Vec<u8>;
}

impl ConcatDer for Vec<rustls_pki_types::CertificateDer<'static>> {
    fn concat_der(&self) -> Vec<u8> {
        self.iter().flat_map(|c| c.to_vec()).collect()
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = ReceiverStream<Result<X509svidResponse, Status>>;
    type FetchX509BundlesStream = ReceiverStream<Result<X509BundlesResponse, Status>>;

    async fn fetch_x509svid(&self, request: Request<X509svidRequest>) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let process = Self::caller(&request)?;
        let (answers, receiver) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            let broker = Arc::clone(&service.broker);
            if let Err(refusal) = service.serve_svids(process, answers.clone()).await {
                let _ = answers.send(Err(broker.refuse("FetchX509SVID", None, &refusal))).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_x509_bundles(&self, request: Request<X509BundlesRequest>) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let process = Self::caller(&request)?;
        // Bundles go to those who get an identity, as the specification has it.
        let known = self.identities(&process).await.map_err(|refusal| self.broker.refuse("FetchX509Bundles", None, &refusal))?;
        if known.is_empty() {
            return Err(Status::permission_denied("no identity issued"));
        }
        let (answers, receiver) = mpsc::channel(1);
        tokio::spawn(self.clone().serve_bundles(process, answers));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
