//! The forward pass (arXiv:2307.08691, algorithm 1).
//!
//! A task owns a block of queries and visits the tiles of keys that any of them sees. For a panel of sixteen rows and a
//! tile, scores, softmax and weighted values stay in the nearest cache; a row's largest score and its sum of weights so
//! far are lanes of two vectors.

use super::block::{Attention, Block, Dims};
use super::decode;
use super::dropout::DroppedPanel;
use super::score::{Mask, NOTHING, Queries, Score};
use super::sight::{KEYS, Run};
use crate::cpu::aligned::Aligned;
use crate::cpu::math::{exp2, log};
use crate::cpu::product::{Factors, Left, Right, product};
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::tasks::run_all;

/// The results of an attention.
pub(super) struct Attended {
    /// `[b, h, l, p]`
    pub(super) o: Vec<f32>,
    /// The logarithm to base 2 of each softmax's denominator, ∞ for a row that sees no key: `[b, h, l]`.
    pub(super) lse: Vec<f32>,
}

/// Attends.
pub(super) fn forward(call: Attention<'_>, level: Level) -> Attended {
    let Dims { b, h, l, p, .. } = call.dims;
    if decode::pays(&call.dims) && call.rule.dropout.is_none() {
        return decode::forward(call, level);
    }
    let mut o = vec![0.0; b * h * l * p];
    let mut lse = vec![0.0; b * h * l];
    let parts = call.dims.cut(&mut o, p).into_iter().zip(call.dims.cut(&mut lse, 1));
    let tasks = call.dims.all_blocks().zip(parts).map(|(block, (o, lse))| Task { call, block, o, lse });
    run_all(tasks.collect(), call.parallel(), |task| level.run(task));
    Attended { o, lse }
}

/// The attention of one block.
struct Task<'a> {
    call: Attention<'a>,
    block: Block,
    o: Vec<&'a mut [f32]>,
    lse: Vec<&'a mut [f32]>,
}

/// Sixteen rows on their way.
struct Panel<I: Isa> {
    queries: Queries<I>,
    dropped: Option<DroppedPanel>,
    /// The largest scores so far.
    top: Lanes<I>,
    /// The sums of `2^(score − top)` so far.
    sum: Lanes<I>,
}

/// What a task computes with.
struct Workspace<I: Isa> {
    panels: Vec<Panel<I>>,
    /// Scaled queries, and weighted values so far: `[panel, p, 16]`.
    q: Aligned,
    o: Aligned,
    /// The scores of a tile by a panel, then their exponentials: `[key, 16]`.
    scores: Aligned,
    runs: Vec<Run>,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let (call, sight, score) = (self.call, self.call.sight(), self.call.score());
        let mut work = self.workspace(isa);
        call.pack_panels(call.q, &self.block, score.factor, &mut work.q);
        let at = call.rule.offset;
        let (first, last) = (at + self.block.queries.start, at + self.block.queries.end - 1);
        for tile in sight.tiles(first, last, &(0..call.dims.m)) {
            for panel in 0..self.block.panels() {
                let (first, last) = self.block.ends(panel);
                let mut runs = std::mem::take(&mut work.runs);
                sight.runs(at + first, at + last, &tile, &mut runs);
                for run in &runs {
                    let mask = Mask::new(sight, run, |lane| at + self.block.query(panel * LANES + lane));
                    self.attend(isa, &mut work, panel, run, (score, mask));
                }
                work.runs = runs;
            }
        }
        self.finish(isa, &mut work);
    }
}

impl Task<'_> {
    #[inline(always)]
    fn workspace<I: Isa>(&self, isa: I) -> Workspace<I> {
        let panels = self.block.panels();
        let panel = |index| Panel {
            queries: Queries {
                at: isa.load(&self.call.positions(&self.block, index)),
                slopes: isa.load(&self.call.panel_slopes(&self.block, index)),
            },
            dropped: self.call.panel_dropout(&self.block, index),
            top: isa.splat(NOTHING),
            sum: isa.zero(),
        };
        Workspace {
            panels: (0..panels).map(panel).collect(),
            q: Aligned::zeros(panels * self.call.dims.p * LANES),
            o: Aligned::zeros(panels * self.call.dims.p * LANES),
            scores: Aligned::zeros(KEYS * LANES),
            runs: Vec::with_capacity(2),
        }
    }

    /// Lets a panel see a run of keys.
    #[inline(always)]
    fn attend<I: Isa>(
        &self,
        isa: I,
        work: &mut Workspace<I>,
        panel: usize,
        run: &Run,
        (score, mask): (Score, Mask<'_>),
    ) {
        let p = self.call.dims.p;
        let within = run.keys.start * p..run.keys.end * p;
        let keys = Left { data: &self.call.head(self.call.k, self.block.head)[within.clone()], across: p, along: 1 };
        let queries = Right { data: &work.q[panel * p * LANES..][..p * LANES], stride: LANES };
        let scores = &mut work.scores[..run.keys.len() * LANES];
        let factors = Factors { left: keys, right: queries, rows: run.keys.len(), inner: p };
        product(isa, factors, scores, LANES, |_| isa.zero());

        let state = &mut work.panels[panel];
        let mut top = state.top;
        if score.is_product() && mask.is_open() {
            for scores in scores.chunks_exact(LANES) {
                top = top.max(isa.load(scores));
            }
        } else {
            for (key, scores) in run.keys.clone().zip(scores.chunks_exact_mut(LANES)) {
                let offset = state.queries.at - key as f32;
                let scored = score.of(isa.load(scores), offset, state.queries.slopes).score;
                let scored = mask.apply(scored, offset, key);
                scored.store(scores);
                top = top.max(scored);
            }
        }
        let rescale = exp2(state.top - top);
        let mut sum = state.sum * rescale;
        for scores in scores.chunks_exact_mut(LANES) {
            let weight = exp2(isa.load(scores) - top);
            weight.store(scores);
            sum += weight;
        }
        (state.top, state.sum) = (top, sum);
        if let Some(dropped) = &state.dropped {
            dropped.apply(isa, run.keys.clone(), scores, LANES);
        }

        let values = Left { data: &self.call.head(self.call.v, self.block.head)[within], across: 1, along: p };
        let weights = Right { data: scores, stride: LANES };
        let factors = Factors { left: values, right: weights, rows: p, inner: run.keys.len() };
        product(isa, factors, &mut work.o[panel * p * LANES..][..p * LANES], LANES, |o| o * rescale);
    }

    /// Divides by the denominators and writes the results.
    #[inline(always)]
    fn finish<I: Isa>(&mut self, isa: I, work: &mut Workspace<I>) {
        let p = self.call.dims.p;
        for (index, (panel, o)) in work.panels.iter().zip(work.o.chunks_exact_mut(p * LANES)).enumerate() {
            let (share, lse) = denominators(isa, panel.top, panel.sum);
            for o in o.chunks_exact_mut(LANES) {
                (isa.load(o) * share).store(o);
            }
            self.block.unpack_panel(o, index, &mut self.o);
            self.block.unpack_panel(&lse.to_array(), index, &mut self.lse);
        }
    }
}

/// `1 / sum`, and the logarithm to base 2 of `sum · 2^top`; 0 and ∞ where the sum has no term.
#[inline(always)]
pub(super) fn denominators<I: Isa>(isa: I, top: Lanes<I>, sum: Lanes<I>) -> (Lanes<I>, Lanes<I>) {
    let zero = isa.zero();
    // A sum that is no number is not above zero; the products keep it so.
    let share = zero.if_less(sum, isa.splat(1.0) / sum, sum * 0.0);
    let lse = log(sum).mul_add(isa.splat(std::f32::consts::LOG2_E), top);
    (share, zero.if_less(sum, lse, sum * 0.0 + f32::INFINITY))
}
