//! Which keys a query sees, and how a score is formed.

use std::sync::Arc;

/// Which keys a query sees, and how a score is formed.
///
/// The keys stand at positions `0..m`, the queries at `offset..offset + l`.
///
/// ```
/// use heddle_kernels::AttentionRule;
///
/// let rule = AttentionRule { window: Some(2), sinks: 1, ..AttentionRule::causal(64, 0) };
/// let seen: Vec<usize> = (0..6).filter(|key| rule.sees(4, *key)).collect();
/// assert_eq!(seen, [0, 3, 4]);
/// assert_eq!(rule.scale, 0.125);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionRule {
    /// A query sees no key after its own position.
    pub causal: bool,
    /// A query sees itself and the `window − 1` positions before it (and as many after it, if not causal).
    pub window: Option<usize>,
    /// This many first keys are seen in spite of the window (arXiv:2309.17453).
    pub sinks: usize,
    /// Position of the first query among the keys.
    pub offset: usize,
    /// Scores are multiplied by it; `p^{-1/2}` in arXiv:1706.03762, eq. 1.
    pub scale: f64,
    /// Scores are squeezed into ±`softcap` by `c·tanh(s/c)` (arXiv:2408.00118, §2).
    pub softcap: Option<f64>,
    /// Of what is left, a query sees the keys of these blocks only; none stands for all blocks.
    pub blocks: Option<BlockMask>,
    /// How many keys there are, in the first places of an array that may have room for more; none stands for all places.
    /// What lies in the others is not read.
    pub keys: Option<usize>,
}

impl AttentionRule {
    /// Causal attention over heads of width `p`, with the queries at the end of the keys.
    ///
    /// `offset` is the number of keys before the first query.
    pub fn causal(p: usize, offset: usize) -> Self {
        Self { causal: true, offset, ..Self::full(p) }
    }

    /// Attention over heads of width `p` in which every query sees every key.
    pub fn full(p: usize) -> Self {
        let scale = (p as f64).powf(-0.5);
        Self { causal: false, window: None, sinks: 0, offset: 0, scale, softcap: None, blocks: None, keys: None }
    }

    /// Whether a query at position `i` (counted like the keys) sees key `j`.
    pub fn sees(&self, i: usize, j: usize) -> bool {
        let near = self.window.is_none_or(|w| i.abs_diff(j) < w);
        let present = self.blocks.as_ref().is_none_or(|blocks| blocks.sees(i, j));
        (near || j < self.sinks) && (!self.causal || j <= i) && present
    }

    /// Checks the rule against `l` queries and `m` keys.
    ///
    /// # Panics
    /// If it does not fit.
    pub(super) fn check(&self, l: usize, m: usize) {
        let positions = (self.offset + l).max(m);
        assert!(
            positions <= MOST_POSITIONS,
            "attention: {positions} positions, and f32 tells only {MOST_POSITIONS} apart"
        );
        if let Some(cap) = self.softcap {
            assert!(cap > 0.0, "attention: a soft-cap must be positive, not {cap}");
        }
        if let Some(blocks) = &self.blocks {
            let needed = (self.offset + l).div_ceil(blocks.size);
            let (rows, columns) = (blocks.rows(), blocks.columns);
            assert!(rows >= needed, "attention: {rows} rows of blocks do not cover {} positions", self.offset + l);
            assert!(columns >= m.div_ceil(blocks.size), "attention: {columns} columns of blocks do not cover {m} keys");
        }
    }
}

/// Distances are floats.
const MOST_POSITIONS: usize = 1 << 24;

/// A pattern of square blocks over queries and keys: position `i` sees key `j` only if block `[i / size, j / size]` is
/// there.
///
/// It is shared, not copied, by its clones. It may cover more positions than an attention has, so that one mask serves
/// a sequence as it grows.
///
/// ```
/// use heddle_kernels::BlockMask;
///
/// // Blocks of four positions; each sees itself and the first.
/// let mask = BlockMask::new(4, [3, 3], |row, column| column == row || column == 0);
/// assert!(mask.sees(9, 11) && mask.sees(9, 0) && !mask.sees(9, 5));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMask {
    size: usize,
    columns: usize,
    present: Arc<[bool]>,
}

impl BlockMask {
    /// Blocks of `size` positions, in `[rows, columns]`; `present(row, column)` tells which are there.
    ///
    /// # Panics
    /// If the size or a number of blocks is 0.
    pub fn new(size: usize, [rows, columns]: [usize; 2], present: impl Fn(usize, usize) -> bool) -> Self {
        assert!(
            size * rows * columns > 0,
            "a block mask needs blocks of at least one position, not {rows} × {columns} blocks of {size}"
        );
        let blocks = (0..rows * columns).map(|block| present(block / columns, block % columns));
        Self { size, columns, present: blocks.collect() }
    }

    /// Positions to a block.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Blocks along the queries.
    pub fn rows(&self) -> usize {
        self.present.len() / self.columns
    }

    /// Blocks along the keys.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Whether block `[row, column]` is there.
    pub fn has(&self, row: usize, column: usize) -> bool {
        self.present[row * self.columns + column]
    }

    /// Whether the block of query position `i` and key `j` is there.
    pub fn sees(&self, i: usize, j: usize) -> bool {
        self.has(i / self.size, j / self.size)
    }
}
