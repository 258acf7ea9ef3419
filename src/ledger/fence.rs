//! The fence: approvals issued before it are refused, because the ledger cannot know whether they were used.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use super::Anchor;

/// What is known of a ledger when it is opened.
#[derive(Clone, Debug)]
pub struct Findings<'a> {
    /// The ledger's id.
    pub ledger_id: &'a str,
    /// It was made just now.
    pub is_new: bool,
    /// Its newest row.
    pub last_seq: i64,
    /// When that was stored.
    pub newest_row: Option<DateTime<Utc>>,
    /// The fence that it has already.
    pub fence: Option<DateTime<Utc>>,
    /// The anchor beside it; `Err` for one that is damaged.
    pub anchor: Result<Option<Anchor>, ()>,
}

/// Why a fence was raised, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Configured so.
    #[error("ledger.fence is `always`")]
    Always,
    /// The anchor saw rows that the ledger does not have.
    #[error("the anchor is ahead of the ledger: it was rolled back")]
    Behind,
    /// The anchor is of another ledger.
    #[error("the anchor belongs to another ledger: the ledger was lost or exchanged")]
    Foreign,
    /// Rows, but no anchor.
    #[error("the anchor beside a ledger that is in use is missing")]
    NoAnchor,
    /// The anchor says nothing.
    #[error("the anchor cannot be read")]
    Damaged,
}

/// The fence that the findings ask for, with the reason when it is raised now. It never falls.
pub fn raise(
    findings: &Findings<'_>,
    always: bool,
    now: DateTime<Utc>,
    skew: TimeDelta,
) -> (Option<DateTime<Utc>>, Option<Reason>) {
    let reason = match &findings.anchor {
        _ if always => Some(Reason::Always),
        Err(()) => Some(Reason::Damaged),
        Ok(Some(anchor)) if anchor.ledger_id != findings.ledger_id => Some(Reason::Foreign),
        Ok(Some(anchor)) if anchor.last_seq > findings.last_seq => Some(Reason::Behind),
        // One that was made and never served has forgotten nothing.
        Ok(None) if !findings.is_new && findings.last_seq > 0 => Some(Reason::NoAnchor),
        Ok(_) => None,
    };
    if reason.is_none() {
        return (findings.fence, None);
    }
    let anchor_time = findings.anchor.as_ref().ok().and_then(Option::as_ref).map(|anchor| anchor.time);
    let newest = [Some(now), anchor_time, findings.newest_row].into_iter().flatten().max().unwrap_or(now);
    (findings.fence.max(Some(whole_micros(newest + skew))), reason)
}

/// What is stored has microseconds; a fence is rounded up to them, never down.
pub(super) fn whole_micros(time: DateTime<Utc>) -> DateTime<Utc> {
    let down = time.trunc_subsecs(6);
    if down < time { down + TimeDelta::microseconds(1) } else { down }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn anchor(ledger_id: &str, last_seq: i64, time: i64) -> Result<Option<Anchor>, ()> {
        Ok(Some(Anchor { ledger_id: ledger_id.to_owned(), last_seq, time: at(time) }))
    }

    #[test]
    fn it_is_raised_when_the_ledger_may_have_forgotten() {
        let base = Findings {
            ledger_id: "l",
            is_new: false,
            last_seq: 5,
            newest_row: Some(at(90)),
            fence: None,
            anchor: anchor("l", 5, 95),
        };
        let new = Findings { is_new: true, last_seq: 0, newest_row: None, anchor: Ok(None), ..base.clone() };
        let with = |anchor| Findings { anchor, ..base.clone() };
        let skew = TimeDelta::seconds(30);
        for (findings, always, now, fence, reason) in [
            (new.clone(), false, 100, None, None),
            (base.clone(), false, 100, None, None),
            (with(anchor("l", 4, 95)), false, 100, None, None),
            (Findings { last_seq: 0, newest_row: None, ..with(Ok(None)) }, false, 100, None, None),
            (with(anchor("l", 6, 95)), false, 100, Some(130), Some(Reason::Behind)),
            (with(anchor("x", 1, 95)), false, 100, Some(130), Some(Reason::Foreign)),
            (with(Ok(None)), false, 100, Some(130), Some(Reason::NoAnchor)),
            (with(Err(())), false, 100, Some(130), Some(Reason::Damaged)),
            (new.clone(), true, 100, Some(130), Some(Reason::Always)),
            // A new ledger beside the anchor of one that was lost.
            (Findings { anchor: anchor("x", 9, 95), ..new.clone() }, false, 100, Some(130), Some(Reason::Foreign)),
            // The clock went backwards: the anchor and the rows know better.
            (with(anchor("l", 6, 195)), false, 100, Some(225), Some(Reason::Behind)),
            (Findings { newest_row: Some(at(300)), ..with(Ok(None)) }, false, 100, Some(330), Some(Reason::NoAnchor)),
            // It never falls.
            (Findings { fence: Some(at(900)), ..base.clone() }, false, 100, Some(900), None),
            (Findings { fence: Some(at(900)), ..with(Ok(None)) }, false, 100, Some(900), Some(Reason::NoAnchor)),
        ] {
            assert_eq!(raise(&findings, always, at(now), skew), (fence.map(at), reason), "{findings:?}");
        }
    }
}
