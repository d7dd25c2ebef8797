//! What a repository holds: a recent backup that can be restored, and WAL without holes.

use std::time::Duration;

use jiff::Timestamp;

use crate::catalogue::{Holdings, SEAMS_LOOKED_FOR, Seam, Seams, format_moment};
use crate::config::{ClusterConfig, RepositoryConfig};
use crate::outcome::judge;
use walward_base::{describe, format_duration};
use walward_pg::{Lsn, Timeline, WalFileName};
use walward_repo::aside::Stage;
use walward_repo::gap::Gap;
use walward_repo::remains::REMOVED_AGE_MIN;
use walward_repo::{Repository, layout};
use walward_report::Findings;
use walward_storage::{BegunUploads, begun_uploads};

/// How the last backup stands.
#[derive(Debug, Clone)]
struct Last<'a> {
    label: &'a str,
    stopped: Timestamp,
    age: Duration,
    corrupt_pages: usize,
    /// Whether the WAL that makes it consistent is there.
    consistent: bool,
    /// What it builds on and that is not there.
    missing_parent: Option<&'a str>,
}

pub(crate) async fn check(
    cluster: &ClusterConfig,
    repository: &Repository,
    age_max: Duration,
    primary: Option<Timeline>,
    findings: &mut Findings,
) {
    let name = format!("{}, {}", cluster.name, repository.name());
    let about = Some(name.as_str());
    let holdings = match Holdings::read(repository).await {
        Ok(Some(holdings)) => holdings,
        Ok(None) => return,
        Err(error) => {
            let (_, advice) = judge(&error);
            return findings.failed("backup", about, describe(&error), advice);
        }
    };
    for warning in &holdings.warnings {
        findings.warning("backup", about, warning.clone(), None);
    }
    let last = holdings.backups.iter().rfind(|backup| backup.lineage == holdings.lineage).map(|backup| Last {
        label: &backup.label,
        stopped: backup.stopped,
        age: Duration::try_from(Timestamp::now().duration_since(backup.stopped)).unwrap_or_default(),
        corrupt_pages: backup.corrupt_pages.len(),
        consistent: holdings.carried(backup).is_some_and(|carried| carried.consistent),
        missing_parent: holdings.missing_parent(backup),
    });
    judge_last(last.as_ref(), age_max, about, findings);
    if let Some(left) = holdings.left_behind() {
        let hours = REMOVED_AGE_MIN.as_secs() / 3600;
        let advice = format!("the next `walward backup` removes what is older than {hours} hours");
        findings.warning("remains", about, left, Some(&advice));
    }
    judge_asides(&holdings, about, findings);
    judge_wal(&holdings, about, findings);
    judge_seams(&holdings.seams(repository, SEAMS_LOOKED_FOR).await, about, findings);
    judge_lines(&holdings, repository, primary, about, findings).await;
}

/// Uploads that killed backups left in a bucket, where Walward itself removes nothing.
pub(crate) async fn check_uploads(cluster: &ClusterConfig, configured: &RepositoryConfig, findings: &mut Findings) {
    let now = Timestamp::now();
    // What is younger may belong to a backup that is running.
    let before = now.checked_sub(REMOVED_AGE_MIN).unwrap_or(now);
    let begun = begun_uploads(&configured.store, &cluster.name, before).await;
    let name = format!("{}, {}", cluster.name, configured.name);
    judge_uploads(begun, now, &name, findings);
}

fn judge_uploads(begun: Result<Option<BegunUploads>, String>, now: Timestamp, about: &str, findings: &mut Findings) {
    match begun {
        Ok(None) => {}
        Ok(Some(begun)) => {
            let age = Duration::try_from(now.duration_since(begun.oldest)).unwrap_or_default();
            let least = if begun.complete { "" } else { "at least " };
            let text = format!(
                "{least}{} upload(s) to the bucket were begun more than {} hours ago and never finished, the oldest {} ago: \
                 no listing shows their parts, and they are paid for",
                begun.count,
                REMOVED_AGE_MIN.as_secs() / 3600,
                format_duration(age)
            );
            let advice = "Walward does not remove them: give the bucket a lifecycle rule with AbortIncompleteMultipartUpload; \
                          \"Unfinished uploads\" in the page \"Object stores\" has it";
            findings.warning("remains", Some(about), text, Some(advice));
        }
        // Nothing depends on it, and a store may well not have it.
        Err(cause) => {
            let text = format!("whether uploads to the bucket were never finished cannot be told: {cause}");
            findings.ok("remains", Some(about), text);
        }
    }
}

/// What was moved out of the archive, and moves that were cut.
fn judge_asides(holdings: &Holdings, about: Option<&str>, findings: &mut Findings) {
    for aside in &holdings.asides {
        let (id, from) = (&aside.begun.id, aside.begun.from);
        let (text, advice) = match aside.stage {
            Stage::Cut => {
                (format!("{id} is half set aside"), format!("`walward wal set-aside --from {from}` goes on with it"))
            }
            Stage::Returning => {
                (format!("{id} is half put back"), format!("`walward wal restore-aside {id}` goes on with it"))
            }
            Stage::Aside | Stage::Returned => continue,
        };
        findings.warning("aside", about, text, Some(&advice));
    }
    if let Some(text) = holdings.set_aside() {
        findings.ok("aside", about, format!("{text} (walward wal list-aside)"));
    }
}

/// Other lines than the server's own: what a copy archived, which a restore may be led to. `primary` is the timeline of a server
/// that writes.
async fn judge_lines(
    holdings: &Holdings,
    repository: &Repository,
    primary: Option<Timeline>,
    about: Option<&str>,
    findings: &mut Findings,
) {
    let advice = "a copy that was restored or promoted archives, or did, into this repository: switch its archiving off \
                  (archive_mode = off) unless it took the cluster's place; the page \"Restore\" says how to go on";
    let above = primary.map(|primary| (primary, holdings.timelines_above(primary)));
    if let Some((primary, above)) = &above {
        for timeline in above {
            let key = layout::wal_file(holdings.lineage, WalFileName::History(*timeline));
            let origin = repository.read_summary(&key).await.ok();
            let origin = origin.map(|found| (found.writer, found.modified));
            let left = holdings.histories.get(timeline).and_then(|parents| parents.last());
            let text = above_server(*timeline, *primary, left, origin.as_ref());
            findings.warning("timeline", about, text, Some(advice));
        }
    }
    for remark in &holdings.other_lines {
        findings.warning("timeline", about, remark.clone(), Some(advice));
    }
    if above.is_some_and(|(_, above)| above.is_empty()) && holdings.other_lines.is_empty() {
        findings.ok("timeline", about, "none is newer than the server's own");
    }
}

/// What is known of a timeline above the server's own.
fn above_server(
    timeline: Timeline,
    primary: Timeline,
    left: Option<&(Timeline, Lsn)>,
    origin: Option<&(String, Timestamp)>,
) -> String {
    let origin = origin.map(|(host, time)| format!(", archived by {host} at {}", format_moment(*time)));
    let left = left.map(|(parent, at)| format!(", left timeline {parent} at {at}"));
    format!(
        "timeline {timeline} is above that of the server, which writes timeline {primary}: it is no past of this server{}{}",
        left.unwrap_or_default(),
        origin.unwrap_or_default()
    )
}

fn judge_last(last: Option<&Last<'_>>, age_max: Duration, about: Option<&str>, findings: &mut Findings) {
    let Some(last) = last else {
        return findings.warning("backup", about, "there is none yet", Some("take one: `walward backup`"));
    };
    let label = last.label;
    if last.corrupt_pages > 0 {
        let text = format!("{label} has {} corrupt page(s), as the server had", last.corrupt_pages);
        let advice = "look at the server's disk and keep an older backup; take a new one when it is repaired";
        findings.warning("backup", about, text, Some(advice));
    }
    let text = format!("{label} is {} old (ended {})", format_duration(last.age), format_moment(last.stopped));
    if !last.consistent {
        let text = match last.missing_parent {
            Some(parent) => format!("{label}: backup {parent}, which it builds on, is missing"),
            None => format!("{label}: WAL that it needs is missing"),
        };
        findings.failed("backup", about, text, Some("take a new backup: `walward backup`"));
    } else if last.age > age_max {
        findings.warning("backup", about, text, Some("take one: `walward backup`"));
    } else {
        findings.ok("backup", about, text);
    }
}

fn judge_wal(holdings: &Holdings, about: Option<&str>, findings: &mut Findings) {
    let unknown = holdings.without_history();
    for timeline in &unknown {
        let text =
            format!("the history of timeline {timeline} is missing or damaged, so that gaps before it are not seen");
        let advice = "push the .history file of that timeline from pg_wal, or take a new backup";
        findings.warning("wal", about, text, Some(advice));
    }
    let gaps = holdings.holes();
    // A backup that began after the gap makes up for it.
    let newest =
        holdings.backups.iter().rfind(|backup| holdings.carried(backup).is_some_and(|carried| carried.consistent));
    let begins = newest.map_or(0, |backup| backup.start_lsn.segment_number(holdings.segment_size));
    let open = gaps.iter().filter(|gap| gap.last.number(holdings.segment_size).is_none_or(|last| last >= begins));
    let let_go: Vec<&Gap> = open.flat_map(|gap| holdings.let_go_in(gap)).collect();
    if let (Some(first), Some(last)) = (let_go.first(), let_go.last()) {
        let text = format!(
            "WAL was let go on {} (queue_limit) from {} on: {} to {} is missing, and no backup began after it",
            first.host,
            format_moment(first.since),
            first.first,
            last.last
        );
        let advice = "take a backup now: `walward backup`; until then nothing after the gap can be recovered";
        findings.failed("wal", about, text, Some(advice));
    } else if !gaps.is_empty() {
        let text = format!("{} gap(s) in the archived WAL", gaps.len());
        findings.warning("wal", about, text, Some("`walward wal gaps` lists them; take a new backup after them"));
    } else if unknown.is_empty() {
        findings.ok("wal", about, "no gaps");
    }
}

/// Segments that do not continue what lies before them, among the newest.
fn judge_seams(seams: &Seams, about: Option<&str>, findings: &mut Findings) {
    if let Some(warning) = seams.warning() {
        findings.warning(
            "wal",
            about,
            warning,
            Some("what is damaged is brought anew by `walward repo copy`, from a repository that has it"),
        );
    }
    match seams.found.first() {
        Some(Seam { segment, before }) => {
            let text = format!(
                "{segment} does not continue {before}, which lies before it: another life of the cluster wrote it"
            );
            let advice = "no restore crosses it; take a new backup, and see \"When two servers wrote the same WAL\"";
            findings.failed("wal", about, text, Some(advice));
        }
        None if seams.compared > 0 => {
            let text = format!("each of the newest {} segments continues the one before", seams.compared);
            findings.ok("wal", about, text);
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_report::Level;

    const DAY: Duration = Duration::from_hours(24);

    fn judged(last: Option<&Last<'_>>) -> Vec<(Level, String)> {
        let mut findings = Findings::default();
        judge_last(last, DAY, None, &mut findings);
        findings.checks.into_iter().map(|finding| (finding.level, finding.text)).collect()
    }

    #[test]
    fn uploads_that_nobody_finished_are_told_and_what_a_store_does_not_say_fails_nothing() {
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        let judged = |begun| {
            let mut findings = Findings::default();
            judge_uploads(begun, now, "main, store", &mut findings);
            findings.checks.pop().map(|finding| (finding.level, finding.text, finding.advice.unwrap_or_default()))
        };
        let begun = BegunUploads { count: 3, oldest: "2026-11-20T12:00:00Z".parse().unwrap(), complete: true };
        let (level, text, advice) = judged(Ok(Some(begun))).unwrap();
        assert_eq!(level, Level::Warning);
        assert!(text.starts_with("3 upload(s)") && text.contains("the oldest 2 d"), "{text}");
        assert!(advice.contains("AbortIncompleteMultipartUpload"), "{advice}");
        let (_, text, _) = judged(Ok(Some(BegunUploads { complete: false, ..begun }))).unwrap();
        assert!(text.starts_with("at least 3 upload(s)"), "{text}");
        let (level, text, _) = judged(Err("it answered 403 AccessDenied".to_owned())).unwrap();
        assert_eq!(level, Level::Ok);
        assert!(text.contains("cannot be told: it answered 403 AccessDenied"), "{text}");
        assert_eq!(judged(Ok(None)), None);
    }

    #[test]
    fn a_timeline_above_the_servers_own_is_named_with_its_origin() {
        let left = (Timeline(1), Lsn(0x500_0098));
        let origin = ("db-test".to_owned(), "2026-11-21T11:25:45Z".parse().unwrap());
        let text = above_server(Timeline(2), Timeline(1), Some(&left), Some(&origin));
        for told in ["timeline 2", "timeline 1 at 0/5000098", "db-test at 2026-11-21 11:25:45Z"] {
            assert!(text.contains(told), "no {told:?} in {text}");
        }
    }

    #[test]
    fn a_backup_that_cannot_be_restored_fails_the_check() {
        let good = Last {
            label: "20261121T112545Z",
            stopped: "2026-11-21T11:25:45Z".parse().unwrap(),
            age: Duration::from_mins(5),
            corrupt_pages: 0,
            consistent: true,
            missing_parent: None,
        };
        let levels = |last: &Last<'_>| judged(Some(last)).into_iter().map(|(level, _)| level).collect::<Vec<_>>();
        assert_eq!(levels(&good), [Level::Ok]);
        assert_eq!(levels(&Last { age: DAY * 2, ..good.clone() }), [Level::Warning]);
        assert_eq!(levels(&Last { corrupt_pages: 3, ..good.clone() }), [Level::Warning, Level::Ok]);
        let parent = judged(Some(&Last { consistent: false, missing_parent: Some("x-full"), ..good.clone() }));
        let text = "20261121T112545Z: backup x-full, which it builds on, is missing".to_owned();
        assert_eq!(parent, [(Level::Failed, text)]);
        let holed = judged(Some(&Last { consistent: false, ..good }));
        assert_eq!(holed, [(Level::Failed, "20261121T112545Z: WAL that it needs is missing".to_owned())]);
        assert_eq!(judged(None), [(Level::Warning, "there is none yet".to_owned())]);
    }
}
