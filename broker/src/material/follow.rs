//! Keeps items of the configuration up to date from their files and URLs.

use std::sync::Arc;

use sundew_attestation::{TrustError, TrustItem};

use super::pace::Pace;
use super::{FILE_CHECK_INTERVAL, Material, MaterialConfig, fetch};
use crate::peer::Trust;
use crate::peer::files::{FileError, read_public};

/// Why an item of the configuration was not taken.
#[derive(Debug, thiserror::Error)]
enum ItemError {
    /// The content is an endorsement of a TPM key.
    #[error("`endorsement` is what a TPM has shown, and is not configured")]
    Endorsement,
    /// The URL gave no content.
    #[error("{0}")]
    Fetch(fetch::FetchError),
    /// The file cannot be read.
    #[error("{0}")]
    File(FileError),
    /// The content is not what the kind of the item asks for.
    #[error("{0}")]
    Item(TrustError),
    /// The configuration names no place to read from.
    #[error("neither file nor url")]
    NoSource,
}

/// Keeps one item of the configuration up to date, for as long as it is polled.
pub(crate) async fn follow(config: MaterialConfig, material: Arc<Material>, trust: Arc<Trust>) {
    let source = config.source();
    let mut last = None;
    let mut pace = Pace::default();
    // A file costs less than a URL.
    let is_fetched = config.file.is_none() && config.url.is_some();
    loop {
        let taken = read(&config)
            .await
            .and_then(|content| take(&config, &material, &mut last, content));
        let wait = pace.after(taken.is_ok());
        trust.report(&source, taken);
        tokio::time::sleep(if is_fetched {
            wait
        } else {
            FILE_CHECK_INTERVAL
        })
        .await;
    }
}

/// Reads the content of the item.
async fn read(config: &MaterialConfig) -> Result<Vec<u8>, ItemError> {
    match (&config.file, &config.url) {
        (Some(path), _) => read_public(path).map_err(ItemError::File),
        (None, Some(url)) => {
            let client = fetch::client(config.ca_file.as_deref()).map_err(ItemError::Fetch)?;
            fetch::get(&client, url).await.map_err(ItemError::Fetch)
        }
        (None, None) => Err(ItemError::NoSource),
    }
}

/// Publishes the content, unless it is what was published last.
fn take(
    config: &MaterialConfig,
    material: &Material,
    last: &mut Option<Vec<u8>>,
    content: Vec<u8>,
) -> Result<(), ItemError> {
    if last.as_ref() == Some(&content) {
        return Ok(());
    }
    let item = TrustItem::parse(config.kind, &config.name, &content).map_err(ItemError::Item)?;
    if item.is_endorsed() {
        return Err(ItemError::Endorsement);
    }
    material.publish_configured(item);
    *last = Some(content);
    Ok(())
}
