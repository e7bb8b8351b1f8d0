//! Mints a narrower token for one resource server, and asks the broker what it is good for.
//!
//! ```sh
//! cargo run -p sundew-sdk --example audience -- https://api.example
//! ```
//!
//! The agent sends such a token to the resource server over mutual TLS with its SVID. The server
//! asks the broker as this example does, with the SHA-256 of the certificate that it saw.

use sundew_proto::v1::IntrospectRequest;
use sundew_proto::v1::access_service_client::AccessServiceClient;
use sundew_sdk::{Agent, minutes, seconds};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let audience = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "https://api.example".to_owned());
    let agent = Agent::from_env().await?;
    let task = agent
        .task("publish the report")
        .scope("exec:git")
        .scope("secret:demo/api-key")
        .ttl(minutes(5))
        .begin()
        .await?;

    // One of the task's two scopes, for one audience, for half a minute.
    let token = task
        .mint(&["exec:git"], &[&audience], Some(seconds(30)))
        .await?;

    let connection = agent.connection()?;
    let answer = AccessServiceClient::new(connection.channel())
        .introspect(IntrospectRequest {
            token: token.expose().to_owned(),
            // A resource server gives the certificate that it saw; here it is the agent's own.
            presenter_certificate_sha256: token.certificate_sha256().to_vec(),
            audience,
            required_scopes: vec!["exec:git".to_owned()],
        })
        .await?
        .into_inner();
    println!(
        "token {} is {}: scopes {:?}, audiences {:?}",
        token.id(),
        if answer.active {
            "active"
        } else {
            "not active"
        },
        answer.scopes,
        answer.audience
    );

    task.complete().await?;
    Ok(())
}
