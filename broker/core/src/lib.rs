//! The domain of Sundew: whether a workload may have a task or a token, with which rights, and
//! whether a task or a token is alive.
//!
//! The crate upholds P1, P3, P4, P8 and P9. It has no runtime, no transport and no store: time is
//! an argument, and the store is a port, [`store::Store`]. The only files that it reads are those
//! with secrets, because broker, command line and SDK read them by one rule.
//!
//! # Modules
//!
//! A module uses only modules that stand above it in this list. Within a folder, the files belong
//! together.
//!
//! ```text
//! id  position  outcome  scope  ttl  token_binding  denial  protocol ─▶ position
//! audience      ─▶ denial
//! audit                                             one entry of the audit record
//! record        ─▶ id, position, scope, token_binding
//! agreement     ─▶ record, ttl                      the bounds that all brokers share
//! secret        ─▶ record                           secret bytes, and stored secrets
//! secret_file                                       files with secrets, and who may read them
//! credential    ─▶ id                               what the holder of a token has
//! sealing       ─▶ secret                           root key, keyring
//! selector      ─▶ id, position, scope              what a rule is about
//! registration  ─▶ audience, record, scope, selector, token_binding, ttl
//! delegation    ─▶ audience, denial, id, record, registration, scope, sealing, ttl
//! subject       ─▶ id, record, selector             tasks and tokens as rules see them
//! order         ─▶ audience, denial, delegation, id, position, record, registration, scope, selector,
//!                  subject                          leave for exactly one task
//! policy        ─▶ audience, delegation, denial, order, record, registration, scope, token_binding, ttl
//! role_bounds   ─▶ audience, registration, scope, selector
//! lease         ─▶ id, record, sealing
//! log           ─▶ id, outcome, position, record, selector
//! rules         ─▶ log, position, selector          the index of all rules
//! view          ─▶ id, log, order, outcome, position, rules, selector, subject
//! store         ─▶ credential, id, position         the port
//! client        ─▶ scope, secret, secret_file, ttl  the part that the SDK uses
//! ```

mod agreement;
mod audience;
mod audit;
pub mod client;
mod credential;
mod delegation;
mod denial;
mod document;
mod id;
mod lease;
mod log;
mod order;
mod outcome;
mod policy;
mod position;
pub mod protocol;
mod record;
mod registration;
mod role_bounds;
mod rules;
mod scope;
mod sealing;
mod secret;
mod secret_file;
mod selector;
pub mod store;
mod subject;
mod token_binding;
mod ttl;
mod view;

pub use agreement::{Agreement, Beyond, SharedBounds};
pub use audience::{allows_audiences, is_audience};
pub use audit::{Glance, Record, glance};
pub use credential::{Credential, Ticket, TokenHash};
pub use delegation::{Grant, GrantRequest};
pub use denial::Denial;
pub use document::{DocumentVersion, first_version_of_epoch, version_text};
pub use id::{IdParseError, LeaseId, OrderId, TaskId, TokenId};
pub use lease::LeaseRecord;
pub use log::{Changed, Effect, Event, FOR_EVER_MS, LogEntry};
pub use order::{ClaimRecord, KnownOrder, Order, OrderOrigin, OrderRequest};
pub use outcome::Outcome;
pub use policy::{Delegation, Permit, TaskRequest, TokenRequest, permit_task, permit_token};
pub use position::{EntryId, Position};
pub use record::{RecordError, TaskOrder, TaskRecord, TokenRecord};
pub use registration::{Begin, LocalSelector, Registration, RegistrationProblem, WorkloadRecord};
pub use role_bounds::{Limit, PathPrefix, Pattern, RoleBounds, RoleBoundsError};
pub use scope::{Scope, ScopeError, ScopeSet};
pub use sealing::{KeyFingerprint, Keyring, RootKey, SealError};
pub use secret::{SecretBytes, SecretRecord};
pub use secret_file::{SecretFileError, read_secret_file};
pub use selector::{
    Attribute, GivenFor, Grounds, Renewals, Selector, SelectorError, Subject, svid_claim,
    svid_marks, svid_serial,
};
pub use subject::{KnownTask, KnownToken};
pub use token_binding::TokenBinding;
pub use ttl::{Ttl, TtlError};
pub use view::{AskedIdentity, Cause, Liveness, View, still_matter};
