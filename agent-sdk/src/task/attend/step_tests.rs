//! Each decision of attending, without a runtime.

use sundew_proto::v1::{
    AttendAccepted, AttendUnreported, BindingRotated, Outcome, Proven, TaskEnded, TaskSuspended,
};

use super::*;
use crate::testing::identity;

const GRACE: Duration = Duration::from_secs(30);
const NO_OUTPUT: ControlFlow<StreamEnd, Option<Output>> = ControlFlow::Continue(None);

fn attendance() -> (Attendance, Arc<Identity>, Instant) {
    let (bound, begun) = (identity(), Instant::now());
    (
        Attendance::new(GRACE, begun + 100 * GRACE, Arc::clone(&bound), begun),
        bound,
        begun,
    )
}

fn output(output: Output) -> ControlFlow<StreamEnd, Option<Output>> {
    ControlFlow::Continue(Some(output))
}

/// The broker closes the stream of an agent that is silent for its grace, whatever it tells it.
#[test]
fn a_ping_is_due_a_third_of_the_grace_after_the_last_one_whatever_is_heard() {
    let (mut attendance, bound, begun) = attendance();
    let first = attendance.ping_at();
    assert_eq!(first, begun + GRACE / 3);
    assert_eq!(attendance.step(Input::Silence, first), output(Output::Ping));
    assert_eq!(attendance.ping_at(), first + GRACE / 3);
    let accepted = Event::Accepted(AttendAccepted { grace_ms: 1 });
    let later = first + Duration::from_secs(1);
    assert_eq!(
        attendance.step(Input::Heard(Some(accepted)), later),
        NO_OUTPUT
    );
    assert_eq!(attendance.ping_at(), first + GRACE / 3);
    attendance.open(bound, later);
    assert_eq!(attendance.ping_at(), later + GRACE / 3);
}

#[test]
fn another_svid_is_announced_once_a_stream() {
    let (mut attendance, bound, now) = attendance();
    let next = identity();
    let svid = |identity: &Arc<Identity>| Input::Svid(Arc::clone(identity));
    assert_eq!(attendance.step(svid(&bound), now), NO_OUTPUT);
    let announced = output(Output::Rotate(next.thumbprint()));
    assert_eq!(attendance.step(svid(&next), now), announced);
    assert_eq!(attendance.step(svid(&next), now), NO_OUTPUT);
    assert_eq!(attendance.step(svid(&identity()), now), NO_OUTPUT);
    // The stream broke before the broker answered: the next one has the old SVID still.
    attendance.open(bound, now);
    assert_eq!(attendance.step(svid(&next), now), announced);
    attendance.open(Arc::clone(&next), now);
    assert_eq!(attendance.step(svid(&next), now), NO_OUTPUT);
}

fn svid(identity: &Arc<Identity>) -> Input {
    Input::Svid(Arc::clone(identity))
}

fn rotated() -> Input {
    Input::Heard(Some(Event::Rotated(BindingRotated::default())))
}

#[test]
fn a_rotated_binding_moves_the_task_and_then_ends_the_stream() {
    let (mut attendance, _, now) = attendance();
    let next = identity();
    let _ = attendance.step(svid(&next), now);
    let moved = output(Output::Move(next.thumbprint()));
    assert_eq!(attendance.step(rotated(), now), moved);
    assert_eq!(
        attendance.step(Input::Moved, now),
        ControlFlow::Break(StreamEnd::Moved)
    );
}

/// The broker expects only certificates that were announced to it.
#[test]
fn an_svid_that_comes_between_announcement_and_answer_is_announced_before_the_task_moves_to_it() {
    let (mut attendance, _, now) = attendance();
    let (second, third) = (identity(), identity());
    let announced = |identity: &Arc<Identity>| output(Output::Rotate(identity.thumbprint()));
    assert_eq!(attendance.step(svid(&second), now), announced(&second));
    assert_eq!(attendance.step(svid(&third), now), NO_OUTPUT);
    assert_eq!(attendance.step(rotated(), now), announced(&third));
    let moved = output(Output::Move(third.thumbprint()));
    assert_eq!(attendance.step(rotated(), now), moved);
    // The agent's SVID changed before the move began: what is reported then is announced too.
    let fourth = identity();
    assert_eq!(attendance.step(svid(&fourth), now), announced(&fourth));
}

#[test]
fn a_move_that_failed_is_tried_again_on_another_stream() {
    let (mut attendance, bound, now) = attendance();
    let next = identity();
    let announced = output(Output::Rotate(next.thumbprint()));
    let _ = attendance.step(svid(&next), now);
    let _ = attendance.step(rotated(), now);
    let end = StreamEnd::Disconnected;
    assert_eq!(
        attendance.step(Input::NotMoved, now),
        ControlFlow::Break(end)
    );
    let end = StreamEnd::Disconnected;
    assert_eq!(attendance.after(end, now), Next::OpenAfter(FIRST_PAUSE));
    attendance.open(bound, now);
    assert_eq!(attendance.step(svid(&next), now), announced);
}

/// L12: the broker says it again and again.
#[test]
fn l12_a_task_that_is_not_reported_is_tried_elsewhere_one_attempt_after_another() {
    let (mut attendance, bound, now) = attendance();
    let unreported = || Input::Heard(Some(Event::Unreported(AttendUnreported {})));
    let tried = output(Output::TryElsewhere);
    assert_eq!(attendance.step(unreported(), now), tried);
    assert_eq!(attendance.step(unreported(), now), NO_OUTPUT);
    assert_eq!(attendance.step(Input::Stayed, now), NO_OUTPUT);
    assert_eq!(attendance.step(unreported(), now), tried);
    attendance.open(bound, now);
    assert_eq!(attendance.step(unreported(), now), tried);
    let moved = ControlFlow::Break(StreamEnd::Moved);
    assert_eq!(attendance.step(Input::Moved, now), moved);
    assert_eq!(attendance.after(StreamEnd::Moved, now), Next::Open);
}

#[test]
fn events_of_evidence_are_passed_on_and_others_only_heard() {
    let (mut attendance, _, now) = attendance();
    let wanted = ProofWanted {
        nonce: vec![1],
        ..ProofWanted::default()
    };
    let proof = vec![2];
    for (event, expected) in [
        (
            Some(Event::ProofWanted(wanted.clone())),
            output(Output::Prove(wanted)),
        ),
        (
            Some(Event::Proven(Proven {
                proof: proof.clone(),
            })),
            output(Output::KeepProof(proof)),
        ),
        (
            Some(Event::Suspended(TaskSuspended {})),
            output(Output::Suspend),
        ),
        (None, NO_OUTPUT),
    ] {
        assert_eq!(attendance.step(Input::Heard(event), now), expected);
    }
}

#[test]
fn each_pushed_ending_ends_the_task_with_its_outcome() {
    for (outcome, ended) in [
        (Outcome::Abandoned, Ended::Abandoned),
        (Outcome::Canceled, Ended::Canceled),
        (Outcome::Completed, Ended::Completed),
        (Outcome::Expired, Ended::Expired),
        (Outcome::Failed, Ended::Failed),
        (Outcome::Revoked, Ended::Revoked),
        (Outcome::Unspecified, Ended::Lost),
    ] {
        let (mut attendance, _, now) = attendance();
        let outcome = outcome.into();
        let pushed = Event::Ended(TaskEnded { outcome });
        let end = StreamEnd::TaskEnded(ended);
        assert_eq!(
            attendance.step(Input::Heard(Some(pushed)), now),
            ControlFlow::Break(end)
        );
        let end = StreamEnd::TaskEnded(ended);
        assert_eq!(attendance.after(end, now), Next::Finish(ended));
    }
}

#[test]
fn only_a_refusal_ends_the_task_and_everything_else_the_stream() {
    let (mut attendance, _, now) = attendance();
    let lost = || StreamEnd::TaskEnded(Ended::Lost);
    for (input, end) in [
        (Input::Closed(None), StreamEnd::Disconnected),
        (
            Input::Closed(Some(Code::Unavailable)),
            StreamEnd::Disconnected,
        ),
        (
            Input::Closed(Some(Code::Unauthenticated)),
            StreamEnd::Disconnected,
        ),
        (Input::Closed(Some(Code::PermissionDenied)), lost()),
        (Input::PingFailed, StreamEnd::Disconnected),
        (Input::Unbound, StreamEnd::Disconnected),
    ] {
        assert_eq!(attendance.step(input, now), ControlFlow::Break(end));
    }
    for (code, end) in [
        (Code::PermissionDenied, lost()),
        (Code::Unauthenticated, lost()),
        (Code::Unavailable, StreamEnd::Declined),
        (Code::Internal, StreamEnd::Declined),
    ] {
        assert_eq!(StreamEnd::of_refusal(&Status::new(code, "said")), end);
    }
    let broken = Status::from_error(Box::new(std::io::Error::other("connection refused")));
    assert_eq!(StreamEnd::of_refusal(&broken), StreamEnd::Disconnected);
}

#[test]
fn the_pause_doubles_up_to_a_quarter_of_the_grace_and_starts_anew_after_a_rotation() {
    let (mut attendance, _, now) = attendance();
    let mut pauses = Vec::new();
    for _ in 0..10 {
        let Next::OpenAfter(pause) = attendance.after(StreamEnd::Disconnected, now) else {
            panic!("the task was lost");
        };
        pauses.push(pause.as_millis());
    }
    let doubled = [50, 100, 200, 400, 800, 1600, 3200, 6400, 7500, 7500];
    assert_eq!(pauses, doubled);
    assert_eq!(attendance.after(StreamEnd::Moved, now), Next::Open);
    assert_eq!(
        attendance.after(StreamEnd::Disconnected, now),
        Next::OpenAfter(FIRST_PAUSE)
    );
}

#[test]
fn the_pause_starts_anew_after_a_stream_that_held() {
    let (mut attendance, bound, mut now) = attendance();
    for (held, pause) in [(0, 50), (1, 100), (7, 200), (8, 50), (1, 100)] {
        attendance.open(Arc::clone(&bound), now);
        let _ = attendance.step(Input::Heard(None), now);
        now += Duration::from_secs(held);
        let next = attendance.after(StreamEnd::Disconnected, now);
        assert_eq!(next, Next::OpenAfter(Duration::from_millis(pause)));
    }
}

fn is_tried_again(next: &Next) -> bool {
    matches!(next, Next::OpenAfter(_))
}

#[test]
fn l13_a_task_is_lost_when_no_stream_holds_for_three_graces_from_the_first_break() {
    let (mut attendance, _, begun) = attendance();
    let _ = attendance.step(Input::Heard(None), begun);
    // However long the stream was silent before it broke.
    let broken = begun + 50 * GRACE;
    assert!(is_tried_again(
        &attendance.after(StreamEnd::Disconnected, broken)
    ));
    let limit = broken + 3 * GRACE;
    assert!(is_tried_again(
        &attendance.after(StreamEnd::Disconnected, limit)
    ));
    let beyond = limit + Duration::from_millis(1);
    // A broker that answers, but cannot serve the stream yet, is there.
    let mut declined = |at| attendance.after(StreamEnd::Declined, at);
    assert!(is_tried_again(&declined(limit)));
    assert!(is_tried_again(
        &attendance.after(StreamEnd::Disconnected, beyond)
    ));
    let end = attendance.after(StreamEnd::Disconnected, beyond + 3 * GRACE);
    assert_eq!(end, Next::Finish(Ended::Lost));
}

#[test]
fn a_task_whose_stream_cannot_be_opened_ends_at_its_deadline() {
    let (mut attendance, _, begun) = attendance();
    let deadline = begun + 100 * GRACE;
    let before = deadline - Duration::from_millis(1);
    assert!(is_tried_again(
        &attendance.after(StreamEnd::Declined, before)
    ));
    let end = attendance.after(StreamEnd::Declined, deadline);
    assert_eq!(end, Next::Finish(Ended::Expired));
}
