//! How fast the work in `works` is, with its throughput: `cargo bench --bench hot`.
//!
//! Compare two trees with `--save-baseline` and `--baseline` on one quiet machine; a number of another machine says nothing.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

mod works;

use works::{ALL, Unit};

fn measure(criterion: &mut Criterion) {
    for work in ALL {
        let mut group = criterion.benchmark_group(work.name);
        group.throughput(match work.unit {
            Unit::Bytes => Throughput::Bytes(work.size as u64),
            Unit::Elements => Throughput::Elements(work.size as u64),
        });
        // What takes a tenth of a second is the same every time.
        group.sample_size(if work.size > works::MIB { 10 } else { 100 });
        let mut once = (work.prepare)(work.size);
        group.bench_function(work.size.to_string(), |bencher| bencher.iter(&mut once));
        group.finish();
    }
}

criterion_group!(benches, measure);
criterion_main!(benches);
