//! The keys of the embedded CA in the hands of registrars.

use std::sync::Arc;

use sundew_proto::v1;

use super::Enrollment;
use crate::refusal::Refusal;
use crate::role::{Registrar, Unbounded};

impl Enrollment {
    /// Shows the keys of the CA, and when each of them signs and is trusted.
    pub(crate) async fn show_ca(
        self: Arc<Self>,
        operator: Unbounded<Registrar>,
        _: v1::ShowCaRequest,
    ) -> Result<v1::ShowCaResponse, Refusal> {
        Ok(self.own_ca()?.show(&operator))
    }

    /// Adds a key to the CA, which signs after an overlap.
    pub(crate) async fn rotate_ca(
        self: Arc<Self>,
        operator: Unbounded<Registrar>,
        request: v1::RotateCaRequest,
    ) -> Result<v1::RotateCaResponse, Refusal> {
        self.own_ca()?.rotate(&operator, request).await
    }

    /// Drops the keys of the CA but the newest, and with them all that they signed.
    pub(crate) async fn drop_old_ca_keys(
        self: Arc<Self>,
        operator: Unbounded<Registrar>,
        request: v1::DropOldCaKeysRequest,
    ) -> Result<v1::DropOldCaKeysResponse, Refusal> {
        self.own_ca()?.drop_old(&operator, request).await
    }
}
