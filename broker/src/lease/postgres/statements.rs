//! The statements that make and remove a role, and look at what it has left.
//!
//! All of them run with `search_path` at `pg_catalog`, so that no function or operator that a lease
//! has made is ever called with the administrator's rights.

use sundew_core::SecretBytes;

use crate::lease::engine::Role;

/// Most objects that one transaction drops: each takes a lock, and a server has a fixed number of
/// locks (`max_locks_per_transaction`).
const MOST_AT_ONCE: usize = 500;

/// The statement with which each session begins.
pub(super) const SESSION: &str = "SET search_path TO pg_catalog, pg_temp";

/// What a server knows a password by. It gets this in place of the password, so that no log of
/// statements has the password (RFC 5803). Takes thousands of hashes: milliseconds.
pub(super) fn verifier(password: &SecretBytes) -> String {
    postgres_protocol::password::scram_sha_256(password.expose())
}

/// The statements that make a role or bring it up to date, in one transaction.
pub(super) fn creation(role: &Role, username: &str, verifier: &str, expires_at_ms: i64) -> String {
    let name = identifier(username);
    let password = literal(verifier);
    let expiration = literal(&timestamp(expires_at_ms));
    // Another broker may make the same role at the same time. Grants are the operator's words, and
    // are read as the operator would read them.
    let mut batch = format!(
        "BEGIN; DO $sundew$ BEGIN CREATE ROLE {name}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $sundew$; \
         ALTER ROLE {name} LOGIN PASSWORD {password} VALID UNTIL {expiration}; SET LOCAL search_path TO DEFAULT"
    );
    for grant in &role.grants {
        batch.push_str("; ");
        batch.push_str(
            &grant
                .replace("{{name}}", &name)
                .replace("{{password}}", &password)
                .replace("{{expiration}}", &expiration),
        );
    }
    batch.push_str("; COMMIT");
    batch
}

/// The statements that remove a role which has left nothing outside of the engine's database, in
/// one round trip.
#[must_use]
pub fn removal(username: &str) -> String {
    format!("{SESSION}; {}; {}", closing(username), ending(username))
}

/// The statements that shut a role out: nobody can log in any more before sessions are ended, and
/// sessions are over before anything is dropped. The administrator becomes a member of the role,
/// which gives it the right to do so.
pub(super) fn closing(username: &str) -> String {
    let (name, text) = (identifier(username), literal(username));
    format!(
        "BEGIN; DO $sundew$ BEGIN ALTER ROLE {name} NOLOGIN; EXCEPTION WHEN undefined_object THEN NULL; END $sundew$; COMMIT; \
         DO $sundew$ DECLARE lease oid := (SELECT oid FROM pg_roles WHERE rolname = {text}); rounds int := 0; BEGIN \
           IF lease IS NULL THEN RETURN; END IF; \
           IF NOT pg_has_role(lease, 'USAGE') THEN GRANT {name} TO CURRENT_USER; END IF; \
           LOOP \
             PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = lease; \
             EXIT WHEN NOT FOUND; \
             rounds := rounds + 1; \
             IF rounds > 100 THEN RAISE EXCEPTION 'sessions of the role do not end'; END IF; \
             PERFORM pg_sleep(0.02); \
             PERFORM pg_stat_clear_snapshot(); \
           END LOOP; \
         END $sundew$"
    )
}

/// A query for all that a role has left, as rows of a kind, a name, an owner and a database:
/// `prepared` (a prepared transaction of the role, or one that locks the role, by its global id),
/// `database` (one that the role owns),
/// `elsewhere` (another database that has something of the role), `here` (this one has).
pub(super) fn remains(username: &str) -> String {
    let (lease, text) = (oid(username), literal(username));
    format!(
        "SELECT 'prepared', gid, owner::text, database::text FROM pg_prepared_xacts p \
           WHERE owner = {text} OR EXISTS (SELECT FROM pg_locks l JOIN pg_locks x USING (virtualtransaction) WHERE l.pid IS NULL AND x.pid IS NULL \
             AND x.transactionid = p.transaction AND l.classid = 'pg_authid'::regclass AND l.objid = {lease}) \
         UNION ALL SELECT 'database', datname::text, '', '' FROM pg_database WHERE datdba = {lease} \
         UNION ALL SELECT DISTINCT CASE d.datname WHEN current_database() THEN 'here' ELSE 'elsewhere' END, d.datname::text, '', '' \
           FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid \
           WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = {lease} AND d.datdba <> {lease} \
             AND (d.datname <> current_database() OR s.deptype = 'o')"
    )
}

/// A query for the descriptions of what a role owns in this database: at most `most` rows, and in
/// each the number of all of them.
pub(super) fn owned(username: &str, most: usize) -> String {
    format!(
        "SELECT left(pg_describe_object(classid, objid, objsubid), 120), count(*) OVER () FROM pg_shdepend \
           WHERE refclassid = 'pg_authid'::regclass AND refobjid = {} AND deptype = 'o' \
           AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT {most}",
        oid(username)
    )
}

/// Whether so many objects are more than one transaction should drop.
pub(super) fn are_many(objects: u64) -> bool {
    usize::try_from(objects).map_or(true, |objects| objects > MOST_AT_ONCE)
}

/// The statement that drops some of the objects that a role has in this database, each with what
/// rests on it.
pub(super) fn thinning(username: &str) -> String {
    let lease = oid(username);
    format!(
        "DO $sundew$ DECLARE lease oid := {lease}; it record; BEGIN \
           PERFORM lo_unlink(oid) FROM (SELECT oid FROM pg_largeobject_metadata WHERE lomowner = lease LIMIT {MOST_AT_ONCE}) part; \
           FOR it IN SELECT c.oid, c.relkind FROM pg_class c WHERE c.relowner = lease AND c.relkind IN ('r', 'p', 'v', 'm', 'f') \
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('i', 'e')) LIMIT 100 LOOP \
             IF EXISTS (SELECT FROM pg_class WHERE oid = it.oid) THEN \
               EXECUTE 'DROP ' || CASE it.relkind WHEN 'v' THEN 'VIEW ' WHEN 'm' THEN 'MATERIALIZED VIEW ' WHEN 'f' THEN 'FOREIGN TABLE ' ELSE 'TABLE ' END \
                 || it.oid::regclass::text || ' CASCADE'; \
             END IF; \
           END LOOP; \
           FOR it IN SELECT p.oid FROM pg_proc p WHERE p.proowner = lease \
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype IN ('i', 'e')) LIMIT {MOST_AT_ONCE} LOOP \
             IF EXISTS (SELECT FROM pg_proc WHERE oid = it.oid) THEN EXECUTE 'DROP ROUTINE ' || it.oid::regprocedure::text || ' CASCADE'; END IF; \
           END LOOP; \
         END $sundew$"
    )
}

/// The statement that drops all that a role has in this database, with what rests on it: nothing
/// that a lease has made is given to anybody. Privileges on what others own go, too, and so do
/// those that the role gave away.
///
/// A member of a role takes back privileges in that role's name, if the role may grant them, and so
/// never the role's own. What is left for that reason is taken back once the administrator is no
/// member any more.
pub(super) fn dropping(username: &str) -> String {
    let (name, lease) = (identifier(username), oid(username));
    let left = "FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = lease AND s.deptype = 'a' \
                AND s.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))";
    format!(
        "DO $sundew$ DECLARE lease oid := {lease}; it record; BEGIN \
           IF lease IS NULL THEN RETURN; END IF; \
           IF NOT pg_has_role(lease, 'USAGE') THEN GRANT {name} TO CURRENT_USER; END IF; \
           DROP OWNED BY {name} CASCADE; \
           IF EXISTS (SELECT {left}) THEN \
             REVOKE {name} FROM CURRENT_USER; \
             FOR it IN SELECT o.type, CASE s.classid WHEN 'pg_largeobject'::regclass THEN s.objid::text ELSE o.identity END AS identity \
               FROM (SELECT DISTINCT classid, objid {left}) s CROSS JOIN LATERAL pg_identify_object(s.classid, s.objid, 0) o LOOP \
               EXECUTE 'REVOKE ALL ON ' || CASE \
                   WHEN it.type IN ('table', 'view', 'materialized view', 'foreign table') THEN 'TABLE' \
                   WHEN it.type IN ('function', 'procedure', 'aggregate') THEN 'ROUTINE' \
                   WHEN it.type = 'domain' THEN 'TYPE' WHEN it.type = 'server' THEN 'FOREIGN SERVER' ELSE upper(it.type) END \
                 || ' ' || it.identity || ' FROM {name} CASCADE'; \
             END LOOP; \
           END IF; \
         END $sundew$"
    )
}

/// The statements that end a role in the engine's database. Before PostgreSQL 16, which does so
/// itself, memberships that the role gave away are looked up and taken back, and those that rest on
/// them.
pub(super) fn ending(username: &str) -> String {
    let (name, lease) = (identifier(username), oid(username));
    format!(
        "DO $sundew$ DECLARE it record; BEGIN \
           IF current_setting('server_version_num')::int < 160000 THEN \
             FOR it IN WITH RECURSIVE given AS ( \
                 SELECT roleid, member, admin_option FROM pg_auth_members WHERE grantor = {lease} AND roleid <> {lease} \
                 UNION SELECT m.roleid, m.member, m.admin_option FROM pg_auth_members m JOIN given g \
                   ON m.grantor = g.member AND m.roleid = g.roleid AND g.admin_option) \
               SELECT r.rolname AS gives, m.rolname AS has FROM given JOIN pg_roles r ON r.oid = roleid JOIN pg_roles m ON m.oid = member LOOP \
               EXECUTE 'REVOKE ' || quote_ident(it.gives) || ' FROM ' || quote_ident(it.has); \
             END LOOP; \
           END IF; \
         END $sundew$; {}; DROP ROLE IF EXISTS {name}",
        dropping(username)
    )
}

/// A query for the reasons why what a lease does could outlive it, as rows of text. Roles in
/// `acts_as` may be made objects for.
pub(super) fn lasting(username: &str, acts_as: &[String]) -> String {
    let (text, lease) = (literal(username), oid(username));
    let named: Vec<_> = acts_as.iter().map(|role| literal(role)).collect();
    let named = if named.is_empty() {
        "NULL".to_owned()
    } else {
        named.join(", ")
    };
    format!(
        "SELECT r.rolname || ' ' || reason FROM pg_roles r CROSS JOIN LATERAL (SELECT CASE \
             WHEN r.rolsuper THEN 'is a superuser' \
             WHEN r.rolcreaterole THEN 'may make roles' \
             WHEN r.rolreplication THEN 'may replicate' \
             WHEN r.rolname IN ('pg_execute_server_program', 'pg_write_server_files') THEN 'may act in the operating system of the server' \
             WHEN r.rolname = {text} OR (r.rolname IN ({named})) IS TRUE THEN NULL \
             WHEN has_database_privilege(r.oid, current_database(), 'CREATE') THEN 'may create schemas: name it in acts_as if that is wanted' \
             WHEN EXISTS (SELECT FROM pg_namespace n WHERE n.nspname !~ '^pg_(toast_)?temp_' AND has_schema_privilege(r.oid, n.oid, 'CREATE')) \
               THEN 'may create objects in schema ' || (SELECT min(n.nspname) FROM pg_namespace n WHERE n.nspname !~ '^pg_(toast_)?temp_' AND has_schema_privilege(r.oid, n.oid, 'CREATE')) || ': name it in acts_as if that is wanted' \
             WHEN EXISTS (SELECT FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid AND s.deptype = 'o') \
               THEN 'owns objects, which could be changed: name it in acts_as if that is wanted' END AS reason) why \
           WHERE pg_has_role({lease}, r.oid, 'MEMBER') AND reason IS NOT NULL ORDER BY 1 LIMIT 3"
    )
}

/// The id of a role as an expression; null if there is none.
fn oid(username: &str) -> String {
    format!(
        "(SELECT oid FROM pg_roles WHERE rolname = {})",
        literal(username)
    )
}

/// A quoted identifier (PostgreSQL, section 4.1.1).
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal in which no character has a meaning (PostgreSQL, section 4.1.2.2).
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A time in UTC as PostgreSQL reads it, from milliseconds since the epoch.
fn timestamp(ms: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000))
        .unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (date, clock) = (at.date(), at.time());
    let (month, day) = (u8::from(date.month()), date.day());
    format!(
        "{:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:03}+00",
        date.year(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        ms.rem_euclid(1000)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_leaves_no_way_out() {
        assert_eq!(
            identifier("a\"; DROP ROLE b; --"),
            "\"a\"\"; DROP ROLE b; --\""
        );
        assert_eq!(literal("a'\\'; DROP"), "E'a\\'\\\\\\'; DROP'");
        assert_eq!(timestamp(1_795_500_061_007), "2026-11-24 06:01:01.007+00");
    }

    #[test]
    fn s1_nothing_of_a_lease_is_given_to_anybody() {
        let all = [
            removal("sdw_1"),
            dropping("sdw_1"),
            thinning("sdw_1"),
            closing("sdw_1"),
        ];
        assert!(all.iter().all(|text| !text.contains("REASSIGN")));
    }
}
