//! The server: reachable, archiving, by us, into the right repository, without a backlog.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::archive::believed::{self, Believed};
use crate::archive::contents;
use crate::check::{FILE_SYSTEM_DEADLINE, answered};
use crate::cli::{arrival, whose};
use crate::config::{ClusterConfig, DEFAULT_SOCKET};
use crate::outcome::judge;
use walward_base::sys::living;
use walward_base::{describe, format_duration};
use walward_pg::archive_command::{Push, Pushing, pushing};
use walward_pg::archive_status::{list_ready, ready_since};
use walward_pg::session::{ServerFacts, ServerTablespace, Session};
use walward_pg::{ServerLife, WalFileName, place_inside};
use walward_repo::Repository;
use walward_report::Findings;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long a switched segment may take.
const ARRIVAL_DEADLINE: Duration = Duration::from_mins(1);

/// How long the newest segments may take to be read and compared.
const CONTENTS_DEADLINE: Duration = Duration::from_mins(1);

/// A server that answered.
pub(super) struct Server {
    session: Session,
    pub(super) facts: ServerFacts,
}

pub(super) async fn check(cluster: &ClusterConfig, findings: &mut Findings) -> Option<Server> {
    let about = Some(cluster.name.as_str());
    let session = match Session::connect_of(&cluster.connection, &cluster.data_directory, CONNECT_DEADLINE).await {
        Ok(session) => session,
        Err(error) => {
            let advice = judge(&error).1.unwrap_or("is PostgreSQL running, and is `connection` right for it?");
            findings.failed("postgresql", about, describe(&error), Some(advice));
            return None;
        }
    };
    let facts = match session.facts().await {
        Ok(facts) => facts,
        Err(error) => {
            let advice = "grant the role what it needs: `walward setup` prints the statements";
            findings.failed("postgresql", about, describe(&error), Some(advice));
            return None;
        }
    };
    let role = if facts.in_recovery { ", a standby" } else { "" };
    findings.ok("postgresql", about, format!("version {}{role}", facts.server_version));
    check_directory(cluster, &facts, findings).await;
    check_settings(cluster, &facts, findings).await;
    check_tablespaces(cluster, &facts, findings).await;
    if !facts.in_recovery {
        check_subscriptions(&session, about, findings).await;
    }
    match session.archiver_stats().await {
        Ok(stats) => {
            let failing =
                stats.last_failed_time.filter(|failed| stats.last_archived_time.is_none_or(|ok| *failed > ok));
            match (failing, &stats.last_archived_wal) {
                (Some(_), _) => findings.failed(
                    "archiver",
                    about,
                    format!("archiving fails: {}", stats.last_failed_wal.unwrap_or_default()),
                    Some("PostgreSQL's log says why; so does `walward status`"),
                ),
                (None, Some(file)) => findings.ok("archiver", about, format!("last archived: {file}")),
                (None, None) => findings.ok("archiver", about, "nothing was archived yet"),
            }
        }
        Err(error) => findings.warning("archiver", about, describe(&error), None),
    }
    Some(Server { session, facts })
}

async fn check_directory(cluster: &ClusterConfig, facts: &ServerFacts, findings: &mut Findings) {
    let about = Some(cluster.name.as_str());
    let (directory, its) = (cluster.data_directory.clone(), facts.clone());
    match answered(FILE_SYSTEM_DEADLINE, move || whose::mismatch(&directory, &its)).await {
        None => findings.failed("data_directory", about, hangs(&cluster.data_directory), None),
        Some(None) => findings.ok("data_directory", about, facts.data_directory.clone()),
        Some(Some(text)) => {
            findings.failed("data_directory", about, text, Some("correct `data_directory` or `connection`"));
        }
    }
}

/// A backup of a tablespace inside the data directory cannot be restored as it is.
async fn check_tablespaces(cluster: &ClusterConfig, facts: &ServerFacts, findings: &mut Findings) {
    let (root, tablespaces) = (cluster.data_directory.clone(), facts.tablespaces.clone());
    let is_inside = move |tablespace: &ServerTablespace| place_inside(&root, Path::new(&tablespace.location)).is_some();
    let look = move || tablespaces.into_iter().filter(is_inside).collect::<Vec<_>>();
    // What hangs is said of the data directory already.
    for tablespace in answered(FILE_SYSTEM_DEADLINE, look).await.unwrap_or_default() {
        let text = format!("{} lies in the data directory ({})", tablespace.name, tablespace.location);
        let advice = format!(
            "move its tables elsewhere: PostgreSQL advises against such a place, and a restore is refused unless `--tablespace-map {}=PATH` \
             gives it another one",
            tablespace.oid
        );
        findings.warning("tablespace", Some(cluster.name.as_str()), text, Some(&advice));
    }
}

/// What a restore wrote into a copy, which took the original's place since, and nobody took back.
async fn check_subscriptions(session: &Session, about: Option<&str>, findings: &mut Findings) {
    match session.unfollowed_subscriptions().await {
        Ok(0) => {}
        Ok(count) => {
            let text = format!(
                "{count} enabled, and none is followed (max_logical_replication_workers = 0, as in a restored copy): their publishers keep \
                 the WAL for them"
            );
            let advice = "where this server has the original's place: ALTER SYSTEM RESET max_logical_replication_workers, and a restart; \
                          beside the original: ALTER SUBSCRIPTION … DISABLE";
            findings.warning("subscriptions", about, text, Some(advice));
        }
        Err(error) => findings.warning("subscriptions", about, describe(&error), None),
    }
}

async fn check_settings(cluster: &ClusterConfig, facts: &ServerFacts, findings: &mut Findings) {
    let about = Some(cluster.name.as_str());
    match facts.archive_mode.as_str() {
        "on" | "always" => findings.ok("archive_mode", about, facts.archive_mode.clone()),
        mode => {
            findings.failed("archive_mode", about, mode, Some("set archive_mode = on in postgresql.conf and restart"));
        }
    }
    if !["replica", "logical"].contains(&facts.wal_level.as_str()) {
        findings.failed("wal_level", about, facts.wal_level.clone(), Some("set wal_level = replica and restart"));
    }
    if facts.archive_library.is_empty() {
        check_command(cluster, facts, findings).await;
    } else {
        let text = format!("archive_library = {} stands before archive_command", facts.archive_library);
        findings.failed("archive_command", about, text, Some("empty archive_library and reload"));
    }
    if !facts.full_page_writes {
        let advice = "a backup taken on a standby needs it; set full_page_writes = on";
        findings.warning("full_page_writes", about, "off", Some(advice));
    }
}

async fn check_command(cluster: &ClusterConfig, facts: &ServerFacts, findings: &mut Findings) {
    let about = Some(cluster.name.as_str());
    let command = &facts.archive_command;
    let advice = Some("`walward setup` prints the line for postgresql.conf");
    match pushing(command) {
        Pushing::Surely(push) => {
            let directory = cluster.data_directory.clone();
            match answered(FILE_SYSTEM_DEADLINE, move || unheard(&push, &directory)).await.flatten() {
                Some(why) => {
                    let advice =
                        "name the socket that the agent listens on (`agent.socket`), and see that the agent runs";
                    findings.failed("archive_command", about, format!("{command}: {why}"), Some(advice));
                }
                None => findings.ok("archive_command", about, command.clone()),
            }
        }
        Pushing::Loses(why) => {
            let text = format!("{command}: it says \"archived\" of WAL that is not: {why}");
            findings.failed("archive_command", about, text, advice);
        }
        Pushing::Unclear(why) => {
            let text = format!("{command}: whether it exits with 0 only when the push does cannot be told: {why}");
            findings.warning(
                "archive_command",
                about,
                text,
                Some("put the shell's constructs into a script, or leave them out"),
            );
        }
        Pushing::No(_) if facts.in_recovery && facts.archive_mode != "always" => {
            findings.ok("archive_command", about, "a standby, which does not archive");
        }
        Pushing::No(Some(why)) => findings.failed("archive_command", about, format!("{command}: {why}"), advice),
        Pushing::No(None) => {
            findings.failed("archive_command", about, format!("{command:?} is not Walward's"), advice);
        }
    }
}

fn server(data_directory: &Path) -> Option<i64> {
    ServerLife::read(data_directory).ok().flatten().map(|life| life.pid())
}

/// Why the push would reach no agent, as far as that can be told: the socket is asked that it would ask. Blocking.
fn unheard(push: &Push, data_directory: &Path) -> Option<String> {
    let (socket, whose) = match &push.socket {
        _ if !push.by_agent => return None,
        // What the shell makes of it is not known.
        Some(named) if named.contains(['$', '`']) => return None,
        Some(named) => (PathBuf::from(named), ""),
        // The archiver has the environment that its server was started with.
        None => match living::environment(server(data_directory)?, data_directory, "WALWARD_SOCKET").ok()? {
            Some(given) if !given.is_empty() => {
                (given.into(), ", which WALWARD_SOCKET names in the server's environment")
            }
            _ => (DEFAULT_SOCKET.into(), ", the default, because it names none"),
        },
    };
    match UnixStream::connect(&socket).err()?.kind() {
        ErrorKind::NotFound => Some(format!("there is no socket {}{whose}", socket.display())),
        ErrorKind::ConnectionRefused => Some(format!("nobody listens on the socket {}{whose}", socket.display())),
        // Who may not ask cannot tell.
        _ => None,
    }
}

/// Compares what the server believes archived with what the repositories hold; one that is `None` did not open.
pub(super) async fn check_belief(
    cluster: &ClusterConfig,
    server: &Server,
    repositories: &[Option<Repository>],
    findings: &mut Findings,
) {
    let about = Some(cluster.name.as_str());
    let archives_ours = !matches!(pushing(&server.facts.archive_command), Pushing::No(None));
    if server.facts.in_recovery || repositories.is_empty() {
        return;
    }
    let directory = cluster.data_directory.clone();
    let believed = match answered(FILE_SYSTEM_DEADLINE, move || Believed::read(&directory)).await {
        Some(Ok(Some(believed))) => believed,
        Some(Ok(None)) | None => return,
        Some(Err(error)) => {
            let advice = "run this as the owner of the data directory, or as root";
            return findings.warning("archived", about, describe(&error), Some(advice));
        }
    };
    let mut believed = Believed { lineage: server.facts.lineage(), ..believed };
    // The server's own word, which counts also when the mark is gone.
    if let Ok(stats) = server.session.archiver_stats().await
        && let (Some(name), Some(at)) = (stats.last_archived_wal, stats.last_archived_time)
        && let Ok(WalFileName::Segment(last)) = name.parse()
        && last.timeline == server.facts.timeline
        // Until the checkpoint after a promotion the marks are looked for on the timeline before: they stand on one alone.
        && believed.segments.iter().all(|(segment, _)| segment.timeline == last.timeline && *segment != last)
    {
        believed.segments.push((last, at.into()));
    }
    let count = believed.segments.len();
    let compared = believed::compare(&believed, repositories, cluster.acknowledge, archives_ours).await;
    if let Some(first) = compared.lost.first() {
        let text = format!(
            "the server believes {} segment(s) archived that too few repositories hold, the first {first}",
            compared.lost.len()
        );
        let advice = "take a backup now; archive_command must exit with 0 only when the push does, and a store must keep what it took";
        findings.failed("archived", about, text, Some(advice));
    }
    let pg_wal = cluster.data_directory.join("pg_wal");
    let reading = contents::compare(&pg_wal, believed.lineage, &compared.held, repositories);
    let contents = tokio::time::timeout(CONTENTS_DEADLINE, reading).await.unwrap_or_default();
    if let Some((segment, repository)) = contents.different.first() {
        let text = format!(
            "repository {repository:?} holds something else under the name {segment} than the server has in {} (and {} more such)",
            pg_wal.display(),
            contents.different.len() - 1
        );
        let advice = "another server wrote it, or this one was set back: \"When two servers wrote the same WAL\" in the documentation";
        findings.failed("archived", about, text, Some(advice));
    } else if let Some(segment) = contents.unanswered.first() {
        let text = format!(
            "{segment} cannot be read in every repository, so that it is not known whether it is what the server wrote"
        );
        let advice = "the agent's log says why at level debug; `walward wal fetch` tries it by hand";
        findings.warning("archived", about, text, Some(advice));
    } else if compared.lost.is_empty() {
        let text = format!(
            "{} of {count} segment(s) that the server believes archived were looked for and found, {} of them by content",
            compared.held.len(),
            contents.segments_compared()
        );
        findings.ok("archived", about, text);
    }
}

fn hangs(path: &Path) -> String {
    format!("the file system of {} did not answer in {} s", path.display(), FILE_SYSTEM_DEADLINE.as_secs())
}

/// How many files wait to be archived, and how long the oldest has. Blocking.
fn waiting(pg_wal: &Path) -> std::io::Result<(usize, Duration)> {
    let ready = list_ready(pg_wal)?;
    let since = ready.iter().filter_map(|name| ready_since(pg_wal, *name).ok());
    let age = since.filter_map(|since| SystemTime::now().duration_since(since).ok()).max();
    Ok((ready.len(), age.unwrap_or_default()))
}

/// How long the oldest file has waited to be archived.
pub(super) async fn check_waiting(cluster: &ClusterConfig, age_max: Duration, findings: &mut Findings) {
    let about = Some(cluster.name.as_str());
    let pg_wal = cluster.data_directory.join("pg_wal");
    let looked = pg_wal.clone();
    let (files, age) = match answered(FILE_SYSTEM_DEADLINE, move || waiting(&looked)).await {
        Some(Ok(waiting)) => waiting,
        Some(Err(error)) => {
            let text = format!("cannot read {}/archive_status: {error}", pg_wal.display());
            let advice = "run this as the owner of the data directory, or as root";
            return findings.warning("backlog", about, text, Some(advice));
        }
        None => return findings.failed("backlog", about, hangs(&pg_wal), None),
    };
    let text = format!("{files} file(s) wait, the oldest for {}", format_duration(age));
    if files == 0 {
        findings.ok("backlog", about, "nothing waits");
    } else if age > age_max {
        findings.warning("backlog", about, text, Some("PostgreSQL's log and `walward status` say what holds it up"));
    } else {
        findings.ok("backlog", about, text);
    }
}

/// Switches WAL and waits until the segment is in every repository.
pub(super) async fn check_arrival(
    cluster: &ClusterConfig,
    server: &Server,
    repositories: &[Repository],
    findings: &mut Findings,
) {
    let about = Some(cluster.name.as_str());
    if server.facts.in_recovery {
        return findings.ok("arrival", about, "not tried: a standby cannot switch WAL");
    }
    let segment = match arrival::switch(&server.session, "walward check").await {
        Ok(segment) => segment,
        Err(error) => {
            let advice = "grant the role what it needs: `walward setup` prints the statements";
            return findings.failed("arrival", about, describe(&error), Some(advice));
        }
    };
    for repository in repositories {
        let name = format!("{}, {}", cluster.name, repository.name());
        match arrival::wait(repository, server.facts.lineage(), segment, ARRIVAL_DEADLINE).await {
            Ok(took) => {
                findings.ok("arrival", Some(&name), format!("{segment} arrived in {}", format_duration(took)));
            }
            Err(text) => {
                let advice = "PostgreSQL's log and `walward status` say what holds it up";
                findings.failed("arrival", Some(&name), text, Some(advice));
            }
        }
    }
}
