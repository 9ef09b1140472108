//! How fast attention is, forward and with its gradients: `cargo bench -p heddle-kernels --bench attention`.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use heddle_kernels::{AttentionInput, AttentionRule, attention, attention_by_definition};

/// That of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Attend = fn(AttentionInput, AttentionRule) -> Tensor<4>;

/// Sequences.
const B: usize = 8;
/// Heads.
const H: usize = 4;
/// Width of a head.
const P: usize = 32;

fn random(shape: [usize; 4], device: &Device) -> Tensor<4> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

fn forward(criterion: &mut Criterion, name: &str, length: usize, rule: &AttentionRule, attend: Attend) {
    let device = Device::flex();
    let [q, k, v] = [(); 3].map(|()| random([B, H, length, P], &device));
    let input = AttentionInput { q, k, v, slopes: None };
    let mut group = criterion.benchmark_group("attention/forward");
    group.sample_size(10);
    group.bench_function(BenchmarkId::new(name, length), |bencher| {
        bencher.iter(|| black_box(attend(input.clone(), rule.clone())));
    });
    group.finish();
}

fn both(criterion: &mut Criterion, name: &str, length: usize, rule: &AttentionRule, attend: Attend) {
    let device = Device::flex().autodiff();
    let [q, k, v] = [(); 3].map(|()| random([B, H, length, P], &device).require_grad());
    let upstream = random([B, H, length, P], &device);
    let input = AttentionInput { q, k, v, slopes: None };
    let mut group = criterion.benchmark_group("attention/forward and backward");
    group.sample_size(10);
    group.bench_function(BenchmarkId::new(name, length), |bencher| {
        bencher.iter(|| black_box((attend(input.clone(), rule.clone()) * upstream.clone()).sum().backward()));
    });
    group.finish();
}

/// One token of each sequence over a cache of keys.
fn decoding(criterion: &mut Criterion, length: usize) {
    let device = Device::flex();
    let [k, v] = [(); 2].map(|()| random([B, H, length, P], &device));
    let input = AttentionInput { q: random([B, H, 1, P], &device), k, v, slopes: None };
    let rule = AttentionRule::causal(P, length - 1);
    let mut group = criterion.benchmark_group("attention/decoding");
    group.bench_function(BenchmarkId::new("causal", length), |bencher| {
        bencher.iter(|| black_box(attention(input.clone(), rule.clone())));
    });
    group.finish();
}

fn benchmarks(criterion: &mut Criterion) {
    let causal = AttentionRule::causal(P, 0);
    let window = AttentionRule { window: Some(256), ..causal.clone() };
    for (name, rule, lengths) in [("causal", &causal, [1024, 4096]), ("window 256", &window, [4096, 16384])] {
        for length in lengths {
            forward(criterion, name, length, rule, attention);
            both(criterion, name, length, rule, attention);
        }
    }
    forward(criterion, "causal, by definition", 1024, &causal, attention_by_definition);
    both(criterion, "causal, by definition", 1024, &causal, attention_by_definition);
    for length in [1024, 16384] {
        decoding(criterion, length);
    }
}

criterion_group!(all, benchmarks);
criterion_main!(all);
