//! How fast the gated delta rule and the normalisation before it are: `cargo bench -p heddle-kernels --bench delta`.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use heddle_kernels::{DeltaInput, delta_rule, delta_rule_by_definition, l2_normalize, l2_normalize_by_definition};

/// That of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `[b, h, g, p, n]` of a small model.
const SMALL: [usize; 5] = [8, 8, 8, 32, 32];
/// One sequence of the paper's head size.
const LARGE: [usize; 5] = [1, 16, 16, 128, 128];

type Rule = fn(DeltaInput, Tensor<4>) -> (Tensor<4>, Tensor<4>);

/// An operation on fixed inputs.
type Run = Box<dyn Fn() -> Tensor<4>>;

fn random<const D: usize>(shape: [usize; D], low: f64, high: f64, device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(low, high), device)
}

fn leaf<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.device().is_autodiff() { tensor.detach().require_grad() } else { tensor }
}

fn rule(rule: Rule, [b, h, g, p, n]: [usize; 5], l: usize, device: &Device) -> Run {
    let input = DeltaInput {
        q: leaf(l2_normalize(random([b, l, g, n], -1.0, 1.0, device), 1e-6)),
        k: leaf(l2_normalize(random([b, l, g, n], -1.0, 1.0, device), 1e-6)),
        v: leaf(random([b, l, h, p], -1.0, 1.0, device)),
        beta: leaf(random([b, l, h], 0.1, 0.9, device)),
        log_decay: Some(leaf(random([b, l, h], -0.2, -0.01, device))),
    };
    let state = Tensor::zeros([b, h, p, n], device);
    Box::new(move || rule(input.clone(), state.clone()).0)
}

fn norm(norm: fn(Tensor<4>, f64) -> Tensor<4>, device: &Device) -> Run {
    let x = leaf(random([8, 1024, 8, 32], -1.0, 1.0, device));
    Box::new(move || norm(x.clone(), 1e-6))
}

fn measure(criterion: &mut Criterion, name: &str, length: usize, prepare: impl Fn(&Device) -> Run) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    let plain = prepare(&Device::flex());
    group.bench_function(BenchmarkId::new("forward", length), |bencher| bencher.iter(|| black_box(plain())));
    let tracked = prepare(&Device::flex().autodiff());
    group.bench_function(BenchmarkId::new("forward and backward", length), |bencher| {
        bencher.iter(|| black_box(tracked().sum().backward()));
    });
    group.finish();
}

fn benchmarks(criterion: &mut Criterion) {
    for length in [256, 1024] {
        measure(criterion, "delta rule", length, |device| rule(delta_rule, SMALL, length, device));
    }
    measure(criterion, "delta rule, large heads", 2048, |device| rule(delta_rule, LARGE, 2048, device));
    // Under automatic differentiation the definition takes time quadratic in the length.
    measure(criterion, "delta rule, by definition", 256, |device| rule(delta_rule_by_definition, SMALL, 256, device));
    // A token of decoding.
    for (name, shape) in [("delta rule", SMALL), ("delta rule, large heads", LARGE)] {
        measure(criterion, name, 1, |device| rule(delta_rule, shape, 1, device));
    }
    measure(criterion, "delta rule, by definition", 1, |device| rule(delta_rule_by_definition, SMALL, 1, device));
    measure(criterion, "l2_normalize", 1024, |device| norm(l2_normalize, device));
    measure(criterion, "l2_normalize, by definition", 1024, |device| norm(l2_normalize_by_definition, device));
}

criterion_group!(all, benchmarks);
criterion_main!(all);
