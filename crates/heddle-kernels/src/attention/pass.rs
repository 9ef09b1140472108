//! A pass of the backward pass: from queries and scores back to gradients, a tile at a time.

use std::ops::Range;

use super::backward::Kept;
use super::block::{Attention, Block, Dims};
use super::dropout::DroppedPanel;
use super::score::{Mask, Queries, Score};
use super::sight::{KEYS, Run};
use crate::cpu::aligned::Aligned;
use crate::cpu::math::exp2;
use crate::cpu::product::{Factors, Left, Right, product};
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes};

/// A block's rows of gradients, head by head.
pub(super) struct QueryPart<'a> {
    pub(super) q: Vec<&'a mut [f32]>,
    /// What each row adds to its head's slope's; no heads if it is not wanted.
    pub(super) slopes: Vec<&'a mut [f32]>,
}

/// The gradients of a pass's keys, padded to whole vectors.
pub(super) struct KeyPart<'a> {
    pub(super) k: &'a mut [f32],
    pub(super) v: &'a mut [f32],
}

/// Gradients from some blocks of queries of a key head, and some of its keys.
pub(super) struct Pass<'a> {
    pub(super) call: Attention<'a>,
    pub(super) kept: Kept<'a>,
    /// The key head, counted over all sequences.
    pub(super) head: usize,
    pub(super) blocks: Range<usize>,
    /// For each block, or none.
    pub(super) query_parts: Vec<QueryPart<'a>>,
    pub(super) keys: Range<usize>,
    pub(super) key_part: Option<KeyPart<'a>>,
}

/// Sixteen rows.
#[derive(Clone, Copy)]
struct Panel<I: Isa> {
    queries: Queries<I>,
    dropped: Option<DroppedPanel>,
    /// ∞ in lanes without a row, which makes their weights 0.
    lse: Lanes<I>,
    /// What is subtracted from every gradient of a weight: `Σ_j weight_j · gradient_j`, less the gradient of the lse.
    mean: Lanes<I>,
    g_slopes: Lanes<I>,
}

/// What a pass computes with. The weights' and scores' rows are `lanes` wide, sixteen for each panel.
struct Workspace<I: Isa> {
    panels: Vec<Panel<I>>,
    /// Queries in units of scores, gradients of outputs, and gradients of queries: `[panel, p, 16]`.
    q: Aligned,
    g_o: Aligned,
    g_q: Aligned,
    /// Scaled queries and gradients of outputs, `[row, width]`.
    q_rows: Aligned,
    g_o_rows: Aligned,
    /// Products of queries and keys, then weights: `[key, lanes]`.
    weights: Aligned,
    /// Products of gradients and values, then gradients of scores: `[key, lanes]`.
    g_scores: Aligned,
    runs: Vec<Run>,
}

impl<I: Isa> Workspace<I> {
    fn new(rows: usize, dims: &Dims) -> Self {
        let lanes = rows.next_multiple_of(LANES);
        Self {
            panels: vec![],
            q: Aligned::zeros(lanes * dims.p),
            g_o: Aligned::zeros(lanes * dims.p),
            g_q: Aligned::zeros(lanes * dims.p),
            q_rows: Aligned::zeros(rows * dims.padded()),
            g_o_rows: Aligned::zeros(rows * dims.padded()),
            weights: Aligned::zeros(KEYS * lanes),
            g_scores: Aligned::zeros(KEYS * lanes),
            runs: vec![],
        }
    }
}

impl Kernel for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let (sight, at) = (self.call.sight(), self.call.rule.offset);
        let dims = self.call.dims;
        // The first block is the fullest.
        let mut work = Workspace::new(dims.block(self.head, self.blocks.start).rows(), &dims);
        let mut parts = std::mem::take(&mut self.query_parts).into_iter();
        for index in self.blocks.clone() {
            let (block, part) = (dims.block(self.head, index), parts.next());
            let mut tiles = sight.tiles(at + block.queries.start, at + block.queries.end - 1, &self.keys).peekable();
            if tiles.peek().is_none() {
                continue;
            }
            self.pack(isa, &mut work, &block);
            for tile in tiles {
                let seen = self.scores(isa, &mut work, &block, &tile, part.is_some());
                self.add_to_keys(isa, &work, &block, seen);
            }
            if let Some(part) = part {
                self.write_queries(isa, &mut work, &block, part);
            }
        }
    }
}

impl Pass<'_> {
    /// Lays a block's queries and gradients out as they are read.
    #[inline(always)]
    fn pack<I: Isa>(&self, isa: I, work: &mut Workspace<I>, block: &Block) {
        let Self { call, kept, .. } = self;
        call.pack_panels(call.q, block, call.score().factor, &mut work.q);
        work.g_q.fill(0.0);
        if let Some(g_o) = kept.g_o {
            call.pack_panels(g_o, block, 1.0, &mut work.g_o);
        }
        if self.key_part.is_some() {
            call.pack_rows(call.q, block, call.rule.scale as f32, &mut work.q_rows);
            if let Some(g_o) = kept.g_o {
                call.pack_rows(g_o, block, 1.0, &mut work.g_o_rows);
            }
        }
        work.panels.clear();
        for index in 0..block.panels() {
            let (mut lse, mut mean) = ([f32::INFINITY; LANES], [0.0; LANES]);
            for (lane, (lse, mean)) in lse.iter_mut().zip(&mut mean).enumerate() {
                let row = index * LANES + lane;
                let one = |of| call.row(of, 1, block, row).map_or(0.0, |x| x[0]);
                if row < block.rows() {
                    *lse = one(kept.lse);
                    *mean = self.dot_of_output(isa, block, row) - kept.g_lse.map_or(0.0, one);
                }
            }
            let at = isa.load(&call.positions(block, index));
            let queries = Queries { at, slopes: isa.load(&call.panel_slopes(block, index)) };
            let (lse, mean, dropped) = (isa.load(&lse), isa.load(&mean), call.panel_dropout(block, index));
            work.panels.push(Panel { queries, dropped, lse, mean, g_slopes: isa.zero() });
        }
    }

    /// A row's output times its gradient.
    #[inline(always)]
    fn dot_of_output<I: Isa>(&self, isa: I, block: &Block, row: usize) -> f32 {
        let p = self.call.dims.p;
        let g_o = self.kept.g_o.and_then(|g_o| self.call.row(g_o, p, block, row));
        let mut sum = isa.zero();
        if let (Some(o), Some(g_o)) = (self.call.row(self.kept.o, p, block, row), g_o) {
            for (o, g_o) in o.chunks(LANES).zip(g_o.chunks(LANES)) {
                sum = isa.load(o).mul_add(isa.load(g_o), sum);
            }
        }
        sum.sum()
    }

    /// Computes a tile's weights and gradients of scores, adds the latter to the gradients of queries if they are wanted, and
    /// returns the keys that some query sees.
    #[inline(always)]
    fn scores<I: Isa>(
        &self,
        isa: I,
        work: &mut Workspace<I>,
        block: &Block,
        tile: &Range<usize>,
        queries: bool,
    ) -> Range<usize> {
        let (sight, score, at) = (self.call.sight(), self.call.score(), self.call.rule.offset);
        let lanes = block.panels() * LANES;
        let mut seen = tile.end..tile.start;
        for panel in 0..block.panels() {
            let (first, last) = block.ends(panel);
            let mut runs = std::mem::take(&mut work.runs);
            sight.runs(at + first, at + last, tile, &mut runs);
            if runs.first().is_none_or(|run| run.keys != *tile) {
                for row in work.weights.chunks_exact_mut(lanes).chain(work.g_scores.chunks_exact_mut(lanes)) {
                    row[panel * LANES..][..LANES].fill(0.0);
                }
            }
            for run in &runs {
                seen = seen.start.min(run.keys.start)..seen.end.max(run.keys.end);
                let mask = Mask::new(sight, run, |lane| at + block.query(panel * LANES + lane));
                let place = Place { block, tile, panel, run };
                self.multiply(isa, work, place);
                let dropped = work.panels[panel].dropped;
                if let Some(dropped) = dropped {
                    // The gradient of a weight is that of what was kept of it.
                    dropped.apply(isa, run.keys.clone(), &mut work.g_scores[place.start()..], lanes);
                }
                differentiate(isa, work, place, (score, mask));
                if let Some(dropped) = dropped {
                    dropped.apply(isa, run.keys.clone(), &mut work.weights[place.start()..], lanes);
                }
                if queries {
                    self.add_to_queries(isa, work, place);
                }
            }
            work.runs = runs;
        }
        seen
    }

    /// Products of queries and keys, and of gradients and values.
    #[inline(always)]
    fn multiply<I: Isa>(&self, isa: I, work: &mut Workspace<I>, place: Place<'_>) {
        let p = self.call.dims.p;
        let panel = place.panel * p * LANES..(place.panel + 1) * p * LANES;
        let both = [(self.call.k, &work.q, &mut work.weights), (self.call.v, &work.g_o, &mut work.g_scores)];
        for (left, right, out) in both {
            let left = Left { data: &self.call.head(left, place.block.head)[place.within(p)], across: p, along: 1 };
            let right = Right { data: &right[panel.clone()], stride: LANES };
            let factors = Factors { left, right, rows: place.run.keys.len(), inner: p };
            product(isa, factors, &mut out[place.start()..], place.lanes(), |_| isa.zero());
        }
    }

    #[inline(always)]
    fn add_to_queries<I: Isa>(&self, isa: I, work: &mut Workspace<I>, place: Place<'_>) {
        let p = self.call.dims.p;
        let keys = &self.call.head(self.call.k, place.block.head)[place.within(p)];
        let left = Left { data: keys, across: 1, along: p };
        let right = Right { data: &work.g_scores[place.start()..], stride: place.lanes() };
        let factors = Factors { left, right, rows: p, inner: place.run.keys.len() };
        product(isa, factors, &mut work.g_q[place.panel * p * LANES..][..p * LANES], LANES, |sum| sum);
    }

    /// Adds what a block does to the keys of a tile that it saw.
    #[inline(always)]
    fn add_to_keys<I: Isa>(&mut self, isa: I, work: &Workspace<I>, block: &Block, seen: Range<usize>) {
        let (Some(part), false) = (&mut self.key_part, seen.is_empty()) else { return };
        let (width, lanes) = (self.call.dims.padded(), block.panels() * LANES);
        let both = [(&work.weights, &work.g_o_rows, &mut part.v), (&work.g_scores, &work.q_rows, &mut part.k)];
        for (left, right, out) in both {
            let left = Left { data: &left[(seen.start % KEYS) * lanes..], across: lanes, along: 1 };
            let out = &mut out[(seen.start - self.keys.start) * width..];
            for column in (0..width).step_by(LANES) {
                let right = Right { data: &right[column..], stride: width };
                let factors = Factors { left, right, rows: seen.len(), inner: block.rows() };
                product(isa, factors, &mut out[column..], width, |sum| sum);
            }
        }
    }

    /// Writes the gradients of a block's queries.
    #[inline(always)]
    fn write_queries<I: Isa>(&self, isa: I, work: &mut Workspace<I>, block: &Block, mut part: QueryPart<'_>) {
        let p = self.call.dims.p;
        for (index, (panel, g_q)) in work.panels.iter().zip(work.g_q.chunks_exact_mut(p * LANES)).enumerate() {
            for g_q in g_q.chunks_exact_mut(LANES) {
                (isa.load(g_q) * self.call.rule.scale as f32).store(g_q);
            }
            block.unpack_panel(g_q, index, &mut part.q);
            if !part.slopes.is_empty() {
                block.unpack_panel(&panel.g_slopes.to_array(), index, &mut part.slopes);
            }
        }
    }
}

/// Where in a block and a tile the work is.
#[derive(Clone, Copy)]
struct Place<'a> {
    block: &'a Block,
    tile: &'a Range<usize>,
    panel: usize,
    run: &'a Run,
}

impl Place<'_> {
    /// Floats in a row of weights.
    #[inline(always)]
    fn lanes(&self) -> usize {
        self.block.panels() * LANES
    }

    /// The run's first weight.
    #[inline(always)]
    fn start(&self) -> usize {
        (self.run.keys.start - self.tile.start) * self.lanes() + self.panel * LANES
    }

    /// The run's keys within their head.
    #[inline(always)]
    fn within(&self, p: usize) -> Range<usize> {
        self.run.keys.start * p..self.run.keys.end * p
    }
}

/// Turns products into weights and gradients of scores.
#[inline(always)]
fn differentiate<I: Isa>(isa: I, work: &mut Workspace<I>, place: Place<'_>, (score, mask): (Score, Mask<'_>)) {
    let panel = &mut work.panels[place.panel];
    let rows = work.weights[place.start()..].chunks_mut(place.lanes());
    let rows = rows.zip(work.g_scores[place.start()..].chunks_mut(place.lanes()));
    let rows = rows.map(|(weights, g_scores)| (&mut weights[..LANES], &mut g_scores[..LANES]));
    if score.is_product() && mask.is_open() {
        for (_, (weights, g_scores)) in place.run.keys.clone().zip(rows) {
            let weight = exp2(isa.load(weights) - panel.lse);
            weight.store(weights);
            (weight * (isa.load(g_scores) - panel.mean)).store(g_scores);
        }
        return;
    }
    for (key, (weights, g_scores)) in place.run.keys.clone().zip(rows) {
        let offset = panel.queries.at - key as f32;
        let scored = score.of(isa.load(weights), offset, panel.queries.slopes);
        let weight = exp2(mask.apply(scored.score, offset, key) - panel.lse);
        let g_score = weight * (isa.load(g_scores) - panel.mean);
        panel.g_slopes = (-g_score).mul_add(scored.distance, panel.g_slopes);
        weight.store(weights);
        (g_score * scored.slack).store(g_scores);
    }
}
