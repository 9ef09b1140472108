//! A few tokens, as in decoding: one after another, on the state where it lies.
//!
//! A vector holds sixteen of a row's `n` floats, so that a state is read and written once a token, in order. What sixteen
//! rows answer is summed across lanes by turning sixteen partial sums over.

use super::layout::{CHUNK, Delta, Dims, Place};
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::split::{Columns, columns};
use crate::cpu::tasks::run_all;

/// Tokens from which on it pays to lay the state out for a pass over many.
const MANY: usize = CHUNK / 2;

/// Whether there are so few tokens.
pub(super) fn pays(dims: &Dims) -> bool {
    dims.l < MANY
}

/// The outputs and the last state.
pub(super) fn forward(call: Delta<'_>, level: Level) -> (Vec<f32>, Vec<f32>) {
    let dims @ Dims { b, l, h, p, .. } = call.dims;
    let heads = dims.heads_a_task();
    let mut o = vec![0.0; b * l * h * p];
    let mut state = call.state.to_vec();
    let outputs = o.chunks_exact_mut(l * h * p).flat_map(|o| columns(o, h * p, heads * p));
    let tasks = dims.tasks().zip(outputs).zip(state.chunks_exact_mut(heads * p * dims.n));
    let tasks = tasks.map(|((place, o), state)| Task { call, place, o, state });
    run_all(tasks.collect(), dims.parallel(), |task| level.run(task));
    (o, state)
}

/// The rule for some heads.
struct Task<'a> {
    call: Delta<'a>,
    place: Place,
    o: Columns<'a>,
    state: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { call, place, mut o, state } = self;
        let Dims { l, p, n, .. } = call.dims;
        for (index, (head, state)) in place.heads.clone().zip(state.chunks_exact_mut(p * n)).enumerate() {
            for t in 0..l {
                let at = (place.sequence, t);
                let (q, k) = (call.key_row(call.q, &place, t), call.key_row(call.k, &place, t));
                let token = Token {
                    q,
                    k,
                    decay: call.log_decay.map_or(1.0, |log| call.scalar(log, at, head).exp()),
                    beta: call.scalar(call.beta, at, head),
                    own: dot(isa, q, k).sum(),
                };
                for (panel, rows) in state.chunks_mut(LANES * n).enumerate() {
                    let v = call.values(isa, call.v, at, head, panel);
                    let channels = call.dims.panel(panel);
                    let to = o.row(t, index * p + channels.start..index * p + channels.end);
                    token.take(isa, v, rows).store(to);
                }
            }
        }
    }
}

/// A token of a head.
struct Token<'a> {
    q: &'a [f32],
    k: &'a [f32],
    decay: f32,
    beta: f32,
    /// What its query finds of its own key.
    own: f32,
}

impl Token<'_> {
    /// Takes at most sixteen rows of the state past the token, and returns their outputs.
    #[inline(always)]
    fn take<I: Isa>(&self, isa: I, v: Lanes<I>, rows: &mut [f32]) -> Lanes<I> {
        let Self { q, k, decay, beta, own } = *self;
        let mut to_key = [isa.zero(); LANES];
        let mut to_query = [isa.zero(); LANES];
        for (row, (to_key, to_query)) in rows.chunks_exact(k.len()).zip(to_key.iter_mut().zip(&mut to_query)) {
            *to_key = dot(isa, row, k);
            *to_query = dot(isa, row, q);
        }
        let write = (total(isa, to_key) * -decay + v) * beta;
        let write_each = write.to_array();
        for (row, write) in rows.chunks_exact_mut(k.len()).zip(write_each) {
            for (s, k) in row.chunks_mut(LANES).zip(k.chunks(LANES)) {
                isa.load(k).mul_add(isa.splat(write), isa.load(s) * decay).store(s);
            }
        }
        write.mul_add(isa.splat(own), total(isa, to_query) * decay)
    }
}

/// The products of two rows, summed down to one vector.
#[inline(always)]
fn dot<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> Lanes<I> {
    let mut sum = isa.zero();
    for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
        sum = isa.load(a).mul_add(isa.load(b), sum);
    }
    sum
}

/// The sum of each of sixteen vectors.
#[inline(always)]
fn total<I: Isa>(isa: I, rows: [Lanes<I>; LANES]) -> Lanes<I> {
    let mut sum = isa.zero();
    for column in Lanes::transpose(rows) {
        sum += column;
    }
    sum
}
