//! Softmax attention with grouped heads, windows, sinks, soft-caps, slopes and block masks.

mod backward;
mod block;
mod decode;
mod definition;
mod forward;
mod pass;
mod rule;
mod score;
mod sight;
#[cfg(test)]
mod tests;

use burn::tensor::Tensor;

pub use definition::{attention_by_definition, attention_with_lse_by_definition};
pub use rule::{AttentionRule, BlockMask};

use crate::cpu::Array;
use crate::cpu::simd::Level;
use crate::native::{self, Forward, Operation, Views};
use backward::{Kept, Wanted};
use block::{Attention, Dims};

/// Queries, keys and values of an attention.
///
/// Two query heads read one key head whose scores are all 0. The slope log 2 of the second halves the weight of a key
/// at each step away:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{AttentionInput, AttentionRule, attention};
///
/// let device = Device::flex();
/// let input = AttentionInput {
///     q: Tensor::zeros([1, 2, 2, 1], &device),
///     k: Tensor::zeros([1, 1, 2, 1], &device),
///     v: Tensor::from_data([[[[3.0], [9.0]]]], &device),
///     slopes: Some(Tensor::from_data([0.0, std::f32::consts::LN_2], &device)),
/// };
/// let o = attention(input, AttentionRule::causal(1, 0)).into_data().to_vec::<f32>()?;
/// // Behind the second token (3 + 9) / 2, and (3 · 1/2 + 9) / (1/2 + 1).
/// assert!(o.iter().zip([3.0, 6.0, 3.0, 7.0]).all(|(o, expected)| (o - expected).abs() < 1e-5));
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
#[derive(Clone, Debug)]
pub struct AttentionInput {
    /// Queries, `[b, h, l, p]`.
    pub q: Tensor<4>,
    /// Keys, `[b, g, m, p]`, where `g` divides `h`: query head `i` reads key head `i / (h / g)`.
    pub k: Tensor<4>,
    /// Values, `[b, g, m, p]`.
    pub v: Tensor<4>,
    /// How fast each head's scores fall with distance, `[h]` (ALiBi, arXiv:2108.12409), or none.
    pub slopes: Option<Tensor<1>>,
}

impl AttentionInput {
    /// Checks shapes and rule, and returns `[b, h, l, p]`.
    ///
    /// # Panics
    /// If they do not fit together.
    fn check(&self, rule: &AttentionRule) -> [usize; 4] {
        let dims @ [b, h, l, p] = self.q.dims();
        let [bk, g, room, pk] = self.k.dims();
        let m = rule.keys.unwrap_or(room);
        assert!(m <= room, "attention: there are places for {room} keys, not for {m}");
        assert!(b == bk && p == pk, "attention: keys {:?} do not fit queries {:?}", self.k.dims(), self.q.dims());
        assert!(
            self.v.dims() == self.k.dims(),
            "attention: values {:?} do not fit keys {:?}",
            self.v.dims(),
            self.k.dims()
        );
        assert!(
            b * h * l * p * g * m > 0,
            "attention: an axis of queries {dims:?} or keys {:?} is empty",
            self.k.dims()
        );
        assert!(h % g == 0, "attention: {h} query heads cannot share {g} key heads evenly");
        if let Some(slopes) = &self.slopes {
            assert!(slopes.dims() == [h], "attention: slopes {:?} do not fit {h} heads", slopes.dims());
        }
        rule.check(l, m);
        dims
    }

    /// The same without the places that hold no key.
    fn filled(self, rule: &AttentionRule) -> Self {
        match rule.keys {
            Some(m) if m < self.k.dims()[2] => Self { k: self.k.narrow(2, 0, m), v: self.v.narrow(2, 0, m), ..self },
            _ => self,
        }
    }

    /// What the kernel gets: where gradients may be asked for, the keys that are there, which they then have the shape of;
    /// elsewhere the array as it is.
    fn for_kernel(self, rule: &AttentionRule) -> Self {
        if self.q.is_autodiff() { self.filled(rule) } else { self }
    }
}

/// Softmax attention: what [`attention_by_definition`] computes, in memory that grows with `l + m` and not with `l · m`.
///
/// ```text
/// s_ij = cap(scale · q_i·k_j) − slope_h |i − j|      o_i = Σ_j softmax_j(s_ij) v_j, over the keys j that i sees
/// ```
///
/// Scores are computed a tile at a time, with a running softmax, and once more in the backward pass (arXiv:2307.08691);
/// tiles that nobody sees are skipped. Gradients flow to queries, keys, values and slopes.
///
/// # Shapes
/// - returned: `[b, h, l, p]`
///
/// # Panics
/// As [`attention_by_definition`].
///
/// # Examples
/// Where all keys are alike, causal attention is a running mean of the values:
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{AttentionInput, AttentionRule, attention};
///
/// let device = Device::flex();
/// let ones = Tensor::<4>::ones([1, 1, 3, 1], &device);
/// let v = Tensor::<4>::from_data([[[[3.0], [6.0], [9.0]]]], &device);
/// let input = AttentionInput { q: ones.clone(), k: ones, v, slopes: None };
/// let o = attention(input, AttentionRule::causal(1, 0));
/// assert_eq!(o.into_data().to_vec::<f32>()?, [3.0, 4.5, 6.0]);
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
pub fn attention(input: AttentionInput, rule: AttentionRule) -> Tensor<4> {
    input.check(&rule);
    if !native::has_kernels(&input.q) {
        return attention_by_definition(input, rule);
    }
    let input = input.for_kernel(&rule);
    let operation = SoftmaxAttention::new(&input, rule, false);
    let [o] = native::apply(operation, input.into_floats(), vec![]);
    Tensor::from_dispatch(o)
}

/// [`attention`] and the logarithm of each softmax's denominator, `log Σ_j exp(s_ij)`, which is −∞ for a query that sees no
/// key.
///
/// With it, attentions over parts of the keys are merged to one over all. Gradients flow through both results.
///
/// # Shapes
/// - returned: `[b, h, l, p]` and `[b, h, l]`
///
/// # Panics
/// As [`attention_by_definition`].
pub fn attention_with_lse(input: AttentionInput, rule: AttentionRule) -> (Tensor<4>, Tensor<3>) {
    input.check(&rule);
    if !native::has_kernels(&input.q) {
        return attention_with_lse_by_definition(input, rule);
    }
    let input = input.for_kernel(&rule);
    let operation = SoftmaxAttention::new(&input, rule, true);
    let [o, lse] = native::apply(operation, input.into_floats(), vec![]);
    (Tensor::from_dispatch(o), Tensor::from_dispatch(lse))
}

impl AttentionInput {
    fn into_floats(self) -> [burn::backend::DispatchTensor; 4] {
        let Self { q, k, v, slopes } = self;
        let slopes = slopes.map_or_else(|| native::absent(&q.device()), Tensor::into_dispatch);
        [q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), slopes]
    }
}

/// Attention as an operation; its inputs are `q, k, v, slopes`, its outputs `o` and perhaps `lse`.
#[derive(Clone, Debug)]
struct SoftmaxAttention {
    dims: Dims,
    rule: AttentionRule,
    sloped: bool,
    with_lse: bool,
}

impl SoftmaxAttention {
    fn new(input: &AttentionInput, rule: AttentionRule, with_lse: bool) -> Self {
        let [b, h, l, p] = input.q.dims();
        let [_, g, room, _] = input.k.dims();
        let m = rule.keys.unwrap_or(room);
        Self { dims: Dims { b, h, g, l, m, room, p }, rule, sloped: input.slopes.is_some(), with_lse }
    }

    fn call<'a>(&'a self, inputs: &Views<'a, 4>) -> Attention<'a> {
        let [q, k, v, slopes] = inputs.floats;
        Attention { dims: self.dims, rule: &self.rule, q, k, v, slopes: self.sloped.then_some(slopes) }
    }
}

impl Operation<4> for SoftmaxAttention {
    fn forward(&self, inputs: Views<'_, 4>, training: bool) -> Forward {
        let Dims { b, h, l, p, .. } = self.dims;
        let forward::Attended { o, lse } = forward::forward(self.call(&inputs), Level::current());
        let natural = |lse: &f32| if *lse == f32::INFINITY { f32::NEG_INFINITY } else { lse * std::f32::consts::LN_2 };
        let mut outputs = vec![Array::new(o, [b, h, l, p])];
        if self.with_lse {
            outputs.push(Array::new(lse.iter().map(natural).collect(), [b, h, l]));
        }
        Forward { outputs, kept: if training { vec![Array::new(lse, [b, h, l])] } else { vec![] } }
    }

    fn backward(
        &self,
        inputs: Views<'_, 4>,
        kept: &[&[f32]],
        gradients: &[Option<&[f32]>],
        wanted: [bool; 4],
    ) -> [Option<Array>; 4] {
        let Dims { b, h, g, l, m, p, .. } = self.dims;
        let g_lse = gradients.get(1).copied().flatten();
        let kept = Kept { lse: kept[0], o: kept[1], g_o: gradients[0], g_lse };
        let wanted = Wanted { queries: wanted[0] || (self.sloped && wanted[3]), keys: wanted[1] || wanted[2] };
        let gradients = backward::backward(self.call(&inputs), kept, wanted, Level::current());
        [
            wanted.queries.then(|| Array::new(gradients.q, [b, h, l, p])),
            wanted.keys.then(|| Array::new(gradients.k, [b, g, m, p])),
            wanted.keys.then(|| Array::new(gradients.v, [b, g, m, p])),
            (self.sloped && wanted.queries).then(|| Array::new(gradients.slopes, [h])),
        ]
    }

    fn keeps_outputs(&self) -> bool {
        true
    }
}
