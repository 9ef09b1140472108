//! Dropout of attention weights, by a mask that is a function of the place and never stored.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};

use crate::cpu::simd::{Isa, LANES, Sixteen};

/// Dropout of attention weights: each is set to zero by chance, and what is kept grows to make up for it.
///
/// ```text
/// d_ij = 0 with chance c, else 1 / (1 − c)      o_i = Σ_j d_ij softmax_j(s_ij) v_j
/// ```
///
/// (arXiv:1207.0580, on the weights of arXiv:1706.03762, eq. 1, as the authors' Tensor2Tensor and GPT-2 do it.) Whether a
/// weight is kept is a function of the seed, the head, the query's position and the key's, so the backward pass computes it
/// again, and neither tiles nor threads make a difference.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_kernels::{AttentionDropout, AttentionInput, AttentionRule, attention};
///
/// let ones = Tensor::<4>::ones([1, 1, 8, 1], &Device::flex());
/// let input = AttentionInput { q: ones.clone(), k: ones.clone(), v: ones, slopes: None };
/// let dropout = AttentionDropout { chance: 0.5, seed: 7 };
/// let o = attention(input, AttentionRule { dropout: Some(dropout), ..AttentionRule::full(1) });
/// // Each of eight keys weighs 1/8, and 1/4 where it is kept.
/// for (query, o) in o.into_data().to_vec::<f32>()?.into_iter().enumerate() {
///     let kept = (0..8).filter(|key| dropout.keeps(0, query, *key)).count();
///     assert!((o - kept as f32 / 4.0).abs() < 1e-6);
/// }
/// # Ok::<(), burn::tensor::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionDropout {
    /// Chance that a weight is set to zero, from 0 to below 1.
    pub chance: f64,
    /// What the choice depends on, beside the place.
    pub seed: u64,
}

impl AttentionDropout {
    /// Whether the weight of `key` is kept for `query` (both positions of the keys) in `head`, which counts query heads over
    /// all sequences.
    pub fn keeps(&self, head: usize, query: usize, key: usize) -> bool {
        draw(self.row(head, query), key as u32) >= self.threshold()
    }

    /// Draws below this are set to zero.
    fn threshold(&self) -> u32 {
        // The cast saturates.
        (self.chance * 2f64.powi(32)) as u32
    }

    /// What a weight that is kept is multiplied by.
    fn growth(&self) -> f32 {
        (1.0 / (1.0 - self.chance)) as f32
    }

    /// A row's part of the draws: SplitMix64 of its place and the seed.
    fn row(&self, head: usize, query: usize) -> [u32; 2] {
        let place = ((head as u64) << POSITION_BITS) ^ query as u64;
        let mixed = split_mix(self.seed ^ split_mix(place));
        [mixed as u32, (mixed >> 32) as u32]
    }

    /// Sixteen rows, by the head and position of each.
    pub(super) fn panel(&self, place: impl Fn(usize) -> (usize, usize)) -> DroppedPanel {
        let mut panel = DroppedPanel { rows: [[0; LANES]; 2], threshold: self.threshold(), growth: self.growth() };
        for lane in 0..LANES {
            let (head, query) = place(lane);
            let row = self.row(head, query);
            (panel.rows[0][lane], panel.rows[1][lane]) = (row[0], row[1]);
        }
        panel
    }

    /// What the weights `[b, h, l, m]` are multiplied by, where the first query stands at `offset`.
    pub(super) fn factors(&self, [b, h, l, m]: [usize; 4], offset: usize, device: &Device) -> Tensor<4> {
        let factor = |i: usize| {
            let (head, query, key) = (i / m / l, offset + i / m % l, i % m);
            if self.keeps(head, query, key) { self.growth() } else { 0.0 }
        };
        let factors: Vec<f32> = (0..b * h * l * m).map(factor).collect();
        Tensor::from_data(TensorData::new(factors, [b, h, l, m]), device)
    }
}

/// Bits of a position, of which an attention has at most 2^24.
const POSITION_BITS: u32 = 24;

/// The mixing of SplitMix64 (Steele, Lea and Flood, 2014, fig. 16 and 17).
fn split_mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The draw of a place: the mixing of MurmurHash3 for 32 bits, with half of the row's bits before it and half within.
#[inline(always)]
fn draw([before, within]: [u32; 2], key: u32) -> u32 {
    let x = before ^ key.wrapping_mul(0x9e37_79b9);
    let x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b) ^ within;
    let x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

/// Sixteen rows of a mask.
#[derive(Clone, Copy)]
pub(super) struct DroppedPanel {
    rows: [[u32; LANES]; 2],
    threshold: u32,
    growth: f32,
}

impl DroppedPanel {
    /// Multiplies a vector of each of `keys`, `stride` floats apart, by the rows' factors.
    #[inline(always)]
    pub(super) fn apply<I: Isa>(&self, isa: I, keys: Range<usize>, vectors: &mut [f32], stride: usize) {
        for (key, vector) in keys.zip(vectors.chunks_mut(stride)) {
            let vector = &mut vector[..LANES];
            (isa.load(vector) * isa.load(&self.factors(key as u32))).store(vector);
        }
    }

    #[inline(always)]
    fn factors(&self, key: u32) -> Sixteen {
        let mut factors = Sixteen::default();
        for (lane, factor) in factors.iter_mut().enumerate() {
            let drawn = draw([self.rows[0][lane], self.rows[1][lane]], key);
            *factor = if drawn >= self.threshold { self.growth } else { 0.0 };
        }
        factors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: usize = 256;

    /// Whether each weight of two heads is kept, `[head, query, key]`.
    fn kept(seed: u64) -> Vec<bool> {
        let dropout = AttentionDropout { chance: 0.5, seed };
        (0..2 * L * L).map(|i| dropout.keeps(i / L / L, i / L % L, i % L)).collect()
    }

    /// Asserts that a fair coin lies `ones` times of `of` on its head, but for a chance of one in ten million.
    #[track_caller]
    fn assert_fair(what: &str, ones: usize, of: usize) {
        let deviations = (ones as f64 - of as f64 / 2.0) / (of as f64 / 4.0).sqrt();
        assert!(deviations.abs() < 5.3, "{what}: {ones} of {of} are {deviations} standard deviations from half");
    }

    #[test]
    fn a_weight_is_dropped_with_its_chance() {
        for chance in [0.0, 0.01, 0.1, 0.5, 0.9, 0.999] {
            let dropout = AttentionDropout { chance, seed: 3 };
            let places = (0..64).flat_map(|query| (0..4096).map(move |key| (query, key)));
            let count = places.filter(|(query, key)| !dropout.keeps(1, *query, *key)).count() as f64;
            let deviation = (chance * (1.0 - chance) * (64.0 * 4096.0)).sqrt();
            assert!((count - chance * 64.0 * 4096.0).abs() <= 5.0 * deviation, "{count} at {chance}");
        }
    }

    #[test]
    fn neighbours_heads_and_seeds_are_dropped_apart() {
        let (mask, other) = (kept(1), kept(2));
        let agree = |a: &[bool], b: &[bool]| a.iter().zip(b).filter(|(a, b)| a == b).count();
        for distance in [1, 2, 3, 16, L - 1, L, L + 1, 2 * L, 16 * L, L * L] {
            let pairs = mask.len() - distance;
            assert_fair(&format!("{distance} apart"), agree(&mask[distance..], &mask), pairs);
        }
        assert_fair("another seed", agree(&mask, &other), mask.len());
        for i in 0..L {
            let row = &mask[i * L..(i + 1) * L];
            assert_fair("a row", row.iter().filter(|kept| **kept).count(), L);
            assert_fair("a column", mask.iter().skip(i).step_by(L).filter(|kept| **kept).count(), 2 * L);
        }
    }
}
