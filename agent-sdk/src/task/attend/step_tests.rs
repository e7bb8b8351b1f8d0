//! Each decision of attending, without a runtime.

use sundew_proto::v1::{AttendAccepted, BindingRotated, Outcome, Proven, TaskEnded, TaskSuspended};

use super::*;
use crate::testing::identity;

const GRACE: Duration = Duration::from_secs(30);
const NO_OUTPUT: ControlFlow<StreamEnd, Option<Output>> = ControlFlow::Continue(None);

fn attendance() -> (Attendance, Arc<Identity>, Instant) {
    let (bound, begun) = (identity(), Instant::now());
    (
        Attendance::new(GRACE, Arc::clone(&bound), begun),
        bound,
        begun,
    )
}

fn output(output: Output) -> ControlFlow<StreamEnd, Option<Output>> {
    ControlFlow::Continue(Some(output))
}

#[test]
fn a_ping_is_due_a_third_of_the_grace_after_the_last_input() {
    let (mut attendance, _, begun) = attendance();
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
    attendance.open(bound);
    assert_eq!(attendance.step(svid(&next), now), announced);
    attendance.open(Arc::clone(&next));
    assert_eq!(attendance.step(svid(&next), now), NO_OUTPUT);
}

#[test]
fn a_rotated_binding_moves_the_task_and_then_ends_the_stream() {
    let (mut attendance, _, now) = attendance();
    let rotated = Event::Rotated(BindingRotated::default());
    assert_eq!(
        attendance.step(Input::Heard(Some(rotated)), now),
        output(Output::Move)
    );
    assert_eq!(
        attendance.step(Input::Moved, now),
        ControlFlow::Break(StreamEnd::Rotated)
    );
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
        (Some(Event::Suspended(TaskSuspended {})), NO_OUTPUT),
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
    ] {
        assert_eq!(attendance.step(input, now), ControlFlow::Break(end));
    }
    for (code, end) in [
        (Code::PermissionDenied, lost()),
        (Code::Unauthenticated, lost()),
        (Code::Unavailable, StreamEnd::Disconnected),
        (Code::Internal, StreamEnd::Disconnected),
    ] {
        assert_eq!(StreamEnd::of_refusal(code), end);
    }
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
    assert_eq!(attendance.after(StreamEnd::Rotated, now), Next::Open);
    assert_eq!(
        attendance.after(StreamEnd::Disconnected, now),
        Next::OpenAfter(FIRST_PAUSE)
    );
}

#[test]
fn a_task_is_lost_when_a_stream_breaks_and_three_graces_have_passed_without_a_message() {
    let (mut attendance, _, begun) = attendance();
    let heard = begun + GRACE;
    let _ = attendance.step(Input::Heard(None), heard);
    let limit = heard + 3 * GRACE;
    assert!(matches!(
        attendance.after(StreamEnd::Disconnected, limit),
        Next::OpenAfter(_)
    ));
    assert_eq!(
        attendance.after(StreamEnd::Disconnected, limit + Duration::from_millis(1)),
        Next::Finish(Ended::Lost)
    );
}
