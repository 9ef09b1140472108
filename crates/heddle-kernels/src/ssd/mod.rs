//! State-space duality: the recurrence of Mamba-2, in chunks.

mod backward;
mod chunk;
mod decode;
mod definition;
mod forward;
mod gradient;
#[cfg(test)]
mod tests;

use burn::tensor::{Tensor, assert_shape};

pub use definition::ssd_by_definition;

use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};
use chunk::{Dims, Ssd};

/// What state-space duality runs over.
///
/// The paper's `Δ`, `B`, `C` and `D` are `delta`, `write`, `read` and `skip` here.
///
/// Two heads that share a group, one that never fades and one that is halved by each token:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{SsdInput, ssd};
///
/// let device = Device::flex();
/// let input = SsdInput {
///     x: Tensor::zeros([1, 2, 2, 1], &device),
///     delta: Tensor::ones([1, 2, 2], &device),
///     delta_bias: None,
///     softplus: false,
///     a: Tensor::from_data([0.0, -std::f32::consts::LN_2], &device),
///     write: Tensor::ones([1, 2, 1, 1], &device),
///     read: Tensor::ones([1, 2, 1, 1], &device),
///     skip: None,
/// };
/// let (y, _) = ssd(input, Tensor::full([1, 2, 1, 1], 8.0, &device));
/// let expected = [8.0, 4.0, 8.0, 2.0]; // token by token, head by head
/// assert!(y.into_data().to_vec::<f32>()?.iter().zip(expected).all(|(y, expected)| (y - expected).abs() < 1e-5));
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct SsdInput {
    /// The sequence: `[b, l, h, p]`.
    pub x: Tensor<4>,
    /// The step size of each token and head, before its bias and softplus: `[b, l, h]`.
    pub delta: Tensor<3>,
    /// What is added to `delta`: `[h]`.
    pub delta_bias: Option<Tensor<1>>,
    /// Whether `delta` goes through a softplus. If not, it should not be negative.
    pub softplus: bool,
    /// The decay rate of each head, negative for a state that fades: `[h]`.
    pub a: Tensor<1>,
    /// How each token enters the states, `h / g` neighbouring heads alike: `[b, l, g, n]`.
    pub write: Tensor<4>,
    /// How each token reads the states, `h / g` neighbouring heads alike: `[b, l, g, n]`.
    pub read: Tensor<4>,
    /// The weight of the connection around the states: `[h]`.
    pub skip: Option<Tensor<1>>,
}

impl SsdInput {
    /// `[b, l, h, p, g, n]`
    ///
    /// # Panics
    /// If the shapes disagree with each other or with that of `state`, if an axis is empty, or if `h` is no multiple of
    /// `g`.
    fn dims(&self, state: &Tensor<4>) -> [usize; 6] {
        let [b, l, h, p] = self.x.dims();
        let [_, _, g, n] = self.write.dims();
        let Self { delta, delta_bias, a, write, read, skip, .. } = self;
        assert_shape!(delta, [b, l, h]);
        assert_shape!(a, [h]);
        assert_shape!(write, [b, l, g, n]);
        assert_shape!(read, [b, l, g, n]);
        assert_shape!(state, [b, h, p, n]);
        if let Some(delta_bias) = delta_bias {
            assert_shape!(delta_bias, [h]);
        }
        if let Some(skip) = skip {
            assert_shape!(skip, [h]);
        }
        let dims = [b, l, h, p, g, n];
        assert!(
            dims.iter().all(|&size| size > 0),
            "state-space duality needs at least one of everything; [b, l, h, p, g, n] = {dims:?}"
        );
        assert!(h.is_multiple_of(g), "every group needs as many heads as the others; h = {h}, g = {g}");
        dims
    }
}

/// State-space duality (arXiv:2405.21060, section 6 and listing 1): what [`ssd_by_definition`] computes, in products of
/// matrices.
///
/// ```text
/// Δ_t = softplus(Δ_t + bias)
/// H_t = exp(Δ_t A) H_{t-1} + Δ_t x_t ⊗ B_t        y_t = H_t C_t + D x_t
/// ```
///
/// `H` before the first token is `state`, and the second result is `H` after the last, so a sequence may be taken in
/// pieces. Head `i` reads and writes by group `i / (h / g)`. Within a chunk of tokens the outputs are a masked attention,
///
/// ```text
/// y_t = Σ_{j ≤ t} L_tj (C_t · B_j) Δ_j x_j + L_t H C_t + D x_t        L_tj = exp(Δ_{j+1} A) … exp(Δ_t A)
/// ```
///
/// with `H` before the chunk and `L_t` the decay since. Gradients flow to all inputs, through `y` and through the returned
/// state. For them the forward pass keeps the state before each chunk, and the backward pass computes the rest again.
///
/// # Shapes
/// - `state`, and the returned state: `[b, h, p, n]`
/// - returned `y`: `[b, l, h, p]`
///
/// # Panics
/// If the shapes disagree, an axis is empty, or the heads are no multiple of the groups.
///
/// # Examples
/// With `Δ = 1`, `A = 0` and all else one, a head sums up its sequence, and the skip adds the token itself:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{SsdInput, ssd};
///
/// let device = Device::flex();
/// let input = SsdInput {
///     x: Tensor::ones([1, 4, 1, 1], &device),
///     delta: Tensor::ones([1, 4, 1], &device),
///     delta_bias: None,
///     softplus: false,
///     a: Tensor::zeros([1], &device),
///     write: Tensor::ones([1, 4, 1, 1], &device),
///     read: Tensor::ones([1, 4, 1, 1], &device),
///     skip: Some(Tensor::ones([1], &device)),
/// };
/// let (y, state) = ssd(input, Tensor::zeros([1, 1, 1, 1], &device));
/// assert_eq!(y.into_data().to_vec::<f32>()?, [2.0, 3.0, 4.0, 5.0]);
/// assert_eq!(state.into_data().to_vec::<f32>()?, [4.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn ssd(input: SsdInput, state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [b, l, h, p, g, n] = input.dims(&state);
    if !native::has_kernels(&input.x) {
        return ssd_by_definition(input, state);
    }
    let SsdInput { x, delta, delta_bias, softplus, a, write, read, skip } = input;
    let dims = Dims { b, l, h, p, g, n };
    let operation = StateSpaceDuality { dims, softplus, bias: delta_bias.is_some(), skip: skip.is_some() };
    let device = x.device();
    let floats = [
        x.into_dispatch(),
        delta.into_dispatch(),
        a.into_dispatch(),
        write.into_dispatch(),
        read.into_dispatch(),
        state.into_dispatch(),
        delta_bias.map_or_else(|| native::absent(&device), Tensor::into_dispatch),
        skip.map_or_else(|| native::absent(&device), Tensor::into_dispatch),
    ];
    let [y, state] = native::apply(operation, floats, vec![]);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(state))
}

/// The duality as an operation; its inputs are `x, delta, a, write, read, state, delta_bias, skip`, its outputs
/// `y, state`.
#[derive(Clone, Debug)]
struct StateSpaceDuality {
    dims: Dims,
    softplus: bool,
    bias: bool,
    skip: bool,
}

impl StateSpaceDuality {
    fn ssd<'a>(&self, inputs: &Views<'a, 8>) -> Ssd<'a> {
        let [x, delta, a, write, read, state, delta_bias, skip] = inputs.floats;
        let (delta_bias, skip) = (self.bias.then_some(delta_bias), self.skip.then_some(skip));
        Ssd { dims: self.dims, softplus: self.softplus, x, delta, a, write, read, state, delta_bias, skip }
    }
}

impl Operation<8> for StateSpaceDuality {
    fn forward(&self, inputs: Views<'_, 8>, training: bool) -> Forward {
        let Dims { b, l, h, p, n, .. } = self.dims;
        let result = forward::forward(self.ssd(&inputs), training, Level::current());
        let kept = result.boundaries.len();
        Forward {
            outputs: vec![Array::new(result.y, [b, l, h, p]), Array::new(result.state, [b, h, p, n])],
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
        let Dims { b, l, h, p, g, n } = self.dims;
        let upstream = backward::Upstream { y: gradients[0], state: gradients[1] };
        let gradients = backward::backward(self.ssd(&inputs), kept[0], upstream, Level::current());
        [
            Some(Array::new(gradients.x, [b, l, h, p])),
            Some(Array::new(gradients.delta, [b, l, h])),
            Some(Array::new(gradients.a, [h])),
            Some(Array::new(gradients.write, [b, l, g, n])),
            Some(Array::new(gradients.read, [b, l, g, n])),
            Some(Array::new(gradients.state, [b, h, p, n])),
            self.bias.then(|| Array::new(gradients.delta_bias, [h])),
            self.skip.then(|| Array::new(gradients.skip, [h])),
        ]
    }
}
