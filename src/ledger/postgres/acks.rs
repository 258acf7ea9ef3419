//! The last writes that the database acknowledged to this process: they show whether the server that answers now has everything
//! that was promised.
//!
//! A standby has what its primary committed up to some point, and nothing behind it; so does a disk that was put back to an
//! earlier state. A write that began when others had been acknowledged was committed after them: if it is there, so are they.
//! So of all writes those are kept that no later one stands for: about as many as statements run at once.

use std::collections::VecDeque;

/// A write of a row: which, by whom, and what it made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) seq: i64,
    pub(super) token: i64,
    /// One of [`State::WORDS`](crate::ledger::State::WORDS).
    pub(super) state: &'static str,
}

/// Which writes had been acknowledged when another one began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Begun(u64);

/// See above.
#[derive(Debug, Default)]
pub(super) struct Acks {
    /// Each with its number.
    last: VecDeque<(u64, Ack)>,
    next: u64,
    /// How often the lease was renewed.
    beat: i64,
}

impl Acks {
    pub(super) fn begin(&self) -> Begun {
        Begun(self.next)
    }

    /// `begun` before anything was sent that may have stored it: of a write that was made again, before the first time.
    pub(super) fn push(&mut self, ack: Ack, begun: Begun) {
        self.drop_before(begun);
        self.last.push_back((self.next, ack));
        self.next += 1;
    }

    /// A lease that was renewed is a write, too.
    pub(super) fn beat(&mut self, beat: i64, begun: Begun) {
        self.beat = beat;
        self.drop_before(begun);
    }

    fn drop_before(&mut self, begun: Begun) {
        while self.last.front().is_some_and(|(number, _)| *number < begun.0) {
            self.last.pop_front();
        }
    }

    pub(super) fn last(&self) -> Vec<Ack> {
        self.last.iter().map(|(_, ack)| *ack).collect()
    }

    pub(super) fn last_beat(&self) -> i64 {
        self.beat
    }

    /// A new replica's lease was never renewed; and on another timeline beats are counted from where it had got.
    pub(super) fn restart(&mut self) {
        self.beat = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(seq: i64) -> Ack {
        Ack { seq, token: -seq, state: "INTENT" }
    }

    #[test]
    fn what_a_later_write_stands_for_is_dropped() {
        let mut acks = Acks::default();
        let slow = acks.begin();
        for seq in 1..=5 {
            acks.push(ack(seq), acks.begin());
        }
        assert_eq!(acks.last(), [ack(5)]);
        // It may have been committed before all of them.
        acks.push(ack(6), slow);
        let beat = acks.begin();
        acks.push(ack(7), Begun::default());
        assert_eq!(acks.last(), [ack(5), ack(6), ack(7)]);
        acks.beat(7, beat);
        assert_eq!((acks.last(), acks.last_beat()), (vec![ack(7)], 7));
    }
}
