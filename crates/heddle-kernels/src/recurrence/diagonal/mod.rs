//! The complex diagonal recurrence: the time loop of S4D.

mod backward;
mod cpu;
mod definition;
#[cfg(test)]
mod tests;

use burn::tensor::{Tensor, assert_shape};

pub use definition::complex_recurrence_by_definition;

use crate::cpu::Array;
use crate::cpu::channels::Dims;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};
use cpu::Recurrence;

/// What a complex recurrence runs over. Pairs are real and imaginary parts.
///
/// A quarter turn a token, `λ = i`, read through `c = −i`, remembers an impulse as a sine; the skip adds the impulse
/// itself:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{ComplexInput, complex_recurrence};
///
/// let device = Device::flex();
/// let number = |re: f32, im: f32| [re, im].map(|part| Tensor::full([1, 1], part, &device));
/// let input = ComplexInput {
///     decay: number(0.0, 1.0),
///     u: Tensor::from_data([[[1.0], [0.0], [0.0], [0.0]]], &device),
///     read: number(0.0, -1.0),
///     skip: Tensor::ones([1], &device),
/// };
/// let (y, _) = complex_recurrence(input, [(); 2].map(|()| Tensor::zeros([1, 1, 1], &device)));
/// assert_eq!(y.into_data().to_vec::<f32>()?, [1.0, 2.0, 0.0, -2.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ComplexInput {
    /// What each channel's states are multiplied by from token to token, `λ`: `[e, n]`.
    pub decay: [Tensor<2>; 2],
    /// The sequence: `[b, l, e]`.
    pub u: Tensor<3>,
    /// How each channel reads its states, `c`, with the weight by which tokens enter them: `[e, n]`.
    pub read: [Tensor<2>; 2],
    /// The weight of the connection around the states, `D`: `[e]`.
    pub skip: Tensor<1>,
}

impl ComplexInput {
    /// `[b, l, e, n]`
    ///
    /// # Panics
    /// If the shapes disagree with each other or with those of `state`, or if an axis is empty.
    fn dims(&self, state: &[Tensor<3>; 2]) -> [usize; 4] {
        let [b, l, e] = self.u.dims();
        let Self { decay: [decay, decay_im], read: [read, read_im], skip, .. } = self;
        let [state, state_im] = state;
        let [_, n] = decay.dims();
        assert_shape!(decay, [e, n]);
        assert_shape!(decay_im, [e, n]);
        assert_shape!(read, [e, n]);
        assert_shape!(read_im, [e, n]);
        assert_shape!(skip, [e]);
        assert_shape!(state, [b, e, n]);
        assert_shape!(state_im, [b, e, n]);
        assert!(
            b * l * e * n > 0,
            "a recurrence needs at least one sequence, token, channel and state; [b, l, e, n] = {:?}",
            [b, l, e, n]
        );
        [b, l, e, n]
    }
}

/// Complex diagonal recurrence: what [`complex_recurrence_by_definition`] computes, in one pass over the sequence.
///
/// ```text
/// h_t = λ ⊙ h_{t−1} + u_t        y_t = 2 Re(Σ_n c_n h_{n,t}) + D u_t        (arXiv:2206.11893, sec. 3)
/// ```
///
/// `h` before the first token is `state`, and the second result is `h` after the last. Gradients flow to all inputs,
/// through both results. For them the forward pass keeps one state every few tokens, and the backward pass computes those
/// between again.
///
/// # Shapes
/// - `state`, and the returned state, each as its real and its imaginary part: `[b, e, n]`
/// - returned `y`: `[b, l, e]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
///
/// # Examples
/// A state that turns by a right angle from token to token remembers an impulse as a cosine:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{ComplexInput, complex_recurrence};
///
/// let device = Device::flex();
/// let input = ComplexInput {
///     decay: [Tensor::zeros([1, 1], &device), Tensor::ones([1, 1], &device)],
///     u: Tensor::from_data([[[1.0], [0.0], [0.0], [0.0]]], &device),
///     read: [Tensor::ones([1, 1], &device), Tensor::zeros([1, 1], &device)],
///     skip: Tensor::zeros([1], &device),
/// };
/// let state = [Tensor::zeros([1, 1, 1], &device), Tensor::zeros([1, 1, 1], &device)];
/// let (y, _) = complex_recurrence(input, state);
/// assert_eq!(y.into_data().to_vec::<f32>()?, [2.0, 0.0, -2.0, 0.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn complex_recurrence(input: ComplexInput, state: [Tensor<3>; 2]) -> (Tensor<3>, [Tensor<3>; 2]) {
    let [b, l, e, n] = input.dims(&state);
    if !native::has_kernels(&input.u) {
        return complex_recurrence_by_definition(input, state);
    }
    let ComplexInput { decay: [decay, decay_im], u, read: [read, read_im], skip } = input;
    let [state, state_im] = state;
    let floats = [
        decay.into_dispatch(),
        decay_im.into_dispatch(),
        u.into_dispatch(),
        read.into_dispatch(),
        read_im.into_dispatch(),
        skip.into_dispatch(),
        state.into_dispatch(),
        state_im.into_dispatch(),
    ];
    let [y, state, state_im] = native::apply(Diagonal(Dims { b, l, e, n }), floats, vec![]);
    (Tensor::from_dispatch(y), [Tensor::from_dispatch(state), Tensor::from_dispatch(state_im)])
}

/// The recurrence as an operation; its inputs are `decay, u, read, skip, state`, its outputs `y, state`, where every
/// complex number is a pair.
#[derive(Clone, Debug)]
struct Diagonal(Dims);

impl Diagonal {
    fn recurrence<'a>(&self, inputs: &Views<'a, 8>) -> Recurrence<'a> {
        let [decay, decay_im, u, read, read_im, skip, state, state_im] = inputs.floats;
        Recurrence { dims: self.0, decay: [decay, decay_im], u, read: [read, read_im], skip, state: [state, state_im] }
    }
}

impl Operation<8> for Diagonal {
    fn forward(&self, inputs: Views<'_, 8>, training: bool) -> Forward {
        let Dims { b, l, e, n } = self.0;
        let result = cpu::forward(self.recurrence(&inputs), training, Level::current());
        let [state, state_im] = result.state.map(|part| Array::new(part, [b, e, n]));
        let kept = result.boundaries.len();
        Forward {
            outputs: vec![Array::new(result.y, [b, l, e]), state, state_im],
            kept: vec![Array::new(result.boundaries, [kept])],
        }
    }

    fn backward(
        &self,
        inputs: Views<'_, 8>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 8],
    ) -> [Option<Array>; 8] {
        let Dims { b, l, e, n } = self.0;
        let upstream = backward::Upstream { y: gradients[0], state: [gradients[1], gradients[2]] };
        let g = backward::backward(self.recurrence(&inputs), kept[0], upstream, Level::current());
        let [decay, decay_im] = g.decay.map(|part| Some(Array::new(part, [e, n])));
        let [read, read_im] = g.read.map(|part| Some(Array::new(part, [e, n])));
        let [state, state_im] = g.state.map(|part| Some(Array::new(part, [b, e, n])));
        let (u, skip) = (Some(Array::new(g.u, [b, l, e])), Some(Array::new(g.skip, [e])));
        [decay, decay_im, u, read, read_im, skip, state, state_im]
    }
}
