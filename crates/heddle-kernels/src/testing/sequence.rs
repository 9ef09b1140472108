//! What the tests of all kernels that carry a state claim beyond the contract of a kernel.

use burn::tensor::{DType, Device, Tensor};

use crate::testing::{
    Contract, Function, Passes, Random, VALUES, assert_gradients_near, assert_near, devices, passes, wide,
};

/// Draws arrays for a shape.
type Draw<const N: usize> = fn([usize; N], &mut Random) -> Vec<Vec<f32>>;

/// A definition in plain loops over `f64`, at a shape.
type Oracle<const N: usize> = fn([usize; N], &[Vec<f64>]) -> Vec<Vec<f64>>;

/// A kernel, its definition and its oracle at shapes of `N` axes.
pub(crate) struct Suite<'a, const N: usize, K, D> {
    pub(crate) shapes: &'a [[usize; N]],
    /// Draws the inputs.
    pub(crate) sample: Draw<N>,
    /// Draws the gradients of the outputs.
    pub(crate) sample_upstream: Draw<N>,
    pub(crate) kernel: K,
    pub(crate) definition: D,
    pub(crate) oracle: Oracle<N>,
    /// The gradients of smaller shapes are also compared with differences of the oracle.
    pub(crate) differences_below: usize,
}

impl<const N: usize, K, D, KernelAt, DefinitionAt> Suite<'_, N, K, D>
where
    K: Fn([usize; N]) -> KernelAt,
    D: Fn([usize; N]) -> DefinitionAt,
    KernelAt: Function + Sync,
    DefinitionAt: Function,
{
    /// Asserts the contract at every shape.
    #[track_caller]
    pub(crate) fn assert_held(&self) {
        for (seed, &shape) in self.shapes.iter().enumerate() {
            let mut random = Random::new(seed as u64);
            let inputs = (self.sample)(shape, &mut random);
            let upstream = (self.sample_upstream)(shape, &mut random);
            let contract = Contract {
                name: format!("{shape:?}"),
                inputs: &inputs,
                upstream: &upstream,
                kernel: (self.kernel)(shape),
                definition: (self.definition)(shape),
                oracle: |x: &[Vec<f64>]| (self.oracle)(shape, x),
            };
            contract.assert_held();
            if shape.iter().product::<usize>() < self.differences_below {
                contract.assert_gradients_of_the_oracle();
            }
        }
    }
}

/// Asserts that a loss of one output alone has that output's gradients.
#[track_caller]
pub(crate) fn assert_outputs_count_alone(
    inputs: &[Vec<f32>],
    upstream: &[Vec<f32>],
    kernel: impl Function,
    definition: impl Function,
) {
    for device in devices() {
        for present in 0..upstream.len() {
            let mut alone = vec![vec![]; upstream.len()];
            alone[present].clone_from(&upstream[present]);
            // The definition may leave a gradient out where the kernel gives zeros.
            let mut among_zeros: Vec<Vec<f32>> = upstream.iter().map(|g| vec![0.0; g.len()]).collect();
            among_zeros[present].clone_from(&upstream[present]);
            let ours = passes(&device, inputs, &alone, &kernel);
            let truth = passes(&device, inputs, &among_zeros, &definition);
            assert_gradients_near(&format!("output {present}"), &ours.gradients, &wide(&truth.gradients));
        }
    }
}

/// Asserts that two pieces of a sequence, cut at any of these tokens, are the whole.
#[track_caller]
pub(crate) fn assert_pieces_equal_the_whole<F: Function>(
    inputs: &[Vec<f32>],
    upstream: &[Vec<f32>],
    whole: impl Function,
    cuts: &[usize],
    pieces: impl Fn(usize) -> F,
) {
    for device in devices() {
        let whole = passes(&device, inputs, upstream, &whole);
        for &cut in cuts {
            let split = passes(&device, inputs, upstream, pieces(cut));
            assert_near(&format!("values, cut {cut}"), &split.outputs, &wide(&whole.outputs), VALUES);
            assert_gradients_near(&format!("gradients, cut {cut}"), &split.gradients, &wide(&whole.gradients));
        }
    }
}

/// Asserts that no output and no gradient is infinite or not a number, and returns them.
#[track_caller]
pub(crate) fn assert_finite(name: &str, inputs: &[Vec<f32>], upstream: &[Vec<f32>], kernel: impl Function) -> Passes {
    let result = passes(&Device::flex(), inputs, upstream, kernel);
    assert!(result.outputs.iter().chain(&result.gradients).flatten().all(|x| x.is_finite()), "{name}");
    result
}

/// Asserts that tensors that do not lie in order are read as they are meant.
#[track_caller]
pub(crate) fn assert_strides_are_read(
    inputs: &[Vec<f32>],
    upstream: &[Vec<f32>],
    kernel: impl Function,
    strided: impl Function,
) {
    for device in devices() {
        let truth = passes(&device, inputs, upstream, &kernel);
        let result = passes(&device, inputs, upstream, &strided);
        assert_near("values", &result.outputs, &wide(&truth.outputs), VALUES);
        assert_gradients_near("gradients", &result.gradients, &wide(&truth.gradients));
    }
}

/// Asserts that tensors of f64, for which there is no kernel, give the oracle's first output to the accuracy of f64.
#[track_caller]
pub(crate) fn assert_wide_numbers_stay_wide(inputs: &[Vec<f32>], function: impl Function, truth: &[Vec<f64>]) {
    let cast = |x: &Vec<f32>| Tensor::<1>::from_data(x.as_slice(), &Device::flex()).cast(DType::F64);
    let tensors: Vec<_> = inputs.iter().map(cast).collect();
    let y: Vec<f64> = function(&tensors).remove(0).into_data().to_vec().expect("f64 stays f64");
    assert!(y.iter().zip(&truth[0]).all(|(y, truth)| (y - truth).abs() < 1e-12));
}

/// A matrix that lies column after column, and a sequence token after token of all sequences.
pub(crate) fn turned<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let mut shape = x.dims();
    shape.swap(0, 1);
    let count: usize = shape.iter().product();
    let transposed = x.swap_dims(0, 1).reshape([count]).reshape(shape);
    transposed.swap_dims(0, 1)
}
