//! The bytes of messages that are not whole yet (P12). A message is kept until its last byte is there.
//! So its length is taken from budgets as soon as it is announced, and the rest of it has to come soon.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;

use crate::limits::Budget;
use crate::refusal::Refusal;

/// The longest time from the beginning of a message to its end, and from the beginning of a call to
/// its first message.
const WHOLE_WITHIN: Duration = Duration::from_secs(10);
/// What stands before a message: whether it is compressed, and its length (gRPC over HTTP/2).
const PREFIX: usize = 5;

/// What one message has taken from budgets, until it is whole.
struct Charge {
    budgets: Vec<Arc<Budget>>,
    bytes: usize,
}

impl Charge {
    /// Takes so many bytes from all budgets, or none.
    fn take(&mut self, bytes: usize) -> bool {
        let able = self.budgets.iter().take_while(|budget| budget.take(bytes));
        let able = able.count();
        if able < self.budgets.len() {
            self.budgets.iter().take(able).for_each(|b| b.give(bytes));
            return false;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }

    fn give(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.budgets.iter().for_each(|budget| budget.give(bytes));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.give();
    }
}

/// Where in the messages of a call the bytes that came last are.
#[derive(Debug, Default)]
struct Framing {
    prefix: [u8; PREFIX],
    /// How much of the prefix is there.
    have: usize,
    /// How much of the message is to come, once its prefix is there.
    left: usize,
}

/// What a piece of a body brought.
#[derive(Debug, PartialEq)]
enum Step {
    /// A message of this length was announced.
    Announced(usize),
    /// The last message is whole.
    Whole,
}

impl Framing {
    /// Reads on in a piece until something happens; nothing at the end of the piece.
    fn step(&mut self, piece: &mut &[u8]) -> Option<Step> {
        if self.have < PREFIX {
            while let Some(byte) = self.prefix.get_mut(self.have) {
                let (first, rest) = piece.split_first()?;
                (*byte, *piece) = (*first, rest);
                self.have = self.have.saturating_add(1);
            }
            let [_, length @ ..] = self.prefix;
            self.left = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
            return Some(Step::Announced(self.left));
        }
        let taken = self.left.min(piece.len());
        self.left = self.left.saturating_sub(taken);
        *piece = piece.get(taken..).unwrap_or_default();
        if self.left > 0 {
            return None;
        }
        self.have = 0;
        Some(Step::Whole)
    }
}

/// The body of a call, whose messages are charged until they are whole.
pub(super) struct Charged<R> {
    body: Body,
    charge: Charge,
    /// Bytes of each message that cost nothing.
    free: usize,
    framing: Framing,
    /// The longest message that is read; a longer one is refused by its length, and none of it kept.
    longest: usize,
    /// Whether a message is awaited, or has begun.
    is_due: bool,
    overdue: Option<Pin<Box<Sleep>>>,
    /// Puts a refusal on the record.
    refuse: R,
}

impl<R: Fn(&Refusal) -> Status> Charged<R> {
    pub(super) fn new(
        body: Body,
        budgets: Vec<Arc<Budget>>,
        (free, longest): (usize, usize),
        refuse: R,
    ) -> Self {
        Self {
            body,
            charge: Charge { budgets, bytes: 0 },
            free,
            framing: Framing::default(),
            longest,
            is_due: true,
            overdue: None,
            refuse,
        }
    }

    fn read(&mut self, mut piece: &[u8]) -> Result<(), Status> {
        if !piece.is_empty() && !self.is_due {
            (self.is_due, self.overdue) = (true, None);
        }
        while let Some(step) = self.framing.step(&mut piece) {
            match step {
                Step::Announced(length) => {
                    let costs = length.min(self.longest).saturating_sub(self.free);
                    if !self.charge.take(costs) {
                        return Err((self.refuse)(&Refusal::UnfinishedBytes));
                    }
                }
                Step::Whole => {
                    self.charge.give();
                    (self.is_due, self.overdue) = (!piece.is_empty(), None);
                }
            }
        }
        Ok(())
    }
}

impl<R: Fn(&Refusal) -> Status + Unpin> http_body::Body for Charged<R> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            if self.is_due {
                let new = || Box::pin(tokio::time::sleep(WHOLE_WITHIN));
                ready!(self.overdue.get_or_insert_with(new).as_mut().poll(context));
                return Poll::Ready(Some(Err((self.refuse)(&Refusal::Unfinished))));
            }
            return Poll::Pending;
        };
        if let Some(Ok(frame)) = &frame
            && let Some(piece) = frame.data_ref()
        {
            self.read(piece)?;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(pieces: &[&[u8]]) -> Vec<Step> {
        let mut framing = Framing::default();
        let mut steps = Vec::new();
        for piece in pieces {
            let mut piece = *piece;
            while let Some(step) = framing.step(&mut piece) {
                steps.push(step);
            }
        }
        steps
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let bytes = [0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 1, 9];
        let expected = [
            Step::Announced(3),
            Step::Whole,
            Step::Announced(1),
            Step::Whole,
        ];
        assert_eq!(steps(&[&bytes]), expected);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(steps(&single), expected);
        for cut in 0..bytes.len() {
            let (one, two) = bytes.split_at(cut);
            assert_eq!(steps(&[one, two]), expected);
        }
        assert_eq!(steps(&[&bytes[..7]]), [Step::Announced(3)]);
        assert_eq!(steps(&[&[0; PREFIX]]), [Step::Announced(0), Step::Whole]);
    }

    #[test]
    fn what_a_message_has_taken_is_given_back() {
        let (own, all) = (Budget::new(10), Budget::new(15));
        let charge = |own: &Arc<Budget>| Charge {
            budgets: vec![Arc::clone(own), Arc::clone(&all)],
            bytes: 0,
        };
        let mut first = charge(&own);
        assert!(first.take(8) && !first.take(3) && first.take(2));
        let other = Budget::new(10);
        let mut second = charge(&other);
        assert!(!second.take(6), "all have too many");
        assert!(second.take(5));
        first.give();
        drop(second);
        let held = |budget: &Budget| budget.held();
        assert_eq!((held(&own), held(&other), held(&all)), (0, 0, 0));
    }
}
