//! A million live tokens: what they cost, what a preview costs, and how long it takes to revoke them.

use std::time::Duration;

use std::time::Instant;

use sundew_proto::v1::{PreviewRequest, Selector};
use sundew_tests::broker::Broker;
use sundew_tests::calls::Caller;
use sundew_tests::pki::{DOMAIN, Svid};
use sundew_tests::process::resident;
use sundew_tests::selectors::{of_token, of_workload};
use sundew_tests::world::World;

use crate::introspecting::{Introspecting, quantile, ratio};
use crate::writer::{Writer, fill};
use crate::{LIMITS, timed, used_memory};

/// Two brokers on one Redis, and what writes tokens past them.
pub(crate) struct Two {
    pub(crate) world: World,
    pub(crate) brokers: [Broker; 2],
    pub(crate) servers: Vec<Caller>,
    pub(crate) svid: Svid,
    pub(crate) writer: Writer,
}

impl Two {
    pub(crate) async fn start() -> Self {
        let world = World::redis();
        let brokers = [
            world.broker_with(LIMITS).await,
            world.broker_with(LIMITS).await,
        ];
        let servers = brokers
            .iter()
            .map(|broker| world.operator(broker))
            .collect();
        Self {
            svid: world.ca.svid("/agent"),
            writer: Writer::new(&world),
            world,
            brokers,
            servers,
        }
    }

    /// Position 1 must be in the log before tokens are stamped with it.
    pub(crate) async fn first_entry(&self) {
        self.servers[0]
            .revoke(of_workload("/nobody"))
            .await
            .expect("first entry");
    }

    /// Whether a broker says that a token is active in the right hands; nothing if it does not
    /// answer.
    async fn active(&self, server: &Caller, token: &str) -> Option<bool> {
        server.active(token, &self.svid.thumbprint()).await.ok()
    }

    /// Tells what a live token costs in Redis, for several shapes of a fleet.
    async fn memory_of_tokens(&self) {
        for (each, workloads) in [(1, 10), (1, 500), (2, 500), (3, 500)] {
            self.first_entry().await;
            let empty = used_memory(&self.world);
            fill(&self.writer, workloads, 50_000, each, &self.svid).await;
            let bytes = (used_memory(&self.world) - empty) / 50_000 / each as u64;
            println!(
                "tokens per task: {each}, tasks per workload: {}: {bytes} bytes of Redis memory per live token",
                50_000 / workloads
            );
            redis::cmd("FLUSHALL")
                .exec(&mut self.world.redis.as_ref().expect("redis").connection())
                .expect("flush");
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }

    /// Writes a million tokens; returns a sample with the index of each token's group.
    async fn a_million(&self) -> Vec<(usize, String)> {
        self.first_entry().await;
        let empty = used_memory(&self.world);
        let (sample, took) = timed(fill(&self.writer, 10, 100_000, 10, &self.svid)).await;
        println!(
            "tokens per task: 10, tasks per workload: 10000: {} bytes of Redis memory per live token ({took:?} to write 1 000 000)",
            (used_memory(&self.world) - empty) / 1_000_000
        );
        for (n, server) in self.servers.iter().enumerate() {
            for (_, token) in sample.iter().take(50) {
                assert_eq!(self.active(server, token).await, Some(true), "broker {n}");
            }
        }
        sample
    }

    /// Previews the whole fleet, and tells what introspection feels of it.
    async fn preview(&self, sample: &[(usize, String)]) {
        let all: Vec<String> = sample.iter().map(|(_, token)| token.clone()).collect();
        let (server, presenter) = (&self.servers[0], self.svid.thumbprint());
        let quiet = Introspecting::quiet(server, &all, &presenter).await;
        let before = resident(self.brokers[0].pid());
        let introspecting = Introspecting::start(server, &all, &presenter);
        let began = Instant::now();
        let mut told = server
            .response()
            .preview(PreviewRequest {
                selector: Some(prefix("/fleet")),
            })
            .await
            .expect("preview")
            .into_inner();
        let (mut first, mut peak, mut last) = (None, before, None);
        while let Some(so_far) = told.message().await.expect("preview") {
            first.get_or_insert_with(|| began.elapsed());
            peak = peak.max(resident(self.brokers[0].pid()));
            last = Some(so_far);
        }
        let took = began.elapsed();
        let busy = introspecting.p99().await;
        let last = last.expect("a last word");
        println!(
            "preview: {} tasks, {} tokens; first counts after {:?}, done after {took:?}; broker memory +{} MiB",
            last.tasks,
            last.tokens,
            first.expect("first"),
            (peak - before) >> 20
        );
        println!(
            "introspection p99 {quiet:?} quiet, {busy:?} meanwhile ({:.2} ×)",
            ratio(busy, quiet)
        );
    }

    /// Revokes single tokens, then tenths of the fleet: how long each took, the shortest first.
    async fn revoke_parts(&self, sample: &[(usize, String)]) -> (Vec<Duration>, Vec<Duration>) {
        let mut one = Vec::new();
        for (_, token) in sample.iter().filter(|(group, _)| *group == 9).take(40) {
            one.push(timed(self.servers[0].revoke(of_token(token))).await.1);
        }
        one.sort();
        let mut many = Vec::new();
        for group in 0..9 {
            let selector = prefix(&format!("/fleet/g{group}"));
            let (answer, took) = timed(self.servers[group % 2].revoke(selector)).await;
            answer.expect("revoked");
            many.push(took);
            for server in &self.servers {
                for (_, token) in sample.iter().filter(|(of, _)| *of == group) {
                    assert_eq!(
                        self.active(server, token).await,
                        Some(false),
                        "accepted after the answer"
                    );
                }
            }
        }
        many.sort();
        (one, many)
    }

    /// Revokes everything at once, after parts of it, and tells how long each took.
    async fn revoke(&self, sample: &[(usize, String)]) {
        let (one, many) = self.revoke_parts(sample).await;
        let (answer, took) = timed(self.servers[0].revoke(prefix("/fleet"))).await;
        let (answer, mut wrong) = (answer.expect("revoked"), 0);
        for server in &self.servers {
            for (_, token) in sample {
                wrong += usize::from(self.active(server, token).await != Some(false));
            }
        }
        println!(
            "revoke one token, call to answer: p50 {:?}, p99 {:?}",
            quantile(&one, 0.5),
            quantile(&one, 0.99)
        );
        println!(
            "revoke 100 000 tokens by prefix (9 times): p50 {:?}, longest {:?}",
            quantile(&many, 0.5),
            quantile(&many, 1.0)
        );
        println!(
            "revoke 1 000 000 tokens by prefix: {took:?} ({:.2} × the p50 of one); accepted after the answer: {wrong}",
            ratio(took, quantile(&one, 0.5))
        );
        let (status, took) = timed(self.servers[0].cleaned_up(&answer.revocation_id)).await;
        let status = status.expect("status");
        println!(
            "clean-up of the last one: {took:?}, it counted {} tasks and {} tokens",
            status.tasks, status.tokens
        );
    }
}

pub(crate) fn prefix(path: &str) -> Selector {
    Selector {
        spiffe_path_prefix: format!("spiffe://{DOMAIN}{path}"),
        ..Selector::default()
    }
}

pub(crate) async fn run() {
    println!(
        "\n## A million live tokens: 100 000 tasks with 10 tokens each, two brokers on one Redis\n"
    );
    let two = Two::start().await;
    two.memory_of_tokens().await;
    let sample = two.a_million().await;
    two.preview(&sample).await;
    two.revoke(&sample).await;
}
