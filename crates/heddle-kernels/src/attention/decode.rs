//! The forward pass of few rows, as in decoding token by token.
//!
//! A panel would be mostly empty, so here a vector holds sixteen channels of one row, each key and value is read once, and
//! rows take turns while a tile of keys is in the cache. Long key sequences are cut into chunks, always at the same places,
//! whose results are merged in order: one row of one head, too, keeps several threads busy.

use super::block::{Attention, Block, Dims};
use super::forward::Attended;
use super::score::{NOTHING, Score};
use super::sight::{KEYS, Run};
use crate::cpu::aligned::Aligned;
use crate::cpu::math::exp2;
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::tasks::run_all;

/// From here on panels are faster: half a panel.
const MOST_ROWS: usize = LANES / 2;

/// Keys to a chunk.
const CHUNK: usize = 16 * KEYS;

/// Whether there are so few rows that this is the faster way.
pub(super) fn pays(dims: &Dims) -> bool {
    dims.l * dims.shared() <= MOST_ROWS
}

/// Attends.
pub(super) fn forward(call: Attention<'_>, level: Level) -> Attended {
    let dims @ Dims { b, h, g, l, m, p, .. } = call.dims;
    let (rows, chunks) = (l * dims.shared(), m.div_ceil(CHUNK));
    // A row's part of a chunk: largest score, sum of weights, weighted values.
    let part = dims.padded() + 2;
    let mut parts = vec![0.0; b * g * chunks * rows * part];
    let blocks = dims.all_blocks().flat_map(|block| (0..chunks).map(move |chunk| (block.clone(), chunk)));
    let tasks = blocks.zip(parts.chunks_exact_mut(rows * part));
    let tasks = tasks.map(|((block, chunk), parts)| Task { call, block, chunk, parts });
    run_all(tasks.collect(), call.parallel(), |task| level.run(task));

    let mut o = vec![0.0; b * h * l * p];
    let mut lse = vec![0.0; b * h * l];
    let heads =
        parts.chunks_exact(chunks * rows * part).zip(dims.cut(&mut o, p).into_iter().zip(dims.cut(&mut lse, 1)));
    for (block, (parts, (mut o, mut lse))) in dims.all_blocks().zip(heads) {
        for row in 0..rows {
            let (head, position) = block.row(row);
            let parts = parts.chunks_exact(part).skip(row).step_by(rows);
            lse[head][position] = merge(parts, &mut o[head][position * p..][..p]);
        }
    }
    Attended { o, lse }
}

/// Merges a row's parts and returns the logarithm to base 2 of its denominator.
fn merge<'a>(parts: impl Iterator<Item = &'a [f32]> + Clone, o: &mut [f32]) -> f32 {
    let top = parts.clone().fold(NOTHING, |top, part| if part[0] > top { part[0] } else { top });
    let mut sum = 0.0;
    for part in parts {
        let rescale = (part[0] - top).exp2();
        sum += part[1] * rescale;
        o.iter_mut().zip(&part[2..]).for_each(|(o, x)| *o += x * rescale);
    }
    if sum == 0.0 {
        return f32::INFINITY;
    }
    o.iter_mut().for_each(|o| *o /= sum);
    top + sum.log2()
}

/// The part of one chunk of keys in the attention of one block.
struct Task<'a> {
    call: Attention<'a>,
    block: Block,
    chunk: usize,
    parts: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { call, block, chunk, parts } = self;
        let (width, score, sight, at) = (call.dims.padded(), call.score(), call.sight(), call.rule.offset);
        let mut parts: Vec<_> = parts.chunks_exact_mut(width + 2).map(|part| part.split_at_mut(2)).collect();
        for (state, _) in &mut parts {
            state[0] = NOTHING;
        }
        let chunk = chunk * CHUNK..(chunk + 1) * CHUNK;
        let mut tiles = sight.tiles(at + block.queries.start, at + block.queries.end - 1, &chunk).peekable();
        if tiles.peek().is_none() {
            return;
        }
        let mut q = Aligned::zeros(block.rows() * width);
        call.pack_rows(call.q, &block, score.factor, &mut q);
        let slopes: Vec<f32> = (0..block.panels()).flat_map(|panel| call.panel_slopes(&block, panel)).collect();
        let (mut scores, mut runs) = (Aligned::zeros(KEYS), vec![]);
        for tile in tiles {
            for (row, (state, o)) in parts.iter_mut().enumerate() {
                let position = at + block.query(row);
                sight.runs(position, position, &tile, &mut runs);
                for run in &runs {
                    // A single query sees every key of its runs, so nothing is masked.
                    let scores = &mut scores[..run.keys.len()];
                    multiply(isa, &call, (&block, run), &q[row * width..][..width], scores);
                    let one = Row { isa, score, position, slope: slopes[row] };
                    let rescale = one.softmax(run, scores, state);
                    add_values(isa, &call, (&block, run), (scores, rescale), o);
                }
            }
        }
    }
}

/// The products of a row and a run of keys.
#[inline(always)]
fn multiply<I: Isa>(isa: I, call: &Attention<'_>, (block, run): (&Block, &Run), q: &[f32], products: &mut [f32]) {
    let p = call.dims.p;
    let keys = &call.head(call.k, block.head)[run.keys.start * p..run.keys.end * p];
    for (product, key) in products.iter_mut().zip(keys.chunks_exact(p)) {
        let mut sum = isa.zero();
        for (q, key) in q.chunks_exact(LANES).zip(key.chunks(LANES)) {
            sum = isa.load(q).mul_add(isa.load(key), sum);
        }
        *product = sum.sum();
    }
}

/// `o = o · rescale + Σ_j weights_j values_j`
#[inline(always)]
fn add_values<I: Isa>(
    isa: I,
    call: &Attention<'_>,
    (block, run): (&Block, &Run),
    (weights, rescale): (&[f32], f32),
    o: &mut [f32],
) {
    let p = call.dims.p;
    let values = &call.head(call.v, block.head)[run.keys.start * p..run.keys.end * p];
    for (i, o) in o.chunks_exact_mut(LANES).enumerate() {
        let channels = i * LANES..p.min((i + 1) * LANES);
        // Four sums, so that an addition need not wait for the one before it.
        let mut sums = [isa.load(o) * rescale, isa.zero(), isa.zero(), isa.zero()];
        let (mut fours, mut rows) = (weights.chunks_exact(sums.len()), values.chunks_exact(sums.len() * p));
        for (weights, values) in fours.by_ref().zip(rows.by_ref()) {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = isa.splat(weights[j]).mul_add(isa.load(&values[j * p..][channels.clone()]), *sum);
            }
        }
        for (weight, value) in fours.remainder().iter().zip(rows.remainder().chunks_exact(p)) {
            sums[0] = isa.splat(*weight).mul_add(isa.load(&value[channels.clone()]), sums[0]);
        }
        ((sums[0] + sums[1]) + (sums[2] + sums[3])).store(o);
    }
}

/// One row of a block.
struct Row<I: Isa> {
    isa: I,
    score: Score,
    position: usize,
    /// In units of log 2.
    slope: f32,
}

impl<I: Isa> Row<I> {
    /// Turns products into weights, brings largest score and sum of weights up to date, and returns the factor for what
    /// was summed before.
    #[inline(always)]
    fn softmax(&self, run: &Run, scores: &mut [f32], state: &mut [f32]) -> f32 {
        let Self { isa, score, .. } = *self;
        let mut largest = isa.splat(NOTHING);
        for (i, scores) in scores.chunks_mut(LANES).enumerate() {
            let mut offsets = [0.0; LANES];
            for (lane, offset) in offsets.iter_mut().enumerate() {
                *offset = self.position as f32 - (run.keys.start + i * LANES + lane) as f32;
            }
            let scored = score.of(isa.load(scores), isa.load(&offsets), isa.splat(self.slope)).score;
            scored.store(scores);
            largest = largest.max(load_or(isa, scores, NOTHING));
        }
        let top = if largest.largest() > state[0] { largest.largest() } else { state[0] };
        let rescale = (state[0] - top).exp2();
        let mut sum = isa.zero();
        for scores in scores.chunks_mut(LANES) {
            let weights = exp2(load_or(isa, scores, f32::NEG_INFINITY) - top);
            weights.store(scores);
            sum += weights;
        }
        state[0] = top;
        state[1] = state[1] * rescale + sum.sum();
        rescale
    }
}

/// Sixteen floats, `other` where the slice has none.
#[inline(always)]
fn load_or<I: Isa>(isa: I, from: &[f32], other: f32) -> Lanes<I> {
    if from.len() >= LANES {
        return isa.load(from);
    }
    let mut padded = [other; LANES];
    padded[..from.len()].copy_from_slice(from);
    isa.load(&padded)
}
