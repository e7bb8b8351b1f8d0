//! The removal of a role, wherever in the server it has left something.

use super::connections::{Connections, Row};
use super::statements::{
    are_many, closing, dropping, ending, identifier, literal, owned, remains, thinning,
};
use crate::lease::engine::{EngineError, Removed};

/// Most names that one look at a database brings, for the record of the removal.
const MOST_NAMES: usize = 20;
/// Most steps in which the objects of a role in one database are dropped before others have their
/// turn. Each step is committed, so the next attempt goes on from there.
const MOST_STEPS: usize = 60;

/// Removes a role. In this order: nobody logs in as the role, its sessions are over, its prepared
/// transactions are rolled back (they would hold locks), databases that it owns go, then everything
/// that it has in other databases and in the engine's, and at last the role.
pub(super) async fn remove(
    connections: &Connections,
    username: &str,
) -> Result<Removed, EngineError> {
    let mut removed = Removed::default();
    let look = format!("{}; {}", closing(username), remains(username));
    let (mut elsewhere, mut is_anything_here) = (Vec::new(), false);
    for row in connections.run(&look).await? {
        let [kind, name, owner, database] = columns(row);
        match kind.as_str() {
            "prepared" => {
                // Whoever prepared it may roll it back, in the database where that was.
                let role = format!("SET ROLE {}", identifier(&owner));
                let roll_back = format!("ROLLBACK PREPARED {}", literal(&name));
                connections.run_in(&database, &[role, roll_back]).await?;
                removed.add([format!("prepared transaction {name}")], 1);
            }
            "database" => {
                let drop = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", identifier(&name));
                connections.run(&drop).await?;
                removed.add([format!("database {name}")], 1);
            }
            "elsewhere" => elsewhere.push(name),
            _ => is_anything_here = true,
        }
    }
    for database in elsewhere {
        empty(connections, Some(&database), username, &mut removed).await?;
    }
    if is_anything_here {
        empty(connections, None, username, &mut removed).await?;
    }
    connections.run(&ending(username)).await?;
    Ok(removed)
}

/// Drops all that a role has in a database; without a name, in the engine's.
async fn empty(
    connections: &Connections,
    database: Option<&str>,
    username: &str,
    removed: &mut Removed,
) -> Result<(), EngineError> {
    let run = async |statements: &[String]| match database {
        Some(database) => connections.run_in(database, statements).await,
        None => connections.run(&statements.join("; ")).await,
    };
    let found = run(&[owned(username, MOST_NAMES)]).await?;
    let mut left = count(&found);
    let place = database.map_or_else(String::new, |database| format!(" in {database}"));
    let names = found.into_iter().filter_map(|row| row.into_iter().next());
    removed.add(names.map(|name| format!("{name}{place}")), left);
    let mut steps = 0;
    while are_many(left) && steps < MOST_STEPS {
        left = count(&run(&[thinning(username), owned(username, 1)]).await?);
        steps += 1;
    }
    run(&[dropping(username)]).await.map(drop)
}

/// The number of all objects, which stands in each row of [`owned`].
fn count(rows: &[Row]) -> u64 {
    rows.first()
        .and_then(|row| row.get(1)?.parse().ok())
        .unwrap_or(0)
}

/// The columns of a row of [`remains`].
fn columns(row: Row) -> [String; 4] {
    let mut columns = row.into_iter();
    std::array::from_fn(|_| columns.next().unwrap_or_default())
}
