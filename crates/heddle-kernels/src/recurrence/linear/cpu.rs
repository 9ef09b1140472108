//! The linear recurrence, forwards and backwards.
//!
//! Either pass reads each number once and computes next to nothing, so memory sets its speed. A task owns some channels of
//! one sequence and walks over its tokens row by row.

use crate::cpu::channels::{Dims, Place, state_parts, token_parts};
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::split::Columns;
use crate::cpu::tasks::run_all;

/// What a recurrence runs over, less what only the forward pass reads.
#[derive(Clone, Copy)]
pub(super) struct Recurrence<'a> {
    /// One state a channel.
    pub(super) dims: Dims,
    pub(super) decay: &'a [f32],
    pub(super) state: &'a [f32],
}

/// The gradients of the outputs, where there are any.
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    pub(super) h: Option<&'a [f32]>,
    pub(super) last: Option<&'a [f32]>,
}

/// The gradients of the inputs.
pub(super) struct Gradients {
    pub(super) decay: Vec<f32>,
    pub(super) x: Vec<f32>,
    pub(super) state: Vec<f32>,
}

#[inline(always)]
fn load_all<I: Isa>(isa: I, from: &[f32]) -> Vec<Lanes<I>> {
    let mut vectors = vec![isa.zero(); from.len().div_ceil(LANES)];
    for (vector, from) in vectors.iter_mut().zip(from.chunks(LANES)) {
        *vector = isa.load(from);
    }
    vectors
}

#[inline(always)]
fn store_all<I: Isa>(vectors: &[Lanes<I>], to: &mut [f32]) {
    for (vector, to) in vectors.iter().zip(to.chunks_mut(LANES)) {
        vector.store(to);
    }
}

/// The states after all tokens, and after the last.
pub(super) fn forward(call: Recurrence<'_>, x: &[f32], level: Level) -> (Vec<f32>, Vec<f32>) {
    let dims @ Dims { b, l, e, .. } = call.dims;
    let mut h = vec![0.0; b * l * e];
    let mut last = vec![0.0; b * e];
    let outputs = token_parts(&mut h, dims).zip(state_parts(&mut last, dims));
    let tasks = Place::all(dims).zip(outputs).map(|(place, (h, last))| Forward { call, x, place, h, last });
    run_all(tasks.collect(), dims.parallel(), |task| level.run(task));
    (h, last)
}

struct Forward<'a> {
    call: Recurrence<'a>,
    x: &'a [f32],
    place: Place,
    h: Columns<'a>,
    last: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let Recurrence { dims, decay, state } = self.call;
        let mut h = load_all(isa, &state[self.place.of_states(&dims)]);
        for t in 0..dims.l {
            let token = self.place.of_token(&dims, t);
            let inputs = decay[token.clone()].chunks(LANES).zip(self.x[token].chunks(LANES));
            let outputs = self.h.row(t, 0..self.place.channels.len()).chunks_mut(LANES);
            for ((h, (decay, x)), out) in h.iter_mut().zip(inputs).zip(outputs) {
                *h = isa.load(decay).mul_add(*h, isa.load(x));
                h.store(out);
            }
        }
        store_all(&h, self.last);
    }
}

/// The gradients of a recurrence whose states were `h`.
pub(super) fn backward(call: Recurrence<'_>, h: &[f32], upstream: Upstream<'_>, level: Level) -> Gradients {
    let dims @ Dims { b, l, e, .. } = call.dims;
    let mut decay = vec![0.0; b * l * e];
    let mut x = vec![0.0; b * l * e];
    let mut state = vec![0.0; b * e];
    let outputs = token_parts(&mut decay, dims).zip(token_parts(&mut x, dims)).zip(state_parts(&mut state, dims));
    let task = |(place, ((decay, x), state))| Backward { call, h, upstream, place, decay, x, state };
    let tasks = Place::all(dims).zip(outputs).map(task);
    run_all(tasks.collect(), dims.parallel(), |task| level.run(task));
    Gradients { decay, x, state }
}

struct Backward<'a> {
    call: Recurrence<'a>,
    h: &'a [f32],
    upstream: Upstream<'a>,
    place: Place,
    decay: Columns<'a>,
    x: Columns<'a>,
    state: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    /// With `g_t = ∂h_t + a_{t+1} g_{t+1}`: `∂x_t = g_t`, `∂a_t = g_t h_{t−1}`.
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let Recurrence { dims, decay, state } = self.call;
        let width = self.place.channels.len();
        let mut g = match self.upstream.last {
            Some(last) => load_all(isa, &last[self.place.of_states(&dims)]),
            None => vec![isa.zero(); width.div_ceil(LANES)],
        };
        for t in (0..dims.l).rev() {
            let token = self.place.of_token(&dims, t);
            let before = match t {
                0 => &state[self.place.of_states(&dims)],
                _ => &self.h[self.place.of_token(&dims, t - 1)],
            };
            if let Some(g_h) = self.upstream.h {
                for (g, g_h) in g.iter_mut().zip(g_h[token.clone()].chunks(LANES)).rev() {
                    *g += isa.load(g_h);
                }
            }
            let inputs = decay[token].chunks(LANES).zip(before.chunks(LANES));
            let outputs = self.decay.row(t, 0..width).chunks_mut(LANES).zip(self.x.row(t, 0..width).chunks_mut(LANES));
            // Backwards within the row as well: the processor foresees which memory a steady walk will need.
            for ((g, (decay, before)), (g_decay, g_x)) in g.iter_mut().zip(inputs).zip(outputs).rev() {
                g.store(g_x);
                (*g * isa.load(before)).store(g_decay);
                *g = *g * isa.load(decay);
            }
        }
        store_all(&g, self.state);
    }
}
