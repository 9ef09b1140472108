//! A chunk of sixteen tokens as matrices, for the backward pass (arXiv:2412.06464, section 3.3, solved rather than
//! inverted).
//!
//! With `γ_i` the decay from the start of the chunk to token `i`, and `S₀` the state before it, the recurrence says
//!
//! ```text
//! e_i = v_i − γ_i S₀ k_i − Σ_{j<i} (γ_i/γ_j) (k_j·k_i) β_j e_j
//! o_i =       γ_i S₀ q_i + Σ_{j≤i} (γ_i/γ_j) (k_j·q_i) β_j e_j
//! S_c =       γ_c S₀     + Σ_j    (γ_c/γ_j) β_j e_j k_jᵀ
//! ```
//!
//! The first line is a triangular system for the errors. Since chunks are taken one after another, `S₀` is known when it
//! is solved, so no inverse, and none of the paper's `U` and `W`, is needed.
//!
//! Matrices of tokens by tokens have a row for each token `j` that wrote and a lane for each token `i` that reads. A chunk
//! that ends early is filled up with tokens of key, query and strength 0, which do nothing.

use std::ops::Range;

use super::layout::{CHUNK, Delta, Multiply, Place, SQUARE, turn_in};
use crate::cpu::aligned::Aligned;
use crate::cpu::math::exp;
use crate::cpu::product::Left;
use crate::cpu::simd::{Isa, LANES, Lanes, Level, Sixteen};

/// Logarithms of decays are read as at least this, so that sums of them can be subtracted even if one is −∞.
const LEAST_LOG: f64 = -1e6;

/// What all heads that share a key head need of a chunk.
pub(super) struct Keys {
    pub(super) tokens: Range<usize>,
    n: usize,
    /// Keys, then queries, token by token: `[2 · tokens, n]`.
    rows: Aligned,
    /// `[n, 16]`
    pub(super) k_across: Aligned,
    pub(super) q_across: Aligned,
    /// `k_j · k_i` and `k_j · q_i`.
    kk: Aligned,
    kq: Aligned,
}

impl Keys {
    pub(super) fn new(n: usize) -> Self {
        Self {
            tokens: 0..0,
            n,
            rows: Aligned::zeros(2 * CHUNK * n),
            k_across: Aligned::zeros(n * LANES),
            q_across: Aligned::zeros(n * LANES),
            kk: Aligned::zeros(SQUARE),
            kq: Aligned::zeros(SQUARE),
        }
    }

    /// Tokens of the chunk that there are.
    #[inline(always)]
    pub(super) fn count(&self) -> usize {
        self.tokens.len()
    }

    /// Keys, then queries, as a left factor with a row for each token.
    #[inline(always)]
    pub(super) fn by_token(&self) -> Left<'_> {
        Left { data: &self.rows, across: self.n, along: 1 }
    }

    /// Keys, then queries, as a left factor with a row for each channel.
    #[inline(always)]
    pub(super) fn by_channel(&self) -> Left<'_> {
        Left { data: &self.rows, across: 1, along: self.n }
    }

    /// Reads a chunk.
    #[inline(always)]
    pub(super) fn read<I: Isa>(&mut self, isa: I, level: Level, call: &Delta<'_>, place: &Place, tokens: Range<usize>) {
        let (n, count) = (self.n, tokens.len());
        self.tokens = tokens;
        let (keys, queries) = self.rows.split_at_mut(count * n);
        let rows = keys.chunks_exact_mut(n).zip(queries.chunks_exact_mut(n));
        for (t, (k, q)) in self.tokens.clone().zip(rows) {
            k.copy_from_slice(call.key_row(call.k, place, t));
            q.copy_from_slice(call.key_row(call.q, place, t));
        }
        turn_in(isa, keys, n, &mut self.k_across);
        turn_in(isa, &queries[..count * n], n, &mut self.q_across);
        if count < CHUNK {
            self.kk.fill(0.0);
            self.kq.fill(0.0);
        }
        let left = Left { data: keys, across: n, along: 1 };
        for (right, out) in [(&self.k_across, &mut self.kk), (&self.q_across, &mut self.kq)] {
            level.run(Multiply { left, right, rows: count, inner: n, out, keep: None });
        }
    }
}

/// What a head makes of a chunk's keys: its decays and strengths.
pub(super) struct Gates {
    pub(super) beta: Sixteen,
    /// `γ_i`, the decay from the start of the chunk to a token.
    pub(super) from_start: Sixteen,
    /// `γ_c / γ_j`, the decay from a token to the end of the chunk.
    pub(super) to_end: Sixteen,
    /// `γ_i / γ_j`; 0 where the reader comes before the writer.
    pub(super) between: Aligned,
    /// What the readers' keys find of the writers' before them: `(γ_i/γ_j) k_j·k_i` for `j < i`.
    pub(super) overlap: Aligned,
    /// What the readers' queries find of the writers' keys: `(γ_i/γ_j) k_j·q_i` for `j ≤ i`.
    pub(super) answer: Aligned,
}

impl Gates {
    pub(super) fn new() -> Self {
        Self {
            beta: Sixteen::default(),
            from_start: Sixteen::default(),
            to_end: Sixteen::default(),
            between: Aligned::zeros(SQUARE),
            overlap: Aligned::zeros(SQUARE),
            answer: Aligned::zeros(SQUARE),
        }
    }

    /// The decay of the whole chunk.
    #[inline(always)]
    pub(super) fn whole(&self) -> f32 {
        self.from_start[CHUNK - 1]
    }

    /// Reads a head's part of a chunk.
    #[inline(always)]
    pub(super) fn read<I: Isa>(&mut self, isa: I, call: &Delta<'_>, (sequence, head): (usize, usize), keys: &Keys) {
        // Sums of logarithms up to each token; f64, because their differences matter.
        let mut logs = [0.0_f64; CHUNK];
        let mut sum = 0.0;
        self.beta = Sixteen::default();
        for (i, log) in logs.iter_mut().enumerate() {
            let t = keys.tokens.start + i;
            if t < keys.tokens.end {
                self.beta[i] = call.scalar(call.beta, (sequence, t), head);
                if let Some(log_decay) = call.log_decay {
                    let step = f64::from(call.scalar(log_decay, (sequence, t), head));
                    sum += if step < LEAST_LOG { LEAST_LOG } else { step };
                }
            }
            *log = sum;
        }
        let decays = call.log_decay.is_some();
        let (mut from_start, mut to_end) = (Sixteen::default(), Sixteen::default());
        for i in 0..CHUNK {
            from_start[i] = logs[i] as f32;
            to_end[i] = (sum - logs[i]) as f32;
        }
        self.from_start = exp(isa.load(&from_start)).to_array();
        self.to_end = exp(isa.load(&to_end)).to_array();
        for j in 0..CHUNK {
            let row = j * LANES..(j + 1) * LANES;
            let between = if decays { decays_from(isa, &logs, j) } else { ones_from(isa, j) };
            between.store(&mut self.between[row.clone()]);
            (between * isa.load(&keys.kk[row.clone()])).store(&mut self.overlap[row.clone()]);
            self.overlap[row.start + j] = 0.0;
            (between * isa.load(&keys.kq[row.clone()])).store(&mut self.answer[row]);
        }
    }
}

/// The decays from token `j` to each token from it on.
#[inline(always)]
fn decays_from<I: Isa>(isa: I, logs: &[f64; CHUNK], j: usize) -> Lanes<I> {
    let mut log = [f32::NEG_INFINITY; LANES];
    for i in j..CHUNK {
        log[i] = (logs[i] - logs[j]) as f32;
    }
    exp(isa.load(&log))
}

/// 1 for each token from `j` on.
#[inline(always)]
fn ones_from<I: Isa>(isa: I, j: usize) -> Lanes<I> {
    let mut ones = [0.0; LANES];
    ones[j..].fill(1.0);
    isa.load(&ones)
}
