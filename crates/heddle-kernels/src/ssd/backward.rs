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

use super::chunk::{
    Dims, Place, Shared, Ssd, Steps, add_after, add_before, dots_before, product_wide, run_all, scale_columns,
    scale_rows, transpose, unit,
};
use crate::cpu::aligned::Aligned;
use crate::cpu::math::sigmoid;
use crate::cpu::product::{Factors, Left, Right};
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::split::{Columns, columns};

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

/// The gradients of what a head has one of, over one sequence; `f64`, because they sum over all of it.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    a: f64,
    bias: f64,
    skip: f64,
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

/// What a task computes with. The letters are those of the module.
struct Workspace {
    shared: Shared,
    steps: Steps,
    /// The chunk's tokens, transposed: `[p, token]`.
    x_across: Aligned,
    /// `∂y`, and its rows times the decay so far: `[token, wide_p]`.
    g_y: Aligned,
    g_y_faded: Aligned,
    /// `L_tj (C_t · B_j) Δ_j` and the skip: `[t, j]`.
    mix: Aligned,
    /// `∂y_t · x_j`, then `W_tj` below the diagonal: `[t, j]`.
    pull: Aligned,
    /// `L_tj (C_t · B_j) (∂y_t · x_j)` below the diagonal: `[t, j]`.
    flow: Aligned,
    masked: Masked,
    /// `B`, its columns times `F_j Δ_j`: `[n, token]`.
    write: Aligned,
    /// `H`: `[p, wide_n]`.
    state: Aligned,
    /// `G` of the head at hand, `[p, wide_n]`, and of all heads, `[head, n, wide_p]`.
    g_state: Aligned,
    g_states: Aligned,
    /// `∂x`: `[token, wide_p]`.
    g_x: Aligned,
    /// What one head adds to `∂C`, then `Gᵀ x_j`; sums over the heads: `[token, wide_n]`.
    row: Aligned,
    g_write: Aligned,
    g_read: Aligned,
}

/// What is left of each token of a chunk: `[token]`.
struct Masked {
    /// `F_j` and `F_j Δ_j`.
    rest: Aligned,
    rest_delta: Aligned,
    /// `x_j · ∂y_j`, and the same with what later tokens read of `j` and what the state after the chunk has of it:
    /// `Σ_{t > j} L_tj (C_t · B_j) (x_j · ∂y_t)` and `F_j (x_j · G B_j)`.
    own: Aligned,
    later: Aligned,
    lasting: Aligned,
    /// What the token reads of the state before the chunk, times its gradient: `C_t · E_t Hᵀ ∂y_t`.
    entered: Aligned,
    /// What crosses step `i` to a later token of the chunk or to the state after it, but not from the state before it for a token.
    crossing: Aligned,
    g_delta: Aligned,
}

impl Workspace {
    fn new(dims: &Dims, heads: usize) -> Self {
        let (length, wide_p, wide_n) = (dims.chunk_length(), dims.wide_p(), dims.wide_n());
        let each = || Aligned::zeros(length);
        Self {
            shared: Shared::new(dims),
            steps: Steps::new(dims),
            x_across: Aligned::zeros(dims.p * length),
            g_y: Aligned::zeros(length * wide_p),
            g_y_faded: Aligned::zeros(length * wide_p),
            mix: Aligned::zeros(length * length),
            pull: Aligned::zeros(length * length),
            flow: Aligned::zeros(length * length),
            masked: Masked {
                rest: each(),
                rest_delta: each(),
                own: each(),
                later: each(),
                lasting: each(),
                entered: each(),
                crossing: each(),
                g_delta: each(),
            },
            write: Aligned::zeros(dims.n * length),
            state: Aligned::zeros(dims.p * wide_n),
            g_state: Aligned::zeros(dims.p * wide_n),
            g_states: Aligned::zeros(heads * dims.boundary()),
            g_x: Aligned::zeros(length * wide_p),
            row: Aligned::zeros(length * wide_n),
            g_write: Aligned::zeros(length * wide_n),
            g_read: Aligned::zeros(length * wide_n),
        }
    }
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
                transpose(self.ssd.head_state(last, (self.place.sequence, head)), (n, n), g, wide_p);
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
            let to = self.write[tokens.start * n..]
                .chunks_exact_mut(n)
                .zip(self.read[tokens.start * n..].chunks_exact_mut(n));
            let from = work.g_write.chunks_exact(wide_n).zip(work.g_read.chunks_exact(wide_n));
            for ((write, read), (g_write, g_read)) in to.zip(from).take(tokens.len()) {
                write.copy_from_slice(&g_write[..n]);
                read.copy_from_slice(&g_read[..n]);
            }
        }
        for (part, g) in self.parts.iter_mut().zip(work.g_states.chunks_exact(dims.boundary())) {
            transpose(g, (wide_p, p), part.state, n);
        }
    }
}

impl Task<'_> {
    /// Takes the gradients of a head back over a chunk.
    #[inline(always)]
    fn retreat<I: Isa>(&mut self, isa: I, work: &mut Workspace, index: usize, (chunk, tokens): (usize, &Range<usize>)) {
        let dims = self.ssd.dims;
        let of_head = index * dims.boundary()..(index + 1) * dims.boundary();
        let before = &self.parts[index].boundaries[chunk * dims.boundary()..][..dims.boundary()];
        let head = self.place.heads.start + index;
        self.pack(isa, work, head, tokens);
        transpose(before, (dims.wide_p(), dims.p), &mut work.state, dims.wide_n());
        transpose(&work.g_states[of_head.clone()], (dims.wide_p(), dims.p), &mut work.g_state, dims.wide_n());

        work.sum_flow(isa, tokens.len());
        work.add_to_read(isa, &dims, tokens.len());
        work.add_to_write(isa, &dims, tokens.len());
        work.tokens(isa, &dims, of_head.clone(), tokens.len());
        let kept = work.steps.carry_of(tokens) * dot(isa, before, &work.g_states[of_head.clone()]);
        work.state(isa, &dims, of_head, tokens);

        let Part { x, delta, sums, .. } = &mut self.parts[index];
        for (g_x, t) in work.g_x.chunks_exact(dims.wide_p()).zip(tokens.clone()) {
            x.row(t, 0..dims.p).copy_from_slice(&g_x[..dims.p]);
        }
        work.exponents(self.ssd.a[head], kept, sums, tokens.len());
        if self.ssd.softplus {
            let steps = work.masked.g_delta.chunks_exact_mut(LANES).zip(work.steps.raw.chunks_exact(LANES));
            for (g_delta, raw) in steps {
                (isa.load(g_delta) * sigmoid(isa.load(raw))).store(g_delta);
            }
        }
        for (&g_delta, t) in work.masked.g_delta.iter().zip(tokens.clone()) {
            delta.row(t, 0..1)[0] = g_delta;
            sums.bias += f64::from(g_delta);
        }
    }

    /// Lays out a head's rows of a chunk and computes its masked products.
    #[inline(always)]
    fn pack<I: Isa>(&self, isa: I, work: &mut Workspace, head: usize, tokens: &Range<usize>) {
        let Self { ssd, upstream, place, .. } = self;
        let (at, dims) = ((place.sequence, head), ssd.dims);
        let (length, p, wide_p) = (dims.chunk_length(), dims.p, dims.wide_p());
        for (i, t) in tokens.clone().enumerate() {
            transpose(ssd.channels(ssd.x, at, t), (p, p), &mut work.x_across[i..], length);
        }
        if let Some(g_y) = upstream.y {
            for (to, t) in work.g_y.chunks_exact_mut(wide_p).zip(tokens.clone()) {
                to[..p].copy_from_slice(ssd.channels(g_y, at, t));
            }
        }
        work.steps.fill(isa, ssd, at, tokens);
        scale_rows(isa, &work.g_y, &work.steps.carry[..tokens.len()], &mut work.g_y_faded, wide_p);
        let x = Right { data: &work.x_across, stride: length };
        dots_before(isa, (&work.g_y, wide_p), x, (tokens.len(), p), &mut work.pull);
        work.mask(isa, ssd.skip_of(head), tokens.len());
    }
}

impl Workspace {
    /// Masks the products of a chunk.
    #[inline(always)]
    fn mask<I: Isa>(&mut self, isa: I, skip: f32, tokens: usize) {
        let Self { shared, steps, mix, pull, flow, masked, .. } = self;
        let length = masked.own.len();
        for block in (0..tokens).step_by(LANES) {
            let delta = isa.load(&steps.delta[block..]);
            let mut kept = isa.zero();
            for t in block..tokens {
                let at = t * length + block..t * length + block + LANES;
                let (score, product) = (isa.load(&shared.scores[at.clone()]), isa.load(&pull[at.clone()]));
                kept = kept * steps.decay[t];
                let weight = score * kept;
                let (mut mixed, pulled) = (weight * delta, product * kept * delta);
                if t < block + LANES {
                    let one = unit(isa, t - block);
                    masked.own[t] = pull[t * length + t];
                    mixed = one.mul_add(score.mul_add(delta, isa.splat(skip)), mixed);
                    kept += one;
                }
                mixed.store(&mut mix[at.clone()]);
                (weight * product).store(&mut flow[at.clone()]);
                pulled.store(&mut pull[at]);
            }
            kept.store(&mut masked.rest[block..][..LANES]);
            (kept * delta).store(&mut masked.rest_delta[block..][..LANES]);
        }
    }

    /// Sums up what later tokens read of each token, and what crosses each step on its way to a later token of the chunk.
    #[inline(always)]
    fn sum_flow<I: Isa>(&mut self, isa: I, tokens: usize) {
        let Self { steps, flow, masked, .. } = self;
        let length = masked.own.len();
        masked.later.fill(0.0);
        for t in (0..tokens).rev() {
            let own_block = t / LANES * LANES;
            let mut crossing = isa.zero();
            for block in (0..=own_block).step_by(LANES) {
                let later = isa.load(&masked.later[block..]) + isa.load(&flow[t * length + block..]);
                later.store(&mut masked.later[block..][..LANES]);
                let mut delta = isa.load(&steps.delta[block..]);
                if block == own_block {
                    delta = delta * below(isa, t - block);
                }
                crossing = later.mul_add(delta, crossing);
            }
            masked.crossing[t] = crossing.sum();
        }
    }

    /// Adds a head's part of `∂C`.
    #[inline(always)]
    fn add_to_read<I: Isa>(&mut self, isa: I, dims: &Dims, tokens: usize) {
        let Self { shared, steps, masked, row, g_read, .. } = self;
        let (wide_p, wide_n) = (dims.wide_p(), dims.wide_n());
        let left = Left { data: &self.g_y_faded, across: wide_p, along: 1 };
        let right = Right { data: &self.state, stride: wide_n };
        product_wide(isa, Factors { left, right, rows: tokens, inner: dims.p }, row, |_| isa.zero());
        let write = Right { data: &shared.write, stride: wide_n };
        add_before(isa, (&self.pull, dims.chunk_length()), write, g_read, tokens);
        let rows = row.chunks_exact(wide_n).zip(g_read.chunks_exact_mut(wide_n));
        let inputs = shared.read.chunks_exact(wide_n).zip(shared.write.chunks_exact(wide_n));
        for (t, ((row, g_read), (read, write))) in rows.zip(inputs).enumerate().take(tokens) {
            masked.entered[t] = dot(isa, row, read);
            add_rows(isa, (row, 1.0), (write, masked.own[t] * steps.delta[t]), g_read);
        }
    }

    /// Adds a head's part of `∂B`.
    #[inline(always)]
    fn add_to_write<I: Isa>(&mut self, isa: I, dims: &Dims, tokens: usize) {
        let Self { shared, steps, masked, row, g_write, .. } = self;
        let (length, wide_n) = (dims.chunk_length(), dims.wide_n());
        let left = Left { data: &self.x_across, across: 1, along: length };
        let right = Right { data: &self.g_state, stride: wide_n };
        product_wide(isa, Factors { left, right, rows: tokens, inner: dims.p }, row, |_| isa.zero());
        let read = Right { data: &shared.read, stride: wide_n };
        add_after(isa, (&self.pull, length), read, g_write, tokens);
        let rows = row.chunks_exact(wide_n).zip(g_write.chunks_exact_mut(wide_n));
        let inputs = shared.read.chunks_exact(wide_n).zip(shared.write.chunks_exact(wide_n));
        for (j, ((row, g_write), (read, write))) in rows.zip(inputs).enumerate().take(tokens) {
            masked.lasting[j] = masked.rest[j] * dot(isa, row, write);
            add_rows(isa, (row, masked.rest_delta[j]), (read, masked.own[j] * steps.delta[j]), g_write);
        }
    }

    /// Computes `∂x`.
    #[inline(always)]
    fn tokens<I: Isa>(&mut self, isa: I, dims: &Dims, of_head: Range<usize>, tokens: usize) {
        let (length, wide_p) = (dims.chunk_length(), dims.wide_p());
        scale_columns(isa, &self.shared.write_across, &self.masked.rest_delta, &mut self.write);
        let left = Left { data: &self.write, across: 1, along: length };
        let right = Right { data: &self.g_states[of_head], stride: wide_p };
        product_wide(isa, Factors { left, right, rows: tokens, inner: dims.n }, &mut self.g_x, |_| isa.zero());
        add_after(isa, (&self.mix, length), Right { data: &self.g_y, stride: wide_p }, &mut self.g_x, tokens);
    }

    /// Computes `∂H`, the `G` of the chunk before.
    #[inline(always)]
    fn state<I: Isa>(&mut self, isa: I, dims: &Dims, of_head: Range<usize>, tokens: &Range<usize>) {
        let carry = self.steps.carry_of(tokens);
        let left = Left { data: &self.shared.read, across: 1, along: dims.wide_n() };
        let right = Right { data: &self.g_y_faded, stride: dims.wide_p() };
        let factors = Factors { left, right, rows: dims.n, inner: tokens.len() };
        product_wide(isa, factors, &mut self.g_states[of_head], |g| g * carry);
    }

    /// Computes `∂Δ` after the softplus and adds to the gradients of `A` and `D`, given what the state after the chunk has of
    /// the one before it, times its gradient.
    #[inline(always)]
    fn exponents(&mut self, a: f32, kept: f32, sums: &mut Sums, tokens: usize) {
        let Self { shared, steps, masked, .. } = self;
        let length = masked.own.len();
        let mut before = f64::from(kept);
        for i in 0..tokens {
            masked.crossing[i] += before as f32;
            before += f64::from(steps.delta[i] * masked.lasting[i]);
        }
        let mut entered = 0.0_f64;
        for i in (0..tokens).rev() {
            entered += f64::from(masked.entered[i]);
            let crossing = f64::from(masked.crossing[i]) + entered;
            sums.a += f64::from(steps.delta[i]) * crossing;
            sums.skip += f64::from(masked.own[i]);
            let of_step = masked.later[i] + masked.own[i] * shared.scores[i * length + i] + masked.lasting[i];
            masked.g_delta[i] = a * crossing as f32 + of_step;
        }
    }
}

/// Ones in the lanes below one.
#[inline(always)]
fn below<I: Isa>(isa: I, lane: usize) -> Lanes<I> {
    const ONES: [f32; 2 * LANES] = {
        let mut ones = [0.0; 2 * LANES];
        let mut i = 0;
        while i < LANES {
            ones[i] = 1.0;
            i += 1;
        }
        ones
    };
    isa.load(&ONES[LANES - lane..])
}

/// The product of two rows of whole vectors.
#[inline(always)]
fn dot<I: Isa>(isa: I, a: &[f32], b: &[f32]) -> f32 {
    let mut sum = isa.zero();
    for (a, b) in a.chunks_exact(LANES).zip(b.chunks_exact(LANES)) {
        sum = isa.load(a).mul_add(isa.load(b), sum);
    }
    sum.sum()
}

/// Adds two rows of whole vectors, each times its factor.
#[inline(always)]
fn add_rows<I: Isa>(isa: I, (a, by_a): (&[f32], f32), (b, by_b): (&[f32], f32), to: &mut [f32]) {
    let (by_a, by_b) = (isa.splat(by_a), isa.splat(by_b));
    let rows = a.chunks_exact(LANES).zip(b.chunks_exact(LANES));
    for ((a, b), to) in rows.zip(to.chunks_exact_mut(LANES)) {
        isa.load(a).mul_add(by_a, isa.load(b).mul_add(by_b, isa.load(to))).store(to);
    }
}
