//! The keys and values that later tokens still look at.

use burn::tensor::Tensor;
use heddle_kernels::MixerState;

/// Keys and values of the tokens so far that later ones see: of all tokens, or of the first few and the last few.
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    /// Keys and values, each `[b, g, m, p]`; none where nothing is held.
    held: Option<(Tensor<4>, Tensor<4>)>,
    /// Tokens that came, held or not.
    seen: usize,
}

/// How much of the past a windowed cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// First tokens.
    pub(crate) first: usize,
    /// Last tokens.
    pub(crate) last: usize,
}

impl Kept {
    /// Tokens held of a sequence of `length`.
    pub(crate) fn of(self, length: usize) -> usize {
        length.min(self.first + self.last)
    }
}

impl KeyValueCache {
    /// Number of tokens held.
    pub fn len(&self) -> usize {
        self.held.as_ref().map_or(0, |(k, _)| k.dims()[2])
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.held.is_none()
    }

    /// Number of tokens that came so far: the position of the next.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// The keys and values held and, behind them, those of the newest tokens; oldest first.
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

    /// A cache after `seen` tokens that holds all of these keys and values.
    pub(crate) fn holding(k: Tensor<4>, v: Tensor<4>, seen: usize) -> Self {
        Self { held: Some((k, v)), seen }
    }

    /// A cache after `seen` tokens that holds the first and last of these keys and values.
    pub(crate) fn holding_some(k: Tensor<4>, v: Tensor<4>, seen: usize, kept: Kept) -> Self {
        let m = k.dims()[2];
        if kept.of(m) == m {
            return Self::holding(k, v, seen);
        }
        let some = |x: Tensor<4>| {
            let ends = [(0, kept.first), (m - kept.last, kept.last)];
            let ends = ends.into_iter().filter(|(_, count)| *count > 0);
            let ends: Vec<_> = ends.map(|(start, count)| x.clone().narrow(2, start, count)).collect();
            (!ends.is_empty()).then(|| Tensor::cat(ends, 2))
        };
        Self { held: some(k).zip(some(v)), seen }
    }
}

impl MixerState for KeyValueCache {
    fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |(k, v)| 4 * (k.shape().num_elements() + v.shape().num_elements()))
    }

    fn detach(self) -> Self {
        Self { held: self.held.map(|(k, v)| (k.detach(), v.detach())), ..self }
    }
}
