//! How fast the time loops of recurrent layers are: `cargo bench -p heddle-kernels --bench recurrence`.

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use heddle_kernels::{
    ComplexInput, GruInput, LstmInput, complex_recurrence, complex_recurrence_by_definition, gru, gru_by_definition,
    linear_recurrence, linear_recurrence_by_definition, lstm, lstm_by_definition,
};

/// That of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Sequences.
const B: usize = 8;
/// Channels of the linear and of the complex recurrence.
const E: usize = 256;
/// Complex states of a channel.
const N: usize = 16;
/// Width of LSTM and GRU.
const D: usize = 128;

/// `h` and `c`.
type LstmState = (Tensor<2>, Tensor<2>);

/// A recurrence on fixed inputs: what it says of every token.
type Run = Box<dyn Fn() -> Tensor<3>>;

fn random<const D: usize>(shape: [usize; D], bound: f64, device: &Device) -> Tensor<D> {
    let tensor = Tensor::random(shape, Distribution::Uniform(-bound, bound), device);
    if device.is_autodiff() { tensor.require_grad() } else { tensor }
}

fn linear(
    recur: fn(Tensor<3>, Tensor<3>, Tensor<2>) -> (Tensor<3>, Tensor<2>),
    [b, l]: [usize; 2],
    device: &Device,
) -> Run {
    let [decay, x] = [1.0, 1.0].map(|bound| random([b, l, E], bound, device));
    let state = Tensor::zeros([b, E], device);
    Box::new(move || recur(decay.clone(), x.clone(), state.clone()).0)
}

fn complex(
    recur: fn(ComplexInput, [Tensor<3>; 2]) -> (Tensor<3>, [Tensor<3>; 2]),
    [b, l]: [usize; 2],
    device: &Device,
) -> Run {
    let input = ComplexInput {
        decay: [0.7, 0.7].map(|bound| random([E, N], bound, device)),
        u: random([b, l, E], 1.0, device),
        read: [1.0, 1.0].map(|bound| random([E, N], bound, device)),
        skip: random([E], 1.0, device),
    };
    let state = [0, 1].map(|_| Tensor::zeros([b, E, N], device));
    Box::new(move || recur(input.clone(), state.clone()).0)
}

fn long_short_term(
    recur: fn(LstmInput, LstmState) -> (Tensor<3>, LstmState),
    [b, l]: [usize; 2],
    device: &Device,
) -> Run {
    let input = LstmInput { gates: random([b, l, 4 * D], 1.0, device), weight: random([D, 4 * D], 0.09, device) };
    let state = (Tensor::zeros([b, D], device), Tensor::zeros([b, D], device));
    Box::new(move || recur(input.clone(), state.clone()).0)
}

fn gated(recur: fn(GruInput, Tensor<2>) -> (Tensor<3>, Tensor<2>), [b, l]: [usize; 2], device: &Device) -> Run {
    let input = GruInput {
        gates: random([b, l, 3 * D], 1.0, device),
        weight: random([D, 3 * D], 0.09, device),
        bias: random([D], 0.09, device),
    };
    let state = Tensor::zeros([b, D], device);
    Box::new(move || recur(input.clone(), state.clone()).0)
}

fn measure(criterion: &mut Criterion, name: &str, [b, l]: [usize; 2], prepare: impl Fn([usize; 2], &Device) -> Run) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10);
    let shape = format!("{b}x{l}");
    let plain = prepare([b, l], &Device::flex());
    group.bench_function(BenchmarkId::new("forward", &shape), |bencher| bencher.iter(|| black_box(plain())));
    let tracked = prepare([b, l], &Device::flex().autodiff());
    group.bench_function(BenchmarkId::new("forward and backward", &shape), |bencher| {
        bencher.iter(|| black_box(tracked().sum().backward()));
    });
    group.finish();
}

fn benchmarks(criterion: &mut Criterion) {
    for l in [1024, 4096] {
        measure(criterion, "linear", [B, l], |shape, device| linear(linear_recurrence, shape, device));
    }
    measure(criterion, "complex", [B, 1024], |shape, device| complex(complex_recurrence, shape, device));
    // Short and long sequences, a large batch, one sequence, and a token of decoding.
    for shape in [[B, 256], [B, 1024], [64, 256], [1, 256], [1, 1]] {
        measure(criterion, "lstm", shape, |shape, device| long_short_term(lstm, shape, device));
        measure(criterion, "gru", shape, |shape, device| gated(gru, shape, device));
    }
    // Under automatic differentiation a definition takes time quadratic in the length.
    let shape = [B, 256];
    let name = |name: &str| format!("{name}, by definition");
    measure(criterion, &name("linear"), shape, |shape, device| linear(linear_recurrence_by_definition, shape, device));
    measure(criterion, &name("complex"), shape, |shape, device| {
        complex(complex_recurrence_by_definition, shape, device)
    });
    measure(criterion, &name("lstm"), shape, |shape, device| long_short_term(lstm_by_definition, shape, device));
    measure(criterion, &name("gru"), shape, |shape, device| gated(gru_by_definition, shape, device));
}

criterion_group!(all, benchmarks);
criterion_main!(all);
