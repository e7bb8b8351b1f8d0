//! The other side of the checker: agents of the SDK attend tasks through all faults, and no live,
//! attended task ends by itself.
//!
//! A task may end before it is ended here for two reasons only: its deadline has come, or the store
//! was emptied since it was begun.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sundew_sdk::{Agent, Collected, Collector, Context, Ended, Error, Settings, Task, minutes};
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::issuer::TestIssuer;
use sundew_tests::pki::Svid;
use sundew_tests::world::World;
use tokio::net::{TcpListener, TcpStream};

use crate::agents::{Random, Shared};

/// The path of the workload whose tasks are attended.
pub(crate) const PATH: &str = "/attended";
/// The grace of attended tasks. Most outages of the store are longer; no broker is away for so long,
/// and if one is, its agents reach the other.
pub(crate) const GRACE: &str = "6s";
/// How many tasks are attended.
const TASKS: usize = 12;
/// How long a task may take to be usable once everything is quiet.
const USABLE_WITHIN: Duration = Duration::from_secs(20);

/// Collects tokens of the test issuer, a fresh one each time.
struct Tokens(Arc<TestIssuer>);

impl Collector for Tokens {
    fn kind(&self) -> &'static str {
        "oidc"
    }

    fn collect<'a>(&'a self, _: &'a Context<'a>) -> Collected<'a> {
        let token = self.0.token(PATH);
        Box::pin(async move { Ok(token) })
    }
}

/// Leads each connection to one of the brokers in turn, and to the next if that one takes none, as
/// a load balancer does. Returns the address on which it listens.
async fn balancer(brokers: &[Broker]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("address").to_string();
    let mut targets: Vec<String> = brokers.iter().map(Broker::address).collect();
    tokio::spawn(async move {
        while let Ok((mut agent, _)) = listener.accept().await {
            targets.rotate_left(1);
            let targets = targets.clone();
            tokio::spawn(async move {
                for target in targets {
                    if let Ok(mut broker) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut agent, &mut broker).await;
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A program that has one task after another, and attends each for as long as it lives.
struct Attendant {
    shared: Arc<Shared>,
    agent: Agent,
    servers: Vec<Caller>,
    presenter: Vec<u8>,
    random: Random,
}

/// A task that is attended, and what was the case when it was begun.
struct Held {
    task: Task,
    begun: Instant,
    /// How often the store had been emptied.
    emptied: usize,
}

/// Begins tasks and attends them in the background, until the suite is quiet; each is judged then.
pub(crate) async fn attend(
    world: &World,
    brokers: &[Broker],
    servers: &[Caller],
    shared: &Arc<Shared>,
    seed: u64,
) -> Vec<tokio::task::JoinHandle<()>> {
    let svid: Svid = world.ca.short_svid(PATH, Duration::from_secs(12 * 3600));
    let folder = world.folder().join("attended");
    svid.write(&folder, std::slice::from_ref(&world.ca.certificate));
    let settings = Settings {
        broker: Some(balancer(brokers).await),
        svid_dir: Some(folder),
        ..Settings::default()
    };
    let mut attendants = Vec::new();
    for n in 0..TASKS {
        let agent = Agent::builder(settings.clone())
            .collector(Tokens(Arc::clone(&world.issuer)))
            .build();
        let attendant = Attendant {
            shared: Arc::clone(shared),
            agent: agent.await.expect("agent"),
            servers: servers.to_vec(),
            presenter: svid.thumbprint().to_vec(),
            random: Random(seed + 9000 + u64::try_from(n).expect("few")),
        };
        attendants.push(tokio::spawn(attendant.live()));
    }
    attendants
}

impl Attendant {
    async fn live(mut self) {
        let mut held = None;
        while !self.shared.quiet.load(Ordering::Relaxed) {
            held = match held {
                Some(held) => self.watch(held).await,
                None => self.begin().await,
            };
        }
        if let Some(held) = held {
            self.judge(held).await;
        }
    }

    async fn begin(&mut self) -> Option<Held> {
        let emptied = self.shared.emptied.load(Ordering::Relaxed);
        let begin = self.agent.task("attended").scope("exec:git");
        match begin.ttl(minutes(30)).begin().await {
            Ok(task) => {
                self.shared.attended.fetch_add(1, Ordering::Relaxed);
                let begun = Instant::now();
                Some(Held {
                    task,
                    begun,
                    emptied,
                })
            }
            Err(_) => {
                tokio::time::sleep(self.random.between(50, 300)).await;
                None
            }
        }
    }

    /// Waits a moment, uses the task now and then, and resumes it if a responder has suspended it.
    /// Nothing is returned once it has ended.
    async fn watch(&mut self, held: Held) -> Option<Held> {
        let pause = self.random.between(100, 600);
        if let Ok(ended) = tokio::time::timeout(pause, held.task.ended()).await {
            self.ended(&held, ended);
            return None;
        }
        // Whether this works at this moment is not judged.
        if held.task.is_suspended() {
            let _ = held.task.resume().await;
        } else if self.is_gone(&held) || self.random.below(16) == 0 {
            let minted = held.task.mint(&[], &[], None).await;
            if self.is_gone(&held) && matches!(minted, Err(Error::NotPermitted { .. })) {
                return None;
            }
        }
        Some(held)
    }

    /// Whether the store was emptied since the task was begun, and the task with it.
    fn is_gone(&self, held: &Held) -> bool {
        self.shared.emptied.load(Ordering::Relaxed) != held.emptied
    }

    /// Judges that a task has ended which nobody has ended.
    fn ended(&self, held: &Held, ended: Ended) {
        let expired = sundew_tests::now_ms() >= held.task.deadline_ms();
        if !expired && !self.is_gone(held) {
            self.violation(held, &format!("ended by itself: {ended}"));
        }
    }

    fn violation(&self, held: &Held, what: &str) {
        let (id, age) = (held.task.id(), held.begun.elapsed().as_secs_f32());
        self.shared
            .violation(format!("{id}, attended for {age:.1} s, {what}"));
    }

    /// Everything is quiet: a task that is attended is usable, at every broker, and ends as it is
    /// ended.
    async fn judge(&mut self, held: Held) {
        let deadline = Instant::now() + USABLE_WITHIN;
        while let Err(problem) = self.usable(&held.task).await {
            if let Ok(ended) = tokio::time::timeout(Duration::ZERO, held.task.ended()).await {
                return self.ended(&held, ended);
            }
            if self.is_gone(&held) {
                return;
            }
            if Instant::now() > deadline {
                return self.violation(&held, &format!("is not usable: {problem}"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let age = usize::try_from(held.begun.elapsed().as_secs()).expect("age");
        self.shared.usable.fetch_add(1, Ordering::Relaxed);
        self.shared.oldest.fetch_max(age, Ordering::Relaxed);
        let (id, ended) = (held.task.id().to_owned(), held.task.complete().await);
        if !matches!(ended, Ok(Ended::Completed)) {
            self.shared.violation(format!(
                "{id}, attended for {age} s, was completed: {ended:?}"
            ));
        }
    }

    /// Whether a token can be minted now, and every broker answers that it is active.
    async fn usable(&self, task: &Task) -> Result<(), String> {
        if task.is_suspended() {
            task.resume().await.map_err(|error| error.to_string())?;
        }
        let token = task.mint(&[], &[], None).await;
        let token = token.map_err(|error| error.to_string())?;
        for server in &self.servers {
            match server.active(token.expose(), &self.presenter).await {
                Ok(true) => {}
                other => return Err(format!("its token is not active: {other:?}")),
            }
        }
        Ok(())
    }
}
