//! Is there an agent?

use serde_json::json;

use super::finding::Findings;
use crate::cli::agent::{self, Asked};
use crate::cli::context::Context;

pub(super) fn check(context: &Context, findings: &mut Findings) {
    let socket = context.socket();
    let started = "start it: systemctl start walward";
    let asked = tokio::task::block_in_place(|| agent::ask(&socket, &json!({ "op": "status" }), |_| Ok(())));
    match asked {
        Ok(Asked::Answered(answer)) => {
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
