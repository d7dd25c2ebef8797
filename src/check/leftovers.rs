//! Settings of an earlier recovery that would rule the next one.

use super::answered::{FILE_SYSTEM_DEADLINE, answered};
use crate::config::ClusterConfig;
use crate::restore;
use walward_base::describe;
use walward_report::Findings;

pub(crate) async fn check(cluster: &ClusterConfig, in_recovery: bool, findings: &mut Findings) {
    let about = Some(cluster.name.as_str());
    let directory = cluster.data_directory.clone();
    match answered(FILE_SYSTEM_DEADLINE, move || restore::leftovers(&directory)).await {
        Some(Ok((left, is_lent))) => judge(&left, is_lent, in_recovery, about, findings),
        Some(Err(error)) => {
            let advice = "run this as the owner of the data directory, or as root";
            findings.warning("recovery_settings", about, describe(&error), Some(advice));
        }
        // The data directory was said to hang before.
        None => {}
    }
}

fn judge(
    left: &[(&'static str, String)],
    is_lent: bool,
    in_recovery: bool,
    about: Option<&str>,
    findings: &mut Findings,
) {
    if left.is_empty() {
        return findings.ok("recovery_settings", about, "no target of an earlier recovery is left");
    }
    let shown = left.iter().map(|(name, value)| format!("{name} = '{value}'")).collect::<Vec<_>>().join(", ");
    let resets = left.iter().map(|(name, _)| format!("ALTER SYSTEM RESET {name};")).collect::<Vec<_>>().join(" ");
    match (in_recovery, is_lent) {
        (true, true) => findings.ok("recovery_settings", about, format!("a recovery goes on: {shown}")),
        (true, false) => {
            let text = format!("postgresql.auto.conf has {shown}: this standby stops there, or promotes itself");
            let advice = format!("unless that is meant: {resets} and restart it");
            findings.warning("recovery_settings", about, text, Some(&advice));
        }
        (false, _) => {
            let text = format!(
                "postgresql.auto.conf has {shown} of a recovery that has ended: a standby made from this server stops there, or promotes itself"
            );
            findings.failed("recovery_settings", about, text, Some(&resets));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use walward_report::Level;

    #[test]
    fn what_an_ended_recovery_left_is_named_with_the_statement_that_removes_it() {
        let judged = |left: &[(&'static str, String)], is_lent, in_recovery| {
            let mut findings = Findings::default();
            judge(left, is_lent, in_recovery, None, &mut findings);
            findings.checks.remove(0)
        };
        let left = [("recovery_target_time", "2026-11-21 14:03:00+00".to_owned())];
        let found = judged(&left, false, false);
        assert_eq!(found.level, Level::Failed);
        assert!(found.text.contains("2026-11-21 14:03:00+00"), "{}", found.text);
        assert_eq!(found.advice.as_deref(), Some("ALTER SYSTEM RESET recovery_target_time;"));
        assert_eq!(judged(&left, true, true).level, Level::Ok);
        assert_eq!(judged(&left, false, true).level, Level::Warning);
        assert_eq!(judged(&[], false, false).level, Level::Ok);
    }
}
