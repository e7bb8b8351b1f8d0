//! What an order allows, and what ends it.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::log::{Effect, Event, LogEntry};
use crate::outcome::Outcome;
use crate::position::EntryId;
use crate::record::{TaskOrder, TaskRecord, samples};
use crate::sealing::RootKey;
use crate::selector::Selector;
use crate::view::{Cause, Liveness, View};

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://example.org{path}")).unwrap()
}

fn registration(path: &str) -> Registration {
    let document = json!({
        "spiffe_id": id(path), "begin": "ordered", "evidence": [], "owner": "tests",
        "scopes": ["secret:a/*", "exec:git"], "max_delegation_depth": 3,
    });
    serde_json::from_value(document).unwrap()
}

fn request(path: &str, scopes: &[&str]) -> OrderRequest {
    OrderRequest {
        workload: id(path),
        scopes: ScopeSet::parse(scopes).unwrap(),
        audience: Vec::new(),
        ttl: Ttl::HOUR,
        claimable: Ttl::QUARTER_HOUR,
        purpose: "triage".to_owned(),
        instruction: String::new(),
        labels: Vec::new(),
        depth: 0,
        ends_on_reuse: true,
    }
}

fn origin(dispatcher: &str, position: u64) -> OrderOrigin {
    OrderOrigin {
        id: OrderId::of_task(TaskId::from_bytes([5; 16])),
        dispatcher: id(dispatcher),
        svid_serial: vec![1],
        ticket: [1; 32],
        request: [2; 32],
        position: Position(position),
    }
}

fn standing(position: u64) -> KnownOrder {
    let request = request("/agent", &["exec:git"]);
    let order =
        Order::permit_standing(origin("/ci", position), request, &registration("/agent"), 0);
    KnownOrder::new(order.unwrap(), None)
}

fn known(changes: impl FnOnce(&mut TaskRecord), above: Vec<Arc<KnownTask>>) -> Arc<KnownTask> {
    let mut task = samples::task(1);
    task.depth_left = 2;
    changes(&mut task);
    let root = RootKey::new(&[7; 32]).unwrap();
    Arc::new(KnownTask::new(task, above, root.active()))
}

#[test]
fn ac_9d_nobody_orders_for_itself_nor_for_whoever_may_order_for_it() {
    let circle = Err(Denial::OrderCircle);
    let own = request("/ci", &["exec:git"]);
    let ordered = Order::permit_standing(origin("/ci", 1), own, &registration("/ci"), 0);
    assert_eq!(ordered, circle);
    // /ci ordered a task of /b, which delegated to /a; /a orders from within that.
    let ordered_by_ci = |task: &mut TaskRecord| {
        (task.id, task.workload) = (TaskId::from_bytes([2; 16]), id("/b"));
        task.order = Some(TaskOrder {
            dispatcher: id("/ci"),
            labels: vec!["untrusted-input".to_owned()],
        });
    };
    let root = known(ordered_by_ci, Vec::new());
    let above = root.id;
    let task = known(|task| task.ancestors = vec![above], vec![root]);
    let of_dispatcher = registration("/a");
    let from_within = |path: &str| {
        Order::permit_within(
            origin("/a", 1),
            request(path, &["exec:git"]),
            (&task, &of_dispatcher),
            &registration(path),
            0,
        )
    };
    for above in ["/a", "/b", "/ci"] {
        assert_eq!(from_within(above), circle, "{above}");
    }
    let order = from_within("/c").unwrap();
    assert_eq!(order.parent, Some(task.id));
    assert_eq!(order.labels, ["untrusted-input"]);
    assert_eq!(order.deadline_ms, task.deadline_ms);
}

#[test]
fn ac_94_what_ends_an_unclaimed_order() {
    let order = standing(3);
    let entry = |event| LogEntry {
        id: EntryId([9; 16]),
        event,
        retain_until_ms: 1 << 50,
        document: None,
    };
    let liveness = |event: Option<Event>, at: u64, now_ms| {
        let mut view = View::default();
        view.apply(Position(4), entry(Event::Floor));
        if let Some(event) = event {
            let id = EntryId([8; 16]);
            view.apply(Position(at), LogEntry { id, ..entry(event) });
        }
        view.order_liveness(&order, now_ms)
    };
    let rule = |selector: Selector| Event::Rule {
        selector: Box::new(selector),
        effect: Effect::Revoke,
    };
    assert_eq!(liveness(None, 5, 1), Liveness::Alive);
    let until = order.claimable_until_ms;
    assert_eq!(liveness(None, 5, until), Liveness::Dead(Cause::Expired));
    // A cancellation is the ending of the task that has not begun.
    let ended = Event::Ended {
        task: order.id.task(),
        outcome: Outcome::Canceled,
    };
    let canceled = Liveness::Dead(Cause::TaskEnded(Outcome::Canceled));
    assert_eq!(liveness(Some(ended), 5, 1), canceled);
    for selector in [
        Selector {
            dispatcher: Some(id("/ci")),
            ..Selector::default()
        },
        Selector {
            order: Some(order.id),
            ..Selector::default()
        },
        Selector {
            order: Some(order.id),
            ordered_tasks: true,
            ..Selector::default()
        },
        Selector::workload(id("/agent")),
    ] {
        selector.check().unwrap();
        let event = Some(rule(selector));
        let revoked = Liveness::Dead(Cause::Revoked);
        assert_eq!(liveness(event.clone(), 5, 1), revoked, "{event:?}");
        assert_eq!(
            liveness(event, 2, 1),
            Liveness::Alive,
            "a later order stands"
        );
    }
    let other = Selector {
        dispatcher: Some(id("/other")),
        ..Selector::default()
    };
    assert_eq!(liveness(Some(rule(other)), 5, 1), Liveness::Alive);
}

#[test]
fn ac_94_a_task_that_was_ordered_is_hit_only_if_so_asked() {
    let ordered = |task: &mut TaskRecord| {
        task.order = Some(TaskOrder {
            dispatcher: id("/ci"),
            labels: Vec::new(),
        });
    };
    let task = known(ordered, Vec::new());
    let of = |ordered_tasks| Selector {
        dispatcher: Some(id("/ci")),
        ordered_tasks,
        ..Selector::default()
    };
    assert!(!of(false).matches(&task.subject()));
    assert!(of(true).matches(&task.subject()));
    let order = Some(OrderId::of_task(task.id));
    let one = |ordered_tasks| Selector {
        order,
        ordered_tasks,
        ..Selector::default()
    };
    assert!(!one(false).matches(&task.subject()));
    assert!(one(true).matches(&task.subject()));
    assert!(!of(true).matches(&known(|_| (), Vec::new()).subject()));
    assert!(
        Selector {
            ordered_tasks: true,
            ..Selector::default()
        }
        .check()
        .is_err()
    );
}

#[test]
fn an_order_from_within_a_task_ends_with_it() {
    let task = known(|_| (), Vec::new());
    let order = Order::permit_within(
        origin("/a", 1),
        request("/c", &["exec:git"]),
        (&task, &registration("/a")),
        &registration("/c"),
        0,
    );
    let order = KnownOrder::new(order.unwrap(), Some(Arc::clone(&task)));
    let mut view = View::default();
    let mut apply = |position, event| {
        let entry = LogEntry {
            id: EntryId([position; 16]),
            event,
            retain_until_ms: 1 << 50,
            document: None,
        };
        view.apply(Position(position.into()), entry);
        view.order_liveness(&order, 1)
    };
    assert_eq!(apply(1, Event::Floor), Liveness::Alive);
    let (id, outcome) = (task.id, Outcome::Completed);
    assert!(apply(2, Event::Ended { task: id, outcome }) != Liveness::Alive);
}

#[test]
fn the_stored_form_of_an_order_is_read_back_and_nothing_more() {
    let order = standing(3);
    assert_eq!(Order::decode(&order.encode()).unwrap(), *order);
    let mut document: serde_json::Value = serde_json::from_slice(&order.encode()).unwrap();
    document["only_on_mondays"] = json!(true);
    assert!(Order::decode(document.to_string().as_bytes()).is_err());
}

proptest! {
    /// P3: whatever an order from within a task allows, the task and both registrations allow.
    #[test]
    fn an_order_is_within_its_task_and_both_registrations(
        of_task in prop::collection::vec("(tool|exec):([ab](/[ab]){0,2}(/\\*)?|\\*)", 1..4),
        of_a in prop::collection::vec("(tool|exec):([ab](/[ab]){0,2}(/\\*)?|\\*)", 1..4),
        of_c in prop::collection::vec("(tool|exec):([ab](/[ab]){0,2}(/\\*)?|\\*)", 1..4),
        asked in prop::collection::vec("(tool|exec):([ab](/[ab]){0,2}(/\\*)?|\\*)", 1..3),
        ttl in 1_i64..5000,
        depth in 0_u32..4,
    ) {
        let set = |scopes: &[String]| ScopeSet::parse(scopes).unwrap();
        let task = known(|task| task.scopes = set(&of_task), Vec::new());
        let (mut a, mut c) = (registration("/a"), registration("/c"));
        (a.scopes, c.scopes) = (set(&of_a), set(&of_c));
        let mut request = request("/c", &["exec:git"]);
        (request.scopes, request.depth) = (set(&asked), depth);
        request.ttl = Ttl::from_ms(ttl).unwrap();
        if let Ok(order) = Order::permit_within(origin("/a", 1), request, (&task, &a), &c, 10) {
            for bound in [&task.scopes, &a.scopes, &c.scopes] {
                prop_assert!(bound.covers_all(&order.scopes));
            }
            prop_assert!(order.deadline_ms <= task.deadline_ms);
            prop_assert!(order.claimable_until_ms <= order.deadline_ms);
            prop_assert!(order.depth < task.depth_left);
            prop_assert_eq!(order.grant().unwrap().scopes, order.scopes);
        }
    }
}
