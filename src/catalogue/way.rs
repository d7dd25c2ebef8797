//! The way through the timelines to the one that recovery ends on. Pure.

use std::collections::BTreeMap;

use walward_pg::{Lsn, SegmentName, SegmentSize, Timeline};

/// Where each timeline left its parents: (parent, position of the switch), the oldest first; timeline 1 is not in it.
pub type Histories = BTreeMap<Timeline, Vec<(Timeline, Lsn)>>;

/// A stretch of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The timeline.
    pub timeline: Timeline,
    /// Where it begins; zero for the first.
    pub begin: Lsn,
    /// Where the next one begins; none for the last.
    pub end: Option<Lsn>,
}

/// The timelines from the first to the one that recovery ends on, with the positions of the switches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Never empty.
    spans: Vec<Span>,
    /// The timeline that left the last one furthest on, and where: what lies before that was written, archived or not.
    left: Option<(Timeline, Lsn)>,
}

impl Way {
    /// The way to `timeline`, or `None` when its history is not known (timeline 1 needs none).
    pub fn to(timeline: Timeline, histories: &Histories) -> Option<Self> {
        let parents = match histories.get(&timeline) {
            Some(parents) => parents.as_slice(),
            None if timeline == Timeline(1) => &[],
            None => return None,
        };
        let mut begin = Lsn(0);
        let mut spans = Vec::with_capacity(parents.len() + 1);
        for (parent, switch) in parents {
            spans.push(Span { timeline: *parent, begin, end: Some(*switch) });
            begin = *switch;
        }
        spans.push(Span { timeline, begin, end: None });
        Some(Self { spans, left: left(timeline, histories) })
    }

    /// The way that stays on `timeline`, whose history is not known: where it left its parent cannot be told, but a backup
    /// that ran on it needs nothing from before.
    pub fn root(timeline: Timeline, histories: &Histories) -> Self {
        Self { spans: vec![Span { timeline, begin: Lsn(0), end: None }], left: left(timeline, histories) }
    }

    /// The way to `timeline`, or [`Way::root`] when its history is not known.
    pub fn known_to(timeline: Timeline, histories: &Histories) -> Self {
        Self::to(timeline, histories).unwrap_or_else(|| Self::root(timeline, histories))
    }

    /// Whether it is the [`Way::root`] of a timeline that should have a history.
    pub fn lacks_history(&self) -> bool {
        self.spans.len() == 1 && self.target() != Timeline(1)
    }

    /// Every stretch, the oldest first.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The timeline that it ends on.
    pub fn target(&self) -> Timeline {
        self.spans.last().map_or(Timeline(1), |span| span.timeline)
    }

    /// Where the last timeline begins.
    pub fn target_begin(&self) -> Lsn {
        self.spans.last().map_or(Lsn(0), |span| span.begin)
    }

    /// The timeline before the last one, and where that was left.
    pub fn left_parent(&self) -> Option<(Timeline, Lsn)> {
        let [.., parent, _] = self.spans.as_slice() else { return None };
        Some((parent.timeline, parent.end?))
    }

    /// Where this way and `other` part: what lies before is on both. `None` when they are the same way.
    pub fn parts_from(&self, other: &Self) -> Option<Lsn> {
        let mut begin = Lsn(0);
        for (own, theirs) in self.spans.iter().zip(&other.spans) {
            if own.timeline != theirs.timeline {
                return Some(begin);
            }
            match (own.end, theirs.end) {
                (Some(end), Some(other)) if end == other => begin = end,
                (None, None) => return None,
                (end, other) => return end.into_iter().chain(other).min(),
            }
        }
        Some(begin)
    }

    /// Whether a record of `timeline` that begins at `position` lies on this way.
    pub fn holds(&self, timeline: Timeline, position: Lsn) -> bool {
        self.timeline_at(position) == Some(timeline)
    }

    /// The timeline that the byte at `position` belongs to.
    pub fn timeline_at(&self, position: Lsn) -> Option<Timeline> {
        let on = |span: &&Span| span.begin <= position && span.end.is_none_or(|end| position < end);
        self.spans.iter().find(on).map(|span| span.timeline)
    }

    /// Whether a backup that ran on `timeline` from `start` to `stop` lies on this way. One that stopped after the fork
    /// holds pages of a future that this way does not lead to.
    pub fn carries(&self, timeline: Timeline, start: Lsn, stop: Lsn) -> bool {
        self.spans
            .iter()
            .any(|span| span.timeline == timeline && start >= span.begin && span.end.is_none_or(|end| stop <= end))
    }

    /// The segment in which the last timeline was left, when that is later than `number`: everything before it was written. What a
    /// standby was sent before its primary died is archived by nobody when it is promoted (`XLogArchiveForceDone`, walreceiver.c, 13 to
    /// 18).
    pub fn left_after(&self, number: u64, size: SegmentSize) -> Option<SegmentName> {
        let (timeline, switch) = self.left?;
        let at = switch.segment_number(size);
        if at > number { SegmentName::from_number(timeline, at, size) } else { None }
    }

    /// The file that holds segment `number` of the WAL on this way. A segment with a switch in it is read from the newest
    /// timeline in it, which begins with a copy of the old one's part
    /// (`XLogFileReadAnyTLI`, src/backend/access/transam/xlogrecovery.c; `XLogInitNewTimeline`, xlog.c; 13 to 18).
    pub fn segment(&self, number: u64, size: SegmentSize) -> Option<SegmentName> {
        let span = self.spans.iter().rev().find(|span| span.begin.segment_number(size) <= number)?;
        SegmentName::from_number(span.timeline, number, size)
    }

    /// The timelines that recovery meets between segment `first` and segment `last`, in order.
    pub fn crossed(&self, first: u64, last: u64, size: SegmentSize) -> Vec<Timeline> {
        self.spans
            .iter()
            .filter(|span| {
                let begins = span.begin.segment_number(size);
                let ends = span.end.map(|end| end.segment_number(size));
                begins <= last && ends.is_none_or(|end| end >= first)
            })
            .map(|span| span.timeline)
            .collect()
    }
}

/// The timeline that left `timeline` furthest on, and where.
fn left(timeline: Timeline, histories: &Histories) -> Option<(Timeline, Lsn)> {
    let left = histories.iter().rev().filter_map(|(child, parents)| {
        let (_, switch) = parents.iter().find(|(parent, _)| *parent == timeline)?;
        Some((*child, *switch))
    });
    left.max_by_key(|(_, switch)| *switch)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn histories() -> Histories {
        let mut histories = Histories::new();
        histories.insert(Timeline(2), vec![(Timeline(1), Lsn(0x0580_0000))]);
        histories.insert(Timeline(4), vec![(Timeline(1), Lsn(0x0580_0000)), (Timeline(2), Lsn(0x0800_0000))]);
        histories
    }

    fn way() -> Way {
        Way::to(Timeline(4), &histories()).expect("known")
    }

    #[test]
    fn what_lies_before_a_later_timelines_beginning_was_written() {
        let left = |timeline, number| {
            let way = Way::to(Timeline(timeline), &histories()).expect("known");
            way.left_after(number, SIZE).map(|name| name.to_string())
        };
        assert_eq!(left(1, 4).as_deref(), Some("000000020000000000000005"));
        assert_eq!(left(1, 5), None);
        // On the border: the old timeline has all of the segment before.
        assert_eq!(left(2, 7).as_deref(), Some("000000040000000000000008"));
        assert_eq!((left(2, 8), left(4, 0)), (None, None));
    }

    #[test]
    fn a_segment_with_a_switch_comes_from_the_new_timeline() {
        let way = way();
        let name = |number| way.segment(number, SIZE).map(|name| name.to_string());
        assert_eq!(name(4).as_deref(), Some("000000010000000000000004"));
        assert_eq!(name(5).as_deref(), Some("000000020000000000000005"));
        assert_eq!(name(7).as_deref(), Some("000000020000000000000007"));
        // A switch on the border: the new timeline's first segment is the next one.
        assert_eq!(name(8).as_deref(), Some("000000040000000000000008"));
    }

    #[test]
    fn a_backup_after_the_fork_is_not_on_the_way() {
        let way = way();
        assert!(way.carries(Timeline(1), Lsn(0x0200_0028), Lsn(0x0580_0000)));
        assert!(!way.carries(Timeline(1), Lsn(0x0200_0028), Lsn(0x0580_0001)));
        assert!(!way.carries(Timeline(3), Lsn(0x0200_0028), Lsn(0x0300_0000)));
        assert!(way.carries(Timeline(4), Lsn(0x0900_0028), Lsn(0x0A00_0000)));
    }

    #[test]
    fn ways_part_where_the_first_of_them_left_the_other() {
        let mut histories = histories();
        histories.insert(Timeline(5), vec![(Timeline(1), Lsn(0x0300_0000))]);
        histories.insert(Timeline(6), vec![(Timeline(1), Lsn(0x0580_0000))]);
        let way = |timeline| Way::to(Timeline(timeline), &histories).expect("known");
        let parts = |one, other| way(one).parts_from(&way(other)).map(|at| at.0);
        for (one, other, at) in [(1, 4, 0x0580_0000), (2, 4, 0x0800_0000), (5, 4, 0x0300_0000), (6, 4, 0x0580_0000)] {
            assert_eq!((parts(one, other), parts(other, one)), (Some(at), Some(at)), "{one} and {other}");
        }
        assert_eq!(parts(4, 4), None);
        assert_eq!(Way::root(Timeline(9), &Histories::new()).parts_from(&way(4)), Some(Lsn(0)));
        assert_eq!(way(4).left_parent(), Some((Timeline(2), Lsn(0x0800_0000))));
        assert!(way(4).holds(Timeline(2), Lsn(0x07FF_FFFF)) && !way(4).holds(Timeline(2), Lsn(0x0800_0000)));
    }

    #[test]
    fn a_timeline_without_its_history_leads_nowhere() {
        assert_eq!(Way::to(Timeline(3), &Histories::new()), None);
        assert!(Way::to(Timeline(1), &Histories::new()).is_some_and(|way| !way.lacks_history()));
        assert!(!way().lacks_history());
    }

    #[test]
    fn a_timeline_without_its_history_carries_what_ran_on_it() {
        let way = Way::root(Timeline(3), &Histories::new());
        assert!(way.lacks_history());
        assert!(way.carries(Timeline(3), Lsn(0x0200_0028), Lsn(0x0300_0000)));
        assert!(!way.carries(Timeline(1), Lsn(0x0200_0028), Lsn(0x0300_0000)));
        assert_eq!(way.segment(2, SIZE).map(|name| name.to_string()).as_deref(), Some("000000030000000000000002"));
    }

    #[test]
    fn the_timelines_that_are_crossed_are_named() {
        assert_eq!(way().crossed(5, 7, SIZE), vec![Timeline(1), Timeline(2)]);
        assert_eq!(way().crossed(9, 12, SIZE), vec![Timeline(4)]);
    }
}
