//! What there was before a rotation, and how it must be after each step of it.

use std::collections::BTreeSet;

use serde_json::json;
use sundew_proto::v1::{BeginTaskRequest, Effect, MintTokenRequest, Token};
use sundew_tests::broker::Broker;
use sundew_tests::calls::{Begun, Caller};
use sundew_tests::redis::Redis;
use sundew_tests::selectors::of_workload;
use sundew_tests::world::World;

use crate::leases::{lease, put_engine};

pub(super) const SCOPES: &[&str] = &["secret:cache/*", "secret:app/*", "exec:git"];

/// The names at a target that brokers gave.
pub(super) fn names_at(target: &Redis) -> BTreeSet<String> {
    let users: Vec<String> = redis::cmd("ACL")
        .arg("USERS")
        .query(&mut target.connection())
        .expect("users");
    users
        .into_iter()
        .filter(|name| name.starts_with("sdw_"))
        .collect()
}

/// The same SVID at another broker, as an agent has it that turns there.
pub(super) fn at(world: &World, broker: &Broker, caller: &Caller) -> Caller {
    world.caller_with(broker, caller.svid.clone().expect("SVID"))
}

pub(super) async fn begin_named(world: &World, caller: &Caller, key: &str) -> Begun {
    let request = caller.request(&world.issuer, "/agent", SCOPES).await;
    let request = BeginTaskRequest {
        idempotency_key: key.to_owned(),
        ..request.expect("challenge")
    };
    caller.send(request).await.expect("begun")
}

async fn mint_named(caller: &Caller, begun: &Begun) -> Token {
    let request = MintTokenRequest {
        task_id: begun.task.clone(),
        idempotency_key: "the-token".to_owned(),
        ..MintTokenRequest::default()
    };
    let minted = caller.agent().mint_token(request).await;
    minted.expect("minted").into_inner().token.expect("token")
}

/// Everything that was there before the rotation, as it must be after each step of it.
pub(super) struct Before {
    pub(super) agent: Caller,
    pub(super) begun: Begun,
    minted: Token,
    pub(super) username: String,
    password: String,
    dead: Begun,
}

impl Before {
    pub(super) async fn begin(world: &World, broker: &Broker, target: &Redis) -> Self {
        let operator = world.operator(broker);
        let scopes = json!({ "scopes": SCOPES, "attendance_grace": "10m", "max_tasks": 100 });
        world.register(broker, "/agent", scopes.clone()).await;
        world.register(broker, "/dead", scopes.clone()).await;
        world.register(broker, "/held", scopes).await;
        operator.put_secret("app/key", "kept").await;
        let engine = json!({
            "name": "cache/main",
            "target": { "kind": "redis", "host": "127.0.0.1", "port": target.port() },
            "roles": { "reader": { "grants": ["+get", "~app:*"] } },
        });
        put_engine(&operator, &engine, "").await.expect("engine");
        let agent = world.caller(broker, "/agent");
        let begun = begin_named(world, &agent, "the-task").await;
        let minted = mint_named(&agent, &begun).await;
        let made = lease(&agent, &begun.task, "cache/main/reader")
            .await
            .expect("lease");
        let other = world.caller(broker, "/dead");
        let dead = other
            .begin(&world.issuer, "/dead", SCOPES)
            .await
            .expect("begun");
        operator
            .revoke(of_workload("/dead"))
            .await
            .expect("revoked");
        let held = operator.respond(of_workload("/held"), Effect::Quarantine);
        held.await.expect("quarantine");
        Self {
            agent,
            begun,
            minted,
            username: made.username,
            password: made.password,
            dead,
        }
    }

    /// The task lives at this broker with all that it has, and retries find it.
    pub(super) async fn lives_at(&self, world: &World, broker: &Broker) {
        let caller = at(world, broker, &self.agent);
        let again = begin_named(world, &caller, "the-task").await;
        assert_eq!(
            (&again.task, &again.token),
            (&self.begun.task, &self.begun.token)
        );
        assert_eq!(
            mint_named(&caller, &self.begun).await.token,
            self.minted.token
        );
        let operator = world.operator(broker);
        for token in [&self.begun.token, &self.minted.token] {
            assert!(
                operator
                    .active(token, &caller.thumbprint())
                    .await
                    .expect("answer")
            );
        }
        let secret = caller.secret(&self.begun.task, "app/key").await;
        assert_eq!(secret.expect("secret"), "kept");
        let made = lease(&caller, &self.begun.task, "cache/main/reader")
            .await
            .expect("lease");
        assert_eq!(
            (&made.username, &made.password),
            (&self.username, &self.password)
        );
    }

    /// What was revoked stays so, and what was quarantined.
    pub(super) async fn stays_dead_at(&self, world: &World, broker: &Broker) {
        let operator = world.operator(broker);
        let thumbprint = world.caller(broker, "/dead").thumbprint();
        let active = operator.active(&self.dead.token, &thumbprint).await;
        assert!(!active.expect("answer"));
        self.is_held_at(world, broker).await;
    }

    pub(super) async fn is_held_at(&self, world: &World, broker: &Broker) {
        let held = world.caller(broker, "/held");
        let refused = held.begin(&world.issuer, "/held", SCOPES).await;
        assert!(refused.is_err(), "the quarantine stands");
    }
}
