//! The backward pass of one head over one chunk. The letters are those of `backward.rs`.

use std::ops::Range;

use super::chunk::{
    Dims, Shared, Steps, add_after, add_before, dots_before, product_wide, scale, scale_columns, scale_rows, unit,
};
use crate::cpu::aligned::Aligned;
use crate::cpu::math::sigmoid;
use crate::cpu::product::{Factors, Left, Right};
use crate::cpu::simd::{Isa, LANES, Lanes};
use crate::cpu::transpose::transpose;

/// The gradients of what a head has one of, over one sequence; `f64`, because they sum over all of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) a: f64,
    pub(super) bias: f64,
    pub(super) skip: f64,
}

/// A head as its gradients need it.
pub(super) struct Head<'a> {
    /// Its part of all states.
    pub(super) part: Range<usize>,
    /// Its state before the chunk, `[n, wide_p]`.
    pub(super) before: &'a [f32],
    pub(super) a: f32,
    pub(super) skip: f32,
    /// Whether its steps went through a softplus.
    pub(super) softplus: bool,
}

/// What a task computes with.
pub(super) struct Workspace {
    pub(super) shared: Shared,
    pub(super) steps: Steps,
    /// The chunk's tokens, transposed: `[p, token]`.
    pub(super) x_across: Aligned,
    /// `∂y`, and its rows times the decay so far: `[token, wide_p]`.
    pub(super) g_y: Aligned,
    g_y_faded: Aligned,
    /// `L_tj (C_t · B_j) Δ_j` and the skip: `[t, j]`.
    mix: Aligned,
    /// `∂y_t · x_j`, then `W_tj` below the diagonal: `[t, j]`.
    pull: Aligned,
    /// `L_tj (C_t · B_j) (∂y_t · x_j)` below the diagonal: `[t, j]`.
    flow: Aligned,
    pub(super) masked: Masked,
    /// `B`, its columns times `F_j Δ_j`: `[n, token]`.
    write: Aligned,
    /// `H`: `[p, wide_n]`.
    state: Aligned,
    /// `G` of the head at hand, `[p, wide_n]`, and of all heads, `[head, n, wide_p]`.
    g_state: Aligned,
    pub(super) g_states: Aligned,
    /// `∂x`: `[token, wide_p]`.
    pub(super) g_x: Aligned,
    /// `E_t Hᵀ ∂y_t`, then `Gᵀ x_j`: `[token, wide_n]`.
    row: Aligned,
    /// `∂B` and `∂C`, summed over the heads so far: `[token, wide_n]`.
    pub(super) g_write: Aligned,
    pub(super) g_read: Aligned,
}

/// What is left of each token of a chunk: `[token]`.
pub(super) struct Masked {
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
    /// What crosses step `i` from an earlier token to a later one of the chunk.
    crossing: Aligned,
    /// `∂Δ`
    pub(super) g_delta: Aligned,
}

impl Workspace {
    pub(super) fn new(dims: &Dims, heads: usize) -> Self {
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

    /// Computes all gradients of a head, given what is shared, its steps, `x_across` and `g_y`.
    #[inline(always)]
    pub(super) fn differentiate<I: Isa>(
        &mut self,
        isa: I,
        dims: &Dims,
        head: &Head<'_>,
        tokens: usize,
        sums: &mut Sums,
    ) {
        let (length, wide_p, wide_n) = (dims.chunk_length(), dims.wide_p(), dims.wide_n());
        let carries = &self.steps.carry[..tokens];
        let carry = carries[tokens - 1];
        scale_rows(isa, &self.g_y, carries, &mut self.g_y_faded, wide_p);
        let x = Right { data: &self.x_across, stride: length };
        dots_before(isa, (&self.g_y, wide_p), x, (tokens, dims.p), &mut self.pull);
        self.mask(isa, head.skip, tokens);
        self.sum_flow(isa, tokens);

        let g = &self.g_states[head.part.clone()];
        let kept = carry * dot(isa, head.before, g);
        transpose(isa, (head.before, wide_p), (&mut self.state, wide_n), [dims.n, dims.p]);
        transpose(isa, (g, wide_p), (&mut self.g_state, wide_n), [dims.n, dims.p]);
        self.add_to_read(isa, dims, tokens);
        self.add_to_write(isa, dims, tokens);
        self.tokens(isa, dims, head, tokens);
        self.state(isa, dims, head, (tokens, carry));
        self.exponents(head.a, kept, sums, tokens);
        if head.softplus {
            for at in (0..length).step_by(LANES) {
                let slope = sigmoid(isa.load(&self.steps.raw[at..at + LANES]));
                let g_delta = &mut self.masked.g_delta[at..at + LANES];
                (isa.load(g_delta) * slope).store(g_delta);
            }
        }
        for &g_delta in &self.masked.g_delta[..tokens] {
            sums.bias += f64::from(g_delta);
        }
    }

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
        for t in 0..tokens {
            let at = t * wide_n..(t + 1) * wide_n;
            let (row, write) = (&row[at.clone()], &shared.write[at.clone()]);
            masked.entered[t] = dot(isa, row, &shared.read[at.clone()]);
            add_rows(isa, (row, 1.0), (write, masked.own[t] * steps.delta[t]), &mut g_read[at]);
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
        for j in 0..tokens {
            let at = j * wide_n..(j + 1) * wide_n;
            let (row, read) = (&row[at.clone()], &shared.read[at.clone()]);
            masked.lasting[j] = masked.rest[j] * dot(isa, row, &shared.write[at.clone()]);
            let own = masked.own[j] * steps.delta[j];
            add_rows(isa, (row, masked.rest_delta[j]), (read, own), &mut g_write[at]);
        }
    }

    /// Computes `∂x`.
    #[inline(always)]
    fn tokens<I: Isa>(&mut self, isa: I, dims: &Dims, head: &Head<'_>, tokens: usize) {
        let (length, wide_p) = (dims.chunk_length(), dims.wide_p());
        scale_columns(isa, &self.shared.write_across, &self.masked.rest_delta, &mut self.write, dims.n);
        let left = Left { data: &self.write, across: 1, along: length };
        let right = Right { data: &self.g_states[head.part.clone()], stride: wide_p };
        product_wide(isa, Factors { left, right, rows: tokens, inner: dims.n }, &mut self.g_x, |_| isa.zero());
        add_after(isa, (&self.mix, length), Right { data: &self.g_y, stride: wide_p }, &mut self.g_x, tokens);
    }

    /// Computes `∂H`, the `G` of the chunk before.
    #[inline(always)]
    fn state<I: Isa>(&mut self, isa: I, dims: &Dims, head: &Head<'_>, (tokens, carry): (usize, f32)) {
        let left = Left { data: &self.shared.read, across: 1, along: dims.wide_n() };
        let right = Right { data: &self.g_y_faded, stride: dims.wide_p() };
        let factors = Factors { left, right, rows: dims.n, inner: tokens };
        let g = &mut self.g_states[head.part.clone()];
        scale(isa, g, carry);
        product_wide(isa, factors, g, |sum| sum);
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
    for at in (0..a.len()).step_by(LANES) {
        sum = isa.load(&a[at..at + LANES]).mul_add(isa.load(&b[at..at + LANES]), sum);
    }
    sum.sum()
}

/// Adds two rows of whole vectors, each times its factor.
#[inline(always)]
fn add_rows<I: Isa>(isa: I, (a, by_a): (&[f32], f32), (b, by_b): (&[f32], f32), to: &mut [f32]) {
    let (by_a, by_b) = (isa.splat(by_a), isa.splat(by_b));
    for at in (0..to.len()).step_by(LANES) {
        let at = at..at + LANES;
        let sum = isa.load(&b[at.clone()]).mul_add(by_b, isa.load(&to[at.clone()]));
        isa.load(&a[at.clone()]).mul_add(by_a, sum).store(&mut to[at]);
    }
}
