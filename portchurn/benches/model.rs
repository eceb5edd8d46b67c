//! What one interval costs in the model: taking a sample in, and making a snapshot, at growing numbers of keys.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portchurn::model::sample::{Counts, Process, ProcessId, Sample};
use portchurn::model::{Context, Model};
use portchurn_common::flow::{Address, ChurnKey, Role};

/// Ten destinations for each process.
fn sample(keys: u32) -> Sample {
    let mut counts = Counts { attempts: 3, opened: 2, failed: 1, time_wait: 2, ..Counts::ZERO };
    counts.closed[0] = 2;
    counts.lifetime[9] = 2;
    counts.connect[5] = 2;
    let id = |index: u32| ProcessId { tgid: 1 + index / 10, start_ns: u64::from(index / 10) };
    let processes = (0..keys)
        .step_by(10)
        .map(|index| Process { id: id(index), comm: format!("worker{}", index / 100), ..Process::default() })
        .collect();
    let churn = (0..keys)
        .map(|index| {
            let ProcessId { tgid, start_ns } = id(index);
            let remote = Address::from_v4([10, 0, 0, (index % 10) as u8]);
            let key = ChurnKey {
                tgid,
                start_ns,
                remote,
                port: 3306,
                role: Role::Connect as u8,
                ..ChurnKey::default()
            };
            (key, counts)
        })
        .collect();
    Sample { at_ns: 1_000_000_000, processes, churn, ..Sample::default() }
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("model");
    group.sample_size(10);
    for keys in [1_000, 10_000, 100_000] {
        group.throughput(Throughput::Elements(u64::from(keys)));
        let sample = sample(keys);
        let mut model = Model::new(Context::default());
        model.apply(&sample);
        group.bench_function(BenchmarkId::new("apply", keys), |b| b.iter(|| model.apply(black_box(&sample))));
        group.bench_function(BenchmarkId::new("snapshot", keys), |b| b.iter(|| black_box(model.snapshot())));
    }
    group.finish();
}

criterion_group!(model, benches);
criterion_main!(model);
