//! How fast state-space duality is: `cargo bench -p heddle-kernels --bench ssd`.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use heddle_kernels::{SsdInput, ssd, ssd_by_definition};

/// That of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `[b, h, p, n]` of the inner part of a Mamba-2 block of width 128 on eight sequences.
const SMALL: [usize; 4] = [8, 8, 32, 16];
/// The same of a layer of the published model of 130 million parameters.
const PUBLISHED: [usize; 4] = [1, 24, 64, 128];

type Duality = fn(SsdInput, Tensor<4>) -> (Tensor<4>, Tensor<4>);

/// A call on fixed inputs: outputs and last state.
type Run = Box<dyn Fn() -> (Tensor<4>, Tensor<4>)>;

fn random<const D: usize>(shape: [usize; D], low: f64, high: f64, device: &Device) -> Tensor<D> {
    let tensor = Tensor::random(shape, Distribution::Uniform(low, high), device);
    if device.is_autodiff() { tensor.require_grad() } else { tensor }
}

/// A call with one group.
fn call(duality: Duality, [b, h, p, n]: [usize; 4], l: usize, device: &Device) -> Run {
    let input = SsdInput {
        x: random([b, l, h, p], -1.0, 1.0, device),
        delta: random([b, l, h], -1.0, 1.0, device),
        delta_bias: Some(random([h], -6.0, -2.0, device)),
        softplus: true,
        a: random([h], -16.0, -1.0, device),
        write: random([b, l, 1, n], -1.0, 1.0, device),
        read: random([b, l, 1, n], -1.0, 1.0, device),
        skip: Some(random([h], 0.5, 1.5, device)),
    };
    let state = Tensor::zeros([b, h, p, n], device);
    Box::new(move || duality(input.clone(), state.clone()))
}

fn measure(criterion: &mut Criterion, name: &str, length: usize, prepare: impl Fn(&Device) -> Run) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    let plain = prepare(&Device::flex());
    group.bench_function(BenchmarkId::new("forward", length), |bencher| bencher.iter(|| black_box(plain())));
    let tracked = prepare(&Device::flex().autodiff());
    group.bench_function(BenchmarkId::new("forward and backward", length), |bencher| {
        bencher.iter(|| black_box(tracked().0.sum().backward()));
    });
    group.finish();
}

fn benchmarks(criterion: &mut Criterion) {
    for length in [256, 1024] {
        measure(criterion, "ssd", length, |device| call(ssd, SMALL, length, device));
    }
    measure(criterion, "ssd, published layer", 2048, |device| call(ssd, PUBLISHED, 2048, device));
    // Under automatic differentiation the definition takes time quadratic in the length.
    measure(criterion, "ssd, by definition", 256, |device| call(ssd_by_definition, SMALL, 256, device));
    // A token of decoding.
    measure(criterion, "ssd, published layer", 1, |device| call(ssd, PUBLISHED, 1, device));
}

criterion_group!(all, benchmarks);
criterion_main!(all);
