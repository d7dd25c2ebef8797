//! Is there an agent?

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::cli::agent::{self, Asked};
use crate::cli::context::Context;
use crate::config::ClusterConfig;
use crate::health::{ClusterSnapshot, DebtFacts, Snapshot};
use walward_base::format_duration;
use walward_report::Findings;

/// The agent compares repositories every hour; a comparison that is older has been missed.
const COMPARED_AGE_MAX: Duration = Duration::from_hours(2);

/// Answers whether there is one.
pub(super) fn check(context: &Context, findings: &mut Findings) -> bool {
    let socket = context.socket();
    let started = "start it: systemctl start walward";
    let asked = tokio::task::block_in_place(|| agent::ask(&socket, &json!({ "op": "status" }), |_| Ok(())));
    match asked {
        Ok(Asked::Answered(answer)) => {
            if let Ok(snapshot) = serde_json::from_value::<Snapshot>(answer.json.clone()) {
                for cluster in context.loaded.config.clusters.values() {
                    check_configuration(cluster, &snapshot, findings);
                }
                for cluster in &snapshot.clusters {
                    unrecorded(cluster, findings);
                    check_contents(cluster, findings);
                    check_debts(cluster, findings);
                }
            }
            let version = answer.json.get("version").and_then(serde_json::Value::as_str).unwrap_or("?");
            let text = format!("walwardd {version} answers on {}", socket.display());
            if version == env!("CARGO_PKG_VERSION") {
                findings.ok("agent", None, text);
            } else {
                findings.warning("agent", None, text, Some("it is of another release than this program: restart it"));
            }
            return true;
        }
        Ok(Asked::NoAgent(error)) => findings.failed("agent", None, error.to_string(), Some(started)),
        Err(failure) => findings.failed("agent", None, failure.message(), failure.hint.as_deref().or(Some(started))),
    }
    false
}

/// Whether the agent runs what stands in the configuration.
fn check_configuration(cluster: &ClusterConfig, snapshot: &Snapshot, findings: &mut Findings) {
    let about = Some(cluster.name.as_str());
    let advice = Some("let it read the configuration again: systemctl reload walward");
    let running = snapshot.clusters.iter().find(|running| running.name == cluster.name);
    match running.map(|running| (running, running.configuration.as_ref())) {
        Some((running, Some(read))) if *read != cluster.fingerprint => {
            let places: Vec<String> =
                running.repositories.iter().map(|place| format!("{} ({})", place.name, place.url)).collect();
            let text = format!(
                "the agent runs another configuration of this cluster than the one in the files now; its repositories are {}",
                places.join(", ")
            );
            findings.failed("configuration", about, text, advice);
        }
        Some(_) => {}
        None => {
            let text = "the agent does not know this cluster, or does not answer this user about it";
            findings.failed("configuration", about, text, advice);
        }
    }
}

/// Whether the agent knows of a segment that a repository has otherwise: this check reads the newest ones only, and those that can be read now.
fn check_contents(cluster: &ClusterSnapshot, findings: &mut Findings) {
    let belief = &cluster.belief;
    if belief.different_files == 0 {
        return;
    }
    let text = format!(
        "the agent found something else than the server has under the names of {} segment(s) in the archive, the first {}, and has not seen it \
         set right",
        belief.different_files,
        belief.oldest_different.as_deref().unwrap_or("?")
    );
    let advice = "another server wrote it, or this one was set back: \"When two servers wrote the same WAL\" in the documentation";
    findings.failed("archived", Some(&cluster.name), text, Some(advice));
}

/// Whether every repository has what the others have: one is enough to lose the other to.
fn check_debts(cluster: &ClusterSnapshot, findings: &mut Findings) {
    if cluster.repositories.len() < 2 {
        return;
    }
    for repository in &cluster.repositories {
        check_debt(&format!("{}, {}", cluster.name, repository.name), &repository.debt, findings);
    }
}

fn check_debt(name: &str, debt: &DebtFacts, findings: &mut Findings) {
    let about = Some(name);
    {
        if let Some(last) = &debt.last_contradiction {
            let advice =
                "two servers write the same timeline: stop archiving on the wrong one; nothing was overwritten";
            findings.failed("contradiction", about, &last.text, Some(advice));
        }
        let compared = debt.compared.map(|at| age(at, Timestamp::now()));
        if let Some(first) = &debt.differs {
            let text = format!(
                "differs from another repository from {first} on; nothing that comes after it is archived or brought"
            );
            let advice =
                "decide which of the two lives to keep: \"When two servers wrote the same WAL\" in the documentation";
            findings.failed("debt", about, text, Some(advice));
        } else if debt.files > 0 {
            let oldest = debt.oldest_file.as_deref().map(|file| format!(", the oldest {file}")).unwrap_or_default();
            let failed = debt.last_error.as_ref().map(|error| format!("; it failed last: {}", error.text));
            let waits = debt.waits.as_ref().map(|why| format!("; {why}"));
            let text = format!(
                "{} file(s) are archived elsewhere and not here{oldest}{}{}",
                debt.files,
                waits.unwrap_or_default(),
                failed.unwrap_or_default()
            );
            let advice = if debt.waits.is_some() {
                "bring that repository back: then all are compared, and what is this server's is brought. Where you know that the files are the \
                 right server's, bring them now: `walward repo copy`"
            } else {
                "the agent brings them as soon as the repository takes them; `walward status` shows how many are left"
            };
            findings.warning("debt", about, text, Some(advice));
        } else {
            judge_comparison(compared, about, findings);
        }
    }
}

fn age(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}

/// What is believed of a repository that owes nothing as far as is known: `compared` so long ago with all others.
fn judge_comparison(compared: Option<Duration>, about: Option<&str>, findings: &mut Findings) {
    let advice = Some("the agent does that as soon as all of them answer; `walward status` shows which does not");
    match compared {
        Some(age) if age <= COMPARED_AGE_MAX => {
            findings.ok("debt", about, "has every file that another repository was given");
        }
        Some(age) => {
            let text = format!("was compared with all others {} ago and not since", format_duration(age));
            findings.warning("debt", about, text, advice);
        }
        None => {
            findings.warning("debt", about, "was not compared with all others since the agent started", advice);
        }
    }
}

/// Gaps that are known to this host only, because a repository has been away since.
fn unrecorded(cluster: &ClusterSnapshot, findings: &mut Findings) {
    if cluster.unrecorded_gaps > 0 {
        let text = format!(
            "WAL was let go (queue_limit): {} gap(s) are recorded on this host only, because a repository cannot be reached",
            cluster.unrecorded_gaps
        );
        let advice = "bring the repository back, then take a backup: `walward backup`";
        findings.failed("wal", Some(&cluster.name), text, Some(advice));
    }
    if cluster.unreadable_gaps > 0 {
        let text = format!(
            "WAL was let go (queue_limit), and {} note(s) of it in the agent's spool directory cannot be read, so that no repository is told",
            cluster.unreadable_gaps
        );
        let advice = "the agent's log names them; take a backup, then remove them and reload the agent";
        findings.failed("wal", Some(&cluster.name), text, Some(advice));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_report::Level;

    #[test]
    fn what_nobody_has_compared_lately_is_not_called_complete() {
        let judged = |compared: Option<Duration>| {
            let mut findings = Findings::default();
            judge_comparison(compared, None, &mut findings);
            findings.checks.into_iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(judged(Some(Duration::from_mins(61))), [Level::Ok]);
        assert_eq!(judged(Some(Duration::from_hours(3))), [Level::Warning]);
        assert_eq!(judged(None), [Level::Warning]);
    }

    #[test]
    fn repositories_with_two_contents_are_not_called_complete() {
        let mut findings = Findings::default();
        let debt = DebtFacts {
            compared: Some(Timestamp::now()),
            differs: Some("000000010000000000000003".to_owned()),
            ..DebtFacts::default()
        };
        check_debt("main, s3", &debt, &mut findings);
        let levels: Vec<_> = findings.checks.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Failed]);
    }

    #[test]
    fn what_is_not_known_to_be_the_servers_is_told_with_the_way_out() {
        let mut findings = Findings::default();
        let waits = Some("3 of them wait while repository \"far\" is away".to_owned());
        check_debt("main, s3", &DebtFacts { files: 3, waits, ..DebtFacts::default() }, &mut findings);
        let [finding] = findings.checks.as_slice() else { panic!("{} findings", findings.checks.len()) };
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.text.contains("repository \"far\" is away"), "{}", finding.text);
        assert!(finding.advice.as_deref().is_some_and(|advice| advice.contains("walward repo copy")));
    }
}
