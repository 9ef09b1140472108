//! How fast the operations on single tokens are: `cargo bench -p heddle-kernels --bench pointwise`.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Int, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use heddle_kernels::*;

/// That of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sequences, tokens of each, and the width of a token.
const SHAPE: [usize; 3] = [8, 1024, 256];
/// Rows of logits, and the vocabulary.
const LOGITS: [usize; 2] = [8192, 8192];
/// Heads of queries.
const HEADS: [usize; 4] = [8, 8, 1024, 32];

/// An operation on fixed inputs.
type Run = Box<dyn Fn() -> Tensor<1>>;

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let tensor = Tensor::random(shape, Distribution::Uniform(-2.0, 2.0), device);
    if device.is_autodiff() { tensor.require_grad() } else { tensor }
}

fn tokens<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    Tensor::random(shape, Distribution::Uniform(0.0, LOGITS[1] as f64), device)
}

fn measure(criterion: &mut Criterion, name: &str, prepare: impl Fn(&Device) -> Run) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    let plain = prepare(&Device::flex());
    group.bench_function(BenchmarkId::from_parameter("forward"), |bencher| bencher.iter(|| black_box(plain())));
    let tracked = prepare(&Device::flex().autodiff());
    group.bench_function(BenchmarkId::from_parameter("forward and backward"), |bencher| {
        bencher.iter(|| black_box(tracked().sum().backward()));
    });
    group.finish();
}

fn unary(criterion: &mut Criterion, name: &str, function: fn(Tensor<3>) -> Tensor<3>) {
    measure(criterion, name, |device| {
        let x = random(SHAPE, device);
        Box::new(move || function(x.clone()).flatten(0, 2))
    });
}

fn activations(criterion: &mut Criterion) {
    // What all that follow do besides: the sum of the outputs, and its gradient.
    unary(criterion, "sum alone", |x| x);
    unary(criterion, "silu", silu);
    unary(criterion, "silu, by definition", silu_by_definition);
    unary(criterion, "gelu", gelu);
    unary(criterion, "gelu, by definition", gelu_by_definition);
    unary(criterion, "softplus", softplus);
    unary(criterion, "softplus, by definition", softplus_by_definition);
    for (name, function) in
        [("silu_mul", silu_mul as fn(_, _) -> _), ("silu_mul, by definition", silu_mul_by_definition)]
    {
        measure(criterion, name, |device| {
            let (gate, x) = (random(SHAPE, device), random(SHAPE, device));
            Box::new(move || function(gate.clone(), x.clone()).flatten(0, 2))
        });
    }
}

fn tokenwise(criterion: &mut Criterion) {
    for (name, norm) in
        [("rms_norm", rms_norm as fn(_, _, _) -> _), ("rms_norm, by definition", rms_norm_by_definition)]
    {
        measure(criterion, name, |device| {
            let (x, gamma) = (random(SHAPE, device), random([SHAPE[2]], device));
            Box::new(move || norm(x.clone(), gamma.clone(), 1e-5).flatten(0, 2))
        });
    }
    measure(criterion, "layer_norm", |device| {
        let (x, gamma) = (random(SHAPE, device), random([SHAPE[2]], device));
        Box::new(move || layer_norm(x.clone(), gamma.clone(), None, 1e-5).flatten(0, 2))
    });
    measure(criterion, "gated_rms_norm", |device| {
        let (x, gate, gamma) = (random(SHAPE, device), random(SHAPE, device), random([SHAPE[2]], device));
        let norm = GatedNorm { groups: 1, order: GateOrder::Before, eps: 1e-5 };
        Box::new(move || gated_rms_norm(x.clone(), gate.clone(), gamma.clone(), norm).flatten(0, 2))
    });
    for (name, embed) in [("embed", embed as fn(_, _) -> _), ("embed, by definition", embed_by_definition)] {
        measure(criterion, name, |device| {
            let (weight, tokens) = (random([LOGITS[1], SHAPE[2]], device), tokens([SHAPE[0], SHAPE[1]], device));
            Box::new(move || embed(weight.clone(), tokens.clone()).flatten(0, 2))
        });
    }
    for (name, loss) in [
        ("cross_entropy", cross_entropy_at as fn(_, _) -> _),
        ("cross_entropy, by definition", cross_entropy_by_definition),
    ] {
        measure(criterion, name, |device| {
            let (logits, targets) = (random(LOGITS, device), tokens([LOGITS[0]], device));
            Box::new(move || loss(logits.clone(), targets.clone()))
        });
    }
    for (name, rotate) in [("rotate", rotate as fn(_, &_) -> _), ("rotate, by definition", rotate_by_definition)] {
        measure(criterion, name, |device| {
            let (x, rotary) = (random(HEADS, device), Rotary::new(10_000.0, HEADS[3], Pairing::Halves, 0));
            Box::new(move || rotate(x.clone(), &rotary).flatten(0, 3))
        });
    }
}

/// A step on ten million parameters.
fn update(criterion: &mut Criterion) {
    let device = Device::flex();
    let draw = || Tensor::<1>::random([10_000_000], Distribution::Uniform(0.0, 1.0), &device);
    let (parameter, gradient, first, second) = (draw(), draw(), draw(), draw());
    let rule =
        AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, gradient_scale: 1.0, step: 10 };
    type Step = fn(Tensor<1>, Tensor<1>, Moments, &AdamW) -> (Tensor<1>, Moments);
    for (name, step) in [("adamw", adamw as Step), ("adamw, by definition", adamw_by_definition)] {
        let moments = || Moments { first: first.clone(), second: second.clone() };
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| black_box(step(parameter.clone(), gradient.clone(), moments(), &rule)));
        });
    }
}

criterion_group!(all, activations, tokenwise, update);
criterion_main!(all);
