//! The gated recurrent unit.

mod definition;
#[cfg(test)]
mod tests;

use std::ops::Range;

use burn::tensor::{Tensor, assert_shape};

pub use definition::gru_by_definition;

use super::cell::{self, Cell, Dims, Outcome, Sequences, Step, StepBack, Upstream};
use crate::cpu::Array;
use crate::cpu::math::{sigmoid, tanh};
use crate::cpu::simd::{Isa, Lanes, Level};
use crate::native::{self, Forward, Operation, Views};

/// What a gated recurrent unit runs over.
///
/// Where z is shut the state becomes n, and where it is open the state stays:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{GruInput, gru};
///
/// let device = Device::flex();
/// let input = GruInput {
///     gates: Tensor::from_data([[[0.0, -40.0, 40.0], [0.0, 40.0, -40.0]]], &device),
///     weight: Tensor::zeros([1, 3], &device),
///     bias: Tensor::zeros([1], &device),
/// };
/// let (h, _) = gru(input, Tensor::full([1, 1], 0.5, &device));
/// assert!(h.into_data().to_vec::<f32>()?.iter().all(|h| (h - 1.0).abs() < 1e-6));
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct GruInput {
    /// What each token says to the gates r, z and n, side by side, with their biases: `[b, l, 3d]`.
    pub gates: Tensor<3>,
    /// What the state says to them, as the right factor: `[d, 3d]`.
    pub weight: Tensor<2>,
    /// The bias of what the state says to n, which r resets: `[d]`.
    pub bias: Tensor<1>,
}

impl GruInput {
    /// `[b, l, d]`
    ///
    /// # Panics
    /// If the shapes disagree with each other or with that of `state`, or if an axis is empty.
    fn dims(&self, state: &Tensor<2>) -> [usize; 3] {
        let Self { gates, weight, bias } = self;
        let ([b, l, _], [d, _]) = (gates.dims(), weight.dims());
        assert_shape!(gates, [b, l, 3 * d]);
        assert_shape!(weight, [d, 3 * d]);
        assert_shape!(bias, [d]);
        assert_shape!(state, [b, d]);
        assert!(b * l * d > 0, "a GRU needs at least one sequence, token and channel; [b, l, d] = {:?}", [b, l, d]);
        [b, l, d]
    }
}

/// Gated recurrent unit: what [`gru_by_definition`] computes, with the loop over time in one kernel.
///
/// ```text
/// r, z = σ(·), σ(·)  of the first two parts of  x_t + h_{t−1} W
/// n = tanh(x_n + r ⊙ (h_{t−1} W_n + b_n))        h_t = (1 − z) ⊙ n + z ⊙ h_{t−1}        (arXiv:1406.1078, eq. 5–8)
/// ```
///
/// `x_t W_x + bias`, which needs no loop, is the caller's. `h` before the first token is `state`, that after the last is
/// returned. Gradients flow to all inputs, through both results; for them the forward pass keeps four numbers a channel and
/// token.
///
/// # Shapes
/// - `state`, and the returned state: `[b, d]`
/// - returned `h` of all tokens: `[b, l, d]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
///
/// # Examples
/// With all gates half open and nothing to write, half of `h` is left after each token:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{GruInput, gru};
///
/// let device = Device::flex();
/// let input = GruInput {
///     gates: Tensor::zeros([1, 3, 3], &device),
///     weight: Tensor::zeros([1, 3], &device),
///     bias: Tensor::zeros([1], &device),
/// };
/// let (h, last) = gru(input, Tensor::ones([1, 1], &device));
/// assert_eq!(h.into_data().to_vec::<f32>()?, [0.5, 0.25, 0.125]);
/// assert_eq!(last.into_data().to_vec::<f32>()?, [0.125]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn gru(input: GruInput, state: Tensor<2>) -> (Tensor<3>, Tensor<2>) {
    let [b, l, d] = input.dims(&state);
    if !native::has_kernels(&input.gates) {
        return gru_by_definition(input, state);
    }
    let GruInput { gates, weight, bias } = input;
    let floats = [gates.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), state.into_dispatch()];
    let [all, h] = native::apply(Gru(Dims { b, l, d }), floats, vec![]);
    (Tensor::from_dispatch(all), Tensor::from_dispatch(h))
}

/// The formulas. It keeps r, z, n and what r resets.
#[derive(Clone, Copy)]
struct GruCell<'a> {
    bias: &'a [f32],
}

impl Cell<3, 4, 0> for GruCell<'_> {
    // n's input is not reset.
    const APART: bool = true;

    #[inline(always)]
    fn start<I: Isa>(self, [r, z, _]: [Lanes<I>; 3], channels: &Range<usize>) -> [Lanes<I>; 3] {
        [r, z, r.isa().load(&self.bias[channels.clone()])]
    }

    #[inline(always)]
    fn step<I: Isa>(
        self,
        inputs: [Lanes<I>; 3],
        sums: [Lanes<I>; 3],
        h: Lanes<I>,
        memory: [Lanes<I>; 0],
    ) -> Step<I, 4, 0> {
        let (r, z) = (sigmoid(sums[0]), sigmoid(sums[1]));
        let n = tanh(r.mul_add(sums[2], inputs[2]));
        Step { h: z.mul_add(h - n, n), memory, kept: [r, z, n, sums[2]] }
    }

    #[inline(always)]
    fn step_back<I: Isa>(
        self,
        [r, z, n, reset]: [Lanes<I>; 4],
        h: Lanes<I>,
        g_h: Lanes<I>,
        g_memory: [Lanes<I>; 0],
    ) -> StepBack<I, 3, 0> {
        let one = r.isa().splat(1.0);
        let g_n = g_h * (one - z) * (-n).mul_add(n, one);
        let g_r = g_n * reset * r * (one - r);
        let g_z = g_h * (h - n) * z * (one - z);
        StepBack { inputs: [g_r, g_z, g_n], sums: [g_r, g_z, g_n * r], h: g_h * z, memory: g_memory }
    }
}

/// The layer as an operation; its inputs are `gates, weight, bias, state`, its outputs `all, h`.
#[derive(Clone, Debug)]
struct Gru(Dims);

impl Gru {
    fn parts<'a>(&self, inputs: &Views<'a, 4>) -> (GruCell<'a>, Sequences<'a, 0>) {
        let [gates, weight, bias, h] = inputs.floats;
        (GruCell { bias }, Sequences { dims: self.0, gates, weight, h, memory: [] })
    }
}

impl Operation<4> for Gru {
    fn forward(&self, inputs: Views<'_, 4>, training: bool) -> Forward {
        let Dims { b, l, d } = self.0;
        let (cell, sequences) = self.parts(&inputs);
        let Outcome { all, h, memory: [], kept } = cell::forward(cell, sequences, training, Level::current());
        let length = kept.len();
        Forward {
            outputs: vec![Array::new(all, [b, l, d]), Array::new(h, [b, d])],
            kept: vec![Array::new(kept, [length])],
        }
    }

    fn backward(
        &self,
        inputs: Views<'_, 4>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 4],
    ) -> [Option<Array>; 4] {
        let Dims { b, l, d } = self.0;
        let (cell, sequences) = self.parts(&inputs);
        let upstream = Upstream { kept: kept[0], all: kept[1], g_all: gradients[0], g_h: gradients[1], g_memory: [] };
        let g = cell::backward(cell, sequences, upstream, Level::current());
        [
            Some(Array::new(g.gates, [b, l, 3 * d])),
            Some(Array::new(g.weight, [d, 3 * d])),
            Some(Array::new(g.bias[2 * d..].to_vec(), [d])),
            Some(Array::new(g.h, [b, d])),
        ]
    }

    fn keeps_input(&self, index: usize) -> bool {
        // The kept gates stand for their inputs and the bias.
        index == 1 || index == 3
    }

    fn keeps_outputs(&self) -> bool {
        true
    }
}
