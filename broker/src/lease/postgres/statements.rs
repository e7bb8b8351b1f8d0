//! The statements that make and remove a role.

use crate::lease::engine::{NewCredential, Role};

/// The statements that make a role or bring it up to date, in one transaction. The server gets a
/// verifier in place of the password, so that no log of statements has the password (RFC 5803).
pub(super) fn creation(role: &Role, credential: &NewCredential<'_>) -> String {
    let name = identifier(credential.username);
    let password = literal(&postgres_protocol::password::scram_sha_256(
        credential.password.expose(),
    ));
    let expiration = literal(&timestamp(credential.expires_at_ms));
    let mut batch = format!(
        "BEGIN; DO $sundew$ BEGIN CREATE ROLE {name}; EXCEPTION WHEN duplicate_object THEN NULL; END $sundew$; \
         ALTER ROLE {name} LOGIN PASSWORD {password} VALID UNTIL {expiration}"
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

/// The statements that remove a role, in one round trip.
#[must_use]
pub fn removal(username: &str) -> String {
    let (name, text) = (identifier(username), literal(username));
    // Nobody can log in any more before sessions are ended, and sessions are ended before the role
    // goes.
    format!(
        "BEGIN; DO $sundew$ BEGIN ALTER ROLE {name} NOLOGIN; EXCEPTION WHEN undefined_object THEN NULL; END $sundew$; COMMIT; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {text}; \
         DO $sundew$ BEGIN \
           IF EXISTS (SELECT FROM pg_roles WHERE rolname = {text}) THEN \
             IF NOT pg_has_role(current_user, {text}, 'USAGE') THEN EXECUTE 'GRANT ' || quote_ident({text}) || ' TO CURRENT_USER'; END IF; \
             REASSIGN OWNED BY {name} TO CURRENT_USER; DROP OWNED BY {name}; DROP ROLE {name}; \
           END IF; \
         END $sundew$"
    )
}

/// A quoted identifier (PostgreSQL, section 4.1.1).
fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal in which no character has a meaning (PostgreSQL, section 4.1.2.2).
fn literal(text: &str) -> String {
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
}
