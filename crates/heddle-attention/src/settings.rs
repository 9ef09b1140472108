//! What an attention block is like.

use burn::module::Param;
use burn::tensor::Tensor;
use heddle_kernels::{Init, MixerSettings, SettingsError};
use serde::{Deserialize, Serialize};

use crate::positions::{self, Placement};
use crate::sparsity::GrowingMask;
use crate::{Attention, Positions, RopeScaling, Sparsity};

/// Settings of [`Attention`].
///
/// ```
/// use burn::tensor::Device;
/// use heddle_attention::AttentionSettings;
/// use heddle_kernels::{Init, Mixer, MixerSettings};
///
/// let mut init = Init::new(0, &Device::flex());
/// let settings: AttentionSettings = toml::from_str("heads = 8\nkv_heads = 2\nwindow = 100").unwrap();
/// // The cache holds keys and values of two heads, 8 wide, for the 99 tokens that the next one sees beside itself.
/// assert_eq!(settings.init(64, &mut init).unwrap().state_bytes(1000, 64), 4 * 99 * 2 * (2 * 8));
///
/// let error = AttentionSettings { kv_heads: Some(3), ..settings }.init(64, &mut init).unwrap_err();
/// assert_eq!(error.to_string(), "`kv_heads`: 3 key/value heads do not divide 8 heads; use a divisor of `heads`");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionSettings {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads, which divide the query heads (arXiv:2305.13245); none means one for each query head, 1 is
    /// multi-query attention (arXiv:1911.02150).
    pub kv_heads: Option<usize>,
    /// Width of a head; none means the width that is read, which is mostly the model's, over the query heads.
    pub head_dim: Option<usize>,
    /// A token sees itself and the `window − 1` tokens before it (arXiv:2004.05150); none means all before it.
    pub window: Option<usize>,
    /// First tokens that are seen in spite of the window (arXiv:2309.17453).
    pub sinks: usize,
    /// Blocks of the past that are seen; none means all.
    pub sparsity: Option<Sparsity>,
    /// Whether a token sees none after itself; an encoder's attention is not causal.
    pub causal: bool,
    /// How a token knows where it stands.
    pub positions: Positions,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// Part of a head that turns.
    pub rope_fraction: f64,
    /// How the rotary wavelengths are stretched.
    pub rope_scaling: Option<RopeScaling>,
    /// Longest sequence that learned positions cover.
    pub max_length: usize,
    /// Whether queries and keys are normalised head by head (arXiv:2010.04245, with RMSNorm).
    pub qk_norm: bool,
    /// ε of those norms; none means 1e-6.
    pub qk_norm_eps: Option<f64>,
    /// Whether the scale of those norms is stored as what is added to one; none means not.
    pub qk_norm_plus_one: Option<bool>,
    /// Multiplier of the scores; none means one over the root of a head's width.
    pub score_scale: Option<f64>,
    /// Bound that scores are squeezed into (arXiv:2408.00118, §2); none means no bound.
    pub softcap: Option<f64>,
    /// Whether a sigmoid gate of the input multiplies the heads' outputs (arXiv:2505.06708).
    pub output_gate: bool,
    /// Whether the projections to queries, keys and values have a bias.
    pub bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// Chance that training sets the weight of a value to zero, while those that are kept grow to make up for it
    /// ([`AttentionDropout`](heddle_kernels::AttentionDropout)). Without gradients, as in evaluation and decoding, nothing is.
    pub dropout: f64,
}

impl Default for AttentionSettings {
    fn default() -> Self {
        Self {
            heads: 1,
            kv_heads: None,
            head_dim: None,
            window: None,
            sinks: 0,
            sparsity: None,
            causal: true,
            positions: Positions::Rope,
            rope_theta: 10_000.0,
            rope_fraction: 1.0,
            rope_scaling: None,
            max_length: 2048,
            qk_norm: false,
            qk_norm_eps: None,
            qk_norm_plus_one: None,
            score_scale: None,
            softcap: None,
            output_gate: false,
            bias: false,
            output_bias: false,
            dropout: 0.0,
        }
    }
}

impl MixerSettings for AttentionSettings {
    type Mixer = Attention;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<Attention, SettingsError> {
        self.init_reading(d_model, d_model, init)
    }

    fn init_reading(&self, d_in: usize, d_model: usize, init: &mut Init) -> Result<Attention, SettingsError> {
        let [h, g, p] = self.heads(d_in)?;
        self.check_sight()?;
        self.check_positions(p)?;
        let start = if self.qk_norm_plus_one == Some(true) { 0.0 } else { 1.0 };
        let norm = |init: &mut Init| -> Option<Param<Tensor<1>>> { self.qk_norm.then(|| init.constant([p], start)) };

        Ok(Attention {
            query: init.linear(d_in, h * p, self.bias),
            key: init.linear(d_in, g * p, self.bias),
            value: init.linear(d_in, g * p, self.bias),
            gate: self.output_gate.then(|| init.linear(d_in, h * p, false)),
            output: init.linear(h * p, d_model, self.output_bias),
            query_norm: norm(init),
            key_norm: norm(init),
            placement: Placement::new(self, [d_in, p], init),
            heads: h,
            kv_heads: g,
            sight: self.clone(),
            mask: GrowingMask::default(),
        })
    }
}

impl AttentionSettings {
    /// Query heads, key/value heads and the width of one, `[h, g, p]`.
    fn heads(&self, d_in: usize) -> Result<[usize; 3], SettingsError> {
        let (h, g) = (self.heads, self.kv_heads.unwrap_or(self.heads));
        if h == 0 || (self.head_dim.is_none() && !d_in.is_multiple_of(h)) {
            let problem = format!("{h} heads do not divide the width {d_in} that they read");
            return Err(SettingsError::new("heads", problem, "use a divisor of `d_model`, or state `head_dim`"));
        }
        if g == 0 || !h.is_multiple_of(g) {
            let problem = format!("{g} key/value heads do not divide {h} heads");
            return Err(SettingsError::new("kv_heads", problem, "use a divisor of `heads`"));
        }
        match self.head_dim.unwrap_or(d_in / h) {
            0 => Err(SettingsError::new("head_dim", "a head has no width", "use 1 or more")),
            p => Ok([h, g, p]),
        }
    }

    fn check_sight(&self) -> Result<(), SettingsError> {
        if self.window == Some(0) {
            return Err(SettingsError::new("window", "a window of 0 sees nothing", "use 1 or more"));
        }
        if let Some(eps) = self.qk_norm_eps.filter(|eps| !(*eps >= 0.0 && eps.is_finite())) {
            let problem = format!("{eps} is no ε");
            return Err(SettingsError::new("qk_norm_eps", problem, "use a small positive number"));
        }
        if let Some(scale) = self.score_scale.filter(|scale| !(*scale > 0.0 && scale.is_finite())) {
            let problem = format!("{scale} is no multiplier of scores");
            return Err(SettingsError::new("score_scale", problem, "use a positive number"));
        }
        if let Some(cap) = self.softcap.filter(|cap| !(*cap > 0.0 && cap.is_finite())) {
            return Err(SettingsError::new(
                "softcap",
                format!("{cap} is no bound"),
                "use a positive number such as 50",
            ));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let problem = format!("{} is no chance", self.dropout);
            return Err(SettingsError::new("dropout", problem, "use a number from 0 to below 1"));
        }
        if self.sinks > 0 && self.window.is_none() {
            let problem = "without a window the first tokens are seen anyway";
            return Err(SettingsError::new("sinks", problem, "state `window`, or use 0"));
        }
        if self.sinks > 0 && self.positions == Positions::Alibi {
            let problem = "a windowed cache does not keep how far its first tokens are";
            return Err(SettingsError::new("sinks", problem, "use other `positions`, or 0"));
        }
        let Some(sparsity) = &self.sparsity else { return Ok(()) };
        if self.window.is_some() {
            let problem = "patterns have a window of their own";
            return Err(SettingsError::new("sparsity", problem, "leave out `window`"));
        }
        sparsity.check()
    }

    fn check_positions(&self, p: usize) -> Result<(), SettingsError> {
        match self.positions {
            Positions::Rope => positions::check_rope(self, p),
            Positions::Learned if self.max_length == 0 => {
                Err(SettingsError::new("max_length", "no position is covered", "use 1 or more"))
            }
            _ => Ok(()),
        }
    }
}
