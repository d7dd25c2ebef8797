//! An archive that is away or hangs keeps no server from stopping, and no standby from failing over. Every limit has its default: what
//! is promised is promised of those.

use std::time::{Duration, Instant};

use crate::support::{Mode, Site, SiteOptions, Stop, StoreKind};

/// Far less than what the waits of this page would add up to, and far more than what a busy machine needs.
const SOON: Duration = Duration::from_secs(40);

#[test]
fn a_store_that_hangs_does_not_hold_a_server_that_is_told_to_stop() {
    let mut site = Site::start(SiteOptions { store: StoreKind::S3, proxied: true, ..SiteOptions::default() });
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site.proxy.as_ref().unwrap().set(Mode::BlackHole);
    for _ in 0..3 {
        site.cluster.switch_wal(&site.room);
    }
    // The archiver waits for its answer.
    std::thread::sleep(Duration::from_secs(1));
    let begun = Instant::now();
    site.cluster.stop(Stop::Fast);
    assert!(begun.elapsed() < SOON, "the server needed {:?} to stop", begun.elapsed());
    site.cluster.assert_logged("cannot be written to (no answer within");
    // Nothing was given up.
    site.proxy.as_ref().unwrap().set(Mode::Pass);
    site.cluster.start(&site.room);
    let segment = site.cluster.switch_wal(&site.room);
    site.cluster.wait_archived(&site.room, &segment);
    site.cluster.stop(Stop::Fast);
}
