use std::collections::HashSet;
use std::mem::{Discriminant, discriminant};

use sundew_core::Outcome;

use super::*;
use crate::store::chain_log::ChainLogError;

const NOT_PERMITTED: (Code, &str, &str) =
    (Code::PermissionDenied, "NOT_PERMITTED", "not permitted");
const UNAVAILABLE: (Code, &str, &str) =
    (Code::Unavailable, "UNAVAILABLE", "cannot be answered now");
const CONFLICT: (Code, &str, &str) = (
    Code::Aborted,
    "CONFLICT",
    "changed by others meanwhile; try again",
);
const UNAUTHENTICATED: (Code, &str, &str) = (
    Code::Unauthenticated,
    "UNAUTHENTICATED",
    "a valid SVID is required",
);

/// Stands in causes for everything that a caller must not hear.
const CAUSE: &str = "the cause";

const ENDING_PENDING: (Code, &str, &str) = (
    Code::Unavailable,
    "ENDING_PENDING",
    "in force at this broker, and pending everywhere else",
);

/// One refusal of every variant, and the code, reason and text that the caller hears.
fn table() -> Vec<(Refusal, (Code, &'static str, &'static str))> {
    use Refusal as R;
    let limit = |reason, text| (Code::ResourceExhausted, reason, text);
    let store = || StoreError::Unavailable(CAUSE.to_owned());
    vec![
        (
            R::Absent("task"),
            (Code::NotFound, "NOT_FOUND", "there is no such task"),
        ),
        (
            R::OtherRole("registrar"),
            (
                Code::PermissionDenied,
                "MISSING_ROLE",
                "not permitted: this needs the role `registrar`",
            ),
        ),
        (
            R::BeyondBounds {
                role: "registrar",
                what: "workload x".to_owned(),
            },
            (
                Code::PermissionDenied,
                "BEYOND_BOUNDS",
                "not permitted: beyond the bounds of the role `registrar`: workload x",
            ),
        ),
        (R::Append(AppendError::Store(store())), UNAVAILABLE),
        (R::Appraisal(AppraisalError::Consumed), NOT_PERMITTED),
        (R::Binding, NOT_PERMITTED),
        (R::Challenge, NOT_PERMITTED),
        (
            R::ChallengeLimit,
            limit("CHALLENGE_LIMIT", "too many challenges wait for an answer"),
        ),
        (R::Conflict(CAUSE), CONFLICT),
        (R::Credential, NOT_PERMITTED),
        (R::Denied(Denial::Scope), NOT_PERMITTED),
        (
            R::EndingPending(AppendError::Store(store())),
            ENDING_PENDING,
        ),
        (R::Engine(CAUSE.to_owned()), UNAVAILABLE),
        (R::EvidenceChanged(CAUSE.to_owned()), NOT_PERMITTED),
        (
            R::Idempotency,
            (
                Code::AlreadyExists,
                "IDEMPOTENCY_KEY_REUSED",
                "idempotency key was used for another request",
            ),
        ),
        (
            R::Internal(CAUSE),
            (Code::Internal, "INTERNAL", "internal error"),
        ),
        (
            R::invalid("purpose", "must not be empty"),
            (
                Code::InvalidArgument,
                "INVALID_ARGUMENT",
                "purpose: must not be empty",
            ),
        ),
        (R::JoinToken, NOT_PERMITTED),
        (
            R::Journal(JournalError::Log(ChainLogError::Poisoned)),
            UNAVAILABLE,
        ),
        (R::NotFound(CAUSE), NOT_PERMITTED),
        (
            R::OutOfSight("task"),
            (Code::NotFound, "NOT_FOUND", "there is no such task"),
        ),
        (
            R::Outdated {
                what: CAUSE,
                stored: 1,
                known: 2,
            },
            UNAVAILABLE,
        ),
        (
            R::Overload,
            limit("OVERLOAD", "too much is being issued now"),
        ),
        (
            R::OrderLimit,
            limit("ORDER_LIMIT", "too many orders at a time"),
        ),
        (
            R::TicketUsed {
                order: sundew_core::OrderId::from_bytes([1; 16]),
                by: sundew_attestation::spiffe::SpiffeId::parse("spiffe://a.test/b").unwrap(),
            },
            NOT_PERMITTED,
        ),
        (R::Quarantined, NOT_PERMITTED),
        (R::RateLimit, limit("RATE_LIMIT", "too many requests")),
        (R::Role(CAUSE), NOT_PERMITTED),
        (
            R::Seal {
                what: CAUSE,
                cause: SealError::Opening,
            },
            UNAVAILABLE,
        ),
        (R::Stale(Stale), UNAVAILABLE),
        (
            R::OpenCalls,
            limit("OPEN_CALLS", "too many calls of this workload are open"),
        ),
        (
            R::Unfinished,
            (
                Code::DeadlineExceeded,
                "UNFINISHED",
                "the message was not sent to its end in time",
            ),
        ),
        (
            R::UnfinishedBytes,
            limit("UNFINISHED_BYTES", "too much is being sent at a time"),
        ),
        (
            R::Stopping,
            (
                Code::Unavailable,
                "STOPPING",
                "this broker stops; go on at another",
            ),
        ),
        (R::Store(store()), UNAVAILABLE),
        (R::Svid(SvidError::Expired), UNAUTHENTICATED),
        (
            R::TargetBusy,
            limit("TARGET_BUSY", "too many calls wait for this secret"),
        ),
        (R::TaskDead(Cause::Revoked), NOT_PERMITTED),
        (R::TokenDead(Cause::Revoked), NOT_PERMITTED),
        (
            R::TaskLimit,
            limit("TASK_LIMIT", "too many tasks at a time"),
        ),
        (
            R::TokenLimit,
            limit("TOKEN_LIMIT", "too many tokens of one task at a time"),
        ),
        (R::Unauthenticated, UNAUTHENTICATED),
        (R::Unregistered, NOT_PERMITTED),
        (R::GroundsTooOld, NOT_PERMITTED),
        (R::GroundsWithdrawn, NOT_PERMITTED),
        (R::NodeGone, NOT_PERMITTED),
        (
            R::Unsupported(CAUSE),
            (
                Code::Unimplemented,
                "UNSUPPORTED",
                "not supported by this broker",
            ),
        ),
        (R::TpmBarred, NOT_PERMITTED),
        (R::UntrustedManufacturer(CAUSE.to_owned()), NOT_PERMITTED),
    ]
}

/// Counts the variants. A new one breaks this match, and belongs into the table too.
fn number_of_variants() -> usize {
    let known = |refusal: &Refusal| match refusal {
        Refusal::Absent(_)
        | Refusal::Append(_)
        | Refusal::Appraisal(_)
        | Refusal::BeyondBounds { .. }
        | Refusal::Binding
        | Refusal::Challenge
        | Refusal::ChallengeLimit
        | Refusal::Conflict(_)
        | Refusal::Credential
        | Refusal::Denied(_)
        | Refusal::EndingPending(_)
        | Refusal::Engine(_)
        | Refusal::EvidenceChanged(_)
        | Refusal::Idempotency
        | Refusal::Internal(_)
        | Refusal::Invalid { .. }
        | Refusal::JoinToken
        | Refusal::Journal(_)
        | Refusal::NotFound(_)
        | Refusal::OtherRole(_)
        | Refusal::OutOfSight(_)
        | Refusal::Outdated { .. }
        | Refusal::OpenCalls
        | Refusal::Unfinished
        | Refusal::UnfinishedBytes
        | Refusal::OrderLimit
        | Refusal::Overload
        | Refusal::Quarantined
        | Refusal::RateLimit
        | Refusal::Role(_)
        | Refusal::Seal { .. }
        | Refusal::Stale(_)
        | Refusal::Stopping
        | Refusal::Store(_)
        | Refusal::Svid(_)
        | Refusal::TargetBusy
        | Refusal::TaskDead(_)
        | Refusal::TokenDead(_)
        | Refusal::TicketUsed { .. }
        | Refusal::TaskLimit
        | Refusal::TokenLimit
        | Refusal::Unauthenticated
        | Refusal::Unregistered
        | Refusal::GroundsTooOld
        | Refusal::GroundsWithdrawn
        | Refusal::NodeGone
        | Refusal::TpmBarred
        | Refusal::Unsupported(_)
        | Refusal::UntrustedManufacturer(_) => 49,
    };
    known(&Refusal::Binding)
}

#[test]
fn every_refusal_has_its_code_its_reason_and_its_text() {
    let mut seen: HashSet<Discriminant<Refusal>> = HashSet::new();
    for (refusal, (code, reason, text)) in table() {
        let status = refusal.status("c0ffee");
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (status.code(), info.reason.as_str(), status.message()),
            (code, reason, text),
            "{refusal:?}"
        );
        assert_eq!(info.domain, DOMAIN);
        assert_eq!(
            info.metadata,
            HashMap::from([("correlation_id".to_owned(), "c0ffee".to_owned())])
        );
        assert!(seen.insert(discriminant(&refusal)), "{refusal:?} twice");
    }
    assert_eq!(seen.len(), number_of_variants());
}

#[test]
fn a_caller_is_told_when_to_try_again_exactly_where_that_may_help() {
    for (refusal, (code, ..)) in table() {
        let retry = refusal
            .status("")
            .get_details_retry_info()
            .map(|info| info.retry_delay);
        let helps = matches!(
            code,
            Code::Aborted | Code::ResourceExhausted | Code::Unavailable
        );
        assert_eq!(retry, helps.then_some(Some(RETRY_DELAY)), "{refusal:?}");
    }
}

/// P11: neither the text nor the details name what went wrong inside.
#[test]
fn the_public_answer_never_contains_the_cause() {
    for (refusal, _) in table() {
        let status = refusal.status("c0ffee");
        let cause = refusal.to_string();
        let details = String::from_utf8_lossy(status.details()).into_owned();
        for public in [status.message(), details.as_str()] {
            assert!(!public.contains(CAUSE), "{refusal:?}: {public}");
            // A malformed field, a reused key, what an operator named and its bounds are the caller's
            // own; the caller hears the cause.
            let own = matches!(
                refusal,
                Refusal::Absent(_)
                    | Refusal::BeyondBounds { .. }
                    | Refusal::Invalid { .. }
                    | Refusal::Idempotency
            );
            assert!(own || !public.contains(&cause), "{refusal:?}: {public}");
        }
    }
}

/// P11: a refusal does not tell what exists.
#[test]
fn unknown_not_yours_and_not_allowed_are_the_same_bytes_but_for_the_correlation_id() {
    let bytes = |refusal: &Refusal, correlation: &str| {
        let status = refusal.status(correlation);
        (
            status.code(),
            status.message().to_owned(),
            status.details().to_vec(),
        )
    };
    let unknown = Refusal::NotFound("task");
    for other in [
        Refusal::Binding,
        Refusal::Denied(Denial::Subject),
        Refusal::Role("responder"),
        Refusal::TaskDead(Cause::TaskEnded(Outcome::Completed)),
        Refusal::TokenDead(Cause::Revoked),
        Refusal::Unregistered,
    ] {
        assert_eq!(
            bytes(&unknown, "c0ffee"),
            bytes(&other, "c0ffee"),
            "{other:?}"
        );
        assert_ne!(bytes(&unknown, "c0ffee"), bytes(&other, "decade"));
    }
}

#[test]
fn the_record_says_in_words_why_a_task_is_dead() {
    for (cause, words) in [
        (
            Cause::AncestorEnded(Outcome::Failed),
            "task is dead: a task above it ended (failed)",
        ),
        (Cause::Expired, "task is dead: its time ran out"),
        (Cause::Revoked, "task is dead: a rule revoked it"),
        (Cause::Suspended, "task is dead: it is or was suspended"),
        (
            Cause::TaskEnded(Outcome::Completed),
            "task is dead: it ended (completed)",
        ),
    ] {
        assert_eq!(Refusal::TaskDead(cause).to_string(), words);
    }
}
