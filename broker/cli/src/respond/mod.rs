//! Responses to incidents: preview, revoke, quarantine, contain, lift, and see that it is done.

mod preview;
mod rules;
mod selector;
mod status;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use sundew_proto::v1::{Effect, LiftRequest, RevokeRequest, Selector};

use crate::args::{Connect, Respond, Revoke, RevokeCommand};
use crate::client::{response, status_error};
use crate::output::{Output, View, note};
use crate::pending;
use status::StatusView;

pub(crate) async fn revoke(connect: &Connect, output: &Output, revoke: Revoke) -> Result<ExitCode> {
    match revoke.command {
        None => respond(connect, output, revoke.respond, Effect::Revoke).await,
        Some(RevokeCommand::Status {
            revocation_id,
            watch,
        }) => show_status(connect, output, &revocation_id, watch).await,
        Some(RevokeCommand::List) => rules::list(connect, output).await,
    }
}

pub(crate) async fn respond(
    connect: &Connect,
    output: &Output,
    respond: Respond,
    effect: Effect,
) -> Result<ExitCode> {
    let selector = selector::selector(respond.select);
    // `clap` takes an empty value for a criterion; the broker takes it for none.
    if selector == Selector::default() {
        bail!(
            "nothing is selected: name at least one criterion, such as --workload, \
             or say --everything"
        );
    }
    if respond.preview {
        return preview::preview(connect, output, selector).await;
    }
    let reason = respond.reason.context(
        "--reason is needed: it goes into the record (or --preview, which changes nothing)",
    )?;
    put_in_force(connect, output, selector, effect, reason, !respond.no_wait).await
}

/// Puts a response in force. With `wait`, stays until what the selector hit is counted and cleaned
/// up; a quarantine or a suspension ends nothing, so that there is nothing to wait for.
pub(crate) async fn put_in_force(
    connect: &Connect,
    output: &Output,
    selector: Selector,
    effect: Effect,
    reason: String,
    wait: bool,
) -> Result<ExitCode> {
    let request = RevokeRequest {
        selector: Some(selector),
        effect: effect.into(),
        reason,
        idempotency_key: String::new(),
    };
    let answer = response(connect)
        .await?
        .revoke(request)
        .await
        .map_err(status_error)?
        .into_inner();
    let view = InForceView {
        revocation_id: answer.revocation_id,
        position: answer.position,
        effect: status::effect_label(effect),
        pending: answer.pending,
        meaning: effect,
    };
    if view.pending {
        output.show(&view)?;
        return Ok(pending::exit_code());
    }
    if !wait || matches!(effect, Effect::Quarantine | Effect::Suspend) {
        output.show(&view)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !output.is_json() {
        // The response is in force already: people need not wait for the clean-up to read it.
        output.show(&view)?;
    }
    let id = view.revocation_id;
    match status::follow(connect, output, &id, true).await {
        Ok(status) => output.show(&StatusView::from(status))?,
        // What was asked for is in force, whatever becomes of watching its clean-up.
        Err(error) if !output.is_json() => {
            note(&format!(
                "sundew: the clean-up cannot be watched now: {error:#}"
            ));
            note(&format!(
                "sundew: `sundew revoke status {id} --watch` shows it later"
            ));
        }
        Err(error) => return Err(error),
    }
    Ok(ExitCode::SUCCESS)
}

/// A response that was put in force.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct InForceView {
    revocation_id: String,
    /// Position in the revocation log; 0 while pending.
    position: u64,
    effect: &'static str,
    /// Whether it holds at the broker that was asked, and not everywhere yet.
    pending: bool,
    #[serde(skip)]
    meaning: Effect,
}

impl View for InForceView {
    const KIND: &'static str = "revocation";

    fn lines(&self) -> Vec<String> {
        let id = &self.revocation_id;
        if self.pending {
            return pending_lines(id);
        }
        vec![format!("{id}: {}", meaning(id, self.meaning))]
    }
}

/// A quarantine or a suspension that was lifted.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct LiftedView {
    lifted: String,
}

impl View for LiftedView {
    const KIND: &'static str = "lifted";

    fn lines(&self) -> Vec<String> {
        vec![format!("{} is lifted; what died stays dead", self.lifted)]
    }
}

/// Says what a response of this effect means from now on.
fn meaning(revocation_id: &str, effect: Effect) -> String {
    let lift = format!("until `sundew lift {revocation_id} --reason …`");
    match effect {
        Effect::Unspecified | Effect::Revoke => "dead everywhere from now on".to_owned(),
        Effect::Quarantine => format!("nothing new is issued, {lift}"),
        Effect::Suspend => {
            format!(
                "suspended everywhere from now on, and no task, token, secret or JWT-SVID is \
                 issued (X.509-SVIDs are), {lift}"
            )
        }
        Effect::Contain => {
            format!("dead everywhere from now on, and nothing new is issued, {lift}")
        }
    }
}

/// Says what it means that a response is pending, and what to do.
fn pending_lines(revocation_id: &str) -> Vec<String> {
    vec![
        format!("{revocation_id}: on the record and in force at this broker, PENDING elsewhere"),
        "until the store takes it, other brokers may still answer \"active\"; this broker goes on \
         trying, also after a restart"
            .to_owned(),
        "`sundew revoke list` shows it as pending for so long; ask another broker for the same, \
         which does no harm"
            .to_owned(),
    ]
}

async fn show_status(
    connect: &Connect,
    output: &Output,
    revocation_id: &str,
    to_the_end: bool,
) -> Result<ExitCode> {
    let status = status::follow(connect, output, revocation_id, to_the_end).await?;
    output.show(&StatusView::from(status))?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn lift(
    connect: &Connect,
    output: &Output,
    revocation_id: String,
    reason: String,
) -> Result<ExitCode> {
    let request = LiftRequest {
        revocation_id: revocation_id.clone(),
        reason,
    };
    response(connect)
        .await?
        .lift(request)
        .await
        .map_err(status_error)?;
    output.show(&LiftedView {
        lifted: revocation_id,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The shapes of what is printed here.
#[cfg(test)]
pub(crate) fn shapes() -> Vec<crate::shapes::Shape> {
    vec![
        crate::shapes::of::<InForceView>(),
        crate::shapes::of::<LiftedView>(),
        crate::shapes::of::<status::StatusView>(),
        crate::shapes::of::<preview::PreviewView>(),
        crate::shapes::of::<crate::output::List<rules::RuleRow>>(),
    ]
}
