//! Begins a task, reads a secret and completes the task.
//!
//! ```sh
//! cargo run -p sundew-sdk --example secret -- demo/api-key
//! ```
//!
//! The environment says where the broker, the SVID and the evidence are (see the README).

use sundew_sdk::{Agent, Error, Secret, minutes};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "demo/api-key".to_owned());
    let agent = Agent::from_env().await?;
    let task = agent
        .task("triage issue 4711")
        .instruction("Read issue 4711 and label it.")
        .scope(&format!("secret:{name}"))
        .ttl(minutes(5))
        .begin()
        .await?;
    println!("{} works on task {}", agent.id(), task.id());

    // The task can be ended from outside at any time; work that outlives it is in vain.
    let secret = tokio::select! {
        secret = task.secret(&name) => secret?,
        ended = task.ended() => return Err(Error::Ended(ended).into()),
    };
    let result = label_the_issue(&secret);

    let ended = match result {
        Ok(()) => task.complete().await?,
        Err(_) => task.fail().await?,
    };
    println!("the task is {ended}");
    Ok(result?)
}

/// Stands for the work; it uses the secret and shows only how long it is.
fn label_the_issue(secret: &Secret) -> Result<(), std::io::Error> {
    match secret.expose().len() {
        0 => Err(std::io::Error::other("the secret is empty")),
        length => {
            println!("worked with a secret of {length} bytes");
            Ok(())
        }
    }
}
