//! Root-mean-square normalisation, with or without a gate.

use burn::tensor::Tensor;

use super::definition::{assert_width, gated_rms_norm_by_definition, rms_norm_by_definition};
use super::rms_cpu::{self, Rows};
use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};

/// Root-mean-square normalisation with a learned scale (arXiv:1910.07467, eq. 4): [`rms_norm_by_definition`] as one kernel.
///
/// # Shapes
/// - `x`, and the returned tensor: `[b, l, d]`; `gamma`: `[d]`
///
/// # Panics
/// If `gamma` is not as wide as `x`.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// let device = Device::flex();
/// let x = Tensor::<3>::from_data([[[3.0, 4.0, 0.0, 0.0]]], &device);
/// let y = heddle_kernels::rms_norm(x, Tensor::ones([4], &device), 0.0);
/// assert_eq!(y.into_data().to_vec::<f32>()?, [1.2, 1.6, 0.0, 0.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn rms_norm(x: Tensor<3>, gamma: Tensor<1>, eps: f64) -> Tensor<3> {
    assert_width(&x, &gamma);
    if !native::has_kernels(&x) {
        return rms_norm_by_definition(x, gamma, eps);
    }
    let operation = RmsNorm { shape: x.dims(), eps: eps as f32 };
    let [y] = native::apply(operation, [x.into_dispatch(), gamma.into_dispatch()], vec![]);
    Tensor::from_dispatch(y)
}

/// How a gated normalisation goes about it.
///
/// In one group, large channels make small ones smaller; in groups of their own they do not. The gate, wide open, scales
/// all alike:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{GateOrder, GatedNorm, gated_rms_norm};
///
/// let device = Device::flex();
/// let of = |groups| {
///     let (x, gate) = (Tensor::from_data([[[1.0, 1.0, 7.0, 7.0]]], &device), Tensor::full([1, 1, 4], 64.0, &device));
///     let norm = GatedNorm { groups, order: GateOrder::Before, eps: 0.0 };
///     gated_rms_norm(x, gate, Tensor::ones([4], &device), norm).into_data().to_vec::<f32>()
/// };
/// // The root of (1 + 1 + 49 + 49) / 4 is 5.
/// assert!(of(1)?.iter().zip([0.2, 0.2, 1.4, 1.4]).all(|(y, expected)| (y - expected).abs() < 1e-6));
/// assert!(of(2)?.iter().all(|y| (y - 1.0).abs() < 1e-6));
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatedNorm {
    /// Groups of neighbouring channels that are normalised each on its own; one for the whole token.
    pub groups: usize,
    /// Where the gate stands.
    pub order: GateOrder,
    /// What is added to the mean square.
    pub eps: f64,
}

/// Where a gate stands.
///
/// A channel whose gate is shut counts in the root mean square only where the gate stands behind:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{GateOrder, GatedNorm, gated_rms_norm};
///
/// let device = Device::flex();
/// let first = |order| {
///     let (x, gate) = (Tensor::from_data([[[1.0, 7.0]]], &device), Tensor::from_data([[[64.0, -64.0]]], &device));
///     let norm = GatedNorm { groups: 1, order, eps: 0.0 };
///     gated_rms_norm(x, gate, Tensor::ones([2], &device), norm).slice([0..1, 0..1, 0..1]).into_scalar::<f32>()
/// };
/// // 64 / √(64² / 2), and 64 · 1 / √((1 + 49) / 2).
/// assert!((first(GateOrder::Before) - 2f32.sqrt()).abs() < 1e-5);
/// assert!((first(GateOrder::After) - 64.0 / 5.0).abs() < 1e-5);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateOrder {
    /// What is normalised has gone through the gate, as in Mamba-2.
    Before,
    /// What was normalised goes through the gate, as in gated DeltaNet.
    After,
}

/// Root-mean-square normalisation of groups of channels with a SiLU gate: [`gated_rms_norm_by_definition`] as one kernel.
///
/// # Shapes
/// - `x`, `gate`, and the returned tensor: `[b, l, d]`; `gamma`: `[d]`
///
/// # Panics
/// If shapes disagree or the groups do not divide the width.
///
/// # Examples
/// A wide open gate in front only scales its group, which the normalisation takes back; behind, it stays:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{GateOrder, GatedNorm, gated_rms_norm};
/// let device = Device::flex();
/// let gated = |order| {
///     let norm = GatedNorm { groups: 2, order, eps: 0.0 };
///     let x = Tensor::<3>::from_data([[[3.0, -3.0, 5.0, 5.0]]], &device);
///     let gate = Tensor::<3>::full([1, 1, 4], 64.0, &device);
///     gated_rms_norm(x, gate, Tensor::ones([4], &device), norm).into_data().to_vec::<f32>()
/// };
/// assert_eq!(gated(GateOrder::Before)?, [1.0, -1.0, 1.0, 1.0]);
/// assert_eq!(gated(GateOrder::After)?, [64.0, -64.0, 64.0, 64.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn gated_rms_norm(x: Tensor<3>, gate: Tensor<3>, gamma: Tensor<1>, norm: GatedNorm) -> Tensor<3> {
    norm.assert_fits(&x, &gate, &gamma);
    if !native::has_kernels(&x) {
        return gated_rms_norm_by_definition(x, gate, gamma, norm);
    }
    let operation = GatedRmsNorm { shape: x.dims(), norm };
    let [y] = native::apply(operation, [x, gate, gamma.unsqueeze()].map(Tensor::into_dispatch), vec![]);
    Tensor::from_dispatch(y)
}

/// The normalisation as an operation; its inputs are `x, gamma`. It keeps each token's factor `1 / √(mean x² + ε)`.
#[derive(Clone, Debug)]
struct RmsNorm {
    shape: [usize; 3],
    eps: f32,
}

impl Operation<2> for RmsNorm {
    fn forward(&self, inputs: Views<'_, 2>, _training: bool) -> Forward {
        let [b, l, _] = self.shape;
        let [x, gamma] = inputs.floats;
        let rows = Rows { x, gate: None, gamma, groups: 1 };
        let (y, factors) = rms_cpu::forward(rows, self.eps, Level::current());
        Forward { outputs: vec![Array::new(y, self.shape)], kept: vec![Array::new(factors, [b * l])] }
    }

    fn backward(
        &self,
        inputs: Views<'_, 2>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 2],
    ) -> [Option<Array>; 2] {
        let [x, gamma] = inputs.floats;
        let rows = Rows { x, gate: None, gamma, groups: 1 };
        let g = gradients[0].expect("the only output has a gradient");
        let gradients = rms_cpu::backward(rows, kept[0], g, Level::current());
        [Some(Array::new(gradients.x, self.shape)), Some(Array::new(gradients.gamma, [gamma.len()]))]
    }
}

/// The gated normalisation as an operation; its inputs are `x, gate, gamma`. It keeps the factor of each group.
#[derive(Clone, Debug)]
struct GatedRmsNorm {
    shape: [usize; 3],
    norm: GatedNorm,
}

impl GatedRmsNorm {
    fn rows<'a>(&self, [x, gate, gamma]: [&'a [f32]; 3]) -> Rows<'a> {
        Rows { x, gate: Some((gate, self.norm.order)), gamma, groups: self.norm.groups }
    }
}

impl Operation<3> for GatedRmsNorm {
    fn forward(&self, inputs: Views<'_, 3>, _training: bool) -> Forward {
        let [b, l, _] = self.shape;
        let (y, factors) = rms_cpu::forward(self.rows(inputs.floats), self.norm.eps as f32, Level::current());
        let kept = vec![Array::new(factors, [b * l * self.norm.groups])];
        Forward { outputs: vec![Array::new(y, self.shape)], kept }
    }

    fn backward(
        &self,
        inputs: Views<'_, 3>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 3],
    ) -> [Option<Array>; 3] {
        let [_, _, d] = self.shape;
        let g = gradients[0].expect("the only output has a gradient");
        let gradients = rms_cpu::backward(self.rows(inputs.floats), kept[0], g, Level::current());
        [
            Some(Array::new(gradients.x, self.shape)),
            Some(Array::new(gradients.gate, self.shape)),
            Some(Array::new(gradients.gamma, [1, 1, d])),
        ]
    }
}
