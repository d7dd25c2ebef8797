//! A snapshot in Prometheus' text format. Names are `walward_…`, base units, never a WAL or backup name in a label.
//!
//! Format: Prometheus exposition format 0.0.4, <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::{Display, Write};

use super::{ClusterSnapshot, RepositorySnapshot, Snapshot};

/// The snapshot as a page for Prometheus.
pub fn render(snapshot: &Snapshot) -> String {
    let mut page = Page::default();
    page.family("walward_agent_info", "gauge", "The agent's version.");
    page.sample("walward_agent_info", &[("version", &snapshot.version)], 1);
    page.family("walward_agent_start_timestamp_seconds", "gauge", "When the agent started.");
    page.sample("walward_agent_start_timestamp_seconds", &[], snapshot.started.as_second());
    page.family("walward_agent_resident_bytes", "gauge", "Resident memory of the agent.");
    page.sample("walward_agent_resident_bytes", &[], snapshot.resident_bytes);

    let clusters = &snapshot.clusters;
    archive(&mut page, clusters);
    lost_wal(&mut page, clusters);
    fetch(&mut page, clusters);
    backup(&mut page, clusters);
    repositories(&mut page, clusters);
    page.0
}

/// What goes into the archive.
fn archive(page: &mut Page, clusters: &[ClusterSnapshot]) {
    page.each(clusters, "walward_archive_files_total", "counter", "Files that PostgreSQL was told are durable.", |c| {
        Some(c.archive.acknowledged_total)
    });
    page.each(
        clusters,
        "walward_archive_files_ahead_total",
        "counter",
        "Of these, files that were durable before PostgreSQL asked.",
        |c| Some(c.archive.acknowledged_ahead_total),
    );
    page.each(clusters, "walward_archive_bytes_total", "counter", "Bytes of WAL uploaded, before compression.", |c| {
        Some(c.archive.uploaded_bytes_total)
    });
    page.each(clusters, "walward_archive_upload_seconds_total", "counter", "Time that uploads took.", |c| {
        Some(c.archive.upload_seconds_total)
    });
    page.failures(clusters, "walward_archive_failures_total", "Pushes answered with a failure.", |c| {
        &c.archive.failed_total
    });
    page.each(clusters, "walward_archive_last_timestamp_seconds", "gauge", "When a file was acknowledged last.", |c| {
        c.archive.last_acknowledged.map(jiff::Timestamp::as_second)
    });
    page.each(clusters, "walward_archive_ready_files", "gauge", "Files that wait to be archived.", |c| c.ready_files);
    page.each(
        clusters,
        "walward_archive_oldest_ready_seconds",
        "gauge",
        "How long the oldest waiting file has waited.",
        |c| c.oldest_ready_seconds,
    );
    page.each(clusters, "walward_archive_in_flight", "gauge", "Files on their way.", |c| Some(c.uploads_in_flight));
}

/// What did not come into the archive, or is another's there.
fn lost_wal(page: &mut Page, clusters: &[ClusterSnapshot]) {
    page.each(
        clusters,
        "walward_archive_let_go_total",
        "counter",
        "Files that were let go because more waited than queue_limit allows: the archive lacks them.",
        |c| Some(c.archive.let_go_total),
    );
    page.each(
        clusters,
        "walward_archive_unrecorded_gaps",
        "gauge",
        "Gaps that some repository was not told of yet.",
        |c| Some(c.unrecorded_gaps),
    );
    page.each(
        clusters,
        "walward_archive_unreadable_gaps",
        "gauge",
        "Notes of gaps in the spool directory that cannot be read.",
        |c| Some(c.unreadable_gaps),
    );
    page.each(
        clusters,
        "walward_archive_lost_files",
        "gauge",
        "Segments that the server believes archived and that fewer repositories hold than must.",
        |c| Some(c.belief.lost_files),
    );
    page.each(
        clusters,
        "walward_archive_different_files",
        "gauge",
        "Segments of which a repository holds something else than the server still has.",
        |c| Some(c.belief.different_files),
    );
}

/// What goes out to servers in recovery.
fn fetch(page: &mut Page, clusters: &[ClusterSnapshot]) {
    page.each(clusters, "walward_fetch_files_total", "counter", "Files given to servers in recovery.", |c| {
        Some(c.fetch.served_total)
    });
    page.each(
        clusters,
        "walward_fetch_files_prefetched_total",
        "counter",
        "Of these, files that were there or on their way before they were asked for.",
        |c| Some(c.fetch.served_prefetched_total),
    );
    page.each(
        clusters,
        "walward_fetch_fallback_files_total",
        "counter",
        "Files that came from another repository than the one that was asked first, because that one failed.",
        |c| Some(c.fetch.fallback_total),
    );
    page.each(
        clusters,
        "walward_fetch_fallback_damaged_files_total",
        "counter",
        "Of these, files whose object was damaged in the repository that was asked first.",
        |c| Some(c.fetch.fallback_damaged_total),
    );
    page.each(clusters, "walward_fetch_absent_total", "counter", "Requests answered with absent.", |c| {
        Some(c.fetch.absent_total)
    });
    page.failures(clusters, "walward_fetch_failures_total", "Fetches that failed.", |c| &c.fetch.failed_total);
    page.each(clusters, "walward_spool_bytes", "gauge", "Bytes of the spool in use.", |c| Some(c.spool_bytes));
    page.each(clusters, "walward_spool_max_bytes", "gauge", "The most bytes of the spool.", |c| {
        Some(c.spool_bytes_max)
    });
    page.each(
        clusters,
        "walward_spool_hangs",
        "gauge",
        "Whether the file system of the spool does not answer: nothing is fetched ahead.",
        |c| Some(u64::from(c.spool_hangs_seconds.is_some())),
    );
}

fn backup(page: &mut Page, clusters: &[ClusterSnapshot]) {
    page.each(clusters, "walward_backup_running", "gauge", "Whether a base backup is running.", |c| {
        Some(u64::from(c.running_backup().is_some()))
    });
    page.each(
        clusters,
        "walward_backup_hanging_reads",
        "gauge",
        "Reads of the data directory for a backup or the configuration, given up or not, that its file system does not answer now.",
        |c| Some(c.hanging_reads.len()),
    );
}

fn repositories(page: &mut Page, clusters: &[ClusterSnapshot]) {
    page.repositories(
        clusters,
        "walward_repository_reachable",
        "gauge",
        "Whether the repository could be opened.",
        |repository| Some(u64::from(repository.reachable)),
    );
    page.repositories(
        clusters,
        "walward_repository_debt_files",
        "gauge",
        "Files that are archived in another repository and not in this one, as far as is known.",
        |repository| Some(repository.debt.files),
    );
    page.repositories(
        clusters,
        "walward_repository_debt_oldest_timestamp_seconds",
        "gauge",
        "When the oldest of these was archived.",
        |repository| repository.debt.oldest_since.map(jiff::Timestamp::as_second),
    );
    page.repositories(
        clusters,
        "walward_repository_debt_paid_files_total",
        "counter",
        "Files that were brought to the repository later than to others.",
        |repository| Some(repository.debt.paid_total),
    );
    page.repositories(
        clusters,
        "walward_repository_contradictions_total",
        "counter",
        "Files under whose names the repository was found to hold other content than the server or another repository.",
        |repository| Some(repository.debt.contradictions_total),
    );
    page.repositories(
        clusters,
        "walward_repository_differs",
        "gauge",
        "Whether the repository holds other content than another one from some file on, as was found when they were compared last.",
        |repository| Some(u64::from(repository.debt.differs.is_some())),
    );
}

#[derive(Default)]
struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn each<V: Display>(
        &mut self,
        clusters: &[ClusterSnapshot],
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&ClusterSnapshot) -> Option<V>,
    ) {
        self.family(name, kind, help);
        for cluster in clusters {
            if let Some(value) = value(cluster) {
                self.sample(name, &[("cluster", &cluster.name)], value);
            }
        }
    }

    fn repositories<V: Display>(
        &mut self,
        clusters: &[ClusterSnapshot],
        name: &str,
        kind: &str,
        help: &str,
        value: impl Fn(&RepositorySnapshot) -> Option<V>,
    ) {
        self.family(name, kind, help);
        for cluster in clusters {
            for repository in &cluster.repositories {
                if let Some(value) = value(repository) {
                    self.sample(name, &[("cluster", &cluster.name), ("repository", &repository.name)], value);
                }
            }
        }
    }

    fn failures<'a>(
        &mut self,
        clusters: &'a [ClusterSnapshot],
        name: &str,
        help: &str,
        counts: impl Fn(&'a ClusterSnapshot) -> &'a std::collections::BTreeMap<String, u64>,
    ) {
        self.family(name, "counter", help);
        for cluster in clusters {
            for (class, count) in counts(cluster) {
                self.sample(name, &[("cluster", &cluster.name), ("class", class)], count);
            }
        }
    }
}

/// A label's value: backslash, quote and line feed are escaped.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
