//! `process`: a statement of this host's node (`sundew node`) about this process.

use sundew_proto::v1::AttestProcessRequest;
use sundew_proto::v1::node_service_client::NodeServiceClient;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Endpoint;

use super::{CollectError, Collected, Collector, Context};

/// Asks the node at a Unix socket.
#[derive(Clone, Debug)]
pub struct ProcessCollector {
    socket: String,
}

impl ProcessCollector {
    /// The node's socket, as `unix:/path` or `unix:///path`.
    #[must_use]
    pub fn new(socket: &str) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }
}

impl Collector for ProcessCollector {
    fn kind(&self) -> &str {
        "process"
    }

    fn collect<'a>(&'a self, context: &'a Context<'a>) -> Collected<'a> {
        Box::pin(async move {
            let fail = |e: &dyn std::fmt::Display| CollectError::Node {
                socket: self.socket.clone(),
                problem: e.to_string(),
            };
            let endpoint = Endpoint::from_shared(self.socket.replacen("unix:///", "unix:/", 1))
                .map_err(|e| fail(&e))?;
            // A connection for each time: the node looks at the process that made it.
            let channel = endpoint.connect().await.map_err(|e| fail(&e))?;
            let mut request = Request::new(AttestProcessRequest {
                binding: context.binding.as_bytes().to_vec(),
            });
            request
                .metadata_mut()
                .insert("workload.spiffe.io", MetadataValue::from_static("true"));
            let answer = NodeServiceClient::new(channel)
                .attest_process(request)
                .await
                .map_err(|status| fail(&status.message()))?;
            Ok(answer.into_inner().evidence)
        })
    }
}
