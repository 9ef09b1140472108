//! The backward pass.
//!
//! Chunks are taken from the last to the first. A chunk's products and masks are computed again from the inputs, and what
//! entered it from the state that the forward pass kept. With the gradient `G` of the state after the chunk, `u_j = Δ_j x_j`,
//! the decays `E_t` since the chunk's start and `F_j` until its end, and `W_tj = L_tj ∂y_t · u_j`:
//!
//! ```text
//! ∂u_j = Σ_{t ≥ j} L_tj (C_t · B_j) ∂y_t + F_j G B_j          ∂C_t = Σ_{j ≤ t} W_tj B_j + E_t Hᵀ ∂y_t
//! ∂B_j = Σ_{t ≥ j} W_tj C_t + F_j Gᵀ u_j                      ∂H = E_c G + Σ_t E_t ∂y_t ⊗ C_t
//! ```
//!
//! The exponent `Δ_i A` gets what crosses step `i`: `r_i = Σ_{j < i ≤ t} W_tj (C_t · B_j)`, what tokens from `i` on read of
//! the state before the chunk, and what the state after the chunk has from before `i`. Then `∂Δ_i = A r_i + x_i · ∂u_i`. The
//! first sum is the difference of the sums over the rows and the columns of one matrix from `i` on, but not here: at a step
//! so long that it forgets everything, what is left of such a difference is rounding, times the step in `∂A`. Summed up as
//! it stands, it is exactly 0.

use std::ops::Range;

use rayon::prelude::*;

use super::chunk::{Dims, Place, Ssd, copy_row};
use super::gradient::{Head, Sums, Workspace};
use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::split::{Columns, columns};
use crate::cpu::tasks::run_all;
use crate::cpu::transpose::transpose;

/// The gradients of the outputs, where there are any.
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    pub(super) y: Option<&'a [f32]>,
    pub(super) state: Option<&'a [f32]>,
}

/// The gradients of the inputs.
pub(super) struct Gradients {
    pub(super) x: Vec<f32>,
    pub(super) delta: Vec<f32>,
    pub(super) a: Vec<f32>,
    pub(super) write: Vec<f32>,
    pub(super) read: Vec<f32>,
    pub(super) state: Vec<f32>,
    pub(super) delta_bias: Vec<f32>,
    pub(super) skip: Vec<f32>,
}

/// The gradients of a call whose forward pass kept `boundaries`.
pub(super) fn backward(ssd: Ssd<'_>, boundaries: &[f32], upstream: Upstream<'_>, level: Level) -> Gradients {
    let dims @ Dims { b, l, h, p, g, n } = ssd.dims;
    let tasks_a_sequence = g * dims.tasks_a_group();
    let mut x = vec![0.0; b * l * h * p];
    let mut delta = vec![0.0; b * l * h];
    let mut state = vec![0.0; b * h * p * n];
    let mut sums = vec![Sums::default(); b * h];
    let mut write = vec![0.0; b * tasks_a_sequence * l * n];
    let mut read = vec![0.0; b * tasks_a_sequence * l * n];

    let xs = x.chunks_exact_mut(l * h * p).flat_map(|x| columns(x, h * p, p));
    let deltas = delta.chunks_exact_mut(l * h).flat_map(|delta| columns(delta, h, 1));
    let outputs = xs.zip(deltas).zip(state.chunks_exact_mut(p * n)).zip(&mut sums);
    let mut parts = outputs
        .zip(boundaries.chunks_exact(dims.chunks() * dims.boundary()))
        .map(|((((x, delta), state), sums), boundaries)| Part { x, delta, state, sums, boundaries });
    let rows = write.chunks_exact_mut(l * n).zip(read.chunks_exact_mut(l * n));
    let tasks = dims.tasks().zip(rows).map(|(place, (write, read))| {
        let parts = parts.by_ref().take(place.heads.len()).collect();
        Task { ssd, upstream, place, parts, write, read }
    });
    let tasks = tasks.collect();
    run_all(tasks, dims.parallel(), |task| level.run(task));

    let over_sequences = |term: fn(&Sums) -> f64| -> Vec<f32> {
        (0..h).map(|head| sums[head..].iter().step_by(h).map(term).sum::<f64>() as f32).collect()
    };
    Gradients {
        x,
        delta,
        a: over_sequences(|sums| sums.a),
        write: sum_tasks(&dims, &write),
        read: sum_tasks(&dims, &read),
        state,
        delta_bias: over_sequences(|sums| sums.bias),
        skip: over_sequences(|sums| sums.skip),
    }
}

/// `[b, l, g, n]` from `[b, g, task, l, n]`, in the order of the tasks.
fn sum_tasks(dims: &Dims, terms: &[f32]) -> Vec<f32> {
    let Dims { b, l, g, n, .. } = *dims;
    let tasks = dims.tasks_a_group();
    let mut result = vec![0.0; b * l * g * n];
    let add = |(row, sums): (usize, &mut [f32])| {
        let (sequence, t) = (row / l, row % l);
        for (group, sum) in sums.chunks_exact_mut(n).enumerate() {
            for task in 0..tasks {
                let term = &terms[(((sequence * g + group) * tasks + task) * l + t) * n..][..n];
                sum.iter_mut().zip(term).for_each(|(sum, term)| *sum += term);
            }
        }
    };
    if dims.parallel() {
        result.par_chunks_exact_mut(g * n).enumerate().with_min_len(LANES).for_each(add);
    } else {
        result.chunks_exact_mut(g * n).enumerate().for_each(add);
    }
    result
}

/// What a head writes, and the states that were kept for it.
struct Part<'a> {
    x: Columns<'a>,
    delta: Columns<'a>,
    state: &'a mut [f32],
    sums: &'a mut Sums,
    boundaries: &'a [f32],
}

/// The gradients of some heads of one group of one sequence.
struct Task<'a> {
    ssd: Ssd<'a>,
    upstream: Upstream<'a>,
    place: Place,
    parts: Vec<Part<'a>>,
    write: &'a mut [f32],
    read: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let dims @ Dims { p, n, .. } = self.ssd.dims;
        let (wide_p, wide_n) = (dims.wide_p(), dims.wide_n());
        let mut work = Workspace::new(&dims, self.parts.len());
        if let Some(last) = self.upstream.state {
            for (head, g) in self.place.heads.clone().zip(work.g_states.chunks_exact_mut(dims.boundary())) {
                let rows = self.ssd.head_state(last, (self.place.sequence, head));
                transpose(isa, (rows, n), (g, wide_p), [p, n]);
            }
        }
        for chunk in (0..dims.chunks()).rev() {
            let tokens = dims.chunk(chunk);
            work.shared.fill(isa, &self.ssd, &self.place, &tokens);
            work.g_write.fill(0.0);
            work.g_read.fill(0.0);
            for index in 0..self.parts.len() {
                self.retreat(isa, &mut work, index, (chunk, &tokens));
            }
            for (i, t) in tokens.clone().enumerate() {
                let (from, to) = (i * wide_n..i * wide_n + n, t * n..(t + 1) * n);
                copy_row(isa, &work.g_write[from.clone()], &mut self.write[to.clone()]);
                copy_row(isa, &work.g_read[from], &mut self.read[to]);
            }
        }
        for (part, g) in self.parts.iter_mut().zip(work.g_states.chunks_exact(dims.boundary())) {
            transpose(isa, (g, wide_p), (part.state, n), [n, p]);
        }
    }
}

impl Task<'_> {
    /// Takes the gradients of a head back over a chunk.
    #[inline(always)]
    fn retreat<I: Isa>(&mut self, isa: I, work: &mut Workspace, index: usize, (chunk, tokens): (usize, &Range<usize>)) {
        let Self { ssd, upstream, place, parts, .. } = self;
        let dims @ Dims { l, h, p, .. } = ssd.dims;
        let (length, wide_p, boundary) = (dims.chunk_length(), dims.wide_p(), dims.boundary());
        let at @ (sequence, head) = (place.sequence, place.heads.start + index);
        let Part { x, delta, sums, boundaries, .. } = &mut parts[index];

        let first = &ssd.x[((sequence * l + tokens.start) * h + head) * p..];
        transpose(isa, (first, h * p), (&mut work.x_across, length), [tokens.len(), p]);
        if let Some(g_y) = upstream.y {
            for (i, t) in tokens.clone().enumerate() {
                copy_row(isa, ssd.channels(g_y, at, t), &mut work.g_y[i * wide_p..][..p]);
            }
        }
        work.steps.fill(isa, ssd, at, tokens);
        let head = Head {
            part: index * boundary..(index + 1) * boundary,
            before: &boundaries[chunk * boundary..(chunk + 1) * boundary],
            a: ssd.a[head],
            skip: ssd.skip_of(head),
            softplus: ssd.softplus,
        };
        work.differentiate(isa, &dims, &head, tokens.len(), sums);
        for (i, t) in tokens.clone().enumerate() {
            copy_row(isa, &work.g_x[i * wide_p..][..p], x.row(t, 0..p));
            delta.row(t, 0..1)[0] = work.masked.g_delta[i];
        }
    }
}
