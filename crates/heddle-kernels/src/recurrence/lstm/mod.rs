//! Long short-term memory.

mod definition;
#[cfg(test)]
mod tests;

use std::ops::Range;

use burn::tensor::{Tensor, assert_shape};

pub use definition::lstm_by_definition;

use super::cell::{self, Cell, Dims, Outcome, Sequences, Step, StepBack, Upstream};
use crate::cpu::Array;
use crate::cpu::math::{sigmoid, tanh};
use crate::cpu::simd::{Isa, Lanes, Level};
use crate::native::{self, Forward, Operation, Views};

/// What a long short-term memory runs over.
///
/// The first token writes tanh(40) ≈ 1 to the cell and shows it; the second keeps it and shows nothing:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{LstmInput, lstm};
///
/// let device = Device::flex();
/// let gates = Tensor::from_data([[[40.0, -40.0, 40.0, 40.0], [-40.0, 40.0, 40.0, -40.0]]], &device);
/// let zero = Tensor::zeros([1, 1], &device);
/// let (h, (_, c)) = lstm(LstmInput { gates, weight: Tensor::zeros([1, 4], &device) }, (zero.clone(), zero));
/// let h = h.into_data().to_vec::<f32>()?;
/// assert!((h[0] - 1f32.tanh()).abs() < 1e-6 && h[1].abs() < 1e-6);
/// assert!((c.into_scalar::<f32>() - 1.0).abs() < 1e-6);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct LstmInput {
    /// What each token says to the gates i, f, g and o, side by side, with their biases: `[b, l, 4d]`.
    pub gates: Tensor<3>,
    /// What the state says to them, as the right factor: `[d, 4d]`.
    pub weight: Tensor<2>,
}

impl LstmInput {
    /// `[b, l, d]`
    ///
    /// # Panics
    /// If the shapes disagree with each other or with those of `state`, or if an axis is empty.
    fn dims(&self, (h, c): &(Tensor<2>, Tensor<2>)) -> [usize; 3] {
        let Self { gates, weight } = self;
        let ([b, l, _], [d, _]) = (gates.dims(), weight.dims());
        assert_shape!(gates, [b, l, 4 * d]);
        assert_shape!(weight, [d, 4 * d]);
        assert_shape!(h, [b, d]);
        assert_shape!(c, [b, d]);
        assert!(b * l * d > 0, "an LSTM needs at least one sequence, token and channel; [b, l, d] = {:?}", [b, l, d]);
        [b, l, d]
    }
}

/// Long short-term memory: what [`lstm_by_definition`] computes, with the loop over time in one kernel.
///
/// ```text
/// i, f, g, o = σ(·), σ(·), tanh(·), σ(·)  of the four parts of  x_t + h_{t−1} W
/// c_t = f ⊙ c_{t−1} + i ⊙ g        h_t = o ⊙ tanh(c_t)        (arXiv:1503.04069, sec. II, without peepholes)
/// ```
///
/// `x_t W_x + bias`, which needs no loop, is the caller's. `h` and `c` before the first token are `state`, those after the
/// last are returned. Gradients flow to all inputs, through all results; for them the forward pass keeps five numbers a
/// channel and token.
///
/// # Shapes
/// - `state` (`h` and `c`), and the returned state: `[b, d]` each
/// - returned `h` of all tokens: `[b, l, d]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
///
/// # Examples
/// With all gates half open and nothing to write, half of `c` is left after each token:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{LstmInput, lstm};
///
/// let device = Device::flex();
/// let input = LstmInput { gates: Tensor::zeros([1, 3, 4], &device), weight: Tensor::zeros([1, 4], &device) };
/// let state = (Tensor::zeros([1, 1], &device), Tensor::ones([1, 1], &device));
/// let (_, (_, c)) = lstm(input, state);
/// assert_eq!(c.into_data().to_vec::<f32>()?, [0.125]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn lstm(input: LstmInput, state: (Tensor<2>, Tensor<2>)) -> (Tensor<3>, (Tensor<2>, Tensor<2>)) {
    let [b, l, d] = input.dims(&state);
    if !native::has_kernels(&input.gates) {
        return lstm_by_definition(input, state);
    }
    let LstmInput { gates, weight } = input;
    let (h, c) = state;
    let floats = [gates.into_dispatch(), weight.into_dispatch(), h.into_dispatch(), c.into_dispatch()];
    let [all, h, c] = native::apply(Lstm(Dims { b, l, d }), floats, vec![]);
    (Tensor::from_dispatch(all), (Tensor::from_dispatch(h), Tensor::from_dispatch(c)))
}

/// The formulas. It keeps i, f, g, o and `c` before the token.
#[derive(Clone, Copy)]
struct LstmCell;

impl Cell<4, 5, 1> for LstmCell {
    const APART: bool = false;

    #[inline(always)]
    fn start<I: Isa>(self, inputs: [Lanes<I>; 4], _channels: &Range<usize>) -> [Lanes<I>; 4] {
        inputs
    }

    #[inline(always)]
    fn step<I: Isa>(
        self,
        _inputs: [Lanes<I>; 4],
        sums: [Lanes<I>; 4],
        _h: Lanes<I>,
        [c]: [Lanes<I>; 1],
    ) -> Step<I, 5, 1> {
        let (i, f, g, o) = (sigmoid(sums[0]), sigmoid(sums[1]), tanh(sums[2]), sigmoid(sums[3]));
        let next = f.mul_add(c, i * g);
        Step { h: o * tanh(next), memory: [next], kept: [i, f, g, o, c] }
    }

    #[inline(always)]
    fn step_back<I: Isa>(
        self,
        [i, f, g, o, c]: [Lanes<I>; 5],
        _h: Lanes<I>,
        g_h: Lanes<I>,
        [g_c]: [Lanes<I>; 1],
    ) -> StepBack<I, 4, 1> {
        let one = i.isa().splat(1.0);
        let shown = tanh(f.mul_add(c, i * g));
        let g_next = (g_h * o).mul_add((-shown).mul_add(shown, one), g_c);
        let sums = [
            g_next * g * i * (one - i),
            g_next * c * f * (one - f),
            g_next * i * (-g).mul_add(g, one),
            g_h * shown * o * (one - o),
        ];
        StepBack { inputs: sums, sums, h: i.isa().zero(), memory: [g_next * f] }
    }
}

/// The layer as an operation; its inputs are `gates, weight, h, c`, its outputs `all, h, c`.
#[derive(Clone, Debug)]
struct Lstm(Dims);

impl Lstm {
    fn sequences<'a>(&self, inputs: &Views<'a, 4>) -> Sequences<'a, 1> {
        let [gates, weight, h, c] = inputs.floats;
        Sequences { dims: self.0, gates, weight, h, memory: [c] }
    }
}

impl Operation<4> for Lstm {
    fn forward(&self, inputs: Views<'_, 4>, training: bool) -> Forward {
        let Dims { b, l, d } = self.0;
        let result = cell::forward(LstmCell, self.sequences(&inputs), training, Level::current());
        let Outcome { all, h, memory: [c], kept } = result;
        let length = kept.len();
        Forward {
            outputs: vec![Array::new(all, [b, l, d]), Array::new(h, [b, d]), Array::new(c, [b, d])],
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
        let upstream =
            Upstream { kept: kept[0], all: kept[1], g_all: gradients[0], g_h: gradients[1], g_memory: [gradients[2]] };
        let g = cell::backward(LstmCell, self.sequences(&inputs), upstream, Level::current());
        let [c] = g.memory;
        [
            Some(Array::new(g.gates, [b, l, 4 * d])),
            Some(Array::new(g.weight, [d, 4 * d])),
            Some(Array::new(g.h, [b, d])),
            Some(Array::new(c, [b, d])),
        ]
    }

    fn keeps_input(&self, index: usize) -> bool {
        // The kept gates stand for their inputs, and for `c` before the first token.
        index == 1 || index == 2
    }

    fn keeps_outputs(&self) -> bool {
        true
    }
}
