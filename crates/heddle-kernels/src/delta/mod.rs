//! The gated delta rule: a linear-attention state that is corrected rather than added to.

mod backward;
mod chunk;
mod decode;
mod definition;
mod forward;
mod layout;
mod panel;
mod pull;
#[cfg(test)]
mod tests;

use burn::tensor::{Tensor, assert_shape};

pub use definition::delta_rule_by_definition;

use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};
use layout::{Delta, Dims};

/// What the delta rule runs over.
///
/// A state that answers 8 to the key 1 fades to 4; then half of what it lacks of the value 2 is made up:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{DeltaInput, delta_rule};
///
/// let device = Device::flex();
/// let input = DeltaInput {
///     q: Tensor::ones([1, 1, 1, 1], &device),
///     k: Tensor::ones([1, 1, 1, 1], &device),
///     v: Tensor::full([1, 1, 1, 1], 2.0, &device),
///     beta: Tensor::full([1, 1, 1], 0.5, &device),
///     log_decay: Some(Tensor::full([1, 1, 1], 0.5f32.ln(), &device)),
/// };
/// let (o, _) = delta_rule(input, Tensor::full([1, 1, 1, 1], 8.0, &device));
/// assert!((o.into_scalar::<f32>() - (4.0 + 0.5 * (2.0 - 4.0))).abs() < 1e-5);
/// ```
#[derive(Clone, Debug)]
pub struct DeltaInput {
    /// What each token asks the state for, normalised and scaled as the caller wants it: `[b, l, g, n]`.
    pub q: Tensor<4>,
    /// The key under which each token writes; the state stays bounded if its length is at most 1: `[b, l, g, n]`.
    pub k: Tensor<4>,
    /// What each token writes: `[b, l, h, p]`.
    pub v: Tensor<4>,
    /// How far the state moves towards what is written, between 0 and 1 (up to 2 for negative eigenvalues): `[b, l, h]`.
    pub beta: Tensor<3>,
    /// The logarithm of the decay before each token, at most 0: `[b, l, h]`. Without it nothing fades.
    pub log_decay: Option<Tensor<3>>,
}

impl DeltaInput {
    /// # Panics
    /// If the shapes disagree with each other or with that of `state`, an axis is empty, or `h` is no multiple of `g`.
    fn dims(&self, state: &Tensor<4>) -> Dims {
        let [b, l, g, n] = self.k.dims();
        let [_, _, h, p] = self.v.dims();
        let Self { q, v, beta, log_decay, .. } = self;
        assert_shape!(q, [b, l, g, n]);
        assert_shape!(v, [b, l, h, p]);
        assert_shape!(beta, [b, l, h]);
        if let Some(log_decay) = log_decay {
            assert_shape!(log_decay, [b, l, h]);
        }
        assert_shape!(state, [b, h, p, n]);
        assert!(
            b * l * h * g * p * n > 0,
            "a delta rule needs at least one sequence, token, head and channel; [b, l, h, g, p, n] = {:?}",
            [b, l, h, g, p, n]
        );
        assert!(h.is_multiple_of(g), "{h} value heads cannot share {g} key heads evenly");
        Dims { b, l, h, g, p, n }
    }
}

/// The gated delta rule (arXiv:2412.06464, eq. 10): what [`delta_rule_by_definition`] computes, in one pass over the
/// sequence.
///
/// ```text
/// S_t = α_t S_{t-1} (I − β_t k_t k_tᵀ) + β_t v_t k_tᵀ        o_t = S_t q_t
/// ```
///
/// `S` before the first token is `state`, and the second result is `S` after the last, so a sequence may be taken in
/// pieces. Gradients flow to all inputs, through `o` and through the returned state. For them the forward pass keeps one
/// state every 64 tokens; the backward pass takes sixteen tokens at a time, as the paper's chunks do, and computes again
/// what lies between.
///
/// # Shapes
/// - `state`, and the returned state: `[b, h, p, n]`
/// - returned `o`: `[b, l, h, p]`
///
/// # Panics
/// If the shapes disagree, an axis is empty, or `h` is no multiple of `g`.
///
/// # Examples
/// A second value under the same key replaces the first, where linear attention would add them up:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{DeltaInput, delta_rule};
///
/// let device = Device::flex();
/// let input = DeltaInput {
///     q: Tensor::ones([1, 2, 1, 1], &device),
///     k: Tensor::ones([1, 2, 1, 1], &device),
///     v: Tensor::from_data([[[[3.0]], [[5.0]]]], &device),
///     beta: Tensor::ones([1, 2, 1], &device),
///     log_decay: None,
/// };
/// let (o, state) = delta_rule(input, Tensor::zeros([1, 1, 1, 1], &device));
/// assert_eq!(o.into_data().to_vec::<f32>()?, [3.0, 5.0]);
/// assert_eq!(state.into_data().to_vec::<f32>()?, [5.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn delta_rule(input: DeltaInput, state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let dims = input.dims(&state);
    if !native::has_kernels(&input.v) {
        return delta_rule_by_definition(input, state);
    }
    let DeltaInput { q, k, v, beta, log_decay } = input;
    let operation = DeltaRule { dims, decays: log_decay.is_some() };
    let device = v.device();
    let floats = [
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
        beta.into_dispatch(),
        state.into_dispatch(),
        log_decay.map_or_else(|| native::absent(&device), Tensor::into_dispatch),
    ];
    let [o, state] = native::apply(operation, floats, vec![]);
    (Tensor::from_dispatch(o), Tensor::from_dispatch(state))
}

/// The delta rule as an operation; its inputs are `q, k, v, beta, state, log_decay`, its outputs `o, state`.
#[derive(Clone, Debug)]
struct DeltaRule {
    dims: Dims,
    decays: bool,
}

impl DeltaRule {
    fn delta<'a>(&self, inputs: &Views<'a, 6>) -> Delta<'a> {
        let [q, k, v, beta, state, log_decay] = inputs.floats;
        Delta { dims: self.dims, q, k, v, beta, state, log_decay: self.decays.then_some(log_decay) }
    }
}

impl Operation<6> for DeltaRule {
    fn forward(&self, inputs: Views<'_, 6>, training: bool) -> Forward {
        let Dims { b, l, h, p, n, .. } = self.dims;
        if !training && decode::pays(&self.dims) {
            let (o, state) = decode::forward(self.delta(&inputs), Level::current());
            return Forward {
                outputs: vec![Array::new(o, [b, l, h, p]), Array::new(state, [b, h, p, n])],
                kept: vec![],
            };
        }
        let result = forward::forward(self.delta(&inputs), training, Level::current());
        let kept = result.boundaries.len();
        Forward {
            outputs: vec![Array::new(result.o, [b, l, h, p]), Array::new(result.state, [b, h, p, n])],
            kept: vec![Array::new(result.boundaries, [kept])],
        }
    }

    fn backward(
        &self,
        inputs: Views<'_, 6>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 6],
    ) -> [Option<Array>; 6] {
        let Dims { b, l, h, g, p, n } = self.dims;
        let upstream = backward::Upstream { o: gradients[0], state: gradients[1] };
        let result = backward::backward(self.delta(&inputs), kept[0], upstream, Level::current());
        [
            Some(Array::new(result.q, [b, l, g, n])),
            Some(Array::new(result.k, [b, l, g, n])),
            Some(Array::new(result.v, [b, l, h, p])),
            Some(Array::new(result.beta, [b, l, h])),
            Some(Array::new(result.state, [b, h, p, n])),
            self.decays.then(|| Array::new(result.log_decay, [b, l, h])),
        ]
    }
}
