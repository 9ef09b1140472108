//! Blocks of queries, and how arrays are cut into them.
//!
//! All query heads that share a key head are attended to together: a *row* of a block is a query position of one of them,
//! and keys are read once for all. Sixteen rows are a *panel*, a matrix `[p, 16]` whose vectors hold one channel of sixteen
//! rows, so that softmax never sums across lanes.

use std::ops::Range;

use super::AttentionRule;
use super::dropout::DroppedPanel;
use super::score::Score;
use super::sight::Sight;
use crate::cpu::simd::{LANES, Sixteen};

/// Rows of a block, unless more heads than that share a key head.
const ROWS: usize = 64;

/// Below this many multiplications, starting threads takes longer than the work.
const WORTH_THREADS: usize = 1 << 18;

/// The sizes of an attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    pub(super) b: usize,
    pub(super) h: usize,
    pub(super) g: usize,
    pub(super) l: usize,
    /// Keys.
    pub(super) m: usize,
    /// Places for keys in each head of their array.
    pub(super) room: usize,
    pub(super) p: usize,
}

impl Dims {
    /// Query heads to a key head.
    pub(super) fn shared(&self) -> usize {
        self.h / self.g
    }

    /// Query positions in a block.
    fn span(&self) -> usize {
        (ROWS / self.shared()).max(1)
    }

    /// Blocks to a key head.
    pub(super) fn blocks(&self) -> usize {
        self.l.div_ceil(self.span())
    }

    /// A block of a key head, which is counted over all sequences.
    pub(super) fn block(&self, head: usize, index: usize) -> Block {
        let (start, end) = (index * self.span(), (index + 1) * self.span());
        Block { head, shared: self.shared(), queries: start..self.l.min(end) }
    }

    /// The blocks of all key heads of all sequences.
    pub(super) fn all_blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let dims = *self;
        (0..self.b * self.g).flat_map(move |head| (0..dims.blocks()).map(move |index| dims.block(head, index)))
    }

    /// The head width, rounded up to whole vectors.
    pub(super) fn padded(&self) -> usize {
        self.p.next_multiple_of(LANES)
    }

    /// Cuts an array `[b, h, l, width]` into each block's part of each of its heads, in the order of the blocks of all heads.
    pub(super) fn cut<'a>(&self, array: &'a mut [f32], width: usize) -> Vec<Vec<&'a mut [f32]>> {
        let heads = array.chunks_exact_mut(self.l * width);
        let mut heads: Vec<_> = heads.map(|head| head.chunks_mut(self.span() * width)).collect();
        let mut parts = Vec::with_capacity(self.b * self.g * self.blocks());
        for heads in heads.chunks_mut(self.shared()) {
            for _ in 0..self.blocks() {
                parts.push(heads.iter_mut().filter_map(Iterator::next).collect());
            }
        }
        parts
    }
}

/// Some neighbouring query positions of all heads that share a key head.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// The key head, counted over all sequences.
    pub(super) head: usize,
    shared: usize,
    pub(super) queries: Range<usize>,
}

impl Block {
    /// Rows: head after head at one position, then the next position.
    pub(super) fn rows(&self) -> usize {
        self.queries.len() * self.shared
    }

    pub(super) fn panels(&self) -> usize {
        self.rows().div_ceil(LANES)
    }

    /// A row's head, within the heads that share the key head, and its position within the block.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> (usize, usize) {
        (row % self.shared, row / self.shared)
    }

    /// A row's query, or the last row's beyond the last.
    #[inline(always)]
    pub(super) fn query(&self, row: usize) -> usize {
        self.queries.start + row.min(self.rows() - 1) / self.shared
    }

    /// The first and the last query of a panel.
    #[inline(always)]
    pub(super) fn ends(&self, panel: usize) -> (usize, usize) {
        (self.query(panel * LANES), self.query((panel + 1) * LANES - 1))
    }

    /// Writes one of this block's panels as rows of its heads.
    #[inline(always)]
    pub(super) fn unpack_panel(&self, panel: &[f32], index: usize, heads: &mut [&mut [f32]]) {
        let p = panel.len() / LANES;
        for lane in 0..LANES.min(self.rows() - index * LANES) {
            let (head, position) = self.row(index * LANES + lane);
            let row = &mut heads[head][position * p..][..p];
            row.iter_mut().zip(panel[lane..].iter().step_by(LANES)).for_each(|(to, x)| *to = *x);
        }
    }
}

/// The inputs of an attention.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a> {
    pub(super) dims: Dims,
    pub(super) rule: &'a AttentionRule,
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) slopes: Option<&'a [f32]>,
}

impl<'a> Attention<'a> {
    pub(super) fn sight(&self) -> Sight<'a> {
        Sight { rule: self.rule, m: self.dims.m }
    }

    pub(super) fn score(&self) -> Score {
        Score::new(self.rule, self.slopes.is_some())
    }

    /// The rows of a key head in an array like that of the keys.
    #[inline(always)]
    pub(super) fn head<'b>(&self, of: &'b [f32], head: usize) -> &'b [f32] {
        let Dims { m, room, p, .. } = self.dims;
        &of[head * room * p..][..m * p]
    }

    /// A block's row in an array `[b, h, l, width]`, if there is such a row.
    #[inline(always)]
    pub(super) fn row<'b>(&self, of: &'b [f32], width: usize, block: &Block, row: usize) -> Option<&'b [f32]> {
        if row >= block.rows() {
            return None;
        }
        let (head, position) = block.row(row);
        let at = (block.head * self.dims.shared() + head) * self.dims.l + block.queries.start + position;
        Some(&of[at * width..][..width])
    }

    /// Writes a block's rows as panels, times `factor`; lanes without a row become 0.
    #[inline(always)]
    pub(super) fn pack_panels(&self, of: &[f32], block: &Block, factor: f32, panels: &mut [f32]) {
        let p = self.dims.p;
        for (i, panel) in panels.chunks_exact_mut(p * LANES).enumerate() {
            for lane in 0..LANES {
                match self.row(of, p, block, i * LANES + lane) {
                    Some(row) => panel[lane..].iter_mut().step_by(LANES).zip(row).for_each(|(to, x)| *to = x * factor),
                    None => panel[lane..].iter_mut().step_by(LANES).for_each(|to| *to = 0.0),
                }
            }
        }
    }

    /// Writes a block's rows, times `factor`, each padded with zeros to whole vectors.
    #[inline(always)]
    pub(super) fn pack_rows(&self, of: &[f32], block: &Block, factor: f32, rows: &mut [f32]) {
        let p = self.dims.p;
        for (i, to) in rows.chunks_exact_mut(self.dims.padded()).take(block.rows()).enumerate() {
            if let Some(row) = self.row(of, p, block, i) {
                to.iter_mut().zip(row).for_each(|(to, x)| *to = x * factor);
            }
        }
    }

    /// The positions of a panel's rows.
    #[inline(always)]
    pub(super) fn positions(&self, block: &Block, panel: usize) -> Sixteen {
        let mut positions = Sixteen::default();
        for (lane, at) in positions.iter_mut().enumerate() {
            *at = (self.rule.offset + block.query(panel * LANES + lane)) as f32;
        }
        positions
    }

    /// The slopes of a panel's rows in units of log 2, or zeros.
    #[inline(always)]
    pub(super) fn panel_slopes(&self, block: &Block, panel: usize) -> Sixteen {
        let mut result = Sixteen::default();
        if let Some(slopes) = self.slopes {
            let first = (block.head * self.dims.shared()) % self.dims.h;
            for (lane, slope) in result.iter_mut().enumerate() {
                let (head, _) = block.row(panel * LANES + lane);
                *slope = slopes[first + head] * std::f32::consts::LOG2_E;
            }
        }
        result
    }

    /// The dropout of a panel's rows, if there is any.
    #[inline(always)]
    pub(super) fn panel_dropout(&self, block: &Block, panel: usize) -> Option<DroppedPanel> {
        let dropout = self.rule.dropout.filter(|dropout| dropout.chance > 0.0)?;
        Some(dropout.panel(|lane| {
            let row = panel * LANES + lane;
            let (head, _) = block.row(row);
            (block.head * self.dims.shared() + head, self.rule.offset + block.query(row))
        }))
    }

    /// Whether threads pay.
    pub(super) fn parallel(&self) -> bool {
        let Dims { b, h, l, m, p, .. } = self.dims;
        let keys = self.rule.window.map_or(m, |window| m.min(window.saturating_add(self.rule.sinks)));
        b * h * l * keys * p >= WORTH_THREADS
    }
}
