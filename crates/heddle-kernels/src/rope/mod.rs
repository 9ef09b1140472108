//! Rotary positions.

mod cpu;
mod definition;
mod scaling;
#[cfg(test)]
mod tests;

use burn::tensor::Tensor;

pub use definition::rotate_by_definition;
pub use scaling::RotaryScaling;

use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};

/// How far each pair of a head's channels turns from token to token.
///
/// One pair in a head of four channels turns by half a circle a token; the other two channels are positionless:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Pairing, Rotary, rotate};
///
/// let rotary = Rotary { frequencies: vec![std::f64::consts::PI], pairing: Pairing::Halves, offset: 1 };
/// let x = Tensor::<4>::from_data([[[[1.0, 2.0, 3.0, 4.0]]]], &Device::flex());
/// let y = rotate(x, &rotary).into_data().to_vec::<f32>()?;
/// assert!(y.iter().zip([-1.0, -2.0, 3.0, 4.0]).all(|(y, expected)| (y - expected).abs() < 1e-6));
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Radians a token of each pair; channels that no pair covers do not turn.
    pub frequencies: Vec<f64>,
    /// Which channels turn together.
    pub pairing: Pairing,
    /// The position of the first token.
    pub offset: usize,
}

/// Which channels of a head turn together. One is the other under a fixed permutation of the channels.
///
/// Of two pairs the first makes a quarter turn, `(x, y) ← (−y, x)`, and the second none:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Pairing, Rotary, rotate};
///
/// let turned = |pairing| {
///     let rotary = Rotary { frequencies: vec![std::f64::consts::FRAC_PI_2, 0.0], pairing, offset: 1 };
///     let x = Tensor::<4>::from_data([[[[1.0, 2.0, 3.0, 4.0]]]], &Device::flex());
///     rotate(x, &rotary).into_data().to_vec::<f32>().unwrap().into_iter().map(f32::round).collect::<Vec<f32>>()
/// };
/// assert_eq!(turned(Pairing::Halves), [-3.0, 2.0, 1.0, 4.0]);
/// assert_eq!(turned(Pairing::Neighbours), [-2.0, 1.0, 3.0, 4.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Channel `i` and channel `i + k`, with `k` pairs, as Llama has it.
    Halves,
    /// Channel `2i` and channel `2i + 1`, as the paper and GPT-J have it.
    Neighbours,
}

impl Rotary {
    /// The frequencies `θ^{−2i/p}` of the paper for a head of width `p` that turns as a whole.
    ///
    /// ```
    /// use heddle_kernels::{Pairing, Rotary};
    /// assert_eq!(Rotary::new(100.0, 4, Pairing::Halves, 0).frequencies, [1.0, 0.1]);
    /// ```
    pub fn new(theta: f64, p: usize, pairing: Pairing, offset: usize) -> Self {
        let frequencies = (0..p / 2).map(|i| theta.powf(-2.0 * i as f64 / p as f64)).collect();
        Self { frequencies, pairing, offset }
    }

    fn assert_fits(&self, p: usize) {
        let pairs = self.frequencies.len();
        assert!(2 * pairs <= p, "rotate: {pairs} pairs of channels do not fit a head of width {p}");
    }
}

/// Turns pairs of channels by their token's position (arXiv:2104.09864, eq. 34): [`rotate_by_definition`] as one kernel.
///
/// ```text
/// (x_i, x_j) ← (x_i cos tω − x_j sin tω, x_j cos tω + x_i sin tω)      for each pair i, j with frequency ω, at position t
/// ```
///
/// # Shapes
/// - `x`, and the returned tensor: `[b, h, l, p]`
///
/// # Panics
/// If there are more pairs than fit the head.
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{Pairing, Rotary, rotate};
/// let quarter = Rotary { frequencies: vec![std::f64::consts::FRAC_PI_2], pairing: Pairing::Halves, offset: 1 };
/// let x = Tensor::<4>::from_data([[[[3.0, 4.0]]]], &Device::flex());
/// let y = rotate(x, &quarter).into_data().to_vec::<f32>()?;
/// assert!((y[0] + 4.0).abs() < 1e-6 && (y[1] - 3.0).abs() < 1e-6);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn rotate(x: Tensor<4>, rotary: &Rotary) -> Tensor<4> {
    let shape @ [_, _, _, p] = x.dims();
    rotary.assert_fits(p);
    if !native::has_kernels(&x) {
        return rotate_by_definition(x, rotary);
    }
    let operation = Rotate { rotary: rotary.clone(), shape };
    let [y] = native::apply(operation, [x.into_dispatch()], vec![]);
    Tensor::from_dispatch(y)
}

/// The rotation as an operation; its backward pass turns the other way and needs no input.
#[derive(Clone, Debug)]
struct Rotate {
    rotary: Rotary,
    shape: [usize; 4],
}

impl Operation<1> for Rotate {
    fn forward(&self, inputs: Views<'_, 1>, _training: bool) -> Forward {
        let y = cpu::rotate(inputs.floats[0], self.shape, &self.rotary, cpu::Turn::Forward, Level::current());
        Forward { outputs: vec![Array::new(y, self.shape)], kept: vec![] }
    }

    fn backward(
        &self,
        _inputs: Views<'_, 1>,
        _kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        _wanted: [bool; 1],
    ) -> [Option<Array>; 1] {
        let g = gradients[0].expect("the only output has a gradient");
        let g_x = cpu::rotate(g, self.shape, &self.rotary, cpu::Turn::Back, Level::current());
        [Some(Array::new(g_x, self.shape))]
    }

    fn keeps_input(&self, _index: usize) -> bool {
        false
    }
}
