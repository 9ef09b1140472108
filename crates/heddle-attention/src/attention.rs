//! Multi-head attention with shared key/value heads.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{
    AttentionInput, AttentionRule, Init, Mixer, MixerSettings, Pairing, Rotary, SettingsError, attention, rotate,
};
use serde::{Deserialize, Serialize};

use crate::KeyValueCache;

/// Settings of [`Attention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AttentionSettings {
    /// Query heads; they divide the model's width.
    pub heads: usize,
    /// Key/value heads, which divide the query heads (arXiv:2305.13245); none means one for each query head.
    pub kv_heads: Option<usize>,
    /// How a token knows where it stands.
    pub positions: Positions,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
}

impl Default for AttentionSettings {
    fn default() -> Self {
        Self { heads: 1, kv_heads: None, positions: Positions::Rope, rope_theta: 10_000.0 }
    }
}

/// How attention knows where a token stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Not at all, beyond what the causal mask reveals.
    None,
    /// By rotating queries and keys (arXiv:2104.09864), with the head split in halves as Llama does.
    Rope,
}

impl MixerSettings for AttentionSettings {
    type Mixer = Attention;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<Attention, SettingsError> {
        let (h, g) = (self.heads, self.kv_heads.unwrap_or(self.heads));
        if h == 0 || !d_model.is_multiple_of(h) {
            return Err(SettingsError::new(
                "heads",
                format!("{h} heads do not divide the model's width {d_model}"),
                "use a divisor of `d_model`",
            ));
        }
        if g == 0 || !h.is_multiple_of(g) {
            return Err(SettingsError::new(
                "kv_heads",
                format!("{g} key/value heads do not divide {h} heads"),
                "use a divisor of `heads`",
            ));
        }
        let p = d_model / h;
        if self.positions == Positions::Rope && !p.is_multiple_of(2) {
            return Err(SettingsError::new(
                "heads",
                format!("rotary positions need an even head width, not {p}"),
                "use other `heads`, or `positions = \"none\"`",
            ));
        }
        if !(self.rope_theta > 0.0 && self.rope_theta.is_finite()) {
            let problem = format!("{} is no base of wavelengths", self.rope_theta);
            return Err(SettingsError::new("rope_theta", problem, "use a positive number such as 10000"));
        }
        Ok(Attention {
            query: init.linear(d_model, h * p, false),
            key: init.linear(d_model, g * p, false),
            value: init.linear(d_model, g * p, false),
            output: init.linear(h * p, d_model, false),
            heads: h,
            kv_heads: g,
            rope_theta: (self.positions == Positions::Rope).then_some(self.rope_theta),
        })
    }
}

/// Causal multi-head attention; several query heads may share a key/value head.
///
/// ```text
/// q_i = W_q x_i   k_i = W_k x_i   v_i = W_v x_i      y_i = W_o [Σ_{j≤i} softmax_j(q_i·k_j / √p) v_j]_heads
/// ```
///
/// (arXiv:1706.03762, §3.2; grouped heads: arXiv:2305.13245.) The state is a key/value cache that grows with the length.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_attention::AttentionSettings;
/// use heddle_kernels::{Init, Mixer, MixerSettings};
///
/// let device = Device::flex();
/// let block = AttentionSettings { heads: 4, kv_heads: Some(2), ..Default::default() }.init(32, &mut Init::new(0, &device)).unwrap();
/// let (y, cache) = block.forward(Tensor::ones([1, 5, 32], &device), block.state(1, 32, &device));
/// assert_eq!((y.dims(), cache.len()), ([1, 5, 32], 5));
/// ```
#[derive(Module, Debug)]
pub struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    kv_heads: usize,
    #[module(skip)]
    rope_theta: Option<f64>,
}

impl Attention {
    /// `[b, l, heads · p]` → `[b, heads, l, p]`.
    fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
        let [b, l, width] = x.dims();
        x.reshape([b, l, heads, width / heads]).swap_dims(1, 2)
    }

    fn rotate(&self, x: Tensor<4>, offset: usize) -> Tensor<4> {
        match self.rope_theta {
            Some(theta) => rotate(x, &Rotary::new(theta, self.head_width(), Pairing::Halves, offset)),
            None => x,
        }
    }

    fn head_width(&self) -> usize {
        self.query.weight.dims()[1] / self.heads
    }
}

impl Mixer for Attention {
    type State = KeyValueCache;

    fn state(&self, _batch: usize, _d_model: usize, _device: &Device) -> KeyValueCache {
        KeyValueCache::default()
    }

    fn forward(&self, x: Tensor<3>, state: KeyValueCache) -> (Tensor<3>, KeyValueCache) {
        let [b, l, _] = x.dims();
        let (h, g, p) = (self.heads, self.kv_heads, self.head_width());
        let offset = state.len();
        let q = self.rotate(Self::split_heads(self.query.forward(x.clone()), h), offset);
        let k = self.rotate(Self::split_heads(self.key.forward(x.clone()), g), offset);
        let v = Self::split_heads(self.value.forward(x), g);
        let (k, v) = state.extend(k, v);
        let input = AttentionInput { q, k: k.clone(), v: v.clone(), slopes: None };
        let mixed = attention(input, AttentionRule::causal(p, offset));
        let y = self.output.forward(mixed.swap_dims(1, 2).reshape([b, l, h * p]));
        (y, KeyValueCache::holding(k, v))
    }

    fn state_bytes(&self, length: usize, _d_model: usize) -> u64 {
        4 * 2 * (self.kv_heads * self.head_width() * length) as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let (l, d, p) = (length as u64, d_model as u64, self.head_width() as u64);
        let (h, g) = (self.heads as u64, self.kv_heads as u64);
        let projections = 2 * l * d * (2 * h + 2 * g) * p;
        let pairs = l * (l + 1) / 2;
        projections + 2 * 2 * pairs * h * p
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings_error(settings: AttentionSettings, d_model: usize) -> String {
        settings.init(d_model, &mut Init::new(0, &Device::flex())).unwrap_err().to_string()
    }

    #[test]
    fn heads_that_do_not_divide_are_refused_by_name() {
        let settings = AttentionSettings { heads: 3, ..Default::default() };
        assert_eq!(
            settings_error(settings, 64),
            "`heads`: 3 heads do not divide the model's width 64; use a divisor of `d_model`"
        );
        let settings = AttentionSettings { heads: 4, kv_heads: Some(3), ..Default::default() };
        assert_eq!(
            settings_error(settings, 64),
            "`kv_heads`: 3 key/value heads do not divide 4 heads; use a divisor of `heads`"
        );
    }

    #[test]
    fn the_cache_holds_what_the_cost_says() {
        use heddle_kernels::MixerState;
        let device = Device::flex();
        let settings = AttentionSettings { heads: 4, kv_heads: Some(2), ..Default::default() };
        let block = settings.init(32, &mut Init::new(0, &device)).unwrap();
        let (_, cache) = block.forward(Tensor::ones([3, 5, 32], &device), block.state(3, 32, &device));
        assert_eq!(cache.bytes() as u64, 3 * block.state_bytes(5, 32));
    }
}
