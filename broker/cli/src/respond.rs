//! What incident responders do from the command line: preview, revoke, quarantine, contain, lift,
//! and see that it is done.

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use sundew_proto::v1::{
    self, Effect, LiftRequest, ListLeasesRequest, ListRulesRequest, PreviewRequest,
    PreviewResponse, RevocationStatus, RevokeRequest, Selector, WatchRevocationRequest,
};

use crate::args::{Connect, LeaseCommand, Respond, Revoke, RevokeCommand, Select};
use crate::client::{response, status_error};
use crate::output::{Output, escape, table};
use crate::timestamp::format_timestamp;

fn selector(select: Select) -> Selector {
    Selector {
        token: select.token.unwrap_or_default(),
        task_id: select.task.unwrap_or_default(),
        task_tree: select.task_tree.unwrap_or_default(),
        spiffe_id: select.workload.unwrap_or_default(),
        spiffe_path_prefix: select.spiffe_prefix.unwrap_or_default(),
        trust_domain: select.trust_domain.unwrap_or_default(),
        audience: select.audience.unwrap_or_default(),
        scope: select.scope.unwrap_or_default(),
        secret: select.secret.unwrap_or_default(),
        claims: select.claims,
        svid_serial: select.svid_serial.unwrap_or_default(),
        registration_version: select.registration.unwrap_or_default(),
        issued_before_ms: select.issued_before.unwrap_or_default(),
        everything: select.everything,
    }
}

/// The criteria of one token.
pub(crate) fn of_token(id: String) -> Selector {
    Selector {
        token: id,
        ..Selector::default()
    }
}

pub(crate) async fn revoke(connect: &Connect, output: &Output, revoke: Revoke) -> Result<()> {
    match revoke.command {
        None => respond(connect, output, revoke.respond, Effect::Revoke).await,
        Some(RevokeCommand::Status {
            revocation_id,
            watch,
        }) => {
            let status = follow(connect, output, &revocation_id, watch).await?;
            output.result(&status_json(&status), || status_lines(&status));
            Ok(())
        }
        Some(RevokeCommand::List) => list(connect, output).await,
    }
}

pub(crate) async fn respond(
    connect: &Connect,
    output: &Output,
    respond: Respond,
    effect: Effect,
) -> Result<()> {
    let selector = selector(respond.select);
    if selector == Selector::default() {
        bail!(
            "nothing is selected: name at least one criterion, such as --workload, or say --everything"
        );
    }
    if respond.preview {
        return preview(connect, output, selector).await;
    }
    let reason = respond.reason.context(
        "--reason is needed: it goes into the record (or --preview, which changes nothing)",
    )?;
    put_in_force(connect, output, selector, effect, reason, !respond.no_wait).await
}

pub(crate) async fn put_in_force(
    connect: &Connect,
    output: &Output,
    selector: Selector,
    effect: Effect,
    reason: String,
    wait: bool,
) -> Result<()> {
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
    let id = answer.revocation_id;
    let lift = format!("until `sundew lift {id} --reason …`");
    let meaning = match effect {
        Effect::Unspecified | Effect::Revoke => "dead everywhere from now on".to_owned(),
        Effect::Quarantine => format!("nothing new is issued, {lift}"),
        Effect::Contain => {
            format!("dead everywhere from now on, and nothing new is issued, {lift}")
        }
    };
    if !wait || effect == Effect::Quarantine {
        let value = serde_json::json!({ "revocation_id": id, "position": answer.position, "effect": word(effect) });
        output.result(&value, || vec![format!("{id}: {meaning}")]);
        return Ok(());
    }
    if !output.is_json() {
        // What counts is said at once; what follows is tidying up.
        println!("{id}: {meaning}");
    }
    let status = follow(connect, output, &id, true).await?;
    output.result(&status_json(&status), || status_lines(&status));
    Ok(())
}

/// Follows a clean-up, with a bar where somebody looks.
async fn follow(
    connect: &Connect,
    output: &Output,
    id: &str,
    to_the_end: bool,
) -> Result<RevocationStatus> {
    let request = WatchRevocationRequest {
        revocation_id: id.to_owned(),
        follow: to_the_end,
    };
    let mut told = response(connect)
        .await?
        .watch_revocation(request)
        .await
        .map_err(status_error)?
        .into_inner();
    let bar = if output.is_json() || !to_the_end {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(0)
    };
    bar.set_style(
        ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut last = None;
    while let Some(status) = told.message().await.map_err(status_error)? {
        let (message, length, position) = if !status.counted {
            ("counting", 0, 0)
        } else if status.reaped_tasks < status.tasks {
            ("tasks cleaned up", status.tasks, status.reaped_tasks)
        } else {
            (
                "leases removed",
                status.leases,
                status.leases.saturating_sub(status.leases_left),
            )
        };
        bar.set_message(message);
        bar.set_length(length);
        bar.set_position(position);
        last = Some(status);
    }
    bar.finish_and_clear();
    last.context("the broker told nothing of it")
}

fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Unspecified | Effect::Revoke => "revoke",
        Effect::Quarantine => "quarantine",
        Effect::Contain => "contain",
    }
}

fn status_json(status: &RevocationStatus) -> serde_json::Value {
    serde_json::json!({
        "revocation_id": status.revocation_id, "effect": word(status.effect()), "actor": status.actor, "reason": status.reason, "at_ms": status.at_ms,
        "selector": status.selector.as_ref().map(selector_json), "counted": status.counted, "tasks": status.tasks, "tokens": status.tokens,
        "reaped_tasks": status.reaped_tasks, "leases": status.leases, "leases_left": status.leases_left, "lease_problem": status.lease_problem,
        "done": status.done, "lifted": status.lifted,
    })
}

fn status_lines(status: &RevocationStatus) -> Vec<String> {
    if !status.counted {
        return vec![format!(
            "{}: in force; still counting what it hit",
            status.revocation_id
        )];
    }
    let mut lines = vec![format!(
        "{} live tasks with {} live tokens were killed",
        status.tasks, status.tokens
    )];
    if status.leases > 0 {
        lines.push(format!(
            "{} of {} credentials in other systems are removed",
            status.leases.saturating_sub(status.leases_left),
            status.leases
        ));
    }
    if !status.lease_problem.is_empty() && status.leases_left > 0 {
        lines.push(format!(
            "the rest is tried again for ever; the last one failed: {}",
            escape(&status.lease_problem, 300)
        ));
    }
    lines.push(
        if status.done {
            "done"
        } else {
            "the clean-up goes on"
        }
        .to_owned(),
    );
    lines
}

fn criteria(selector: &Selector) -> Vec<(&'static str, String)> {
    let mut all = vec![
        ("token", selector.token.clone()),
        ("task", selector.task_id.clone()),
        ("task-tree", selector.task_tree.clone()),
        ("workload", selector.spiffe_id.clone()),
        ("spiffe-prefix", selector.spiffe_path_prefix.clone()),
        ("trust-domain", selector.trust_domain.clone()),
        ("audience", selector.audience.clone()),
        ("scope", selector.scope.clone()),
        ("secret", selector.secret.clone()),
        ("svid-serial", selector.svid_serial.clone()),
        ("registration", selector.registration_version.clone()),
    ];
    all.extend(selector.claims.iter().map(|claim| ("claim", claim.clone())));
    if selector.issued_before_ms > 0 {
        all.push(("issued-before", format_timestamp(selector.issued_before_ms)));
    }
    if selector.everything {
        all.push(("everything", "yes".to_owned()));
    }
    all.retain(|(_, value)| !value.is_empty());
    all
}

fn selector_json(selector: &Selector) -> serde_json::Value {
    criteria(selector)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), serde_json::Value::String(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

async fn preview(connect: &Connect, output: &Output, selector: Selector) -> Result<()> {
    let mut told = response(connect)
        .await?
        .preview(PreviewRequest {
            selector: Some(selector),
        })
        .await
        .map_err(status_error)?
        .into_inner();
    let bar = if output.is_json() {
        ProgressBar::hidden()
    } else {
        ProgressBar::new_spinner()
    };
    let mut last = PreviewResponse::default();
    while let Some(so_far) = told.message().await.map_err(status_error)? {
        bar.set_message(format!(
            "{} tasks looked at; {} tasks and {} tokens match so far",
            so_far.looked_at, so_far.tasks, so_far.tokens
        ));
        bar.tick();
        last = so_far;
    }
    bar.finish_and_clear();
    if !last.done {
        bail!("the broker stopped before it had looked at everything");
    }
    let value = serde_json::json!({
        "tasks": last.tasks, "tokens": last.tokens, "leases": last.leases, "looked_at": last.looked_at, "other_workloads": last.other_workloads,
        "workloads": last.workloads.iter().map(|w| serde_json::json!({ "spiffe_id": w.spiffe_id, "tasks": w.tasks, "tokens": w.tokens })).collect::<Vec<_>>(),
        "samples": last.samples.iter().map(|t| serde_json::json!({ "task_id": t.task_id, "spiffe_id": t.spiffe_id, "purpose": t.purpose })).collect::<Vec<_>>(),
    });
    output.result(&value, || {
        let mut lines = vec![
            format!(
                "would hit {} live tasks with {} live tokens, and {} credentials in other systems",
                last.tasks, last.tokens, last.leases
            ),
            format!("looked at {} tasks; nothing was changed", last.looked_at),
        ];
        if !last.workloads.is_empty() {
            lines.push(String::new());
            let rows: Vec<_> = last
                .workloads
                .iter()
                .map(|w| {
                    vec![
                        w.spiffe_id.clone(),
                        w.tasks.to_string(),
                        w.tokens.to_string(),
                    ]
                })
                .collect();
            lines.extend(table(&["WORKLOAD", "TASKS", "TOKENS"], &rows));
        }
        if last.other_workloads > 0 {
            lines.push(format!("… and {} other workloads", last.other_workloads));
        }
        if !last.samples.is_empty() {
            lines.push(String::new());
            let row = |t: &v1::Task| {
                vec![
                    t.task_id.clone(),
                    t.spiffe_id.clone(),
                    format_timestamp(t.deadline_ms),
                    escape(&t.purpose, 40),
                ]
            };
            lines.extend(table(
                &["TASK", "WORKLOAD", "DEADLINE", "PURPOSE"],
                &last.samples.iter().map(row).collect::<Vec<_>>(),
            ));
        }
        lines
    });
    Ok(())
}

async fn list(connect: &Connect, output: &Output) -> Result<()> {
    let answer = response(connect)
        .await?
        .list_rules(ListRulesRequest {})
        .await
        .map_err(status_error)?
        .into_inner();
    let value: Vec<_> = answer
        .rules
        .iter()
        .map(|r| serde_json::json!({ "revocation_id": r.revocation_id, "position": r.position, "effect": word(r.effect()), "until_ms": r.until_ms, "selector": r.selector.as_ref().map(selector_json) }))
        .collect();
    output.result(&value, || {
        let row = |rule: &v1::Rule| {
            let criteria: Vec<_> = rule
                .selector
                .as_ref()
                .map(criteria)
                .unwrap_or_default()
                .into_iter()
                .map(|(name, value)| format!("{name}={}", escape(&value, 120)))
                .collect();
            let until = if rule.until_ms == 0 {
                "lifted".to_owned()
            } else {
                format_timestamp(rule.until_ms)
            };
            vec![
                rule.revocation_id.clone(),
                word(rule.effect()).to_owned(),
                until,
                criteria.join(" "),
            ]
        };
        table(
            &["REVOCATION", "EFFECT", "STANDS UNTIL", "SELECTOR"],
            &answer.rules.iter().map(row).collect::<Vec<_>>(),
        )
    });
    Ok(())
}

pub(crate) async fn lift(
    connect: &Connect,
    output: &Output,
    revocation_id: String,
    reason: String,
) -> Result<()> {
    response(connect)
        .await?
        .lift(LiftRequest {
            revocation_id: revocation_id.clone(),
            reason,
        })
        .await
        .map_err(status_error)?;
    output.result(&serde_json::json!({ "lifted": revocation_id }), || {
        vec![format!("{revocation_id} is lifted; what died stays dead")]
    });
    Ok(())
}

pub(crate) async fn lease(connect: &Connect, output: &Output, command: LeaseCommand) -> Result<()> {
    let LeaseCommand::List { engine, due, limit } = command;
    let request = ListLeasesRequest {
        engine: engine.unwrap_or_default(),
        due,
        limit,
    };
    let answer = response(connect)
        .await?
        .list_leases(request)
        .await
        .map_err(status_error)?
        .into_inner();
    let leases: Vec<_> = answer
        .leases
        .iter()
        .map(|l| {
            serde_json::json!({
                "lease_id": l.lease_id, "engine": l.engine, "role": l.role, "task_id": l.task_id, "username": l.username, "due_ms": l.due_ms,
                "failures": l.failures, "problem": l.problem,
            })
        })
        .collect();
    output.result(&serde_json::json!({ "leases": leases, "total": answer.total, "total_due": answer.total_due }), || {
        let row = |l: &v1::LeaseInfo| {
            vec![l.lease_id.clone(), format!("{}/{}", l.engine, l.role), l.task_id.clone(), format_timestamp(l.due_ms), l.failures.to_string(), escape(&l.problem, 80)]
        };
        let mut lines = table(&["LEASE", "SECRET", "TASK", "DUE", "FAILURES", "PROBLEM"], &answer.leases.iter().map(row).collect::<Vec<_>>());
        lines.push(format!("{} leases, {} of them due", answer.total, answer.total_due));
        lines
    });
    Ok(())
}
