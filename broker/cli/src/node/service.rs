//! The services of the node's socket: the SPIFFE Workload API, and evidence about processes.

#![expect(
    clippy::disallowed_methods,
    reason = "the node answers local processes itself"
)]

use std::collections::HashMap;
use std::sync::Arc;

use sundew_broker::enrollment::local_process::LocalProcess;
use sundew_broker::enrollment::workload_api::{
    Answer, Bundles, Candidate, Identities, NoIdentity, caller,
};
use sundew_core::client::{JwtBundle, SpiffeId};
use sundew_proto::spiffe::X509svid;
use sundew_proto::v1::enrollment_service_client::EnrollmentServiceClient;
use sundew_proto::v1::node_service_server::NodeService;
use sundew_proto::v1::{
    AttestProcessRequest, AttestProcessResponse, IssueEntryJwtRequest, IssueEntryRequest,
};
use sundew_sdk::{Agent, Task};
use tokio::sync::{Semaphore, watch};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::process_evidence::{inspect, sign, unavailable};
use super::state::State;
use crate::csr::generate_key_and_csr;

/// Executables that are read at a time.
const MAX_INSPECTIONS: usize = 4;

/// The node, as local processes see it.
pub(super) struct Node {
    agent: Agent,
    state: watch::Receiver<State>,
    inspections: Semaphore,
}

impl Node {
    pub(super) fn new(agent: Agent, state: watch::Receiver<State>) -> Self {
        Self {
            agent,
            state,
            inspections: Semaphore::new(MAX_INSPECTIONS),
        }
    }

    fn task(&self) -> Result<Arc<Task>, Status> {
        let task = self.state.borrow().task.clone();
        task.ok_or_else(|| Status::unavailable("the node has not proven its host"))
    }

    fn broker(&self) -> Result<EnrollmentServiceClient<Channel>, Status> {
        let connection = self.agent.connection().map_err(unavailable)?;
        Ok(EnrollmentServiceClient::new(connection.channel()))
    }

    /// Gets an SVID with a new key from the broker. Returns the SVID, and when it ends in
    /// milliseconds since the epoch.
    async fn issue_svid(&self, id: &SpiffeId) -> Result<(X509svid, i64), Status> {
        let (key, csr) = generate_key_and_csr().map_err(unavailable)?;
        let request = IssueEntryRequest {
            task_id: self.task()?.id().to_owned(),
            spiffe_id: id.to_string(),
            csr,
        };
        let svid = self
            .broker()?
            .issue_entry(request)
            .await?
            .into_inner()
            .svid
            .ok_or_else(|| Status::unavailable("the broker sent no SVID"))?;
        let message = X509svid {
            spiffe_id: svid.spiffe_id,
            x509_svid: svid.certificates.concat(),
            x509_svid_key: key.serialize_der(),
            bundle: svid.bundle.concat(),
            hint: String::new(),
        };
        Ok((message, svid.not_after_ms))
    }

    /// Returns evidence about a process in JSON, signed with the node's key and bound to 32 bytes
    /// that the process chose.
    async fn attest(&self, process: Arc<LocalProcess>, binding: &[u8]) -> Result<Vec<u8>, Status> {
        let binding: [u8; 32] = binding
            .try_into()
            .map_err(|_| Status::invalid_argument("binding: must be 32 bytes"))?;
        let task = self.task()?;
        let _permit = self
            .inspections
            .acquire()
            .await
            .map_err(|_| Status::unavailable("stopping"))?;
        let statement = inspect(process, task.id(), &binding).await?;
        sign(&statement, &self.agent.identity())
    }
}

impl Identities for Node {
    fn candidates(&self) -> Answer<'_, Vec<Candidate>> {
        Box::pin(async { Ok(self.state.borrow().entries.candidates.clone()) })
    }

    fn issue<'a>(&'a self, id: &'a SpiffeId) -> Answer<'a, (X509svid, i64)> {
        Box::pin(self.issue_svid(id))
    }

    fn issue_jwt<'a>(&'a self, id: &'a SpiffeId, audience: &'a [String]) -> Answer<'a, String> {
        Box::pin(async move {
            let request = IssueEntryJwtRequest {
                task_id: self.task()?.id().to_owned(),
                spiffe_id: id.to_string(),
                audience: audience.to_vec(),
            };
            Ok(self
                .broker()?
                .issue_entry_jwt(request)
                .await?
                .into_inner()
                .svid)
        })
    }

    fn bundles(&self) -> Bundles {
        let by_domain: HashMap<_, _> = self.agent.identity().roots().into_iter().collect();
        let jwt = self.state.borrow().entries.jwt.clone();
        Bundles {
            generation: generation(&by_domain, &jwt),
            by_domain,
            jwt,
        }
    }

    fn refused(&self, rpc: &'static str, process: &LocalProcess, why: NoIdentity) {
        tracing::warn!(
            rpc,
            uid = process.uid(),
            gid = process.gid(),
            %why, "a local process gets no identity"
        );
    }
}

/// Returns a number that is another one whenever a bundle is another one.
fn generation(by_domain: &HashMap<String, Vec<u8>>, jwt: &HashMap<String, Arc<JwtBundle>>) -> u64 {
    let documents = jwt
        .iter()
        .map(|(domain, bundle)| (domain, bundle.document()));
    let mut content: Vec<_> = by_domain
        .iter()
        .map(|(domain, roots)| (domain, roots.as_slice()))
        .chain(documents)
        .collect();
    // A map has no order, and the number must not change with it.
    content.sort_unstable();
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    for part in content
        .iter()
        .flat_map(|(domain, content)| [domain.as_bytes(), content])
    {
        digest.update(part);
    }
    digest
        .finish()
        .as_ref()
        .first_chunk()
        .copied()
        .map_or(0, u64::from_be_bytes)
}

/// The service that gives processes evidence about themselves.
pub(super) struct Service(pub(super) Arc<Node>);

#[tonic::async_trait]
impl NodeService for Service {
    async fn attest_process(
        &self,
        request: Request<AttestProcessRequest>,
    ) -> Result<Response<AttestProcessResponse>, Status> {
        let process = caller(&request)?;
        let evidence = self
            .0
            .attest(process, &request.into_inner().binding)
            .await?;
        Ok(Response::new(AttestProcessResponse { evidence }))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::generation;

    #[test]
    fn another_bundle_is_another_generation() {
        let bundles = |content: &str| {
            HashMap::from([
                ("a.test".to_owned(), content.as_bytes().to_vec()),
                ("b.test".to_owned(), b"roots".to_vec()),
            ])
        };
        let none = HashMap::new();
        assert_eq!(
            generation(&bundles("one"), &none),
            generation(&bundles("one"), &none)
        );
        assert_ne!(
            generation(&bundles("one"), &none),
            generation(&bundles("two"), &none)
        );
    }
}
