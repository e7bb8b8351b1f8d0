//! Keeps items of the configuration up to date from their files and URLs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sundew_attestation::TrustItem;

use super::{Material, MaterialConfig, fetch};
use crate::clock;
use crate::peer::Trust;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const FETCH_EVERY: Duration = Duration::from_secs(300);

/// Keeps one item of the configuration up to date, for as long as it is polled.
pub(crate) async fn follow(config: MaterialConfig, material: Arc<Material>, trust: Arc<Trust>) {
    let source = config.source();
    let mut last = None;
    loop {
        let mut fetched: Option<Instant> = None;
        let content = match (&config.file, &config.url) {
            (Some(path), _) => std::fs::read(path).map_err(|e| format!("{}: {e}", path.display())),
            (None, Some(url)) => {
                fetched = Some(clock::monotonic());
                match fetch::client(config.ca_file.as_deref()) {
                    Ok(client) => fetch::get(&client, url).await,
                    Err(problem) => Err(problem),
                }
            }
            (None, None) => Err("neither file nor url".to_owned()),
        };
        let read = content.and_then(|content| {
            if last.as_ref() == Some(&content) {
                return Ok(());
            }
            let item =
                TrustItem::parse(config.kind, &config.name, &content).map_err(|e| e.to_string())?;
            if item.is_endorsed() {
                return Err(
                    "`endorsement` is what a TPM has shown, and is not configured".to_owned(),
                );
            }
            material.publish_configured(item);
            last = Some(content);
            Ok(())
        });
        trust.report(&source, read);
        tokio::time::sleep(if fetched.is_some() {
            FETCH_EVERY
        } else {
            LOOK_EVERY
        })
        .await;
    }
}
