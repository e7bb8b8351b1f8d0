//! Tasks as they are shown.

use serde::Serialize;
use sundew_proto::v1::{self, LeaseInfo, Outcome, ShowTaskResponse, TokenInfo};

use crate::output::{Row, View, escape, fields};
use crate::timestamp::format_timestamp;

/// A task that was begun, with its first token.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct BegunView {
    pub(super) task_id: String,
    /// The token itself.
    pub(super) token: String,
    pub(super) token_id: String,
    pub(super) scopes: Vec<String>,
    pub(super) deadline_ms: i64,
}

impl View for BegunView {
    const KIND: &'static str = "task_begun";

    fn lines(&self) -> Vec<String> {
        fields(&[
            ("task", self.task_id.clone()),
            ("until", format_timestamp(self.deadline_ms)),
            ("token", self.token.clone()),
        ])
    }
}

/// A grant, with which another workload begins tasks.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct GrantView {
    pub(super) grant: String,
    pub(super) delegate: String,
    pub(super) expires_at_ms: i64,
}

impl View for GrantView {
    const KIND: &'static str = "grant";

    fn lines(&self) -> Vec<String> {
        vec![self.grant.clone()]
    }
}

/// A task that was ended.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct EndedView {
    pub(super) task_id: String,
    /// How it ended; absent while that is pending.
    pub(super) outcome: Option<String>,
    /// Whether it has ended at the broker that was asked, and not everywhere yet.
    pub(super) pending: bool,
}

impl View for EndedView {
    const KIND: &'static str = "task_ended";

    fn lines(&self) -> Vec<String> {
        let line = match &self.outcome {
            Some(outcome) => format!("{} {outcome}", self.task_id),
            None => format!(
                "{} has ended at this broker, PENDING elsewhere: repeat it until it is in force \
                 everywhere",
                self.task_id
            ),
        };
        vec![line]
    }
}

pub(super) fn outcome_label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unspecified => "alive",
        Outcome::Completed => "completed",
        Outcome::Failed => "failed",
        Outcome::Canceled => "canceled",
        Outcome::Expired => "expired",
        Outcome::Abandoned => "abandoned",
        Outcome::Revoked => "revoked",
    }
}

/// Returns how a task ended, or `suspended` or `alive` for a task that has not ended.
fn state_label(task: &v1::Task) -> &'static str {
    if task.suspended && task.outcome() == Outcome::Unspecified {
        "suspended"
    } else {
        outcome_label(task.outcome())
    }
}

/// A task in a list.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct TaskRow {
    task_id: String,
    /// Empty if of an ended task only its end is known.
    spiffe_id: String,
    /// `alive`, `suspended`, or how it ended.
    state: String,
    purpose: String,
    instruction: String,
    scopes: Vec<String>,
    created_at_ms: i64,
    deadline_ms: i64,
    registration_version: String,
    /// The tasks that it was delegated from; the parent is the last of them.
    ancestors: Vec<String>,
    audience: Vec<String>,
}

impl From<v1::Task> for TaskRow {
    fn from(task: v1::Task) -> Self {
        Self {
            state: state_label(&task).to_owned(),
            task_id: task.task_id,
            spiffe_id: task.spiffe_id,
            purpose: task.purpose,
            instruction: task.instruction,
            scopes: task.scopes,
            created_at_ms: task.created_at_ms,
            deadline_ms: task.deadline_ms,
            registration_version: task.registration_version,
            ancestors: task.ancestors,
            audience: task.audience,
        }
    }
}

/// An instant, or a dash for one that is not known.
fn time(ms: i64) -> String {
    match ms {
        0 => "-".to_owned(),
        ms => format_timestamp(ms),
    }
}

impl Row for TaskRow {
    const KIND: &'static str = "tasks";
    const HEADING: &'static [&'static str] = &["TASK", "WORKLOAD", "STATE", "DEADLINE", "PURPOSE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.task_id.clone(),
            self.spiffe_id.clone(),
            self.state.clone(),
            time(self.deadline_ms),
            escape(&self.purpose, 40),
        ]
    }
}

/// A token of a task.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct TokenRow {
    token_id: String,
    active: bool,
    bearer: bool,
    expires_at_ms: i64,
    scopes: Vec<String>,
    audience: Vec<String>,
}

impl From<TokenInfo> for TokenRow {
    fn from(token: TokenInfo) -> Self {
        Self {
            token_id: token.token_id,
            active: token.active,
            bearer: token.bearer,
            expires_at_ms: token.expires_at_ms,
            scopes: token.scopes,
            audience: token.audience,
        }
    }
}

impl TokenRow {
    fn line(&self) -> String {
        let state = if self.active { "active" } else { "dead" };
        let binding = if self.bearer { ", BEARER" } else { "" };
        let until = format_timestamp(self.expires_at_ms);
        let scopes = escape(&self.scopes.join(" "), 200);
        format!("{} {state}{binding} until {until} {scopes}", self.token_id)
    }
}

/// A credential in another system that was made for a task.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct TaskLease {
    lease_id: String,
    secret: String,
    username: String,
    due_ms: i64,
    problem: String,
}

impl From<LeaseInfo> for TaskLease {
    fn from(lease: LeaseInfo) -> Self {
        Self {
            secret: format!("{}/{}", lease.engine, lease.role),
            lease_id: lease.lease_id,
            username: lease.username,
            due_ms: lease.due_ms,
            problem: lease.problem,
        }
    }
}

/// A task with all that belongs to it.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct TaskDetails {
    task: TaskRow,
    /// Verified claims, `kind.name=value`.
    claims: Vec<String>,
    /// Digests of the evidence, `kind:hex`.
    evidence: Vec<String>,
    /// The serial number of the SVID that began it, and the SHA-256 of its certificate.
    svid_serial: String,
    certificate_sha256: String,
    tokens: Vec<TokenRow>,
    /// Credentials that are not removed yet, and how many it has had.
    leases: Vec<TaskLease>,
    leases_had: u64,
    /// What was delegated from it and has not ended.
    children: Vec<TaskRow>,
}

impl TaskDetails {
    pub(super) fn new(answer: ShowTaskResponse) -> Option<Self> {
        Some(Self {
            task: answer.task?.into(),
            claims: answer.claims,
            evidence: answer.evidence,
            svid_serial: answer.svid_serial,
            certificate_sha256: answer.certificate_sha256,
            tokens: answer.tokens.into_iter().map(TokenRow::from).collect(),
            leases: answer.leases.into_iter().map(TaskLease::from).collect(),
            leases_had: answer.leases_had,
            children: answer.children.into_iter().map(TaskRow::from).collect(),
        })
    }
}

impl View for TaskDetails {
    const KIND: &'static str = "task";

    fn lines(&self) -> Vec<String> {
        let task = &self.task;
        let delegators = match task.ancestors.as_slice() {
            [] => "nobody".to_owned(),
            ancestors => ancestors.join(" > "),
        };
        let mut all = vec![
            ("task", task.task_id.clone()),
            ("workload", task.spiffe_id.clone()),
            ("state", task.state.clone()),
            ("purpose", escape(&task.purpose, 1024)),
            ("instruction", escape(&task.instruction, 4096)),
            ("scopes", task.scopes.join(" ")),
            ("audience", escape(&task.audience.join(" "), 1024)),
            ("began", time(task.created_at_ms)),
            ("deadline", time(task.deadline_ms)),
            ("registration", task.registration_version.clone()),
            ("delegated by", delegators),
            ("svid serial", self.svid_serial.clone()),
            ("certificate", self.certificate_sha256.clone()),
        ];
        all.extend(
            self.claims
                .iter()
                .map(|claim| ("claim", escape(claim, 400))),
        );
        all.extend(
            self.evidence
                .iter()
                .map(|one| ("evidence", escape(one, 200))),
        );
        all.extend(self.tokens.iter().map(|token| ("token", token.line())));
        let leases = self.leases.iter().map(|lease| {
            let problem = escape(&lease.problem, 100);
            let text = format!("{} as {} {problem}", lease.secret, lease.username);
            ("lease", text.trim_end().to_owned())
        });
        all.extend(leases);
        all.push(("leases had", self.leases_had.to_string()));
        let children = self.children.iter().map(|child| {
            (
                "child",
                format!("{} {} {}", child.task_id, child.spiffe_id, child.state),
            )
        });
        all.extend(children);
        fields(&all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_task() -> v1::Task {
        v1::Task {
            task_id: "task-1".to_owned(),
            spiffe_id: "spiffe://a.test/b".to_owned(),
            purpose: format!("first\n{}", "x".repeat(40)),
            scopes: vec!["a:b".to_owned(), "c:d".to_owned()],
            created_at_ms: 0,
            deadline_ms: 951_782_400_000,
            ..v1::Task::default()
        }
    }

    fn details(task: v1::Task) -> TaskDetails {
        TaskDetails::new(ShowTaskResponse {
            task: Some(task),
            claims: vec!["oidc.sub=a\n".to_owned()],
            tokens: vec![TokenInfo {
                token_id: "tok-1".to_owned(),
                scopes: vec!["a:b".to_owned()],
                expires_at_ms: 951_782_400_000,
                active: true,
                ..TokenInfo::default()
            }],
            ..ShowTaskResponse::default()
        })
        .unwrap()
    }

    #[test]
    fn a_task_that_has_not_ended_is_alive_or_suspended() {
        let mut task = a_task();
        assert_eq!(state_label(&task), "alive");
        task.suspended = true;
        assert_eq!(state_label(&task), "suspended");
        task.outcome = Outcome::Revoked.into();
        assert_eq!(state_label(&task), "revoked");
    }

    #[test]
    fn a_row_cuts_the_purpose_and_keeps_it_on_its_line() {
        assert_eq!(
            TaskRow::from(a_task()).cells(),
            [
                "task-1",
                "spiffe://a.test/b",
                "alive",
                "2000-02-29T00:00:00Z",
                &format!("first\\n{}…", "x".repeat(34)),
            ]
        );
    }

    #[test]
    fn c6_the_lines_of_a_task_tell_what_belongs_to_it() {
        let mut task = a_task();
        let lines = details(task.clone()).lines();
        for line in [
            "delegated by  nobody",
            "scopes        a:b c:d",
            "claim         oidc.sub=a\\n",
            "token         tok-1 active until 2000-02-29T00:00:00Z a:b",
            "leases had    0",
        ] {
            assert!(lines.contains(&line.to_owned()), "{line}: {lines:?}");
        }
        task.ancestors = vec!["task-3".to_owned(), "task-2".to_owned()];
        let lines = details(task).lines();
        assert!(lines.contains(&"delegated by  task-3 > task-2".to_owned()));
    }

    #[test]
    fn the_json_of_a_task_has_its_texts_unchanged() {
        let task = a_task();
        let value = serde_json::to_value(TaskRow::from(task.clone())).unwrap();
        assert_eq!(value["purpose"], task.purpose.as_str());
        assert_eq!(value["deadline_ms"], 951_782_400_000_i64);
        assert_eq!(value.as_object().unwrap().len(), 11);
    }
}
