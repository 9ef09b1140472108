//! Patterns of blocks: which parts of the past a query sees.

use std::sync::{Arc, Mutex};

use heddle_kernels::{BlockMask, SettingsError};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Attention to some blocks of positions only: which blocks of keys a block of queries sees. Windows, strides and numbers of
/// blocks count blocks. The cost falls with the share of blocks that are there.
///
/// ```
/// use heddle_attention::Sparsity;
///
/// let table = "pattern = 'strided'\nblock = 16\nwindow = 2\nstride = 4";
/// let sparsity: Sparsity = toml::from_str(table).unwrap();
/// // A block sees itself, the one before it and every fourth.
/// let seen: Vec<usize> = (0..=9).filter(|column| sparsity.sees(9, *column)).collect();
/// assert_eq!(seen, [3, 7, 8, 9]);
/// // Of ten blocks each sees up to ten, and here 25 are left of 55 pairs.
/// assert_eq!(sparsity.density(160), 25.0 / 55.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "pattern", rename_all = "snake_case", deny_unknown_fields)]
pub enum Sparsity {
    /// The nearest blocks, and every `stride`-th block of the sequence (arXiv:1904.10509, §4.3, fixed form).
    Strided {
        /// Positions to a block.
        #[serde(default = "default_block")]
        block: usize,
        /// Blocks on each side that are seen, the query's own counted.
        window: usize,
        /// Distance of the blocks that everyone sees.
        stride: usize,
    },
    /// The first blocks, which also see everything, the nearest blocks, and some blocks at random (arXiv:2007.14062, §2).
    Bigbird {
        /// Positions to a block.
        #[serde(default = "default_block")]
        block: usize,
        /// Blocks on each side that are seen, the query's own counted.
        window: usize,
        /// First blocks, seen by all and seeing all.
        global: usize,
        /// Blocks before its own that each block sees at random.
        random: usize,
        /// What the choice depends on, beside the block.
        #[serde(default)]
        seed: u64,
    },
    /// The nearest blocks with gaps between them (arXiv:2004.05150, §3.1).
    Dilated {
        /// Positions to a block.
        #[serde(default = "default_block")]
        block: usize,
        /// Blocks on each side that are seen, the query's own counted.
        window: usize,
        /// Distance from one seen block to the next.
        dilation: usize,
    },
}

/// The mask of a pattern, kept as a sequence grows: it is drawn anew only when the sequence has outgrown it.
#[derive(Clone, Debug, Default)]
pub(crate) struct GrowingMask(Arc<Mutex<Option<BlockMask>>>);

impl GrowingMask {
    /// A mask of `sparsity` that covers `length` positions or more.
    pub(crate) fn covering(&self, sparsity: &Sparsity, length: usize) -> BlockMask {
        let mut kept = self.0.lock().expect("drawing a mask does not panic");
        let covered = kept.as_ref().map_or(0, |mask| mask.rows() * mask.size());
        if covered < length {
            *kept = Some(sparsity.mask(length.max(2 * covered)));
        }
        kept.clone().expect("drawn above or before")
    }
}

fn default_block() -> usize {
    64
}

impl Sparsity {
    /// Whether block `row` of queries sees block `column` of keys.
    ///
    /// It depends on the two blocks alone, so that a sequence may grow.
    pub fn sees(&self, row: usize, column: usize) -> bool {
        self.sees_beside(row, column, |random, seed| column < row && chosen(seed, row, random).contains(&column))
    }

    /// Whether block `row` sees `column`, where `by_chance` answers for what is random.
    fn sees_beside(&self, row: usize, column: usize, by_chance: impl Fn(usize, u64) -> bool) -> bool {
        let distance = row.abs_diff(column);
        match *self {
            Self::Strided { window, stride, .. } => distance < window || (column + 1).is_multiple_of(stride),
            Self::Bigbird { window, global, random, seed, .. } => {
                distance < window || row.min(column) < global || by_chance(random, seed)
            }
            Self::Dilated { window, dilation, .. } => distance.is_multiple_of(dilation) && distance / dilation < window,
        }
    }

    /// The mask of a sequence of `length` positions.
    pub fn mask(&self, length: usize) -> BlockMask {
        let blocks = length.div_ceil(self.block());
        // Each row's blocks are drawn once.
        let rows: Vec<Vec<usize>> = match *self {
            Self::Bigbird { random, seed, .. } => (0..blocks).map(|row| chosen(seed, row, random)).collect(),
            Self::Strided { .. } | Self::Dilated { .. } => vec![],
        };
        BlockMask::new(self.block(), [blocks; 2], |row, column| {
            self.sees_beside(row, column, |_, _| rows[row].contains(&column))
        })
    }

    fn block(&self) -> usize {
        match *self {
            Self::Strided { block, .. } | Self::Bigbird { block, .. } | Self::Dilated { block, .. } => block,
        }
    }

    /// Share of the pairs of a causal sequence of `length` positions whose blocks are there.
    pub fn density(&self, length: usize) -> f64 {
        let mask = self.mask(length);
        let below = (0..mask.rows()).flat_map(|row| (0..=row).map(move |column| (row, column)));
        let (seen, all) =
            below.fold((0.0, 0.0), |(seen, all), (row, column)| (seen + f64::from(mask.has(row, column)), all + 1.0));
        seen / all
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// If one is zero where something must be seen.
    pub fn check(&self) -> Result<(), SettingsError> {
        let (window, step) = match *self {
            Self::Strided { window, stride, .. } => (window, stride),
            Self::Bigbird { window, .. } => (window, 1),
            Self::Dilated { window, dilation, .. } => (window, dilation),
        };
        if self.block() == 0 || window == 0 || step == 0 {
            let problem = "a block, window, stride or dilation of 0 leaves queries without keys";
            return Err(SettingsError::new("sparsity", problem, "use 1 or more"));
        }
        Ok(())
    }
}

/// The blocks before `row` that it sees by chance: a function of the seed and the row.
fn chosen(seed: u64, row: usize, random: usize) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(row as u64);
    (0..random.min(row)).map(|_| rng.random_range(0..row)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(sparsity: Sparsity, row: usize) -> Vec<usize> {
        (0..=row).filter(|column| sparsity.sees(row, *column)).collect()
    }

    #[test]
    fn patterns_are_those_of_their_papers() {
        assert_eq!(row(Sparsity::Strided { block: 4, window: 2, stride: 4 }, 9), [3, 7, 8, 9]);
        assert_eq!(row(Sparsity::Dilated { block: 4, window: 3, dilation: 2 }, 9), [5, 7, 9]);
        assert_eq!(row(Sparsity::Bigbird { block: 4, window: 1, global: 2, random: 0, seed: 0 }, 9), [0, 1, 9]);
    }

    #[test]
    fn chance_adds_blocks_of_the_past_that_stay_as_the_sequence_grows() {
        let sparsity = Sparsity::Bigbird { block: 4, window: 1, global: 0, random: 3, seed: 5 };
        let (short, long) = (sparsity.mask(80), sparsity.mask(200));
        for row in 1..20 {
            let seen: Vec<_> = (0..20).filter(|column| short.has(row, *column)).collect();
            assert!(seen.iter().all(|column| *column <= row) && seen.len() > 1, "{row}: {seen:?}");
            assert_eq!(seen, (0..20).filter(|column| long.has(row, *column)).collect::<Vec<_>>());
            assert_eq!(seen, (0..20).filter(|column| sparsity.sees(row, *column)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_growing_mask_is_the_mask_of_whatever_length() {
        let sparsity = Sparsity::Bigbird { block: 4, window: 1, global: 0, random: 3, seed: 5 };
        let growing = GrowingMask::default();
        for length in [1, 7, 30, 31, 5, 200] {
            let (mask, truth) = (growing.covering(&sparsity, length), sparsity.mask(length));
            assert!(mask.rows() >= truth.rows());
            let blocks = (0..truth.rows()).flat_map(|row| (0..truth.columns()).map(move |column| (row, column)));
            blocks.for_each(|(row, column)| assert_eq!(mask.has(row, column), truth.has(row, column)));
        }
    }

    #[test]
    fn the_density_counts_what_is_there() {
        let sparsity = Sparsity::Dilated { block: 4, window: 1, dilation: 1 };
        approx::assert_relative_eq!(sparsity.density(40), 10.0 / 55.0);
        assert!(Sparsity::Strided { block: 4, window: 0, stride: 4 }.check().is_err());
    }
}
