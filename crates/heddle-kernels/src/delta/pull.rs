//! A chunk of one head, backwards.
//!
//! In the terms of `chunk.rs`, with `G` the gradient of the state after the chunk, `z` the gradients of `β e`, and
//! `x = β z`:
//!
//! ```text
//! z_j = (γ_c/γ_j) G k_j + Σ_{i≥j} (γ_i/γ_j) (k_j·q_i) ∂o_i − Σ_{i>j} (γ_i/γ_j) (k_j·k_i) x_i
//! ∂v = x     ∂β = z·e     ∂S₀ = γ_c G + Σ_i γ_i (∂o_i q_iᵀ − x_i k_iᵀ)
//! ```
//!
//! The first line is the transposed system, solved from the last token. The products `k_j·q_i` and `k_j·k_i` get the
//! gradients `(γ_i/γ_j) β_j e_j·∂o_i` and `−(γ_i/γ_j) β_j e_j·x_i`. Gradients of queries and keys are collected as `[n, 16]`,
//! a lane for each token, in three parts: what queries and keys read, and what keys wrote. Each part times its own query or
//! key is what the logarithm of the decays up to, or from, its token gains, so the decays need no sums of their own. A
//! token's answer to itself has no decay in it, and is added last.

use super::layout::{CHUNK, Multiply, SQUARE};
use super::panel::{Step, dots, scale_rows};
use crate::cpu::aligned::Aligned;
use crate::cpu::product::Left;
use crate::cpu::simd::{Isa, LANES, Lanes, Sixteen};

/// What a chunk of one head is taken back with.
pub(super) struct Pull {
    /// `∂o` and then `x`; `[16, 16]` like all that follow, unless it is said otherwise.
    g_o: Aligned,
    x: Aligned,
    z: Aligned,
    /// `−γ x` and then `γ ∂o`, token by token; later the gradients of products, from keys and then queries: `[32, 16]`.
    pairs: Aligned,
    /// A panel's errors, `z` and `∂o` with a lane for each token, and one of them times a factor for each token.
    errors_across: Aligned,
    z_across: Aligned,
    o_across: Aligned,
    scaled: Aligned,
    /// The gradients of `k_j·k_i` and `k_j·q_i`.
    g_kk: Aligned,
    g_kq: Aligned,
    /// What queries and keys read, and what keys wrote: `[n, 16]`.
    g_asked: Aligned,
    g_found: Aligned,
    g_wrote: Aligned,
}

/// A panel before the chunk, the errors in the chunk, and the gradients of all outputs.
#[derive(Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) panel: usize,
    pub(super) state: &'a [f32],
    pub(super) errors: &'a [f32],
    pub(super) upstream: Option<&'a [f32]>,
}

/// Sums over the panels of a head.
pub(super) struct Sums<I: Isa> {
    beta: Lanes<I>,
    /// `G · S₀`
    states: Lanes<I>,
}

impl Pull {
    pub(super) fn new(n: usize) -> Self {
        let squares = |count| Aligned::zeros(count * SQUARE);
        Self {
            g_o: squares(1),
            x: squares(1),
            z: squares(1),
            pairs: squares(2),
            errors_across: squares(1),
            z_across: squares(1),
            o_across: squares(1),
            scaled: squares(1),
            g_kk: squares(1),
            g_kq: squares(1),
            g_asked: Aligned::zeros(n * LANES),
            g_found: Aligned::zeros(n * LANES),
            g_wrote: Aligned::zeros(n * LANES),
        }
    }

    /// Begins with a head.
    #[inline(always)]
    pub(super) fn start<I: Isa>(&mut self, isa: I) -> Sums<I> {
        for sum in [&mut self.g_kk, &mut self.g_kq, &mut self.g_asked, &mut self.g_found, &mut self.g_wrote] {
            sum.fill(0.0);
        }
        Sums { beta: isa.zero(), states: isa.zero() }
    }

    /// The gradients of the values of the panel taken last, token by token.
    #[inline(always)]
    pub(super) fn g_v(&self) -> impl Iterator<Item = &[f32]> {
        self.x.chunks_exact(LANES)
    }

    /// Takes a panel back; `g` is the gradient of its state after, and then before, the chunk.
    #[inline(always)]
    pub(super) fn panel<I: Isa>(
        &mut self,
        isa: I,
        step: &Step<'_>,
        before: Before<'_>,
        g: &mut [f32],
        sums: &mut Sums<I>,
    ) {
        self.read_upstream(isa, step, before);
        self.solve(isa, step, g);
        turn(isa, before.errors, &mut self.errors_across);
        turn(isa, &self.z, &mut self.z_across);
        turn(isa, &self.g_o, &mut self.o_across);
        sums.beta = dots(isa, &self.z_across, &self.errors_across, sums.beta);
        sums.states = dots(isa, g, before.state, sums.states);
        self.add_to_keys(isa, step, before, g);
        let (left, rows, inner) = (step.keys.by_channel(), step.call.dims.n, 2 * step.keys.count());
        let keep = Some(step.gates.whole());
        step.level.run(Multiply { left, right: &self.pairs, rows, inner, out: g, keep });
    }

    /// Reads a panel of the gradients of outputs.
    #[inline(always)]
    fn read_upstream<I: Isa>(&mut self, isa: I, step: &Step<'_>, before: Before<'_>) {
        let count = step.keys.count();
        self.g_o.fill(0.0);
        if let Some(upstream) = before.upstream {
            for (t, row) in step.keys.tokens.clone().zip(self.g_o.chunks_exact_mut(LANES)) {
                step.call.values(isa, upstream, (step.sequence, t), step.head, before.panel).store(row);
            }
        }
        let decayed = self.pairs[count * LANES..].chunks_exact_mut(LANES).zip(self.g_o.chunks_exact(LANES));
        for ((to, row), from_start) in decayed.take(count).zip(&step.gates.from_start) {
            (isa.load(row) * *from_start).store(to);
        }
    }

    /// Solves for `z` and `x`.
    #[inline(always)]
    fn solve<I: Isa>(&mut self, isa: I, step: &Step<'_>, g: &[f32]) {
        let (gates, count) = (step.gates, step.keys.count());
        step.ask(g, &mut self.z);
        scale_rows(isa, &mut self.z, &gates.to_end);
        let left = Left { data: &gates.answer, across: LANES, along: 1 };
        let (right, out) = (&self.g_o, &mut self.z);
        step.level.run(Multiply { left, right, rows: count, inner: count, out, keep: Some(1.0) });
        let mut z = [isa.zero(); CHUNK];
        for (z, row) in z.iter_mut().zip(self.z.chunks_exact(LANES)).take(count) {
            *z = isa.load(row);
        }
        for i in (0..CHUNK).rev() {
            let x = z[i] * gates.beta[i];
            z[i].store(&mut self.z[i * LANES..][..LANES]);
            x.store(&mut self.x[i * LANES..][..LANES]);
            if i < count {
                (x * -gates.from_start[i]).store(&mut self.pairs[i * LANES..][..LANES]);
            }
            for (z, overlap) in z[..i].iter_mut().zip(gates.overlap.chunks_exact(LANES)) {
                *z = x.mul_add(isa.splat(-overlap[i]), *z);
            }
        }
    }

    /// Adds what a panel does to queries and keys, and to their products.
    #[inline(always)]
    fn add_to_keys<I: Isa>(&mut self, isa: I, step: &Step<'_>, before: Before<'_>, g: &[f32]) {
        let (level, gates) = (step.level, step.gates);
        let (rows, keep) = (step.keys.count(), Some(1.0));
        let left = Left { data: before.errors, across: LANES, along: 1 };
        for (right, out) in [(&self.z_across, &mut self.g_kk), (&self.o_across, &mut self.g_kq)] {
            level.run(Multiply { left, right, rows, inner: LANES, out, keep });
        }
        let beta = isa.load(&gates.beta);
        let from_start = isa.load(&gates.from_start);
        let parts = [
            (&self.o_across, from_start, before.state, &mut self.g_asked),
            (&self.z_across, beta * from_start * -1.0, before.state, &mut self.g_found),
            (&self.errors_across, beta * isa.load(&gates.to_end), g, &mut self.g_wrote),
        ];
        for (across, factors, state, out) in parts {
            for (to, row) in self.scaled.chunks_exact_mut(LANES).zip(across.chunks_exact(LANES)) {
                (isa.load(row) * factors).store(to);
            }
            let left = Left { data: state, across: LANES, along: 1 };
            level.run(Multiply { left, right: &self.scaled, rows: step.call.dims.n, inner: LANES, out, keep });
        }
    }

    /// Adds the head's gradients of queries and keys, and returns those of its strengths and decays.
    #[inline(always)]
    pub(super) fn finish<I: Isa>(
        &mut self,
        isa: I,
        step: &Step<'_>,
        sums: Sums<I>,
        g_q: &mut [f32],
        g_k: &mut [f32],
    ) -> (Sixteen, Sixteen) {
        let (keys, level, gates) = (step.keys, step.level, step.gates);
        let (rows, count, keep) = (step.call.dims.n, keys.count(), Some(1.0));
        // What the last state gains by the decay of the whole chunk and by those after each token.
        let last = dots(isa, &keys.k_across, &self.g_wrote, sums.states * gates.whole()).sum();
        let own = self.weigh_products(isa, step);
        for (right, out) in [(&self.g_kq, &mut self.g_asked), (&self.g_kk, &mut self.g_found)] {
            level.run(Multiply { left: keys.by_channel(), right, rows, inner: count, out, keep });
        }
        let (kk, kq) = self.pairs.split_at_mut(count * LANES);
        turn(isa, &self.g_kk, kk);
        turn(isa, &self.g_kq, &mut kq[..count * LANES]);
        let (right, out) = (&self.pairs, &mut self.g_wrote);
        level.run(Multiply { left: keys.by_channel(), right, rows, inner: 2 * count, out, keep });
        let read = dots(isa, &keys.q_across, &self.g_asked, isa.zero());
        let read = dots(isa, &keys.k_across, &self.g_found, read).to_array();
        let wrote = dots(isa, &keys.k_across, &self.g_wrote, isa.zero()).to_array();
        self.add_up(isa, step, own, g_q, g_k);
        (sums.beta.to_array(), log_decays(f64::from(last), &read, &wrote))
    }

    /// Makes the sums over channels gradients of `k_j·k_i` and `k_j·q_i`; takes those of each token with itself out, and
    /// returns them.
    #[inline(always)]
    fn weigh_products<I: Isa>(&mut self, isa: I, step: &Step<'_>) -> Lanes<I> {
        let gates = step.gates;
        let mut own = Sixteen::default();
        let readers = isa.load(&gates.beta) * -1.0;
        for (j, own) in own.iter_mut().enumerate() {
            let row = j * LANES..(j + 1) * LANES;
            let factor = isa.load(&gates.between[row.clone()]) * gates.beta[j];
            (isa.load(&self.g_kk[row.clone()]) * factor * readers).store(&mut self.g_kk[row.clone()]);
            (isa.load(&self.g_kq[row.clone()]) * factor).store(&mut self.g_kq[row.clone()]);
            *own = self.g_kq[row.start + j];
            self.g_kk[row.start + j] = 0.0;
            self.g_kq[row.start + j] = 0.0;
        }
        isa.load(&own)
    }

    /// Adds the three parts, and what each token answers to itself, to the sums over heads.
    #[inline(always)]
    fn add_up<I: Isa>(&self, isa: I, step: &Step<'_>, own: Lanes<I>, g_q: &mut [f32], g_k: &mut [f32]) {
        let rows = g_q.chunks_exact_mut(LANES).zip(g_k.chunks_exact_mut(LANES));
        for (row, (g_q, g_k)) in rows.enumerate() {
            let row = row * LANES..(row + 1) * LANES;
            let (q, k) = (isa.load(&step.keys.q_across[row.clone()]), isa.load(&step.keys.k_across[row.clone()]));
            let found = isa.load(&self.g_found[row.clone()]) + isa.load(&self.g_wrote[row.clone()]);
            own.mul_add(k, isa.load(g_q) + isa.load(&self.g_asked[row])).store(g_q);
            own.mul_add(q, isa.load(g_k) + found).store(g_k);
        }
    }
}

/// The gradients of the logarithms of decays. A decay lies on every way from a token before it to one from it on: `read` are
/// the ways to each token, `wrote` those from it, `last` those to the end of the chunk.
#[inline(always)]
fn log_decays(last: f64, read: &Sixteen, wrote: &Sixteen) -> Sixteen {
    let mut result = Sixteen::default();
    let mut across = last;
    for i in (0..CHUNK).rev() {
        across += f64::from(read[i]) - f64::from(wrote[i]);
        result[i] = across as f32;
    }
    result
}

/// A matrix of sixteen by sixteen with rows and lanes exchanged, or its first rows.
#[inline(always)]
fn turn<I: Isa>(isa: I, from: &[f32], to: &mut [f32]) {
    let mut square = [isa.zero(); LANES];
    for (vector, row) in square.iter_mut().zip(from.chunks_exact(LANES)) {
        *vector = isa.load(row);
    }
    for (vector, to) in Lanes::transpose(square).iter().zip(to.chunks_exact_mut(LANES)) {
        vector.store(to);
    }
}
