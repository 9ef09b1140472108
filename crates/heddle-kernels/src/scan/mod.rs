//! Selective scan: the recurrence of Mamba.

mod backward;
mod cpu;
mod definition;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_gated;

use burn::tensor::{Tensor, assert_shape};

pub use definition::{gated_scan_by_definition, scan_by_definition};

use crate::cpu::Array;
use crate::cpu::channels::Dims;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};
use cpu::Scan;

/// What a selective scan runs over.
///
/// The paper's `Δ`, `B`, `C` and `D` are `delta`, `write`, `read` and `skip` here.
///
/// `Δ` selects: with `A = −log 2` the state is halved by a token with `Δ = 1`, and passes one with `Δ = 0` untouched:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{ScanInput, selective_scan};
///
/// let device = Device::flex();
/// let input = ScanInput {
///     u: Tensor::from_data([[[8.0], [99.0], [0.0]]], &device),
///     delta: Tensor::from_data([[[1.0], [0.0], [1.0]]], &device),
///     a: Tensor::full([1, 1], 0.5f32.ln(), &device),
///     write: Tensor::ones([1, 3, 1], &device),
///     read: Tensor::ones([1, 3, 1], &device),
///     skip: Tensor::zeros([1], &device),
/// };
/// let (y, _) = selective_scan(input, Tensor::zeros([1, 1, 1], &device));
/// let y = y.into_data().to_vec::<f32>()?;
/// assert!(y.iter().zip([8.0, 8.0, 4.0]).all(|(y, expected)| (y - expected).abs() < 1e-5));
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ScanInput {
    /// The sequence: `[b, l, e]`.
    pub u: Tensor<3>,
    /// The step size of each token and channel, after its softplus: `[b, l, e]`.
    pub delta: Tensor<3>,
    /// The decay rate of each channel's states, negative for a state that fades: `[e, n]`.
    pub a: Tensor<2>,
    /// How each token enters the states: `[b, l, n]`.
    pub write: Tensor<3>,
    /// How each token reads the states: `[b, l, n]`.
    pub read: Tensor<3>,
    /// The weight of the connection around the states: `[e]`.
    pub skip: Tensor<1>,
}

impl ScanInput {
    /// `[b, l, e, n]`
    ///
    /// # Panics
    /// If the shapes disagree with each other or with that of `state`, or if an axis is empty.
    fn dims(&self, state: &Tensor<3>) -> [usize; 4] {
        let [b, l, e] = self.u.dims();
        let [_, n] = self.a.dims();
        let Self { delta, a, write, read, skip, .. } = self;
        assert_shape!(delta, [b, l, e]);
        assert_shape!(a, [e, n]);
        assert_shape!(write, [b, l, n]);
        assert_shape!(read, [b, l, n]);
        assert_shape!(skip, [e]);
        assert_shape!(state, [b, e, n]);
        assert!(
            b * l * e * n > 0,
            "a scan needs at least one sequence, token, channel and state; [b, l, e, n] = {:?}",
            [b, l, e, n]
        );
        [b, l, e, n]
    }
}

/// Selective scan (arXiv:2312.00752, algorithm 2): what [`scan_by_definition`] computes, in one pass over the sequence.
///
/// ```text
/// h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t        y_t = C_t h_t + D u_t
/// ```
///
/// `h` before the first token is `state`, and the second result is `h` after the last, so a sequence may be scanned in
/// pieces. Gradients flow to all inputs, through `y` and through the returned state. For them the forward pass keeps one
/// state every few tokens, and the backward pass computes those between again.
///
/// # Shapes
/// - `state`, and the returned state: `[b, e, n]`
/// - returned `y`: `[b, l, e]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
///
/// # Examples
/// With `Δ = 1`, `A = 0` and all else one, a scan is a running sum, plus the input itself by the skip:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{ScanInput, selective_scan};
///
/// let device = Device::flex();
/// let sequence = || Tensor::<3>::ones([1, 4, 1], &device);
/// let input = ScanInput {
///     u: sequence(),
///     delta: sequence(),
///     a: Tensor::zeros([1, 1], &device),
///     write: sequence(),
///     read: sequence(),
///     skip: Tensor::ones([1], &device),
/// };
/// let (y, state) = selective_scan(input, Tensor::zeros([1, 1, 1], &device));
/// assert_eq!(y.into_data().to_vec::<f32>()?, [2.0, 3.0, 4.0, 5.0]);
/// assert_eq!(state.into_data().to_vec::<f32>()?, [4.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn selective_scan(input: ScanInput, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    gated_scan(GatedScanInput { scan: input, delta_bias: None, softplus: false, gate: None }, state)
}

/// What a gated scan runs over: a scan with what Mamba does before and behind it.
///
/// The bias lifts `Δ` from −3 to softplus(−3 + 3) = log 2, so that with `A = −1` each token leaves half of the state:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{GatedScanInput, ScanInput, gated_scan};
///
/// let device = Device::flex();
/// let scan = ScanInput {
///     u: Tensor::zeros([1, 2, 1], &device),
///     delta: Tensor::full([1, 2, 1], -3.0, &device),
///     a: Tensor::full([1, 1], -1.0, &device),
///     write: Tensor::ones([1, 2, 1], &device),
///     read: Tensor::ones([1, 2, 1], &device),
///     skip: Tensor::zeros([1], &device),
/// };
/// let delta_bias = Some(Tensor::full([1], 3.0, &device));
/// let input = GatedScanInput { scan, delta_bias, softplus: true, gate: None };
/// let (y, _) = gated_scan(input, Tensor::full([1, 1, 1], 8.0, &device));
/// let y = y.into_data().to_vec::<f32>()?;
/// assert!(y.iter().zip([4.0, 2.0]).all(|(y, expected)| (y - expected).abs() < 1e-5));
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct GatedScanInput {
    /// The scan, with `delta` before what follows.
    pub scan: ScanInput,
    /// What is added to `delta` in each channel: `[e]`.
    pub delta_bias: Option<Tensor<1>>,
    /// Whether `delta`, with its bias, goes through a softplus.
    pub softplus: bool,
    /// What `y` is multiplied by, through a SiLU: `[b, l, e]`.
    pub gate: Option<Tensor<3>>,
}

impl GatedScanInput {
    /// `[b, l, e, n]`
    ///
    /// # Panics
    /// If the shapes disagree with each other or with that of `state`, or if an axis is empty.
    fn dims(&self, state: &Tensor<3>) -> [usize; 4] {
        let dims @ [b, l, e, _] = self.scan.dims(state);
        let Self { delta_bias, gate, .. } = self;
        if let Some(delta_bias) = delta_bias {
            assert_shape!(delta_bias, [e]);
        }
        if let Some(gate) = gate {
            assert_shape!(gate, [b, l, e]);
        }
        dims
    }
}

/// Selective scan with the softplus of its step size and the gate of its output: what [`gated_scan_by_definition`]
/// computes, in one pass over the sequence that writes neither the step sizes nor the output before the gate to memory.
///
/// ```text
/// Δ ← softplus(Δ + bias)        y ← SiLU(gate) · y
/// ```
///
/// # Shapes
/// - `state`, and the returned state: `[b, e, n]`
/// - returned `y`: `[b, l, e]`
///
/// # Panics
/// If the shapes disagree or an axis is empty.
///
/// # Examples
/// A gate of zero lets nothing through, and leaves the state as it is without:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{GatedScanInput, ScanInput, gated_scan};
///
/// let device = Device::flex();
/// let sequence = || Tensor::<3>::ones([1, 4, 1], &device);
/// let scan = ScanInput {
///     u: sequence(),
///     delta: sequence(),
///     a: Tensor::zeros([1, 1], &device),
///     write: sequence(),
///     read: sequence(),
///     skip: Tensor::ones([1], &device),
/// };
/// let gate = Some(Tensor::zeros([1, 4, 1], &device));
/// let input = GatedScanInput { scan, delta_bias: None, softplus: false, gate };
/// let (y, state) = gated_scan(input, Tensor::zeros([1, 1, 1], &device));
/// assert_eq!(y.into_data().to_vec::<f32>()?, [0.0; 4]);
/// assert_eq!(state.into_data().to_vec::<f32>()?, [4.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn gated_scan(input: GatedScanInput, state: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let [b, l, e, n] = input.dims(&state);
    if !native::has_kernels(&input.scan.u) {
        return gated_scan_by_definition(input, state);
    }
    let GatedScanInput { scan: ScanInput { u, delta, a, write, read, skip }, delta_bias, softplus, gate } = input;
    let operation =
        SelectiveScan { dims: Dims { b, l, e, n }, softplus, bias: delta_bias.is_some(), gate: gate.is_some() };
    let device = u.device();
    let floats = [
        u.into_dispatch(),
        delta.into_dispatch(),
        a.into_dispatch(),
        write.into_dispatch(),
        read.into_dispatch(),
        skip.into_dispatch(),
        state.into_dispatch(),
        delta_bias.map_or_else(|| native::absent(&device), Tensor::into_dispatch),
        gate.map_or_else(|| native::absent(&device), Tensor::into_dispatch),
    ];
    let [y, state] = native::apply(operation, floats, vec![]);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(state))
}

/// The scan as an operation; its inputs are `u, delta, a, write, read, skip, state, delta_bias, gate`, its outputs
/// `y, state`.
#[derive(Clone, Debug)]
struct SelectiveScan {
    dims: Dims,
    softplus: bool,
    bias: bool,
    gate: bool,
}

impl SelectiveScan {
    fn scan<'a>(&self, inputs: &Views<'a, 9>) -> Scan<'a> {
        let [u, delta, a, write, read, skip, state, delta_bias, gate] = inputs.floats;
        let (delta_bias, gate) = (self.bias.then_some(delta_bias), self.gate.then_some(gate));
        Scan { dims: self.dims, softplus: self.softplus, u, delta, a, write, read, skip, state, delta_bias, gate }
    }
}

impl Operation<9> for SelectiveScan {
    fn forward(&self, inputs: Views<'_, 9>, training: bool) -> Forward {
        let Dims { b, l, e, n } = self.dims;
        let result = cpu::forward(self.scan(&inputs), training, Level::current());
        let kept = result.boundaries.len();
        Forward {
            outputs: vec![Array::new(result.y, [b, l, e]), Array::new(result.state, [b, e, n])],
            kept: vec![Array::new(result.boundaries, [kept])],
        }
    }

    fn backward(
        &self,
        inputs: Views<'_, 9>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 9],
    ) -> [Option<Array>; 9] {
        let Dims { b, l, e, n } = self.dims;
        let upstream = backward::Upstream { y: gradients[0], state: gradients[1] };
        let g = backward::backward(self.scan(&inputs), kept[0], upstream, Level::current());
        [
            Some(Array::new(g.u, [b, l, e])),
            Some(Array::new(g.delta, [b, l, e])),
            Some(Array::new(g.a, [e, n])),
            Some(Array::new(g.write, [b, l, n])),
            Some(Array::new(g.read, [b, l, n])),
            Some(Array::new(g.skip, [e])),
            Some(Array::new(g.state, [b, e, n])),
            self.bias.then(|| Array::new(g.delta_bias, [e])),
            self.gate.then(|| Array::new(g.gate, [b, l, e])),
        ]
    }
}
