//! What the tests of all operations share: random numbers, both devices, gradients, and an oracle in `f64`.

pub(crate) mod sequence;

use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cpu::simd::Level;

/// The relative distance allowed between a kernel's result and the truth: some eighty roundings of f32 (1.2e-7 each), as
/// long sums need.
pub(crate) const VALUES: f64 = 1e-5;

/// The same for gradients, which sum over whole sequences and batches.
pub(crate) const GRADIENTS: f64 = 1e-4;

/// The devices whose kernels are compiled in.
pub(crate) fn devices() -> Vec<Device> {
    vec![
        #[cfg(feature = "flex")]
        Device::flex(),
        #[cfg(feature = "ndarray")]
        Device::ndarray(),
    ]
}

/// Random numbers from a seed.
pub(crate) struct Random(ChaCha8Rng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// `count` numbers uniform between `low` and `high`.
    pub(crate) fn floats(&mut self, count: usize, low: f32, high: f32) -> Vec<f32> {
        (0..count).map(|_| low + (high - low) * self.0.random::<f32>()).collect()
    }

    /// `count` integers below `bound`.
    pub(crate) fn indices(&mut self, count: usize, bound: usize) -> Vec<usize> {
        (0..count).map(|_| self.0.random_range(0..bound)).collect()
    }
}

/// The outputs of a function and the gradients of its inputs.
pub(crate) struct Passes {
    pub(crate) outputs: Vec<Vec<f32>>,
    pub(crate) gradients: Vec<Vec<f32>>,
}

impl Passes {
    /// Every number, for comparisons of whole results.
    pub(crate) fn bits(&self) -> Vec<u32> {
        self.outputs.iter().chain(&self.gradients).flatten().map(|x| x.to_bits()).collect()
    }
}

/// A function from flat tensors to flat tensors; it reshapes what it gets as it likes.
pub(crate) trait Function: Fn(&[Tensor<1>]) -> Vec<Tensor<1>> {}
impl<F: Fn(&[Tensor<1>]) -> Vec<Tensor<1>>> Function for F {}

/// Runs `function` forward without automatic differentiation.
pub(crate) fn outputs(device: &Device, inputs: &[Vec<f32>], function: impl Function) -> Vec<Vec<f32>> {
    let tensors: Vec<_> = inputs.iter().map(|x| Tensor::from_data(TensorData::from(x.as_slice()), device)).collect();
    function(&tensors).into_iter().map(numbers).collect()
}

/// Runs `function` forward and backward, with `upstream` as the gradients of its outputs; an empty one is an output that
/// does not reach the loss.
pub(crate) fn passes(device: &Device, inputs: &[Vec<f32>], upstream: &[Vec<f32>], function: impl Function) -> Passes {
    let device = device.clone().autodiff();
    let flat = |x: &Vec<f32>| Tensor::<1>::from_data(TensorData::from(x.as_slice()), &device);
    let tensors: Vec<_> = inputs.iter().map(|x| flat(x).require_grad()).collect();
    let outputs = function(&tensors);
    let terms = outputs.iter().zip(upstream).filter(|(_, upstream)| !upstream.is_empty());
    let loss = terms.map(|(output, upstream)| (output.clone() * flat(upstream)).sum()).reduce(|a, b| a + b);
    let gradients = loss.expect("some output reaches the loss").backward();
    let gradient = |tensor: &Tensor<1>| tensor.grad(&gradients).map_or_else(Vec::new, numbers);
    Passes { gradients: tensors.iter().map(gradient).collect(), outputs: outputs.into_iter().map(numbers).collect() }
}

/// The elements of a tensor.
pub(crate) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().to_vec().expect("tests use f32")
}

/// The gradients of `Σ upstream · function(inputs)` by central differences in `f64`.
pub(crate) fn differences(
    inputs: &[Vec<f32>],
    upstream: &[Vec<f32>],
    function: impl Fn(&[Vec<f64>]) -> Vec<Vec<f64>>,
) -> Vec<Vec<f64>> {
    /// Leaves an error of about 1e-10 by truncation and 1e-11 by rounding.
    const STEP: f64 = 1e-5;
    let loss = |inputs: &[Vec<f64>]| -> f64 {
        let outputs = function(inputs);
        let terms = outputs.iter().zip(upstream).filter(|(_, upstream)| !upstream.is_empty());
        terms.map(|(output, upstream)| output.iter().zip(upstream).map(|(y, &g)| y * f64::from(g)).sum::<f64>()).sum()
    };
    let mut point = wide(inputs);
    let mut gradients = Vec::new();
    for i in 0..point.len() {
        let mut gradient = Vec::with_capacity(point[i].len());
        for j in 0..point[i].len() {
            let x = point[i][j];
            point[i][j] = x + STEP;
            let above = loss(&point);
            point[i][j] = x - STEP;
            let below = loss(&point);
            point[i][j] = x;
            gradient.push((above - below) / (2.0 * STEP));
        }
        gradients.push(gradient);
    }
    gradients
}

/// The same numbers in `f64`.
pub(crate) fn wide(arrays: &[Vec<f32>]) -> Vec<Vec<f64>> {
    arrays.iter().map(|array| array.iter().map(|&x| f64::from(x)).collect()).collect()
}

/// Asserts that each array is within `tolerance` of its truth, relative to the length of the truth as a vector.
#[track_caller]
pub(crate) fn assert_near(name: &str, actual: &[Vec<f32>], truth: &[Vec<f64>], tolerance: f64) {
    assert_within(name, actual, truth, |truth| tolerance * length(truth));
}

/// Asserts that each gradient is within [`GRADIENTS`] of its truth, relative to the length of the truth as a vector, or
/// to the length that it would have if its numbers were as large as those of all the gradients: a parameter's gradient
/// is a sum over tokens, and where its terms cancel no more is left than their rounding.
#[track_caller]
pub(crate) fn assert_gradients_near(name: &str, actual: &[Vec<f32>], truth: &[Vec<f64>]) {
    let (squares, count) = truth.iter().fold((0.0, 0), |(sum, n), x| (sum + length(x).powi(2), n + x.len()));
    let typical = (squares / count.max(1) as f64).sqrt();
    assert_within(name, actual, truth, |truth| GRADIENTS * length(truth).max(typical * (truth.len() as f64).sqrt()));
}

#[track_caller]
fn assert_within(name: &str, actual: &[Vec<f32>], truth: &[Vec<f64>], allowed: impl Fn(&[f64]) -> f64) {
    assert_eq!(actual.len(), truth.len(), "{name}: number of arrays");
    for (i, (actual, truth)) in actual.iter().zip(truth).enumerate() {
        assert_eq!(actual.len(), truth.len(), "{name}, array {i}: number of elements");
        let difference: Vec<_> = actual.iter().zip(truth).map(|(&x, y)| f64::from(x) - y).collect();
        let (distance, allowed) = (length(&difference), allowed(truth));
        assert!(distance <= allowed, "{name}, array {i}: off by {distance:.2e}, not {allowed:.2e}");
    }
}

/// The length of a vector.
fn length(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Runs `body` on a pool of so many threads.
pub(crate) fn on_threads<T: Send>(threads: usize, body: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool").install(body)
}

/// An operation beside its definition and its oracle, on one set of inputs.
pub(crate) struct Contract<'a, K, D, O> {
    /// What to call it in messages.
    pub(crate) name: String,
    pub(crate) inputs: &'a [Vec<f32>],
    pub(crate) upstream: &'a [Vec<f32>],
    pub(crate) kernel: K,
    pub(crate) definition: D,
    /// The definition in plain loops over `f64`.
    pub(crate) oracle: O,
}

impl<K: Function + Sync, D: Function, O: Fn(&[Vec<f64>]) -> Vec<Vec<f64>>> Contract<'_, K, D, O> {
    /// Asserts that kernel and definition compute the oracle's values, that the kernel's gradients are the definition's,
    /// and that neither the number of threads nor the instruction set matters, on every device.
    #[track_caller]
    pub(crate) fn assert_held(&self) {
        let Self { name, inputs, upstream, kernel, definition, oracle } = self;
        let truth = oracle(&wide(inputs));
        for device in devices() {
            assert_near(name, &outputs(&device, inputs, kernel), &truth, VALUES);
            assert_near(name, &outputs(&device, inputs, definition), &truth, VALUES);
            let passed = passes(&device, inputs, upstream, kernel);
            let defined = passes(&device, inputs, upstream, definition);
            assert_near(name, &passed.outputs, &truth, VALUES);
            assert_gradients_near(name, &passed.gradients, &wide(&defined.gradients));
            let on = |threads| on_threads(threads, || passes(&device, inputs, upstream, kernel).bits());
            assert!(on(1) == on(2) && on(1) == on(3), "{name}: the number of threads matters");
            for level in Level::supported() {
                let other = level.force(|| passes(&device, inputs, upstream, kernel));
                assert_near(&format!("{name}, {level:?}"), &other.outputs, &truth, VALUES);
                assert_gradients_near(&format!("{name}, {level:?}"), &other.gradients, &wide(&passed.gradients));
            }
        }
    }

    /// Asserts that the kernel's gradients are those of the oracle, by differences.
    #[track_caller]
    pub(crate) fn assert_gradients_of_the_oracle(&self) {
        let truth = differences(self.inputs, self.upstream, &self.oracle);
        let passed = passes(&devices()[0], self.inputs, self.upstream, &self.kernel);
        assert_gradients_near(&self.name, &passed.gradients, &truth);
    }
}
