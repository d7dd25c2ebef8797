//! Which WAL is replayed after which: what comes after a file of which two servers wrote different contents belongs to one of
//! them alone. Pure.

use walward_pg::{SegmentSize, TimelineHistory, WalFileName};

/// Whether `later` continues `earlier`, so that it means nothing where `earlier` has other content. `history` is that of the
/// timeline of `later`. Where it is not known, a later timeline continues all earlier ones.
///
/// A partial segment and the history of a backup are continued by nothing: replay needs neither.
pub fn follows(earlier: WalFileName, later: WalFileName, history: Option<&TimelineHistory>, size: SegmentSize) -> bool {
    match earlier {
        WalFileName::Partial(_) | WalFileName::BackupHistory(..) => false,
        WalFileName::History(timeline) => {
            let child = || history.is_none_or(|history| history.begin_of(timeline).is_some());
            match later.timeline().cmp(&timeline) {
                std::cmp::Ordering::Less => false,
                std::cmp::Ordering::Equal => later != earlier,
                std::cmp::Ordering::Greater => child(),
            }
        }
        WalFileName::Segment(segment) => match later.timeline().cmp(&segment.timeline) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => match later {
                WalFileName::History(_) => false,
                WalFileName::Segment(name) | WalFileName::Partial(name) | WalFileName::BackupHistory(name, _) => {
                    name > segment
                }
            },
            std::cmp::Ordering::Greater => match (history, segment.number(size)) {
                (Some(history), Some(number)) => {
                    history.required_timeline_for_segment(number, size) == segment.timeline
                }
                _ => true,
            },
        },
    }
}

/// Whether `name` stays where it is because two servers wrote `parted` differently: it is that, continues it, or is the history of its timeline.
/// A history says where the files of its timeline lead; where those are another server's, it must not come before them.
pub fn is_withheld(
    parted: WalFileName,
    name: WalFileName,
    history: Option<&TimelineHistory>,
    size: SegmentSize,
) -> bool {
    parted == name || name == WalFileName::History(parted.timeline()) || follows(parted, name, history, size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_pg::Timeline;

    const SIZE: SegmentSize = SegmentSize::DEFAULT;

    fn name(text: &str) -> WalFileName {
        text.parse().expect("a name")
    }

    #[test]
    fn what_comes_later_on_a_timeline_or_on_one_that_begins_after_it_follows() {
        // Timeline 3 left timeline 1 in segment 5; timeline 4 left timeline 2 in segment 9.
        let three = TimelineHistory::parse(Timeline(3), "1\t0/5000028\tx\n").expect("a history");
        let four = TimelineHistory::parse(Timeline(4), "1\t0/5000028\tx\n2\t0/9000028\tx\n").expect("a history");
        let third = name("000000010000000000000003");
        for (later, history, expected) in [
            ("000000010000000000000003", None, false),
            ("000000010000000000000002", None, false),
            ("000000010000000000000004", None, true),
            ("000000010000000000000004.partial", None, true),
            ("000000010000000000000003.00000028.backup", None, false),
            ("000000010000000000000004.00000028.backup", None, true),
            ("00000002.history", None, true),
            ("00000003.history", Some(&three), true),
            ("000000030000000000000005", Some(&three), true),
        ] {
            assert_eq!(follows(third, name(later), history, SIZE), expected, "{later}");
        }
        // Timeline 3 has a segment 5 of its own, which begins with what it needs of the other.
        for parted in ["000000010000000000000005", "000000010000000000000007"] {
            assert!(!follows(name(parted), name("000000030000000000000006"), Some(&three), SIZE), "{parted}");
        }
        assert!(!follows(name("000000030000000000000002"), third, None, SIZE), "no timeline comes from a later one");
        // The history of timeline 2.
        let second = name("00000002.history");
        for (later, history, expected) in [
            ("000000010000000000000007", None, false),
            ("00000002.history", None, false),
            ("000000020000000000000005", None, true),
            ("000000030000000000000005", None, true),
            ("000000030000000000000005", Some(&three), false),
            ("00000004.history", Some(&four), true),
        ] {
            assert_eq!(follows(second, name(later), history, SIZE), expected, "{later}");
        }
    }

    #[test]
    fn what_no_replay_reads_is_continued_by_nothing() {
        for earlier in ["000000010000000000000003.partial", "000000010000000000000003.00000028.backup"] {
            for later in ["000000010000000000000004", "000000020000000000000003", "00000002.history"] {
                assert!(!follows(name(earlier), name(later), None, SIZE));
            }
        }
    }
}
