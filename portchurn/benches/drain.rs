//! What one drain costs: reading all counters from the real maps, at growing numbers of keys, when every key changed
//! and when none did. Needs the privileges that tracing needs; says so and measures nothing without them.
#![expect(clippy::print_stdout, reason = "a benchmark talks to its terminal")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use portchurn::live::keys::Keys;
use portchurn::live::loader::{Loaded, Options, StackMode, load};
use portchurn::live::sites::Copies;
use portchurn::live::sizes::{Host, Wanted};
use portchurn::model::culprit::Rules;
use portchurn_common::flow::{Address, ChurnKey, KeyRef, Role};
use portchurn_common::settings::Filters;

fn loaded(keys: u32) -> Option<Loaded> {
    let options = Options {
        filters: Filters::NONE,
        filter_tgids: Vec::new(),
        filter_comm: None,
        filter_ports: Vec::new(),
        trace: false,
        stacks: StackMode::Off,
        culprits: Rules::default(),
        max_cpu_ratio: None,
        copies: Copies::default(),
        forced: Vec::new(),
        no_btf: false,
        no_members: Vec::new(),
        search_threads: false,
        wanted: Wanted { keys: Some(keys + 16), ..Wanted::default() },
        host: Host {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            tcp_sockets: 0,
        },
    };
    load(&options).map_err(|err| println!("SKIP drain: {err:#}")).ok()
}

fn fill(keys: &mut Keys, count: u32) -> Vec<KeyRef> {
    (0..count)
        .filter_map(|index| {
            let [_, a, b, c] = index.to_be_bytes();
            let remote = Address::from_v4([10, a, b, c]);
            keys.intern(&ChurnKey {
                tgid: 1,
                remote,
                port: 1,
                role: Role::Connect as u8,
                ..ChurnKey::default()
            })
        })
        .collect()
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("drain");
    group.sample_size(10);
    for count in [1_000, 10_000, 100_000] {
        let Some(Loaded { mut ebpf, sizes, .. }) = loaded(count) else { return };
        let mut keys = Keys::new(&mut ebpf, &sizes).expect("the maps were just made");
        let references = fill(&mut keys, count);
        assert_eq!(references.len(), count as usize, "room for every key");
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(BenchmarkId::new("all_changed", count), |b| {
            b.iter(|| {
                references.iter().for_each(|&key_ref| keys.count_before_attach(key_ref, 1));
                // The host goes on meanwhile and has keys of its own.
                assert!(black_box(keys.read(1)).len() >= count as usize);
            });
        });
        group.bench_function(BenchmarkId::new("none_changed", count), |b| b.iter(|| black_box(keys.read(1))));
    }
    group.finish();
}

criterion_group!(drain, benches);
criterion_main!(drain);
