//! What the engine costs beside its providers: a whole migration on the fakes, and the fold of a long journal.
#![allow(missing_docs)]

use bluegreen_core::journal::state::State;
use bluegreen_core::{Body, Entry, StepName, Timestamp};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

const ENTRIES: u64 = 100_000;

/// A journal that grew long: a step that waits and tries again for weeks.
fn long_journal() -> Vec<Entry> {
    let step = StepName::Prepare;
    let entry = |seq, body| Entry {
        v: 1,
        seq,
        at: Timestamp::EPOCH + Duration::from_secs(seq),
        body,
    };
    let planned = Body::Planned {
        name: "shop".into(),
        fingerprint: "f00".into(),
        steps: vec![StepName::Prepare, StepName::CleanUp],
        acts_on: [].into(),
    };
    let mut entries = vec![entry(0, planned), entry(1, Body::Started { step })];
    entries.extend((2..ENTRIES).map(|seq| {
        let until = Timestamp::EPOCH + Duration::from_secs(seq + 60);
        entry(
            seq,
            match seq % 2 {
                0 => Body::Waiting {
                    step,
                    until,
                    why: "the old TTL".into(),
                },
                _ => Body::Retrying {
                    step,
                    attempt: 1,
                    until,
                    error: "powerdns: read the record: no answer in 5 s".into(),
                },
            },
        )
    }));
    entries
}

fn fold(c: &mut Criterion) {
    let entries = long_journal();
    let mut group = c.benchmark_group("fold");
    group.throughput(Throughput::Elements(ENTRIES)).sample_size(20);
    group.bench_function("100,000 entries", |b| {
        b.iter(|| State::of(black_box(&entries)).expect("a whole journal"));
    });
    group.finish();
}

fn step(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let run = || {
        runtime.block_on(async {
            let (migration, journal) = benches::in_memory("shop").expect("it builds");
            migration.run().await.expect("it ends well");
            journal.len() as u64
        })
    };
    let entries = run();
    let mut group = c.benchmark_group("engine");
    // Per entry: everything that the engine and the fakes do for one durable fact.
    group.throughput(Throughput::Elements(entries)).sample_size(50);
    group.bench_function("a whole migration in memory", |b| b.iter(run));
    group.finish();
}

criterion_group!(benches_of_the_engine, fold, step);
criterion_main!(benches_of_the_engine);
