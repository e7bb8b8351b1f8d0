//! Ten thousand roles due at once: how fast they go, what introspection feels of it, and what it
//! would feel of the same statements from a bare client. On a machine that PostgreSQL shares with
//! everything else, most of what is felt is PostgreSQL.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use sundew_proto::v1::{GetSecretRequest, PutEngineRequest, RevokeResponse};
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::process::{CpuTime, children};
use sundew_tests::selectors::of_workload;
use sundew_tests::world::World;

use crate::LIMITS;
use crate::introspecting::{Introspecting, ratio};

const ROLES: usize = 10_000;

/// With PostgreSQL on every core; and with a core of its own, which stays so: this comes last.
pub(crate) async fn run() {
    for (connections, apart) in [(4, false), (1, false), (4, true)] {
        removal(connections, apart).await;
    }
}

/// Every process named and its threads run on this core from now on, and so will what they start.
fn pin(processes: &[u32], core: u8) {
    for id in processes {
        let pinned = Command::new("taskset")
            .args(["-a", "-c", "-p", &core.to_string(), &id.to_string()])
            .stdout(Stdio::null())
            .status();
        assert!(pinned.expect("taskset").success(), "taskset");
    }
}

/// A broker with a PostgreSQL in which it makes roles, and a workload whose tokens are introspected.
struct Setting {
    postgres: Postgres,
    world: Arc<World>,
    broker: Broker,
    operator: Caller,
    bystander: Caller,
    tokens: Vec<String>,
}

impl Setting {
    async fn start(connections: usize) -> Self {
        let postgres = Postgres::with(&["max_connections=100"]).await;
        let world = World::redis();
        let broker = world
            .broker_with(&format!("{LIMITS}issuing = 1000\n"))
            .await;
        world.register(&broker, "/agent", json!({ "max_tasks": 100_000, "attendance_grace": "1h", "scopes": ["secret:db/*", "exec:git"] })).await;
        world
            .register(
                &broker,
                "/bystander",
                json!({ "max_tasks": 100, "attendance_grace": "1h" }),
            )
            .await;
        let operator = world.operator(&broker);
        let mut engine = postgres.engine("db/app");
        engine["max_connections"] = json!(connections);
        let request = PutEngineRequest {
            document: engine.to_string(),
            password: PASSWORD.as_bytes().to_vec(),
            unchecked: false,
        };
        operator
            .registry()
            .put_engine(request)
            .await
            .expect("engine");
        let bystander = world.caller(&broker, "/bystander");
        let mut tokens = Vec::new();
        for _ in 0..16 {
            tokens.push(
                bystander
                    .begin(&world.issuer, "/bystander", &["exec:git"])
                    .await
                    .expect("task")
                    .token,
            );
        }
        Self {
            postgres,
            world: Arc::new(world),
            broker,
            operator,
            bystander,
            tokens,
        }
    }

    /// Makes all roles, sixteen at a time, by tasks that read a secret.
    async fn make_roles(&self) {
        let began = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let work: Vec<_> = (0..16)
            .map(|_| {
                let (caller, world, next) = (
                    self.world.caller(&self.broker, "/agent"),
                    Arc::clone(&self.world),
                    Arc::clone(&next),
                );
                tokio::spawn(async move {
                    while next.fetch_add(1, Ordering::Relaxed) < ROLES {
                        let begun = caller
                            .begin(&world.issuer, "/agent", &["secret:db/app/readonly"])
                            .await
                            .expect("task");
                        let request = GetSecretRequest {
                            task_id: begun.task,
                            name: "db/app/readonly".to_owned(),
                            ..GetSecretRequest::default()
                        };
                        caller.agent().get_secret(request).await.expect("lease");
                    }
                })
            })
            .collect();
        for each in work {
            if let Err(error) = each.await {
                panic!("{error}; the broker printed:\n{}", self.broker.output());
            }
        }
        println!(
            "made in {:?} ({:.0} per second)",
            began.elapsed(),
            ROLES as f64 / began.elapsed().as_secs_f64()
        );
    }

    /// Makes as many roles for the bare client.
    async fn make_bare_roles(&self) {
        let admin = self
            .postgres
            .client("admin", PASSWORD, "app")
            .await
            .expect("connection");
        for n in 0..ROLES {
            admin
                .batch_execute(&format!(
                    "CREATE ROLE bare_{n} LOGIN; GRANT reader TO bare_{n}"
                ))
                .await
                .expect("role");
        }
    }

    /// Gives PostgreSQL a core of its own.
    fn set_apart(&self) {
        let postgres = self.postgres.pid();
        pin(&[children(postgres), vec![postgres]].concat(), 0);
        pin(
            &[
                std::process::id(),
                self.broker.pid(),
                self.world.redis.as_ref().expect("redis").pid(),
            ],
            1,
        );
    }

    fn introspecting(&self) -> Introspecting {
        Introspecting::start(&self.operator, &self.tokens, &self.bystander.thumbprint())
    }

    /// Revokes everything and waits until no role is left; returns the answer, how long that took, and
    /// the CPU time of the broker meanwhile.
    async fn revoke_all(&self) -> (RevokeResponse, Duration, Duration) {
        let superuser = self.postgres.superuser().await;
        let (began, cpu) = (Instant::now(), CpuTime::of(self.broker.pid()));
        let answer = self
            .operator
            .revoke(of_workload("/agent"))
            .await
            .expect("revoked");
        println!("revoke answered after {:?}", began.elapsed());
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let left = superuser
                .query_one(
                    "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'sdw\\_%'",
                    &[],
                )
                .await
                .expect("roles");
            if left.get::<_, i64>(0) == 0 {
                break;
            }
        }
        let (took, cpu) = (began.elapsed(), CpuTime::of(self.broker.pid()).since(&cpu));
        (answer, took, cpu)
    }
}

async fn removal(connections: usize, apart: bool) {
    let place = if apart {
        ", PostgreSQL on one core and everything else on another"
    } else {
        ""
    };
    println!("\n## {ROLES} PostgreSQL roles due at once, connections: {connections}{place}\n");
    let setting = Setting::start(connections).await;
    setting.make_roles().await;
    setting.make_bare_roles().await;
    if apart {
        setting.set_apart();
    }
    let presenter = setting.bystander.thumbprint();
    let quiet = Introspecting::quiet(&setting.operator, &setting.tokens, &presenter).await;

    let introspecting = setting.introspecting();
    let bare = bare_client(&setting.postgres, connections).await;
    let with_bare = introspecting.p99().await;

    let introspecting = setting.introspecting();
    let (answer, took, cpu) = setting.revoke_all().await;
    let with_sundew = introspecting.p99().await;
    let status = setting
        .operator
        .cleaned_up(&answer.revocation_id)
        .await
        .expect("status");
    let rate = ROLES as f64 / took.as_secs_f64();
    println!(
        "all gone after {took:?} ({rate:.0} per second, {:.2} × the bare client's {bare:.0}); broker CPU meanwhile {cpu:?}",
        rate / bare
    );
    println!(
        "the clean-up counted {} tasks and {} leases",
        status.tasks, status.leases
    );
    println!(
        "introspection p99: {quiet:?} quiet, {with_bare:?} while the bare client removes roles ({:.2} ×), {with_sundew:?} while Sundew does ({:.2} ×)",
        ratio(with_bare, quiet),
        ratio(with_sundew, quiet)
    );
}

/// Removals per second of a client that sends the statements that Sundew sends, on as many
/// connections.
async fn bare_client(postgres: &Postgres, connections: usize) -> f64 {
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(
            postgres
                .client("admin", PASSWORD, "app")
                .await
                .expect("connection"),
        );
    }
    let (next, began) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let work: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let next = Arc::clone(&next);
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= ROLES {
                        return;
                    }
                    client
                        .batch_execute(&sundew_broker::postgres_removal(&format!("bare_{n}")))
                        .await
                        .expect("removed");
                }
            })
        })
        .collect();
    for each in work {
        each.await.expect("bare");
    }
    ROLES as f64 / began.elapsed().as_secs_f64()
}
