//! AdamW, one pass over a parameter.

mod cpu;
mod definition;
#[cfg(test)]
mod tests;

use burn::tensor::Tensor;

pub use definition::adamw_by_definition;

use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};

/// The settings of one step of AdamW.
///
/// The decay is decoupled: it shrinks a parameter that has no gradient at all by `lr · weight_decay`:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{AdamW, Moments, adamw};
///
/// let zeros = || Tensor::<1>::zeros([1], &Device::flex());
/// let rule = AdamW {
///     lr: 0.5, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.5, gradient_scale: 1.0, step: 1,
/// };
/// let moments = Moments { first: zeros(), second: zeros() };
/// let (parameter, _) = adamw(Tensor::full([1], 8.0, &Device::flex()), zeros(), moments, &rule);
/// assert_eq!(parameter.into_scalar::<f32>(), 6.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// How much of the first moment stays.
    pub beta1: f64,
    /// How much of the second moment stays.
    pub beta2: f64,
    /// What is added to the root of the second moment.
    pub epsilon: f64,
    /// Decay of the parameter, in units of the learning rate.
    pub weight_decay: f64,
    /// What the gradient is multiplied by first, as clipping asks.
    pub gradient_scale: f64,
    /// The number of this step, from one.
    pub step: u64,
}

/// The running means of a parameter's gradient and of its square, as AdamW keeps them.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{AdamW, Moments, adamw};
///
/// let [zero, four] = [0.0, 4.0].map(|x| Tensor::<1>::full([1], x, &Device::flex()));
/// let rule = AdamW {
///     lr: 0.1, beta1: 0.5, beta2: 0.75, epsilon: 1e-8, weight_decay: 0.0, gradient_scale: 1.0, step: 1,
/// };
/// let moments = Moments { first: zero.clone(), second: zero.clone() };
/// let (_, moments) = adamw(zero, four, moments, &rule);
/// // Half of the gradient and a quarter of its square.
/// assert_eq!((moments.first.into_scalar::<f32>(), moments.second.into_scalar::<f32>()), (2.0, 4.0));
/// ```
#[derive(Clone, Debug)]
pub struct Moments {
    /// Of the gradient: `[count]`.
    pub first: Tensor<1>,
    /// Of its square: `[count]`.
    pub second: Tensor<1>,
}

/// A step of AdamW (arXiv:1711.05101, algorithm 2): [`adamw_by_definition`] in one pass over the four arrays.
///
/// Nothing is differentiated: the tensors come from outside the graph.
///
/// # Shapes
/// - `parameter`, `gradient`, both moments, and what is returned: `[count]`
///
/// # Panics
/// If the lengths disagree.
///
/// # Examples
/// The first step goes by the learning rate against the sign of the gradient:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{AdamW, Moments, adamw};
/// let device = Device::flex();
/// let zeros = || Tensor::<1>::zeros([2], &device);
/// let rule = AdamW {
///     lr: 0.5, beta1: 0.9, beta2: 0.999, epsilon: 0.0, weight_decay: 0.0, gradient_scale: 1.0, step: 1,
/// };
/// let gradient = Tensor::from_data([3.0, -0.1], &device);
/// let (parameter, _) = adamw(zeros(), gradient, Moments { first: zeros(), second: zeros() }, &rule);
/// let parameter = parameter.into_data().to_vec::<f32>()?;
/// assert!((parameter[0] + 0.5).abs() < 1e-6 && (parameter[1] - 0.5).abs() < 1e-6);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn adamw(parameter: Tensor<1>, gradient: Tensor<1>, moments: Moments, rule: &AdamW) -> (Tensor<1>, Moments) {
    definition::assert_lengths(&parameter, &gradient, &moments);
    if !native::has_kernels(&parameter) {
        return adamw_by_definition(parameter, gradient, moments, rule);
    }
    let inputs = [parameter, gradient, moments.first, moments.second].map(Tensor::into_dispatch);
    let [parameter, first, second] = native::apply(Update(*rule), inputs, vec![]).map(Tensor::from_dispatch);
    (parameter, Moments { first, second })
}

/// `Σ x²`, summed in double precision where there is a kernel.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// let x = Tensor::<1>::from_data([3.0, 4.0], &Device::flex());
/// assert_eq!(heddle_kernels::squared_norm(x), 25.0);
/// ```
pub fn squared_norm(x: Tensor<1>) -> f64 {
    if !native::has_kernels(&x) {
        return f64::from(x.square().sum().into_scalar::<f32>());
    }
    let [high_and_low] = native::apply(SquaredNorm, [x.into_dispatch()], vec![]);
    let parts: Vec<f32> = Tensor::<1>::from_dispatch(high_and_low).into_data().to_vec().expect("the sum is of f32");
    parts.into_iter().map(f64::from).sum()
}

/// The step as an operation on `parameter, gradient, first, second`.
#[derive(Clone, Debug)]
struct Update(AdamW);

impl Operation<4> for Update {
    fn forward(&self, inputs: Views<'_, 4>, _training: bool) -> Forward {
        let count = inputs.floats[0].len();
        let outputs = cpu::update(inputs.floats, &self.0, Level::current());
        Forward { outputs: outputs.map(|output| Array::new(output, [count])).into(), kept: vec![] }
    }

    fn backward(
        &self,
        _inputs: Views<'_, 4>,
        _kept: &[&[f32]],
        _gradients: &[Option<&[f32]>],
        _wanted: [bool; 4],
    ) -> [Option<Array>; 4] {
        // An update is a constant to whoever differentiates.
        [const { None }; 4]
    }
}

/// `Σ x²` as an operation: the sum in f32, and what it lacks of the sum in f64.
#[derive(Clone, Debug)]
struct SquaredNorm;

impl Operation<1> for SquaredNorm {
    fn forward(&self, inputs: Views<'_, 1>, _training: bool) -> Forward {
        let sum = cpu::squared_norm(inputs.floats[0], Level::current());
        let high = sum as f32;
        // Where the sum is beyond f32, its first part says so alone.
        let low = if high.is_finite() { (sum - f64::from(high)) as f32 } else { 0.0 };
        Forward { outputs: vec![Array::new(vec![high, low], [2])], kept: vec![] }
    }

    fn backward(
        &self,
        _inputs: Views<'_, 1>,
        _kept: &[&[f32]],
        _gradients: &[Option<&[f32]>],
        _wanted: [bool; 1],
    ) -> [Option<Array>; 1] {
        [None]
    }
}
