//! What may be uploaded before PostgreSQL asks for it. Pure.
//!
//! A mark in archive_status says that PostgreSQL would archive a file, not that it archives to us: `archive_command` may be empty or
//! another tool's, and the data directory a copy that is tried out. So the lead begins with a file that this server, in this life,
//! asked for and that was archived; it lasts as long as the server keeps asking, grows with what it asked for, and stays on the
//! timelines of which it has asked for a file. It ends before a file that was refused, because PostgreSQL will not pass that either.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use walward_pg::archive_status::archiver_order;
use walward_pg::{ServerLife, Timeline, WalFileName};

/// PostgreSQL asks for the next file at once when one was archived. With more files than it can list in this time it is a bit
/// later, and the lead begins again.
const KEPT_AFTER_SUCCESS: Duration = Duration::from_secs(10);
/// After failures it asks again within a minute (`PGARCH_AUTOWAKE_INTERVAL`, src/backend/postmaster/pgarch.c).
const KEPT_AFTER_FAILURE: Duration = Duration::from_secs(75);
/// So many files for each that was asked for. A command that asks once and never again costs no more than these.
const FILES_PER_PUSH: usize = 4;

/// Whose files these are, and what was asked for.
#[derive(Debug, Default)]
pub struct Lead {
    life: Option<ServerLife>,
    /// Of which a file was asked for, and archived, in this life.
    timelines: BTreeSet<Timeline>,
    /// Pushes of this life that are under way.
    pushes: usize,
    /// Files that were archived for it since it began to ask.
    archived: usize,
    /// When it is no longer believed to keep asking.
    until: Option<Instant>,
    refused: BTreeMap<WalFileName, Refusal>,
}

/// Why a file was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In words.
    pub why: String,
    /// A repository holds other content under its name.
    pub other_content: bool,
}

/// How a push ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The file is archived.
    Archived,
    /// It is not: it was refused, failed, or was let go.
    Not,
}

impl Lead {
    /// The server of `life` asks for a file that is marked.
    pub fn asked(&mut self, life: Option<ServerLife>, now: Instant) {
        if life != self.life {
            *self = Self { life, ..Self::default() };
        }
        if !self.keeps_asking(now) {
            self.archived = 0;
        }
        self.pushes = self.pushes.saturating_add(1);
    }

    /// It was answered.
    pub fn answered(&mut self, life: Option<ServerLife>, name: WalFileName, end: End, now: Instant) {
        if life != self.life {
            return;
        }
        self.pushes = self.pushes.saturating_sub(1);
        match end {
            End::Archived => {
                self.archived = self.archived.saturating_add(1);
                self.timelines.insert(name.timeline());
                self.until = Some(now + KEPT_AFTER_SUCCESS);
            }
            End::Not => self.until = Some(now + KEPT_AFTER_FAILURE),
        }
    }

    /// A marked file of `life` was refused.
    pub fn refuse(&mut self, life: Option<ServerLife>, name: WalFileName, refusal: Refusal) {
        if life == self.life {
            self.refused.insert(name, refusal);
        }
    }

    /// A file is archived, whoever wanted it.
    pub fn settled(&mut self, name: WalFileName) {
        self.refused.remove(&name);
    }

    /// Nothing counts as refused any more: what still is wrong is refused again when it is asked for.
    pub fn forgive(&mut self) {
        self.refused.clear();
    }

    /// Whether a file of `timeline` was asked for, and archived, in this life of the server.
    pub fn has_archived(&self, timeline: Timeline) -> bool {
        self.timelines.contains(&timeline)
    }

    /// What is refused and still waits. What has other content stays so, waiting or not, until it is archived after all.
    pub fn waiting(&mut self, waits: impl Fn(WalFileName) -> bool) {
        self.refused.retain(|name, refusal| refusal.other_content || waits(*name));
    }

    /// The files whose names a repository holds with other content, and why they were refused.
    pub fn contradicted(&self) -> impl Iterator<Item = (WalFileName, &str)> {
        let contradicted = self.refused.iter().filter(|(_, refusal)| refusal.other_content);
        contradicted.map(|(name, refusal)| (*name, refusal.why.as_str()))
    }

    /// Whether `life` is that of the server that asks.
    pub fn is_of(&self, life: Option<ServerLife>) -> bool {
        life.is_some() && life == self.life
    }

    /// How many files may be in the lead.
    pub fn reach(&self, now: Instant) -> usize {
        let begun = self.life.is_some() && self.keeps_asking(now);
        if begun { self.archived.saturating_mul(FILES_PER_PUSH) } else { 0 }
    }

    /// Whether `name` may be in it. A history never is: with it a timeline begins.
    pub fn covers(&self, name: WalFileName) -> bool {
        let passed = self.refused.keys().all(|refused| archiver_order(&name) < archiver_order(refused));
        passed && !matches!(name, WalFileName::History(_)) && self.timelines.contains(&name.timeline())
    }

    fn keeps_asking(&self, now: Instant) -> bool {
        self.pushes > 0 || self.until.is_some_and(|until| now <= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> WalFileName {
        text.parse().expect("a name")
    }

    fn life(started: i64) -> Option<ServerLife> {
        let folder = tempfile::tempdir().expect("a folder");
        let text = format!("77\n/data\n{started}\n");
        walward_base::sys::durable::create(&folder.path().join("postmaster.pid"), text.as_bytes(), 0o600)
            .expect("written");
        ServerLife::read(folder.path()).expect("read")
    }

    fn push(lead: &mut Lead, life: Option<ServerLife>, file: &str, end: End, now: Instant) {
        lead.asked(life, now);
        lead.answered(life, name(file), end, now);
    }

    const THIRD: &str = "000000010000000000000003";

    #[test]
    fn the_lead_begins_with_a_file_that_was_asked_for_and_archived_and_ends_when_no_more_is_asked_for() {
        let (mut lead, first, now) = (Lead::default(), life(1), Instant::now());
        assert_eq!(lead.reach(now), 0);
        lead.asked(first, now);
        assert_eq!(lead.reach(now), 0, "the first is archived alone");
        lead.answered(first, name(THIRD), End::Archived, now);
        assert_eq!(lead.reach(now), FILES_PER_PUSH);
        assert!(lead.covers(name("000000010000000000000004")));
        assert_eq!(lead.reach(now + KEPT_AFTER_SUCCESS + Duration::from_secs(1)), 0, "no more was asked for");
        // It grows, also while a push takes its time, and begins small again.
        for _ in 0..9 {
            push(&mut lead, first, THIRD, End::Archived, now);
        }
        assert_eq!(lead.reach(now), 10 * FILES_PER_PUSH);
        lead.asked(first, now);
        let later = now + Duration::from_hours(1);
        assert_eq!(lead.reach(later), 10 * FILES_PER_PUSH);
        lead.answered(first, name(THIRD), End::Archived, later);
        assert_eq!(lead.reach(later), 11 * FILES_PER_PUSH);
        let evening = later + Duration::from_hours(1);
        push(&mut lead, first, THIRD, End::Archived, evening);
        assert_eq!(lead.reach(evening), FILES_PER_PUSH);
    }

    #[test]
    fn failures_do_not_begin_a_lead_and_keep_one_until_postgresql_asks_again() {
        let (mut lead, first, now) = (Lead::default(), life(1), Instant::now());
        push(&mut lead, first, THIRD, End::Not, now);
        assert_eq!(lead.reach(now), 0);
        push(&mut lead, first, THIRD, End::Archived, now);
        push(&mut lead, first, "000000010000000000000004", End::Not, now);
        assert_eq!(lead.reach(now + Duration::from_secs(61)), FILES_PER_PUSH);
        assert_eq!(lead.reach(now + Duration::from_secs(76)), 0);
    }

    #[test]
    fn another_life_of_the_server_begins_with_nothing() {
        let (mut lead, first, second, now) = (Lead::default(), life(1), life(2), Instant::now());
        push(&mut lead, first, THIRD, End::Archived, now);
        lead.asked(first, now);
        lead.asked(second, now);
        lead.answered(first, name(THIRD), End::Archived, now);
        assert_eq!((lead.reach(now), lead.covers(name(THIRD))), (0, false), "it was the former server that asked");
        assert!(!lead.is_of(first) && lead.is_of(second) && !lead.is_of(None));
        // A data directory without a server.
        push(&mut lead, None, THIRD, End::Archived, now);
        assert_eq!(lead.reach(now), 0);
    }

    #[test]
    fn no_timeline_is_entered_before_one_of_its_files_was_asked_for_and_no_history_is_in_the_lead() {
        let (mut lead, first, now) = (Lead::default(), life(1), Instant::now());
        push(&mut lead, first, THIRD, End::Archived, now);
        assert!(!lead.covers(name("000000020000000000000004")));
        assert!(!lead.covers(name("00000002.history")));
        push(&mut lead, first, "00000002.history", End::Archived, now);
        assert!(lead.covers(name("000000020000000000000004")));
        assert!(!lead.covers(name("00000003.history")));
    }

    #[test]
    fn the_lead_ends_before_what_was_refused_until_that_is_archived_after_all() {
        let (mut lead, first, now) = (Lead::default(), life(1), Instant::now());
        push(&mut lead, first, THIRD, End::Archived, now);
        let refusal = |other_content| Refusal { why: "other content".to_owned(), other_content };
        let [fourth, fifth, sixth] =
            ["000000010000000000000004", "000000010000000000000005", "000000010000000000000006"].map(name);
        lead.refuse(life(2), fifth, refusal(true));
        assert!(lead.covers(fifth), "it was refused in another life");
        lead.refuse(first, fifth, refusal(true));
        assert!(lead.covers(fourth) && !lead.covers(fifth) && !lead.covers(sixth));
        // A person took its mark away: what comes after it is as wrong as before.
        lead.waiting(|_| false);
        assert!(!lead.covers(sixth));
        assert_eq!(lead.contradicted().map(|(name, _)| name).collect::<Vec<_>>(), [fifth]);
        lead.settled(fifth);
        assert!(lead.covers(sixth));
        // A damaged file that was given up leaves a hole, and everybody sees it.
        lead.refuse(first, fifth, refusal(false));
        assert_eq!(lead.contradicted().count(), 0);
        lead.waiting(|_| true);
        assert!(!lead.covers(sixth));
        lead.waiting(|_| false);
        assert!(lead.covers(sixth));
    }

    proptest! {
        #[test]
        fn nothing_is_in_the_lead_that_this_life_did_not_begin(
            steps in proptest::collection::vec((0usize..3, 0u32..3, any::<bool>(), 0u64..40), 0..40),
        ) {
            let lives = [life(1), life(2), None];
            let (mut lead, mut now) = (Lead::default(), Instant::now());
            let mut archived: Vec<(usize, u32)> = Vec::new();
            let mut current = 2;
            for (who, timeline, works, pause) in steps {
                now += Duration::from_secs(pause);
                let file = name(&format!("{:08X}0000000000000003", timeline + 1));
                lead.asked(lives[who], now);
                if who != current {
                    archived.clear();
                    current = who;
                }
                prop_assert!(!archived.is_empty() || lead.reach(now) == 0);
                lead.answered(lives[who], file, if works { End::Archived } else { End::Not }, now);
                if works {
                    archived.push((who, timeline));
                }
                for other in 0..3 {
                    let file = name(&format!("{:08X}0000000000000009", other + 1));
                    prop_assert_eq!(lead.covers(file), archived.iter().any(|(_, timeline)| *timeline == other));
                }
                prop_assert!(lead.reach(now) <= archived.len() * FILES_PER_PUSH);
                prop_assert!(lives[who].is_some() || lead.reach(now) == 0);
            }
        }
    }
}
