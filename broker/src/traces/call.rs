//! The span of one call.

use std::any::Any;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, Status};
use opentelemetry_sdk::trace::Span;
use sundew_attestation::spiffe::SpiffeId;
use sundew_core::TaskId;
use sundew_proto::v1::*;
use tonic::Code;

/// The span of a call, or nothing where there are no traces. It ends when it is dropped; a call that
/// had no answer by then was given up by its caller.
pub(crate) struct CallSpan {
    span: Option<Span>,
    is_answered: bool,
}

impl CallSpan {
    /// No span.
    pub(crate) fn none() -> Self {
        Self {
            span: None,
            is_answered: false,
        }
    }

    pub(super) fn new(rpc: &'static str, span: Span) -> Self {
        let mut call = Self {
            span: Some(span),
            is_answered: false,
        };
        call.note("rpc.system", "grpc");
        call.note("rpc.method", rpc);
        call
    }

    /// Notes who calls.
    pub(crate) fn of_workload(&mut self, id: &SpiffeId) {
        if self.span.is_some() {
            self.note("sundew.spiffe_id", id.to_string());
        }
    }

    /// Notes the task that a request or an answer names. Whatever is no task's id is a text of the
    /// caller, and is left.
    pub(crate) fn of_task(&mut self, message: &dyn Any) {
        if self.span.is_some()
            && let Some(id) = task_of(message)
            && TaskId::parse(id).is_ok()
        {
            self.note("sundew.task.id", id.to_owned());
        }
    }

    /// Notes that the call was answered.
    pub(crate) fn answered(&mut self) {
        self.is_answered = true;
        self.note("rpc.grpc.status_code", i64::from(i32::from(Code::Ok)));
    }

    /// Notes that the call was refused: with what code, for what sort of reason, and under which id
    /// the record has it.
    pub(crate) fn refused(&mut self, code: Code, class: &'static str, correlation: &str) {
        self.is_answered = true;
        self.note("rpc.grpc.status_code", i64::from(i32::from(code)));
        self.note("sundew.reason", class);
        self.note("sundew.correlation_id", correlation.to_owned());
        if let Some(span) = &mut self.span {
            span.set_status(Status::error(class));
        }
    }

    fn note(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(key, value));
        }
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        if !self.is_answered {
            let code = i64::from(i32::from(Code::Cancelled));
            self.note("rpc.grpc.status_code", code);
        }
    }
}

/// Makes the function that finds the field in which messages name their one task.
macro_rules! named_in_field {
    ($($message:ident),+ $(,)?) => {
        /// The messages that name their one task in a field, for the test.
        #[cfg(test)]
        const NAMED_IN_FIELD: &[&str] = &[$(stringify!($message)),+];

        fn field(message: &dyn Any) -> Option<&str> {
            None$(.or_else(|| Some(&*message.downcast_ref::<$message>()?.task_id)))+
        }
    };
}

named_in_field!(
    CompleteTaskRequest,
    CreateOrderRequest,
    DelegateRequest,
    GetSecretRequest,
    IntrospectResponse,
    IssueEntryJwtRequest,
    IssueEntryRequest,
    ListEntriesRequest,
    MintTokenRequest,
    ResumeTaskRequest,
    ShowTaskRequest,
    SuspendTaskRequest,
);

/// The id of the task that a request or an answer names.
fn task_of(message: &dyn Any) -> Option<&str> {
    let begun = || message.downcast_ref::<BeginTaskResponse>()?.task.as_ref();
    field(message).or_else(|| Some(&*begun()?.task_id))
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Whoever adds a request or an answer with the id of a task adds it to the list.
    #[test]
    fn o3_every_message_that_names_its_task_is_known() {
        let set = FileDescriptorSet::decode(sundew_proto::DESCRIPTOR).unwrap();
        let messages = set.file.iter().flat_map(|file| &file.message_type);
        let mut named: Vec<_> = messages
            .filter(|message| {
                let name = message.name();
                let of_call = name.ends_with("Request") || name.ends_with("Response");
                of_call && message.field.iter().any(|field| field.name() == "task_id")
            })
            .map(|message| message.name().to_owned())
            .collect();
        named.sort();
        assert_eq!(named, NAMED_IN_FIELD);
    }

    #[test]
    fn o3_the_task_of_a_message_is_found_and_no_other_text() {
        let asked = MintTokenRequest {
            task_id: "t".to_owned(),
            ..MintTokenRequest::default()
        };
        assert_eq!(task_of(&asked), Some("t"));
        let begun = BeginTaskResponse {
            task: Some(Task {
                task_id: "u".to_owned(),
                ..Task::default()
            }),
            ..BeginTaskResponse::default()
        };
        assert_eq!(task_of(&begun), Some("u"));
        assert_eq!(task_of(&ChallengeRequest {}), None);
    }
}
