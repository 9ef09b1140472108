//! Elementwise functions.

mod definition;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use burn::tensor::{Shape, Tensor};

pub use definition::{
    exp_by_definition, gelu_by_definition, relu_squared_by_definition, sigmoid_by_definition,
    sigmoid_mul_by_definition, silu_by_definition, silu_mul_by_definition, softplus_by_definition,
};

use crate::cpu::Array;
use crate::cpu::elementwise::{self, Elementwise};
use crate::cpu::math;
use crate::cpu::simd::{Isa, Lanes, Level};
use crate::native::{self, Forward, Operation, Views};

/// The sigmoid-weighted linear unit, `x · σ(x)` (arXiv:1702.03118, eq. 1): [`silu_by_definition`] as one kernel.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// let x = Tensor::<1>::from_data([0.0, 100.0], &Device::flex());
/// assert_eq!(heddle_kernels::silu(x).into_data().to_vec::<f32>()?, [0.0, 100.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if native::has_kernels(&x) { apply(Silu, [x]) } else { silu_by_definition(x) }
}

/// `SiLU(gate) · x`, the product inside SwiGLU (arXiv:2002.05202, eq. 6): [`silu_mul_by_definition`] as one kernel.
///
/// # Panics
/// If the shapes disagree.
pub fn silu_mul<const D: usize>(gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    definition::assert_same_shape(&gate, &x);
    if native::has_kernels(&gate) { apply(SiluMul, [gate, x]) } else { silu_mul_by_definition(gate, x) }
}

/// The logistic function, `1 / (1 + e^−x)`: [`sigmoid_by_definition`] as one kernel.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// let x = Tensor::<1>::from_data([0.0, 100.0], &Device::flex());
/// assert_eq!(heddle_kernels::sigmoid(x).into_data().to_vec::<f32>()?, [0.5, 1.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn sigmoid<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if native::has_kernels(&x) { apply(Sigmoid, [x]) } else { sigmoid_by_definition(x) }
}

/// `σ(gate) · x`, the output gate of gated attention (arXiv:2505.06708): [`sigmoid_mul_by_definition`] as one kernel.
///
/// # Panics
/// If the shapes disagree.
pub fn sigmoid_mul<const D: usize>(gate: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
    definition::assert_same_shape(&gate, &x);
    if native::has_kernels(&gate) { apply(SigmoidMul, [gate, x]) } else { sigmoid_mul_by_definition(gate, x) }
}

/// The Gaussian error linear unit, `x · Φ(x)` (arXiv:1606.08415, eq. 1), exact: [`gelu_by_definition`] as one kernel.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if native::has_kernels(&x) { apply(Gelu, [x]) } else { gelu_by_definition(x) }
}

/// The squared rectifier, `max(x, 0)²` (arXiv:2109.08668, section 3): [`relu_squared_by_definition`] as one kernel.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// let x = Tensor::<1>::from_data([-2.0, 3.0], &Device::flex());
/// assert_eq!(heddle_kernels::relu_squared(x).into_data().to_vec::<f32>()?, [0.0, 9.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn relu_squared<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if native::has_kernels(&x) { apply(ReluSquared, [x]) } else { relu_squared_by_definition(x) }
}

/// `eˣ`: [`exp_by_definition`] as one kernel.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// let x = Tensor::<1>::from_data([0.0, -1e30], &Device::flex());
/// assert_eq!(heddle_kernels::exp(x).into_data().to_vec::<f32>()?, [1.0, 0.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn exp<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if native::has_kernels(&x) { apply(Exp, [x]) } else { exp_by_definition(x) }
}

/// `log(1 + eˣ)`, without overflow at large `x`: [`softplus_by_definition`] as one kernel.
pub fn softplus<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if native::has_kernels(&x) { apply(Softplus, [x]) } else { softplus_by_definition(x) }
}

fn apply<F, const N: usize, const D: usize>(function: F, x: [Tensor<D>; N]) -> Tensor<D>
where
    Pointwise<F>: Operation<N>,
{
    let operation = Pointwise { function, shape: x[0].shape() };
    let [y] = native::apply(operation, x.map(Tensor::into_dispatch), vec![]);
    Tensor::from_dispatch(y)
}

/// An elementwise function of arrays of one shape as an operation.
#[derive(Clone, Debug)]
struct Pointwise<F> {
    function: F,
    shape: Shape,
}

impl<F: Elementwise<N> + Debug + 'static, const N: usize> Operation<N> for Pointwise<F> {
    fn forward(&self, inputs: Views<'_, N>, _training: bool) -> Forward {
        let y = elementwise::values(self.function, inputs.floats, Level::current());
        Forward { outputs: vec![Array::new(y, self.shape.clone())], kept: vec![] }
    }

    fn backward(
        &self,
        inputs: Views<'_, N>,
        _kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; N],
    ) -> [Option<Array>; N] {
        let g = gradients[0].expect("the only output has a gradient");
        let gradients = elementwise::gradients(self.function, inputs.floats, g, Level::current());
        gradients.map(|g_x| Some(Array::new(g_x, self.shape.clone())))
    }
}

/// The derivative of `x σ(x)`, given `σ(x)`: `σ (1 + x (1 − σ))`.
#[inline(always)]
pub(crate) fn silu_slope<I: Isa>(x: Lanes<I>, sigmoid: Lanes<I>) -> Lanes<I> {
    let one = x.isa().splat(1.0);
    sigmoid * x.mul_add(one - sigmoid, one)
}

#[derive(Clone, Copy, Debug)]
struct Silu;

impl Elementwise<1> for Silu {
    #[inline(always)]
    fn value<I: Isa>(self, [x]: [Lanes<I>; 1]) -> Lanes<I> {
        x * math::sigmoid(x)
    }
    #[inline(always)]
    fn gradient<I: Isa>(self, [x]: [Lanes<I>; 1], g: Lanes<I>) -> [Lanes<I>; 1] {
        [g * silu_slope(x, math::sigmoid(x))]
    }
}

#[derive(Clone, Copy, Debug)]
struct SiluMul;

impl Elementwise<2> for SiluMul {
    #[inline(always)]
    fn value<I: Isa>(self, [gate, x]: [Lanes<I>; 2]) -> Lanes<I> {
        gate * math::sigmoid(gate) * x
    }
    #[inline(always)]
    fn gradient<I: Isa>(self, [gate, x]: [Lanes<I>; 2], g: Lanes<I>) -> [Lanes<I>; 2] {
        let sigmoid = math::sigmoid(gate);
        [g * x * silu_slope(gate, sigmoid), g * gate * sigmoid]
    }
}

#[derive(Clone, Copy, Debug)]
struct Sigmoid;

impl Elementwise<1> for Sigmoid {
    #[inline(always)]
    fn value<I: Isa>(self, [x]: [Lanes<I>; 1]) -> Lanes<I> {
        math::sigmoid(x)
    }
    #[inline(always)]
    fn gradient<I: Isa>(self, [x]: [Lanes<I>; 1], g: Lanes<I>) -> [Lanes<I>; 1] {
        let sigmoid = math::sigmoid(x);
        [g * sigmoid * (x.isa().splat(1.0) - sigmoid)]
    }
}

#[derive(Clone, Copy, Debug)]
struct SigmoidMul;

impl Elementwise<2> for SigmoidMul {
    #[inline(always)]
    fn value<I: Isa>(self, [gate, x]: [Lanes<I>; 2]) -> Lanes<I> {
        math::sigmoid(gate) * x
    }
    #[inline(always)]
    fn gradient<I: Isa>(self, [gate, x]: [Lanes<I>; 2], g: Lanes<I>) -> [Lanes<I>; 2] {
        let sigmoid = math::sigmoid(gate);
        let g_x = g * sigmoid;
        [g_x * x * (gate.isa().splat(1.0) - sigmoid), g_x]
    }
}

#[derive(Clone, Copy, Debug)]
struct Gelu;

impl Elementwise<1> for Gelu {
    #[inline(always)]
    fn value<I: Isa>(self, [x]: [Lanes<I>; 1]) -> Lanes<I> {
        x * math::normal(x).0
    }
    #[inline(always)]
    fn gradient<I: Isa>(self, [x]: [Lanes<I>; 1], g: Lanes<I>) -> [Lanes<I>; 1] {
        let (below, density) = math::normal(x);
        [g * x.mul_add(density, below)]
    }
}

#[derive(Clone, Copy, Debug)]
struct ReluSquared;

impl Elementwise<1> for ReluSquared {
    #[inline(always)]
    fn value<I: Isa>(self, [x]: [Lanes<I>; 1]) -> Lanes<I> {
        let rectified = x.at_least(0.0);
        rectified * rectified
    }
    #[inline(always)]
    fn gradient<I: Isa>(self, [x]: [Lanes<I>; 1], g: Lanes<I>) -> [Lanes<I>; 1] {
        [g * x.at_least(0.0) * 2.0]
    }
}

#[derive(Clone, Copy, Debug)]
struct Exp;

impl Elementwise<1> for Exp {
    #[inline(always)]
    fn value<I: Isa>(self, [x]: [Lanes<I>; 1]) -> Lanes<I> {
        math::exp(x)
    }
    #[inline(always)]
    fn gradient<I: Isa>(self, [x]: [Lanes<I>; 1], g: Lanes<I>) -> [Lanes<I>; 1] {
        [g * math::exp(x)]
    }
}

#[derive(Clone, Copy, Debug)]
struct Softplus;

impl Elementwise<1> for Softplus {
    #[inline(always)]
    fn value<I: Isa>(self, [x]: [Lanes<I>; 1]) -> Lanes<I> {
        math::softplus(x)
    }
    #[inline(always)]
    fn gradient<I: Isa>(self, [x]: [Lanes<I>; 1], g: Lanes<I>) -> [Lanes<I>; 1] {
        [g * math::sigmoid(x)]
    }
}
