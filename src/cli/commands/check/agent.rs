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
                snapshot.clusters.iter().for_each(|cluster| unrecorded(cluster, findings));
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
}
