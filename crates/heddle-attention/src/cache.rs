//! The keys and values that later tokens still look at.

use burn::tensor::Tensor;
use heddle_kernels::MixerState;

/// Keys and values of all tokens so far: the state of full attention, which grows with the length.
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    /// Keys and values, each `[b, g, m, p]`; none before the first token.
    held: Option<(Tensor<4>, Tensor<4>)>,
}

impl KeyValueCache {
    /// Number of tokens held.
    pub fn len(&self) -> usize {
        self.held.as_ref().map_or(0, |(k, _)| k.dims()[2])
    }

    /// Whether no token was seen yet.
    pub fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    /// Appends the keys and values of the newest tokens and returns all of them, oldest first.
    ///
    /// # Shapes
    /// - `k`, `v`: `[b, g, l, p]`; returned: `[b, g, m + l, p]`
    ///
    /// # Panics
    /// If the cache belongs to another batch size or another shape of heads.
    pub fn extend(self, k: Tensor<4>, v: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let Some((k_before, v_before)) = self.held else { return (k, v) };
        let ([b, g, _, p], [b_new, g_new, _, p_new]) = (k_before.dims(), k.dims());
        assert!(
            (b, g, p) == (b_new, g_new, p_new),
            "key/value cache: holds {b} sequences of {g} heads of width {p}, was given {b_new} of {g_new} of {p_new}"
        );
        (Tensor::cat(vec![k_before, k], 2), Tensor::cat(vec![v_before, v], 2))
    }

    /// A cache that holds these keys and values.
    pub fn holding(k: Tensor<4>, v: Tensor<4>) -> Self {
        Self { held: Some((k, v)) }
    }
}

impl MixerState for KeyValueCache {
    fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |(k, v)| 4 * (k.shape().num_elements() + v.shape().num_elements()))
    }

    fn detach(self) -> Self {
        Self { held: self.held.map(|(k, v)| (k.detach(), v.detach())) }
    }
}
