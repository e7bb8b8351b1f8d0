//! `local_user`: a statement of a broker about the user of this process, asked for at the broker's
//! own socket.

use sundew_proto::v1::AttestUserRequest;
use sundew_proto::v1::local_service_client::LocalServiceClient;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use super::{CollectError, Collected, Collector, Context};

/// Asks the broker at a Unix socket.
#[derive(Clone, Debug)]
pub struct LocalUserCollector {
    socket: String,
}

impl LocalUserCollector {
    /// The broker's socket, as `unix:/path` or `unix:///path`.
    #[must_use]
    pub fn new(socket: &str) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }
}

impl Collector for LocalUserCollector {
    fn kind(&self) -> &str {
        "local_user"
    }

    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a> {
        Box::pin(async move {
            let fail = |problem: String| CollectError::LocalSocket {
                socket: self.socket.clone(),
                problem,
            };
            let endpoint = Endpoint::from_shared(self.socket.replacen("unix:///", "unix:/", 1))
                .map_err(|e| fail(e.to_string()))?;
            // A connection for each time: the broker looks at the process that made it.
            let channel = endpoint.connect().await.map_err(|e| fail(e.to_string()))?;
            let mut request = Request::new(AttestUserRequest {
                binding: context.binding.as_bytes().to_vec(),
            });
            request
                .metadata_mut()
                .insert("workload.spiffe.io", MetadataValue::from_static("true"));
            let answer = LocalServiceClient::new(channel).attest_user(request).await;
            let answer = answer.map_err(|status| {
                fail(match status.code() == Code::Unimplemented {
                    true => "it is no broker's own socket, so it says nothing of users".to_owned(),
                    false => status.message().to_owned(),
                })
            })?;
            Ok(answer.into_inner().evidence)
        })
    }
}
