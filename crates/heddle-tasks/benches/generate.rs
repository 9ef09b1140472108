//! Speed of generation: examples and tokens per second, one thread and all of them.
#![allow(missing_docs)] // The macros of criterion define public items without documentation.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use heddle_tasks::batch::{Batch, Stretch, fill_batch};
use heddle_tasks::mqar::{Filler, Mqar, MqarSettings, TrainSegment};
use heddle_tasks::{Example, Split, Task, TaskRegistry};

/// (length, pairs): the published ones, a long one, and one with few pairs in much filler.
const SHAPES: [(usize, usize); 5] = [(64, 4), (256, 64), (1024, 256), (4096, 256), (65536, 64)];
const BATCH: usize = 64;

fn mqar(filler: Filler) -> Mqar {
    let train = SHAPES.map(|(length, pairs)| TrainSegment { length, pairs, weight: 1.0, examples: None }).to_vec();
    Mqar::new(MqarSettings { filler, train, ..MqarSettings::default() }).expect("the settings are in range")
}

fn one_thread(criterion: &mut Criterion) {
    for (unit, per_example) in [("examples", false), ("tokens", true)] {
        let mut group = criterion.benchmark_group(format!("mqar, one thread, {unit}"));
        for (name, filler) in [("disjoint", Filler::Disjoint), ("zero", Filler::Zero)] {
            let task = mqar(filler);
            for (slice, (length, pairs)) in SHAPES.into_iter().enumerate() {
                group.throughput(Throughput::Elements(if per_example { length as u64 } else { 1 }));
                let id = BenchmarkId::new(name, format!("length={length},pairs={pairs}"));
                let (mut example, mut index) = (Example::default(), 0);
                group.bench_function(id, |bencher| {
                    bencher.iter(|| {
                        task.example(Split::Train, slice, 0, index, &mut example);
                        index += 1;
                        black_box(&example);
                    });
                });
            }
        }
    }
}

fn all_threads(criterion: &mut Criterion) {
    let task = mqar(Filler::Disjoint);
    for (unit, per_example) in [("examples", false), ("tokens", true)] {
        let mut group = criterion.benchmark_group(format!("mqar, batches of {BATCH}, all threads, {unit}"));
        for (slice, (length, pairs)) in SHAPES.into_iter().enumerate() {
            let per_row = if per_example { length } else { 1 };
            group.throughput(Throughput::Elements((BATCH * per_row) as u64));
            let id = BenchmarkId::from_parameter(format!("length={length},pairs={pairs}"));
            let (mut batch, mut index) = (Batch::default(), 0);
            group.bench_function(id, |bencher| {
                bencher.iter(|| {
                    let stretch = Stretch { split: Split::Train, slice, seed: 0, first: index, count: BATCH };
                    fill_batch(&task, stretch, &mut batch);
                    index += BATCH as u64;
                    black_box(&batch);
                });
            });
        }
    }
}

/// Every other task at 4096 tokens, as settings of the slice trained on.
const SUITE: &[(&str, &str)] = &[
    ("char_lm", r#"{"train": [{"length": 4096}]}"#),
    ("common_words", r#"{"vocab": 2048, "train": [{"length": 4096}]}"#),
    ("compositional_recall", r#"{"train": [{"length": 4096, "pairs": 256}]}"#),
    ("compression", r#"{"train": [{"length": 4096}]}"#),
    ("copying", r#"{"train": [{"length": 4096}]}"#),
    ("coreference", r#"{"train": [{"length": 4096}]}"#),
    ("dyck", r#"{"train": [{"length": 4096, "depth": 8}]}"#),
    ("forgetting_recall", r#"{"train": [{"length": 4096, "pairs": 256, "updates": 128}]}"#),
    ("frequent_words", r#"{"train": [{"length": 4096}]}"#),
    ("fuzzy_recall", r#"{"train": [{"length": 4096}]}"#),
    ("in_context_recall", r#"{"train": [{"length": 4096}]}"#),
    ("induction", r#"{"train": [{"length": 4096}]}"#),
    ("listops", r#"{"train": [{"length": 4096}]}"#),
    ("memorization", r#"{"train": [{"length": 4096}]}"#),
    ("modular_counting", r#"{"train": [{"length": 4096}]}"#),
    ("multi_hop", r#"{"nodes": 2048, "train": [{"length": 4096, "hops": 16}]}"#),
    ("multi_pass_recall", r#"{"train": [{"length": 4096, "pairs": 256}]}"#),
    ("needle", r#"{"train": [{"length": 4096, "haystack": "needles", "key_digits": 4, "value_digits": 4}]}"#),
    ("needle", r#"{"train": [{"length": 4096, "haystack": "text", "keys": 4, "queries": 4}]}"#),
    ("needle", r#"{"train": [{"length": 4096}]}"#),
    ("ngram_lookup", r#"{"train": [{"length": 4096}]}"#),
    ("noisy_recall", r#"{"train": [{"length": 4096}]}"#),
    ("parity", r#"{"train": [{"length": 4096}]}"#),
    ("passkey", r#"{"train": [{"length": 4096}]}"#),
    ("phonebook", r#"{"train": [{"length": 4096}]}"#),
    ("selective_copying", r#"{"layout": "mamba", "train": [{"length": 4096}]}"#),
    ("variable_tracking", r#"{"train": [{"length": 4096}]}"#),
    ("word_problem", r#"{"train": [{"length": 4096}]}"#),
];

fn suite(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("every task, batches of {BATCH}, all threads, tokens"));
    for &(kind, settings) in SUITE {
        let settings = serde_json::from_str(settings).expect("the settings are JSON");
        let task = TaskRegistry::builtin().build(kind, &settings).expect("the settings are in range");
        let length = task.slices(Split::Train)[0].length;
        group.throughput(Throughput::Elements((BATCH * length) as u64));
        let (mut batch, mut index) = (Batch::default(), 0);
        let name = &task.slices(Split::Train)[0].name;
        group.bench_function(BenchmarkId::new(kind, name), |bencher| {
            bencher.iter(|| {
                let stretch = Stretch { split: Split::Train, slice: 0, seed: 0, first: index, count: BATCH };
                fill_batch(task.as_ref(), stretch, &mut batch);
                index += BATCH as u64;
                black_box(&batch);
            });
        });
    }
}

criterion_group!(benches, one_thread, all_threads, suite);
criterion_main!(benches);
