//! The reasons for which the policy refuses a task, a token or a grant.

/// The reason why something is not permitted. It is meant for the operator's record only: callers
/// get a fixed text.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Denial {
    /// An audience is outside what the task allows.
    #[error("audience is outside of what is allowed")]
    Audience,
    /// The registration does not allow this binding.
    #[error("binding is not allowed by the registration")]
    Binding,
    /// The grant is for another workload or another task, the request asks for too many levels of
    /// delegation, or the registration allows no delegation.
    #[error("delegation is not allowed")]
    Delegation,
    /// The registration demands fresh evidence, and no evidence carried the nonce.
    #[error("fresh evidence is required")]
    NotFresh,
    /// The workload begins tasks by orders only, and showed none.
    #[error("an order is required")]
    NoOrder,
    /// No time is left: the evidence, the SVID or the task ends now.
    #[error("no time is left")]
    NoTime,
    /// The order is for another workload, or is good no more.
    #[error("order does not allow it")]
    Order,
    /// Somebody ordered for itself, or for whoever may order for it.
    #[error("nobody orders for itself, nor for whoever may order for it")]
    OrderCircle,
    /// A scope is outside what the registration or the task allows.
    #[error("scope is outside of what is allowed")]
    Scope,
    /// The registration belongs to another workload than the peer.
    #[error("registration is of another workload")]
    Subject,
}
