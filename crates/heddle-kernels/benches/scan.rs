//! How fast the selective scan and the convolution before it are: `cargo bench -p heddle-kernels --bench scan`.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use heddle_kernels::{
    ConvInput, GatedScanInput, ScanInput, causal_conv, causal_conv_by_definition, gated_scan, scan_by_definition,
    selective_scan, silu_mul, softplus,
};

/// That of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sequences.
const B: usize = 8;
/// Channels: those of a Mamba block of width 128.
const E: usize = 256;
/// State of a channel.
const N: usize = 16;
/// Width of the convolution.
const K: usize = 4;

/// A scan or a convolution on fixed inputs: outputs and last state.
type Run = Box<dyn Fn() -> (Tensor<3>, Tensor<3>)>;

fn random<const D: usize>(shape: [usize; D], low: f64, high: f64, device: &Device) -> Tensor<D> {
    let tensor = Tensor::random(shape, Distribution::Uniform(low, high), device);
    if device.is_autodiff() { tensor.require_grad() } else { tensor }
}

fn scan_input([b, l, e, n]: [usize; 4], device: &Device) -> ScanInput {
    ScanInput {
        u: random([b, l, e], -1.0, 1.0, device),
        delta: random([b, l, e], 0.001, 0.1, device),
        a: random([e, n], -16.0, -1.0, device),
        write: random([b, l, n], -1.0, 1.0, device),
        read: random([b, l, n], -1.0, 1.0, device),
        skip: random([e], 0.5, 1.5, device),
    }
}

fn scan(scan: fn(ScanInput, Tensor<3>) -> (Tensor<3>, Tensor<3>), shape: [usize; 4], device: &Device) -> Run {
    let [b, _, e, n] = shape;
    let (input, state) = (scan_input(shape, device), Tensor::zeros([b, e, n], device));
    Box::new(move || scan(input.clone(), state.clone()))
}

fn gated(scan: fn(GatedScanInput, Tensor<3>) -> (Tensor<3>, Tensor<3>), l: usize, device: &Device) -> Run {
    let input = GatedScanInput {
        scan: scan_input([B, l, E, N], device),
        delta_bias: Some(random([E], -6.0, -2.0, device)),
        softplus: true,
        gate: Some(random([B, l, E], -2.0, 2.0, device)),
    };
    let state = Tensor::zeros([B, E, N], device);
    Box::new(move || scan(input.clone(), state.clone()))
}

/// What a gated scan does, one kernel after the other.
fn gated_in_steps(input: GatedScanInput, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let GatedScanInput { mut scan, delta_bias, gate, .. } = input;
    let bias = delta_bias.expect("the benchmark has a bias").unsqueeze();
    scan.delta = softplus(scan.delta + bias);
    let (y, state) = selective_scan(scan, state);
    (silu_mul(gate.expect("the benchmark has a gate"), y), state)
}

fn conv(conv: fn(ConvInput, Tensor<3>) -> (Tensor<3>, Tensor<3>), l: usize, device: &Device) -> Run {
    let input = ConvInput {
        x: random([B, l, E], -1.0, 1.0, device),
        weight: random([E, K], -0.5, 0.5, device),
        bias: Some(random([E], -0.5, 0.5, device)),
        silu: true,
    };
    let state = Tensor::zeros([B, K - 1, E], device);
    Box::new(move || conv(input.clone(), state.clone()))
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
    for length in [256, 1024, 4096] {
        measure(criterion, "scan", length, |device| scan(selective_scan, [B, length, E, N], device));
        measure(criterion, "gated scan", length, |device| gated(gated_scan, length, device));
        measure(criterion, "gated scan, in steps", length, |device| gated(gated_in_steps, length, device));
        measure(criterion, "convolution", length, |device| conv(causal_conv, length, device));
    }
    // Under automatic differentiation the definition takes time quadratic in the length.
    measure(criterion, "scan, by definition", 256, |device| scan(scan_by_definition, [B, 256, E, N], device));
    // A token of decoding.
    measure(criterion, "scan, one sequence", 1, |device| scan(selective_scan, [1, 1, E, N], device));
    measure(criterion, "scan, one sequence, by definition", 1, |device| scan(scan_by_definition, [1, 1, E, N], device));
    // One sequence, which only its channels can divide among the threads.
    measure(criterion, "scan, one sequence", 1024, |device| scan(selective_scan, [1, 1024, E, N], device));
    measure(criterion, "convolution, by definition", 1024, |device| conv(causal_conv_by_definition, 1024, device));
}

criterion_group!(all, benchmarks);
criterion_main!(all);
