//! The socket of the owner.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use sundew_proto::v1::owner_service_server::OwnerService;
use sundew_proto::v1::{
    AskBreakGlassRequest, AskBreakGlassResponse, BootstrapRequest, BootstrapResponse,
    BreakGlassRequest, BreakGlassResponse,
};
use tokio::net::UnixListener;
use tonic::{Request, Response, Status};

use super::{Owner, OwnerError};
use crate::enrollment::local_process;
use crate::enrollment::workload_api::caller;
use crate::journal::{self, RefusalKind};

/// The service at the socket of the owner.
#[derive(Clone)]
pub(crate) struct OwnerSocket(pub(crate) Arc<Owner>);

impl OwnerSocket {
    /// Makes the socket, for its owner alone. The kernel says besides who connects.
    pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
        let listener = local_process::bind(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(listener)
    }
}

impl Owner {
    /// Puts a refusal on the record, and answers it.
    fn refused(&self, rpc: &'static str, uid: u32, error: OwnerError) -> Status {
        let reason = error.to_string();
        let kind = RefusalKind {
            event: "refused",
            rpc: Some(rpc),
            class: "owner",
            caller: format!("uid {uid}"),
        };
        self.enrollment.refusals.take(kind, &reason, "", || {
            journal::record("refused")
                .with("rpc", rpc)
                .with("reason", &reason)
                .with("uid", uid)
        });
        tracing::warn!(
            rpc,
            uid,
            reason,
            "refused to whoever asks for an operator's SVID"
        );
        error.into()
    }
}

#[tonic::async_trait]
impl OwnerService for OwnerSocket {
    async fn bootstrap(
        &self,
        request: Request<BootstrapRequest>,
    ) -> Result<Response<BootstrapResponse>, Status> {
        let uid = caller(&request)?.uid();
        let given = self.0.bootstrap(uid, request.into_inner()).await;
        let svid = given.map_err(|error| self.0.refused("Bootstrap", uid, error))?;
        Ok(Response::new(BootstrapResponse { svid: Some(svid) }))
    }

    async fn ask_break_glass(
        &self,
        request: Request<AskBreakGlassRequest>,
    ) -> Result<Response<AskBreakGlassResponse>, Status> {
        let uid = caller(&request)?.uid();
        let asked = self.0.ask_break_glass(uid, request.into_inner()).await;
        let asked = asked.map_err(|error| self.0.refused("AskBreakGlass", uid, error))?;
        Ok(Response::new(asked))
    }

    async fn break_glass(
        &self,
        request: Request<BreakGlassRequest>,
    ) -> Result<Response<BreakGlassResponse>, Status> {
        let uid = caller(&request)?.uid();
        let given = self.0.break_glass(uid, request.into_inner()).await;
        let svid = given.map_err(|error| self.0.refused("BreakGlass", uid, error))?;
        Ok(Response::new(BreakGlassResponse { svid: Some(svid) }))
    }
}
