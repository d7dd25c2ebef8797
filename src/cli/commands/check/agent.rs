//! Is there an agent?

use serde_json::json;

use super::finding::Findings;
use crate::cli::agent::{self, Asked};
use crate::cli::context::Context;
use crate::health::{ClusterSnapshot, Snapshot};

pub(super) fn check(context: &Context, findings: &mut Findings) {
    let socket = context.socket();
    let started = "start it: systemctl start walward";
    let asked = tokio::task::block_in_place(|| agent::ask(&socket, &json!({ "op": "status" }), |_| Ok(())));
    match asked {
        Ok(Asked::Answered(answer)) => {
            if let Ok(snapshot) = serde_json::from_value::<Snapshot>(answer.json.clone()) {
                for cluster in &snapshot.clusters {
                    unrecorded(cluster, findings);
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
        }
        Ok(Asked::NoAgent(error)) => findings.failed("agent", None, error.to_string(), Some(started)),
        Err(failure) => findings.failed("agent", None, failure.message(), failure.hint.as_deref().or(Some(started))),
    }
}

/// Whether every repository has what the others have: one is enough to lose the other to.
fn check_debts(cluster: &ClusterSnapshot, findings: &mut Findings) {
    if cluster.repositories.len() < 2 {
        return;
    }
    for repository in &cluster.repositories {
        let name = format!("{}, {}", cluster.name, repository.name);
        let (about, debt) = (Some(name.as_str()), &repository.debt);
        if let Some(last) = &debt.last_contradiction {
            let advice =
                "two servers write the same timeline: stop archiving on the wrong one; nothing was overwritten";
            findings.failed("contradiction", about, &last.text, Some(advice));
        }
        if debt.files > 0 {
            let oldest = debt.oldest_file.as_deref().map(|file| format!(", the oldest {file}")).unwrap_or_default();
            let failed = debt.last_error.as_ref().map(|error| format!("; it failed last: {}", error.text));
            let text = format!(
                "{} file(s) are archived elsewhere and not here{oldest}{}",
                debt.files,
                failed.unwrap_or_default()
            );
            let advice =
                "the agent brings them as soon as the repository takes them; `walward status` shows how many are left";
            findings.warning("debt", about, text, Some(advice));
        } else if debt.compared.is_some() {
            findings.ok("debt", about, "has every file that another repository was given");
        } else {
            findings.warning(
                "debt",
                about,
                "was not compared with the others since the agent started",
                Some("the agent does that as soon as the repository answers; `walward status` shows it"),
            );
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
