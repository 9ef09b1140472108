//! The read-out of one item among many that a hidden state holds.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Int, Tensor, TensorData};
use heddle_kernels::{Init, gelu, linear};

use crate::ModelConfig;
use crate::norm::Norm;

/// The decoder of the compression task's auto-encoder: what stood at position i of the sequence that a hidden state h holds.
///
/// ```text
/// x = h + p(i)      x ← GELU(W₁ norm(x) + b₁)      x ← GELU(W₂ norm(x) + b₂)
/// p(i) = [sin(i ω_0), …, sin(i ω_{m−1}), cos(i ω_0), …, cos(i ω_{m−1})]
/// ω_j = 10000^(−j / (m − 1)),  m = ⌊d / 2⌋                                (arXiv:2403.17844, section 3.1, and mad-lab)
/// ```
///
/// The model's own norm and head follow. p is fixed; the maps are square, with biases. The norms are those that the config
/// asks for, and the maps start as every other map here does, where the authors draw theirs from N(0, 0.02²).
///
/// A model gets one by [`Model::with_item_readout`](crate::Model::with_item_readout), and asks it by
/// [`Model::item_logits`](crate::Model::item_logits).
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
///
/// let config: ModelConfig = serde_json::from_str(
///     r#"{"d_model": 16, "layers": ["gru"], "mixer": {"gru": {"kind": "gru"}}}"#,
/// ).unwrap();
/// let mut init = Init::new(0, &Device::flex());
/// let model = Model::new(&config, 10, &MixerRegistry::default(), &mut init).unwrap();
/// let without = model.num_params();
/// // Two norms, and two maps with biases.
/// assert_eq!(model.with_item_readout(&config, &mut init).num_params() - without, 2 * 16 + 2 * (16 * 16 + 16));
/// ```
#[derive(Module, Debug)]
pub struct ItemReadout {
    inner_norm: Norm,
    inner: Linear,
    outer_norm: Norm,
    outer: Linear,
}

impl ItemReadout {
    pub(crate) fn new(config: &ModelConfig, init: &mut Init) -> Self {
        let d = config.d_model;
        Self {
            inner_norm: Norm::new(config, d, init),
            inner: init.linear(d, d, true),
            outer_norm: Norm::new(config, d, init),
            outer: init.linear(d, d, true),
        }
    }

    /// What the model's norm and head read.
    ///
    /// # Shapes
    /// - `hidden`, and the returned tensor: `[rows, d]`; `items`: `[rows]`
    pub(crate) fn forward(&self, hidden: Tensor<2>, items: Tensor<1, Int>) -> Tensor<2> {
        let [rows, d] = hidden.dims();
        let layer = |x: Tensor<3>, norm: &Norm, map: &Linear| gelu(linear(norm.forward(x), map));
        let x = (hidden + positions(items, d)).reshape([1, rows, d]);
        let x = layer(x, &self.inner_norm, &self.inner);
        layer(x, &self.outer_norm, &self.outer).reshape([rows, d])
    }

    /// Floating-point operations for one item.
    pub(crate) fn flops(&self) -> u64 {
        [&self.inner, &self.outer].map(|map| 2 * map.weight.shape().num_elements() as u64).iter().sum()
    }
}

/// The encoding p of each item: `[rows]` → `[rows, d]`.
fn positions(items: Tensor<1, Int>, d: usize) -> Tensor<2> {
    let (rows, device, half) = (items.dims()[0], items.device(), d / 2);
    // With one frequency, or none, there is no spacing to choose.
    let spacing = half.max(2) as f64 - 1.0;
    let frequencies = (0..half).map(|j| 1e4f64.powf(-(j as f64) / spacing) as f32).collect::<Vec<f32>>();
    let frequencies = Tensor::<2>::from_data(TensorData::new(frequencies, [1, half]), &device);
    let angles = items.float().reshape([rows, 1]).matmul(frequencies);
    let padding = Tensor::zeros([rows, d - 2 * half], &device);
    Tensor::cat(vec![angles.clone().sin(), angles.cos(), padding], 1)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn positions_are_the_sinusoids_of_the_formula_at_any_width() {
        for d in [1, 2, 3, 8, 33] {
            let half = d / 2;
            let found = positions(Tensor::from_ints([0, 1, 31, 5000], &Device::flex()), d).into_data();
            let found = found.try_to_vec::<f32>().unwrap();
            for (row, i) in [0.0f64, 1.0, 31.0, 5000.0].into_iter().enumerate() {
                for k in 0..d {
                    let omega = |j: usize| 1e4f64.powf(-(j as f64) / (half.max(2) as f64 - 1.0));
                    let expected = match k {
                        k if k < half => (i * omega(k)).sin(),
                        k if k < 2 * half => (i * omega(k - half)).cos(),
                        _ => 0.0,
                    };
                    // An angle of thousands has few bits left behind the point.
                    assert!(
                        (f64::from(found[row * d + k]) - expected).abs() < 1e-3,
                        "width {d}, item {i}, channel {k}"
                    );
                }
            }
        }
    }
}
