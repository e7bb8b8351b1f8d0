//! Lets another workload do a part of a task.
//!
//! ```sh
//! # As the parent: prints a grant for the child, and waits until Enter is pressed.
//! cargo run -p sundew-sdk --example delegate -- spiffe://dev.local/child
//! # As the child, with an SVID of its own: the grant comes on standard input.
//! cargo run -p sundew-sdk --example delegate < grant
//! ```
//!
//! The child's task ends when the parent's task ends, however that is.

use std::io::BufRead as _;

use sundew_sdk::{Agent, Delegation, minutes};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let agent = Agent::from_env().await?;
    match std::env::args().nth(1) {
        Some(child) => parent(&agent, &child).await,
        None => self::child(&agent).await,
    }
}

async fn parent(agent: &Agent, child: &str) -> Result<(), Box<dyn std::error::Error>> {
    let task = agent
        .task("release 1.2")
        .scope("exec:git")
        .scope("secret:demo/api-key")
        .ttl(minutes(10))
        .begin()
        .await?;
    let part = Delegation {
        scopes: vec!["secret:demo/api-key".to_owned()],
        ttl: Some(minutes(2)),
        ..Delegation::default()
    };
    // Only this workload can use the grant, and only below this task.
    println!("{}", task.delegate(child, &part).await?);
    tokio::task::spawn_blocking(read_line).await??;
    println!("the task is {}", task.complete().await?);
    Ok(())
}

async fn child(agent: &Agent) -> Result<(), Box<dyn std::error::Error>> {
    let grant = tokio::task::spawn_blocking(read_line).await??;
    let task = agent
        .task("sign the release")
        .scope("secret:demo/api-key")
        .under(&grant)
        .begin()
        .await?;
    let key = task.secret("demo/api-key").await?;
    println!("worked with a secret of {} bytes", key.expose().len());
    task.complete().await?;
    Ok(())
}

fn read_line() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}
