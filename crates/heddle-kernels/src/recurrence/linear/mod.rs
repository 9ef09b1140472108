//! The linear recurrence: one real state a channel.

mod cpu;
mod definition;
#[cfg(test)]
mod tests;

use burn::tensor::{Tensor, assert_shape};

pub use definition::linear_recurrence_by_definition;

use crate::cpu::Array;
use crate::cpu::channels::Dims;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};
use cpu::Recurrence;

/// Linear recurrence: what [`linear_recurrence_by_definition`] computes, in one pass over the sequence.
///
/// ```text
/// h_t = a_t ⊙ h_{t−1} + x_t        (arXiv:2402.19427, eq. 4, with the gated input as x)
/// ```
///
/// This is the whole memory of the RG-LRU, of minGRU and minLSTM (arXiv:2410.01201) and of HGRN (arXiv:2311.04823), whose gates make `a` and `x` from each token alone.
/// `h` before the first token is `state`. A decay may have any sign, and one that is the same for all tokens may be
/// expanded along them. Gradients flow to all inputs, through both results; the backward pass reads `h` and keeps nothing
/// else.
///
/// # Shapes
/// - `decay` (`a`), `x`, and the returned `h` of all tokens: `[b, l, d]`
/// - `state`, and the returned `h` of the last token: `[b, d]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::linear_recurrence;
///
/// let device = Device::flex();
/// let x = Tensor::<3>::ones([1, 4, 1], &device);
/// let (h, last) = linear_recurrence(x.clone() * 0.5, x, Tensor::zeros([1, 1], &device));
/// assert_eq!(h.into_data().to_vec::<f32>()?, [1.0, 1.5, 1.75, 1.875]);
/// assert_eq!(last.into_data().to_vec::<f32>()?, [1.875]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn linear_recurrence(decay: Tensor<3>, x: Tensor<3>, state: Tensor<2>) -> (Tensor<3>, Tensor<2>) {
    let [b, l, e] = dims(&decay, &x, &state);
    if !native::has_kernels(&x) {
        return linear_recurrence_by_definition(decay, x, state);
    }
    let operation = Linear(Dims { b, l, e, n: 1 });
    let floats = [decay.into_dispatch(), x.into_dispatch(), state.into_dispatch()];
    let [h, last] = native::apply(operation, floats, vec![]);
    (Tensor::from_dispatch(h), Tensor::from_dispatch(last))
}

/// `[b, l, d]`
///
/// # Panics
/// If the shapes disagree, or if an axis is empty.
fn dims(decay: &Tensor<3>, x: &Tensor<3>, state: &Tensor<2>) -> [usize; 3] {
    let [b, l, d] = x.dims();
    assert_shape!(decay, [b, l, d]);
    assert_shape!(state, [b, d]);
    assert!(b * l * d > 0, "a recurrence needs at least one sequence, token and channel; [b, l, d] = {:?}", [b, l, d]);
    [b, l, d]
}

/// The recurrence as an operation, of as many channels as the state is wide; its inputs are `decay, x, state`, its outputs
/// `h, last`.
#[derive(Clone, Debug)]
struct Linear(Dims);

impl Operation<3> for Linear {
    fn forward(&self, inputs: Views<'_, 3>, _training: bool) -> Forward {
        let Dims { b, l, e, .. } = self.0;
        let [decay, x, state] = inputs.floats;
        let (h, last) = cpu::forward(Recurrence { dims: self.0, decay, state }, x, Level::current());
        Forward { outputs: vec![Array::new(h, [b, l, e]), Array::new(last, [b, e])], kept: vec![] }
    }

    fn backward(
        &self,
        inputs: Views<'_, 3>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        let Dims { b, l, e, .. } = self.0;
        let [decay, _, state] = inputs.floats;
        let upstream = cpu::Upstream { h: gradients[0], last: gradients[1] };
        let g = cpu::backward(Recurrence { dims: self.0, decay, state }, kept[0], upstream, Level::current());
        [Some(Array::new(g.decay, [b, l, e])), Some(Array::new(g.x, [b, l, e])), Some(Array::new(g.state, [b, e]))]
    }

    fn keeps_input(&self, index: usize) -> bool {
        index != 1
    }

    fn keeps_outputs(&self) -> bool {
        true
    }
}
