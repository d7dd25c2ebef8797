//! What waits after a long outage.

use std::time::{Duration, Instant};

use super::{assert_archived, drain, options, rounds};
use crate::support::{Site, StoreKind};

#[test]
fn thousands_of_segments_that_wait_after_an_outage_are_archived_in_time() {
    let count = rounds(1_500, 20_000);
    let mut site = Site::start(options(StoreKind::File));
    site.cluster.sql(&site.room, "create table t (id int)");
    let first = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &first);
    site.stop_agent();
    // The outage: real segments, with a row in each.
    let fill = format!(
        "do $$ begin for i in 1..{count} loop insert into t values (i); commit; perform pg_switch_wal(); end loop; end $$"
    );
    site.cluster.sql(&site.room, &fill);
    let waiting = site.cluster.archive_status("ready").len();
    assert!(waiting >= count as usize, "only {waiting} segments wait");
    site.walward(&["check", "--archive-age", "1s"]).expect(1).says("file(s) wait").says("agent");
    site.start_agent();
    let begun = Instant::now();
    drain(&site, &site.cluster, Duration::from_secs(60 + u64::from(count) / 5));
    println!("{waiting} segments in {:?}", begun.elapsed());
    let status = site.walward(&["--json", "status"]).expect(0).json();
    let resident = status["resident_bytes"].as_u64().expect("a number");
    assert!(resident < 200 << 20, "{} MiB resident", resident >> 20);
    assert_eq!(assert_archived(&site, &site.cluster), site.cluster.archive_status("done").len());
}
