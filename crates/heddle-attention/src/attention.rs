//! Multi-head attention.

use core::ops::Range;

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Distribution, Int, Tensor};
use heddle_kernels::{
    AttentionDropout, AttentionInput, AttentionRule, Mixer, attention, linear, map_by_impulses, rms_norm, sigmoid_mul,
    without_head_of,
};

use crate::cache::Kept;
use crate::positions::Placement;
use crate::sparsity::GrowingMask;
use crate::{AttentionSettings, KeyValueCache};

/// Multi-head attention; several query heads may share a key/value head, and a token may see all, some or few others.
///
/// ```text
/// q_i = W_q x_i   k_i = W_k x_i   v_i = W_v x_i      y_i = W_o [Σ_j softmax_j(q_i·k_j / √p) v_j]_heads, over the j seen
/// ```
///
/// (arXiv:1706.03762, §3.2; grouped heads: arXiv:2305.13245.) The state is a key/value cache. It grows with the length,
/// unless there is a window: then it holds the tokens of a window and no more.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_attention::AttentionSettings;
/// use heddle_kernels::{Init, Mixer, MixerSettings};
///
/// let device = Device::flex();
/// let settings = AttentionSettings { heads: 4, kv_heads: Some(2), window: Some(4), ..Default::default() };
/// let block = settings.init(32, &mut Init::new(0, &device)).unwrap();
/// let (y, cache) = block.forward(Tensor::ones([1, 5, 32], &device), block.state(1, 32, &device));
/// // The next token sees itself and three before it.
/// assert_eq!((y.dims(), cache.len()), ([1, 5, 32], 3));
/// ```
#[derive(Module, Debug)]
pub struct Attention {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) gate: Option<Linear>,
    pub(crate) output: Linear,
    pub(crate) query_norm: Option<Param<Tensor<1>>>,
    pub(crate) key_norm: Option<Param<Tensor<1>>>,
    pub(crate) placement: Placement,
    #[module(skip)]
    pub(crate) heads: usize,
    #[module(skip)]
    pub(crate) kv_heads: usize,
    /// Who sees whom.
    #[module(skip)]
    pub(crate) sight: AttentionSettings,
    #[module(skip)]
    pub(crate) mask: GrowingMask,
}

/// ε of the norms of queries and keys where the settings do not state it.
const NORM_EPS: f64 = 1e-6;

impl Attention {
    /// `[b, l, heads · p]` → `[b, heads, l, p]`, normalised if there is a scale.
    fn split_heads(&self, x: Tensor<3>, heads: usize, norm: Option<&Param<Tensor<1>>>) -> Tensor<4> {
        let [b, l, width] = x.dims();
        let p = width / heads;
        let eps = self.sight.qk_norm_eps.unwrap_or(NORM_EPS);
        let x = match norm {
            Some(gamma) => {
                let plus_one = self.sight.qk_norm_plus_one == Some(true);
                let gamma = if plus_one { gamma.val() + 1.0 } else { gamma.val() };
                rms_norm(x.reshape([b, l * heads, p]), gamma, eps).reshape([b, l, heads, p])
            }
            None => x.reshape([b, l, heads, p]),
        };
        x.swap_dims(1, 2)
    }

    fn head_width(&self) -> usize {
        self.query.weight.dims()[1] / self.heads
    }

    /// What a windowed cache keeps.
    fn kept(&self) -> Option<Kept> {
        self.sight.window.map(|window| Kept { first: self.sight.sinks, last: window - 1 })
    }

    /// Queries, keys and values of tokens with their positions added, the first of which stands at `position`.
    fn project(&self, x: &Tensor<3>, position: usize) -> AttentionInput {
        let (h, g) = (self.heads, self.kv_heads);
        let q = self.split_heads(linear(x.clone(), &self.query), h, self.query_norm.as_ref());
        let k = self.split_heads(linear(x.clone(), &self.key), g, self.key_norm.as_ref());
        AttentionInput {
            q: self.placement.rotate(q, position),
            k: self.placement.rotate(k, position),
            v: self.split_heads(linear(x.clone(), &self.value), g, None),
            slopes: self.placement.slopes(&x.device()),
        }
    }

    /// The rule for `l` queries behind `before` keys. Positions are counted along the cache, which is the sequence itself
    /// or, with a window, its first and latest tokens, whose distances from each other no query asks for.
    fn rule(&self, before: usize, l: usize) -> AttentionRule {
        let (sight, usual) = (&self.sight, AttentionRule::causal(self.head_width(), before));
        AttentionRule {
            scale: sight.score_scale.unwrap_or(usual.scale),
            causal: sight.causal,
            window: sight.window,
            sinks: sight.sinks,
            softcap: sight.softcap,
            blocks: sight.sparsity.as_ref().map(|sparsity| self.mask.covering(sparsity, before + l)),
            ..usual
        }
    }

    /// What becomes of the weights: nothing, unless the device is one for training.
    fn dropout(&self, device: &Device) -> Option<AttentionDropout> {
        let chance = self.sight.dropout;
        (chance > 0.0 && device.is_autodiff()).then(|| AttentionDropout { chance, seed: drawn_seed(device) })
    }

    /// Pairs of tokens of a sequence of `length` that see each other.
    fn pairs(&self, length: usize) -> f64 {
        let l = length as f64;
        let below = l * (l + 1.0) / 2.0;
        if let Some(sparsity) = &self.sight.sparsity {
            return below * sparsity.density(length);
        }
        let causal = match self.sight.window {
            Some(window) if window < length => {
                let (w, sinks) = (window as f64, self.sight.sinks as f64);
                w * (w + 1.0) / 2.0 + (l - w) * w + sinks * (l - w - sinks).max(0.0)
            }
            _ => below,
        };
        if self.sight.causal { causal } else { 2.0 * causal - l }
    }
}

/// A seed from the device's generator, which draws what else chance decides within a step.
fn drawn_seed(device: &Device) -> u64 {
    const HALF: u64 = 1 << 24;
    let halves = Tensor::<1, Int>::random([2], Distribution::Uniform(0.0, HALF as f64), device);
    halves.into_data().iter::<u64>().fold(0, |seed, half| seed * HALF + half)
}

impl Mixer for Attention {
    type State = KeyValueCache;

    fn state(&self, _batch: usize, _d_model: usize, _device: &Device) -> KeyValueCache {
        KeyValueCache::default()
    }

    fn forward(&self, x: Tensor<3>, state: KeyValueCache) -> (Tensor<3>, KeyValueCache) {
        let [b, l, _] = x.dims();
        let position = state.seen();
        let x = self.placement.add_to(x, position);
        let input = self.project(&x, position);
        let cache = state.with(input.k, input.v, self.kept());
        let ([k, v], filled) = (cache.arrays(), cache.filled());
        let rule = AttentionRule { keys: Some(filled), dropout: self.dropout(&x.device()), ..self.rule(filled - l, l) };
        let mixed = attention(AttentionInput { k, v, ..input }, rule).swap_dims(1, 2);
        let mixed = mixed.reshape([b, l, self.heads * self.head_width()]);
        let mixed = match &self.gate {
            Some(gate) => sigmoid_mul(linear(x, gate), mixed),
            None => mixed,
        };
        (linear(mixed, &self.output), cache.trimmed())
    }

    fn state_bytes(&self, length: usize, _d_model: usize) -> u64 {
        let held = self.kept().map_or(length, |kept| kept.of(length));
        4 * 2 * (self.kv_heads * self.head_width() * held) as u64
    }

    fn flops(&self, length: usize, _d_model: usize) -> u64 {
        let (h, g, p) = (self.heads, self.kv_heads, self.head_width());
        let gate = if self.gate.is_some() { h } else { 0 };
        let [[d_in, _], [_, d_out]] = [self.query.weight.dims(), self.output.weight.dims()];
        let projections = 2 * length * (d_in * (h + 2 * g + gate) + d_out * h) * p;
        let mixing = 2.0 * 2.0 * self.pairs(length) * (h * p) as f64;
        projections as u64 + mixing as u64
    }

    fn max_length(&self) -> Option<usize> {
        self.placement.max_length()
    }

    fn is_random(&self) -> bool {
        self.sight.dropout > 0.0
    }

    /// The softmax's weights, one map a query head.
    fn attention_map(&self, x: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        let ([b, l, _], g, p) = (x.dims(), self.kv_heads, self.head_width());
        let x = self.placement.add_to(x, 0);
        let input = self.project(&x, 0);
        let rule = AttentionRule { offset: rows.start, ..self.rule(0, l) };
        Some(map_by_impulses(l, &rows, p, &x.device(), |impulses| {
            let q = input.q.clone().narrow(2, rows.start, rows.len());
            let v = impulses.reshape([1, 1, l, p]).expand([b, g, l, p]);
            attention(AttentionInput { q, v, ..input.clone() }, rule.clone())
        }))
    }

    fn without_head(&self, head: usize) -> Option<Self> {
        Some(Self { output: without_head_of(&self.output, head, self.heads)?, ..self.clone() })
    }
}
