//! A backup is not in the database's way.

use std::time::Instant;

use crate::support::{Site, SiteOptions};

#[test]
fn a_backup_reads_no_faster_than_it_is_told() {
    const LIMIT: f64 = 8.0 * 1024.0 * 1024.0;
    let cluster_settings = "backup.read_limit = \"8MiB\"\n".to_owned();
    let site = Site::start(SiteOptions { cluster_settings, ..SiteOptions::default() });
    let begun = Instant::now();
    let outcome = site.walward(&["--cluster", "main", "--json", "backup"]).expect(0);
    let seconds = begun.elapsed().as_secs_f64();
    let report = outcome.json_lines().pop().expect("a line")["backup"].clone();
    let read = report["read_bytes"].as_f64().expect("a number");
    // The last piece of all need not be waited for.
    assert!(read > 16e6 && seconds > (read - 1024.0 * 1024.0) / LIMIT, "{read} bytes in {seconds} s");
}
