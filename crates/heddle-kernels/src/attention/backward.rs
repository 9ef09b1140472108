//! The backward pass (arXiv:2307.08691, algorithm 2).
//!
//! Weights are computed again from the scores and the logarithm of their sum. A pass takes some blocks of queries and some
//! keys, and adds up the gradients of either or both. If there are enough key heads for all threads, each is one pass over
//! everything, with five products to a tile. Otherwise passes over spans of keys and passes over blocks of queries share
//! the work more finely, at the price of computing weights twice. Either way each gradient adds up the same numbers in the
//! same order, so not a bit depends on the choice, or on the number of threads.

use super::block::{Attention, Dims};

use super::pass::{KeyPart, Pass, QueryPart};
use super::sight::KEYS;
use crate::cpu::simd::Level;
use crate::cpu::tasks::run_all;

/// Keys of a pass over a span of keys: several tiles, so that packing queries does not weigh.
const SPAN: usize = 4 * KEYS;

/// What the forward pass left, and the gradients of its outputs.
#[derive(Clone, Copy)]
pub(super) struct Kept<'a> {
    pub(super) o: &'a [f32],
    /// To base 2.
    pub(super) lse: &'a [f32],
    pub(super) g_o: Option<&'a [f32]>,
    /// Of the natural logarithm.
    pub(super) g_lse: Option<&'a [f32]>,
}

/// The gradients that somebody asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Those of queries and slopes.
    pub(super) queries: bool,
    /// Those of keys and values.
    pub(super) keys: bool,
}

/// The gradients of the inputs, where they were wanted.
#[derive(Debug, PartialEq)]
pub(super) struct Gradients {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) slopes: Vec<f32>,
}

/// How the work is shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// One pass for each key head.
    Together,
    /// Passes over spans of keys, and passes over blocks of queries.
    Apart,
}

impl Plan {
    /// The faster plan on so many threads: five products to a tile, or seven that can be shared out evenly.
    pub(super) fn for_threads(heads: usize, threads: usize, wanted: Wanted) -> Self {
        let even = 5 * heads.next_multiple_of(threads) <= 7 * heads;
        if wanted.queries && wanted.keys && even { Self::Together } else { Self::Apart }
    }
}

/// The gradients of an attention.
pub(super) fn backward(call: Attention<'_>, kept: Kept<'_>, wanted: Wanted, level: Level) -> Gradients {
    let threads = if call.parallel() { rayon::current_num_threads() } else { 1 };
    let plan = Plan::for_threads(call.dims.b * call.dims.g, threads, wanted);
    backward_by(plan, (call, kept), wanted, level)
}

/// The gradients of an attention, by a given plan.
pub(super) fn backward_by(plan: Plan, of: (Attention<'_>, Kept<'_>), wanted: Wanted, level: Level) -> Gradients {
    let (call, kept) = of;
    let dims @ Dims { b, h, g, l, m, p, .. } = call.dims;
    let width = dims.padded();
    let zeros = |wanted: bool, length: usize| vec![0.0; if wanted { length } else { 0 }];
    let mut q = zeros(wanted.queries, b * h * l * p);
    let mut slopes = zeros(wanted.queries && call.slopes.is_some(), b * h * l);
    let mut k = zeros(wanted.keys, b * g * m * width);
    let mut v = zeros(wanted.keys, b * g * m * width);

    let passes = passes(plan, (call, kept), query_parts(&dims, &mut q, &mut slopes), (&mut k, &mut v));
    run_all(passes, call.parallel(), |pass| level.run(pass));
    for array in [&mut k, &mut v] {
        close_up(array, width, p);
    }
    Gradients { q, k, v, slopes: sum_slopes(&dims, &slopes) }
}

/// The passes of a plan. Parts of gradients that are not wanted are not there.
fn passes<'a>(
    plan: Plan,
    (call, kept): (Attention<'a>, Kept<'a>),
    parts: Vec<QueryPart<'a>>,
    (k, v): (&'a mut [f32], &'a mut [f32]),
) -> Vec<Pass<'a>> {
    let dims @ Dims { b, g, m, .. } = call.dims;
    let width = dims.padded();
    let span = if plan == Plan::Together { m } else { SPAN };
    let spans = |array: &'a mut [f32]| array.chunks_mut(m * width).map(move |head| head.chunks_mut(span * width));
    let (mut parts, mut spans) = (parts.into_iter(), spans(k).zip(spans(v)));
    let mut passes = vec![];
    for head in 0..b * g {
        let mut whole: Vec<_> = parts.by_ref().take(dims.blocks()).collect();
        if plan == Plan::Apart {
            for (index, part) in whole.drain(..).enumerate() {
                let (blocks, query_parts) = (index..index + 1, vec![part]);
                passes.push(Pass { call, kept, head, blocks, query_parts, keys: 0..m, key_part: None });
            }
        }
        for (index, (k, v)) in spans.next().into_iter().flat_map(|(k, v)| k.zip(v)).enumerate() {
            // The only span's, or none.
            let query_parts = std::mem::take(&mut whole);
            let (blocks, keys) = (0..dims.blocks(), index * span..m.min((index + 1) * span));
            passes.push(Pass { call, kept, head, blocks, query_parts, keys, key_part: Some(KeyPart { k, v }) });
        }
    }
    passes
}

/// A block's part of the gradients of queries and slopes; none if they are not wanted.
fn query_parts<'a>(dims: &Dims, q: &'a mut [f32], slopes: &'a mut [f32]) -> Vec<QueryPart<'a>> {
    let mut slopes = dims.cut(slopes, 1).into_iter();
    let q = if q.is_empty() { vec![] } else { dims.cut(q, dims.p) };
    q.into_iter().map(|q| QueryPart { q, slopes: slopes.next().unwrap_or_default() }).collect()
}

/// Moves rows of `width` floats together to rows of `p`.
fn close_up(array: &mut Vec<f32>, width: usize, p: usize) {
    if p < width {
        let rows = array.len() / width;
        (0..rows).for_each(|row| array.copy_within(row * width..row * width + p, row * p));
        array.truncate(rows * p);
    }
}

/// Sums `[b, h, l]` to `[h]`; `f64`, because each is a sum over all positions of all sequences.
fn sum_slopes(dims: &Dims, rows: &[f32]) -> Vec<f32> {
    let heads = if rows.is_empty() { 0 } else { dims.h };
    let mut sums = vec![0.0_f64; heads];
    for (i, row) in rows.chunks_exact(dims.l).enumerate() {
        sums[i % dims.h] += row.iter().map(|&x| f64::from(x)).sum::<f64>();
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}
