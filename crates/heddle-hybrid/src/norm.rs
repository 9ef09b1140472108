//! Normalisation of the residual stream.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use heddle_kernels::{Init, layer_norm, rms_norm};
use serde::{Deserialize, Serialize};

use crate::ModelConfig;

/// What a norm divides by.
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
///
/// let params = |json: &str| {
///     let part = r#""d_model": 16, "layers": ["gru"], "mixer": {"gru": {"kind": "gru"}}"#;
///     let config: ModelConfig = serde_json::from_str(&format!("{{{part}, {json}}}")).unwrap();
///     let mut init = Init::outline(&Device::flex());
///     Model::new(&config, 10, &MixerRegistry::default(), &mut init).unwrap().num_params()
/// };
/// // The norm of the layer's mixer and the one before the head have a shift of each channel.
/// assert_eq!(params(r#""norm": "layer""#) - params(r#""norm": "rms""#), 2 * 16);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// The root mean square (arXiv:1910.07467).
    Rms,
    /// The standard deviation, after the mean was taken away; with a shift (arXiv:1607.06450).
    Layer,
}

/// Where the norms of a layer stand around what it adds to the stream, `f`.
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_hybrid::{Init, MixerRegistry, Model, ModelConfig};
///
/// let params = |json: &str| {
///     let part = r#""d_model": 16, "layers": ["gru"], "mixer": {"gru": {"kind": "gru"}}"#;
///     let config: ModelConfig = serde_json::from_str(&format!("{{{part}, {json}}}")).unwrap();
///     let mut init = Init::outline(&Device::flex());
///     Model::new(&config, 10, &MixerRegistry::default(), &mut init).unwrap().num_params()
/// };
/// let [pre, post, sandwich] = ["pre", "post", "sandwich"].map(|place| params(&format!(r#""norm_placement": "{place}""#)));
/// // A layer of one part has a norm, or two around the part; the one before the head is there or not.
/// assert_eq!((post, sandwich), (pre - 16, pre + 16));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlacement {
    /// `x + f(norm(x))`, and a norm before the head (arXiv:2002.04745).
    Pre,
    /// `norm(x + f(x))`, and none before the head (arXiv:1706.03762, §3.1).
    Post,
    /// `x + norm(f(norm(x)))`, and a norm before the head (arXiv:2105.13290, §2.3; Gemma 2).
    Sandwich,
}

/// A normalisation with a learned scale γ and, for [`NormKind::Layer`], a shift β.
///
/// ```text
/// y_i = γ_i x_i / √(mean_j x_j² + ε)                             (arXiv:1910.07467, eq. 4)
/// y_i = γ_i (x_i − mean_j x_j) / √(var_j x_j + ε) + β_i          (arXiv:1607.06450, eq. 4)
/// ```
///
/// The parameter is γ, or γ − 1 where the model says `norm_plus_one`; both start at γ = 1.
#[derive(Module, Debug)]
pub(crate) struct Norm {
    gamma: Param<Tensor<1>>,
    beta: Option<Param<Tensor<1>>>,
    #[module(skip)]
    eps: f64,
    #[module(skip)]
    plus_one: bool,
}

impl Norm {
    /// The norm that `config` asks for, over tokens of this width.
    pub(crate) fn new(config: &ModelConfig, width: usize, init: &mut Init) -> Self {
        let width = [width];
        Self {
            gamma: init.constant(width, if config.norm_plus_one { 0.0 } else { 1.0 }),
            beta: (config.norm == NormKind::Layer).then(|| init.constant(width, 0.0)),
            eps: config.norm_eps,
            plus_one: config.norm_plus_one,
        }
    }

    /// Normalises every token.
    ///
    /// # Shapes
    /// - `x`, and the returned tensor: `[b, l, d]`, or `2 d` wide where the embedding stands beside the stream
    pub(crate) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gamma = if self.plus_one { self.gamma.val() + 1.0 } else { self.gamma.val() };
        match &self.beta {
            Some(beta) => layer_norm(x, gamma, Some(beta.val()), self.eps),
            None => rms_norm(x, gamma, self.eps),
        }
    }
}
