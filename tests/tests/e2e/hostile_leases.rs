//! A hostile user inside a lease, who has everything that its grants give: whatever he leaves behind,
//! no later lease and no login gains anything, and the role is gone. S1, S2.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sundew_tests::calls::Caller;
use sundew_tests::postgres::{PASSWORD, Postgres};
use sundew_tests::until;
use sundew_tests::world::World;
use tokio_postgres::Client;

use crate::lease_targets::patient;
use crate::leases::{SCOPES, lease, leases, put_engine};

/// What the bystander, a login of the application, proves itself by.
const BYSTANDER: &str = "bystander's word";

/// A server with a second database, a table with which leases may do a lot, and a login of somebody
/// else who works with the attacker.
async fn generous() -> Postgres {
    let postgres = Postgres::with(&["max_prepared_transactions=4"]).await;
    let superuser = postgres.superuser().await;
    let password = BYSTANDER.replace('\'', "''");
    for statement in [
        "CREATE DATABASE other",
        &format!("CREATE ROLE bystander LOGIN PASSWORD '{password}'"),
    ] {
        superuser.batch_execute(statement).await.expect(statement);
    }
    let app = postgres.client("postgres", "", "app").await.expect("app");
    app.batch_execute("GRANT ALL ON things TO admin WITH GRANT OPTION")
        .await
        .expect("grant");
    postgres
}

/// An engine with a role that may do about all that an owner of an application may.
fn engine(postgres: &Postgres) -> Value {
    let mut engine = postgres.engine("db/app");
    engine["roles"]["wide"] = json!({ "grants": [
        "GRANT ALL ON SCHEMA public TO {{name}} WITH GRANT OPTION",
        "GRANT CREATE, TEMPORARY ON DATABASE app TO {{name}} WITH GRANT OPTION",
        "GRANT SELECT, INSERT, TRIGGER, REFERENCES ON things TO {{name}} WITH GRANT OPTION",
        "GRANT reader TO {{name}} WITH ADMIN OPTION",
    ] });
    engine
}

async fn execute(client: &Client, statements: &[&str]) {
    for statement in statements {
        if let Err(error) = client.batch_execute(statement).await {
            panic!("{statement}: {error:?}");
        }
    }
}

async fn count(client: &Client, query: &str) -> i64 {
    let row = client.query_one(query, &[]).await.expect(query);
    row.get(0)
}

/// Leaves all sorts of things behind in the application's database.
async fn leave_in_app(client: &Client) {
    let sneak = "EXECUTE 'CREATE ROLE sneaked LOGIN PASSWORD ''x''';";
    execute(
        client,
        &[
            // To be called by whoever comes later, with the rights of whoever owns it then.
            "CREATE FUNCTION public.escalate() RETURNS text SECURITY DEFINER LANGUAGE plpgsql AS \
             $$ BEGIN EXECUTE 'ALTER ROLE bystander CREATEROLE'; RETURN current_user; END $$",
            "GRANT EXECUTE ON FUNCTION public.escalate() TO PUBLIC",
            // To be called by the administrator unawares, in place of the catalog's own.
            &format!("CREATE FUNCTION public.pg_has_role(name, text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN {sneak} RETURN true; END $$"),
            &format!("CREATE FUNCTION public.starts_with(name, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN {sneak} RETURN true; END $$"),
            // To be run by whoever writes to the application's table.
            "CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN CREATE ROLE trapped; RETURN NEW; END $$",
            "CREATE TRIGGER trap BEFORE INSERT ON public.things FOR EACH ROW EXECUTE FUNCTION public.trap()",
            "CREATE SCHEMA of_lease",
            "CREATE TABLE of_lease.loot AS SELECT * FROM public.things",
            "CREATE VIEW public.look AS SELECT public.escalate() FROM public.things",
            "CREATE TYPE public.mood AS ENUM ('bad')",
            "CREATE PUBLICATION leak FOR TABLE of_lease.loot",
            "SELECT lo_create(4711)",
            "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO bystander",
            "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO bystander",
            // To keep what the lease has, in other hands.
            "GRANT SELECT, INSERT ON public.things TO bystander WITH GRANT OPTION",
            "GRANT ALL ON SCHEMA public TO bystander",
            "GRANT reader TO bystander WITH ADMIN OPTION",
            // To hold up the removal.
            "BEGIN",
            "CREATE FUNCTION public.pending() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "PREPARE TRANSACTION 'held'",
            "BEGIN",
            "CREATE TABLE public.pending_too (id int)",
            "SET LOCAL ROLE reader",
            "PREPARE TRANSACTION 'held by another'",
            "SELECT pg_advisory_lock(1)",
            "CREATE TEMPORARY TABLE mine (id int)",
        ],
    )
    .await;
}

/// Asserts that nothing that a lease has made is left in a database.
async fn assert_nothing_left(postgres: &Postgres, database: &str) {
    let superuser = postgres.client("postgres", "", database).await;
    let superuser = superuser.expect("superuser");
    for (what, query) in [
        (
            "functions",
            "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace",
        ),
        (
            "triggers",
            "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal",
        ),
        (
            "large objects",
            "SELECT count(*) FROM pg_largeobject_metadata",
        ),
        ("default privileges", "SELECT count(*) FROM pg_default_acl"),
        (
            "schemas",
            "SELECT count(*) FROM pg_namespace WHERE nspname = 'of_lease'",
        ),
        ("publications", "SELECT count(*) FROM pg_publication"),
        (
            "types",
            "SELECT count(*) FROM pg_type WHERE typname = 'mood'",
        ),
        (
            "tables",
            "SELECT count(*) FROM pg_class WHERE relname IN ('loot', 'look', 'pending_too')",
        ),
        (
            "prepared transactions",
            "SELECT count(*) FROM pg_prepared_xacts",
        ),
        (
            "advisory locks",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        ),
        (
            "new roles",
            "SELECT count(*) FROM pg_roles WHERE rolname IN ('sneaked', 'trapped')",
        ),
        (
            "powers",
            "SELECT count(*) FROM pg_roles WHERE rolname = 'bystander' AND (rolcreaterole OR rolsuper)",
        ),
        (
            "memberships",
            "SELECT count(*) FROM pg_auth_members WHERE member = to_regrole('bystander')",
        ),
        (
            "dead roles",
            "SELECT count(*) FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid NOT IN (SELECT oid FROM pg_authid)",
        ),
        (
            "privileges",
            "SELECT count(*) FROM pg_class c, aclexplode(c.relacl) a WHERE a.grantee = to_regrole('bystander')",
        ),
        (
            "rights in schemas",
            "SELECT count(*) FROM pg_namespace n, aclexplode(n.nspacl) a WHERE a.grantee = to_regrole('bystander')",
        ),
    ] {
        assert_eq!(count(&superuser, query).await, 0, "{what} in {database}");
    }
}

/// Waits until every role is gone; else says why the broker could not remove it.
async fn removed(postgres: &Postgres, operator: &Caller) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !postgres.roles().await.is_empty() {
        let left = leases(operator).await.leases;
        assert!(Instant::now() < deadline, "not removed: {left:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// S1, S2: the whole of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s1_whatever_a_hostile_lease_leaves_behind_nobody_gains_by_it() {
    let postgres = generous().await;
    let world = World::embedded();
    let broker = world.broker().await;
    let caller = patient(&world, &broker).await;
    let operator = world.operator(&broker);
    put_engine(&operator, &engine(&postgres), PASSWORD)
        .await
        .expect("engine");
    let begun = caller.begin(&world.issuer, "/agent", SCOPES).await;
    let task = begun.expect("task").task;
    let made = lease(&caller, &task, "db/app/wide").await.expect("lease");
    let connect = async |database: &str| {
        let session = postgres.client(&made.username, &made.password, database);
        session.await.expect("session")
    };
    let (app, other) = (connect("app").await, connect("other").await);
    leave_in_app(&app).await;
    execute(
        &other,
        &[
            "SELECT lo_create(4712)",
            "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO bystander",
            "CREATE TEMPORARY TABLE mine (id int)",
        ],
    )
    .await;
    caller.complete(&task).await.expect("completed");
    removed(&postgres, &operator).await;
    assert!(app.batch_execute("SELECT 1").await.is_err() && other.is_closed());
    for database in ["app", "other"] {
        assert_nothing_left(&postgres, database).await;
    }

    // A later lease, the application and the bystander find nothing of it.
    let begun = caller.begin(&world.issuer, "/agent", SCOPES).await;
    let task = begun.expect("task").task;
    let later = lease(&caller, &task, "db/app/wide").await.expect("lease");
    let session = postgres.client(&later.username, &later.password, "app");
    let session = session.await.expect("session");
    let called = session.batch_execute("SELECT public.escalate()").await;
    assert!(called.is_err(), "a later lease calls what another one left");
    execute(&session, &["INSERT INTO things VALUES (8)"]).await;
    let bystander = postgres.client("bystander", BYSTANDER, "app").await;
    let bystander = bystander.expect("bystander");
    for refused in ["SELECT * FROM things", "CREATE TABLE public.t (id int)"] {
        assert!(bystander.batch_execute(refused).await.is_err(), "{refused}");
    }
    let removed = broker
        .journal()
        .into_iter()
        .filter(|record| record.event == "lease_removed");
    let told = format!("{:?}", removed.collect::<Vec<_>>());
    for part in [
        "function public.escalate()",
        "prepared transaction held",
        "large object 4712 in other",
    ] {
        assert!(told.contains(part), "{part} in {told}");
    }
}

/// S2: so many objects that no transaction can drop all of them, in a database of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s2_a_lease_is_removed_whatever_it_left_in_other_databases() {
    let postgres = Postgres::with(&["max_connections=20"]).await;
    let superuser = postgres.superuser().await;
    execute(&superuser, &["CREATE DATABASE other"]).await;
    let world = World::embedded();
    let broker = world.broker().await;
    let caller = patient(&world, &broker).await;
    let operator = world.operator(&broker);
    let mut engine = postgres.engine("db/app");
    engine["roles"]["maker"] = json!({ "grants": ["ALTER ROLE {{name}} CREATEDB"] });
    put_engine(&operator, &engine, PASSWORD)
        .await
        .expect("engine");
    let begun = caller.begin(&world.issuer, "/agent", SCOPES).await;
    let task = begun.expect("task").task;
    let made = lease(&caller, &task, "db/app/maker").await.expect("lease");
    for database in ["other", "app", "postgres"] {
        let session = postgres.client(&made.username, &made.password, database);
        let session = session.await.expect("session");
        let many = "SELECT count(lo_create(0)) FROM generate_series(1, 3000)";
        execute(&session, &[many]).await;
        if database == "postgres" {
            execute(&session, &["CREATE DATABASE of_lease"]).await;
        }
    }
    caller.complete(&task).await.expect("completed");
    removed(&postgres, &operator).await;
    until("nothing is left to do", || async {
        leases(&operator).await.total == 0
    })
    .await;
    for database in ["other", "app", "postgres"] {
        assert_nothing_left(&postgres, database).await;
    }
    let databases = "SELECT count(*) FROM pg_database WHERE datname = 'of_lease'";
    assert_eq!(count(&superuser, databases).await, 0);
}

/// S1: a role whose leases could do what no removal undoes is not taken, unless an operator names
/// what they may act as.
#[tokio::test]
async fn s1_a_role_whose_leases_could_outlive_themselves_is_refused() {
    let postgres = Postgres::start().await;
    let superuser = postgres.superuser().await;
    execute(
        &superuser,
        &[
            "CREATE ROLE owner; GRANT owner TO admin WITH ADMIN OPTION",
            "CREATE ROLE maker CREATEROLE; GRANT maker TO admin WITH ADMIN OPTION",
        ],
    )
    .await;
    let app = postgres.client("postgres", "", "app").await.expect("app");
    execute(&app, &["CREATE SCHEMA data AUTHORIZATION owner"]).await;
    let world = World::embedded();
    let broker = world.broker().await;
    let operator = world.operator(&broker);
    let put = async |grant: &str, acts_as: &[&str]| {
        let mut engine = postgres.engine("db/app");
        engine["roles"] = json!({ "r": { "grants": [grant] } });
        if !acts_as.is_empty() {
            engine["roles"]["r"]["acts_as"] = json!(acts_as);
        }
        let answer = put_engine(&operator, &engine, PASSWORD).await;
        answer.map_err(|status| status.message().to_owned())
    };
    for (grant, acts_as, reason) in [
        ("ALTER ROLE {{name}} CREATEROLE", &[][..], "may make roles"),
        (
            "GRANT maker TO {{name}}",
            &["maker"],
            "maker may make roles",
        ),
        (
            "GRANT owner TO {{name}}",
            &[],
            "owner may create objects in schema data",
        ),
    ] {
        let refused = put(grant, acts_as).await.expect_err(grant);
        assert!(refused.contains(reason), "{refused}");
    }
    assert!(postgres.roles().await.is_empty(), "trials leave nothing");
    let taken = put("GRANT owner TO {{name}}", &["owner"]).await;
    assert_eq!(taken.as_deref(), Ok("created"));
}
