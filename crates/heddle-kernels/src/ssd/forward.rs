//! The forward pass.
//!
//! For each chunk and head: the products `C_t · B_j` of the group, masked with decays and step sizes, times the tokens of
//! the chunk, plus what each token reads of the state before the chunk; then the state after it. States lie transposed,
//! `[n, p]`, so that in every product a vector holds sixteen channels of a head.

use std::ops::Range;

use super::chunk::{
    Dims, Place, Shared, Ssd, Steps, add_before, copy_row, product_wide, scale, scale_columns, scale_rows, unit,
};
use super::decode;
use crate::cpu::aligned::Aligned;
use crate::cpu::product::{Factors, Left, Right};
use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::split::{Columns, columns};
use crate::cpu::tasks::run_all;
use crate::cpu::transpose::transpose;

/// The results of a call.
pub(super) struct Computed {
    pub(super) y: Vec<f32>,
    pub(super) state: Vec<f32>,
    /// The state before each chunk, if it was asked for: `[b, h, chunk, n, wide_p]`.
    pub(super) boundaries: Vec<f32>,
}

/// Computes; keeps the chunk-boundary states if `keep`.
pub(super) fn forward(ssd: Ssd<'_>, keep: bool, level: Level) -> Computed {
    let dims = ssd.dims;
    let Dims { b, l, h, p, n, .. } = dims;
    let mut y = vec![0.0; b * l * h * p];
    let mut state = vec![0.0; b * h * p * n];
    if l == 1 && !keep {
        decode::step(ssd, &mut y, &mut state, level);
        return Computed { y, state, boundaries: vec![] };
    }
    let kept = if keep { dims.chunks() * dims.boundary() } else { 0 };
    let mut boundaries = vec![0.0; b * h * kept];

    let ys = y.chunks_exact_mut(l * h * p).flat_map(|y| columns(y, h * p, p));
    let mut boundaries_left = &mut boundaries[..];
    let mut parts = ys.zip(state.chunks_exact_mut(p * n)).map(|(y, state)| {
        let (kept, rest) = std::mem::take(&mut boundaries_left).split_at_mut(kept);
        boundaries_left = rest;
        Part { y, state, kept }
    });
    let tasks = dims.tasks().map(|place| Task { ssd, parts: parts.by_ref().take(place.heads.len()).collect(), place });
    let tasks = tasks.collect();
    run_all(tasks, dims.parallel(), |task| level.run(task));
    Computed { y, state, boundaries }
}

/// What a head writes.
struct Part<'a> {
    y: Columns<'a>,
    state: &'a mut [f32],
    kept: &'a mut [f32],
}

/// Some heads of one group of one sequence.
struct Task<'a> {
    ssd: Ssd<'a>,
    place: Place,
    parts: Vec<Part<'a>>,
}

/// What a task computes with.
struct Workspace {
    shared: Shared,
    steps: Steps,
    /// The chunk's tokens and outputs: `[token, wide_p]`.
    x: Aligned,
    y: Aligned,
    /// How much of token `j` there is in the output of token `t`: `[t, j]`.
    mix: Aligned,
    /// How much of each token's step is left at the end of the chunk: `[token]`.
    rest: Aligned,
    /// `write`, its columns times `rest`: `[n, token]`. `read`, its rows times the decay so far: `[token, wide_n]`.
    write: Aligned,
    read: Aligned,
    /// The states: `[head, n, wide_p]`.
    states: Aligned,
}

impl Workspace {
    fn new(dims: &Dims, heads: usize) -> Self {
        let length = dims.chunk_length();
        Self {
            shared: Shared::new(dims),
            steps: Steps::new(dims),
            x: Aligned::zeros(length * dims.wide_p()),
            y: Aligned::zeros(length * dims.wide_p()),
            mix: Aligned::zeros(length * length),
            rest: Aligned::zeros(length),
            write: Aligned::zeros(dims.n * length),
            read: Aligned::zeros(length * dims.wide_n()),
            states: Aligned::zeros(heads * dims.boundary()),
        }
    }
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let dims @ Dims { p, n, .. } = self.ssd.dims;
        let mut work = Workspace::new(&dims, self.parts.len());
        for (head, state) in self.place.heads.clone().zip(work.states.chunks_exact_mut(dims.boundary())) {
            let rows = self.ssd.head_state(self.ssd.state, (self.place.sequence, head));
            transpose(isa, (rows, n), (state, dims.wide_p()), [p, n]);
        }
        for chunk in 0..dims.chunks() {
            let tokens = dims.chunk(chunk);
            work.shared.fill(isa, &self.ssd, &self.place, &tokens);
            for index in 0..self.parts.len() {
                self.advance(isa, &mut work, index, (chunk, &tokens));
            }
        }
        for (part, state) in self.parts.iter_mut().zip(work.states.chunks_exact(dims.boundary())) {
            transpose(isa, (state, dims.wide_p()), (part.state, n), [n, p]);
        }
    }
}

impl Task<'_> {
    /// Takes a head over a chunk.
    #[inline(always)]
    fn advance<I: Isa>(&mut self, isa: I, work: &mut Workspace, index: usize, (chunk, tokens): (usize, &Range<usize>)) {
        let Self { ssd, place, parts } = self;
        let dims @ Dims { p, n, .. } = ssd.dims;
        let (length, wide_p, wide_n) = (dims.chunk_length(), dims.wide_p(), dims.wide_n());
        let (head, part) = (place.heads.start + index, &mut parts[index]);
        let at = (place.sequence, head);
        let state = &mut work.states[index * dims.boundary()..][..dims.boundary()];
        if !part.kept.is_empty() {
            part.kept[chunk * dims.boundary()..][..dims.boundary()].copy_from_slice(state);
        }
        for (i, t) in tokens.clone().enumerate() {
            copy_row(isa, ssd.channels(ssd.x, at, t), &mut work.x[i * wide_p..][..p]);
        }
        work.steps.fill(isa, ssd, at, tokens);
        mix(isa, (&work.shared.scores, &work.steps), ssd.skip_of(head), (&mut work.mix, &mut work.rest), tokens.len());

        let x = Right { data: &work.x, stride: wide_p };
        scale_rows(isa, &work.shared.read, &work.steps.carry[..tokens.len()], &mut work.read, wide_n);
        let left = Left { data: &work.read, across: wide_n, along: 1 };
        let factors = Factors { left, right: Right { data: state, stride: wide_p }, rows: tokens.len(), inner: n };
        product_wide(isa, factors, &mut work.y, |_| isa.zero());
        add_before(isa, (&work.mix, length), x, &mut work.y, tokens.len());
        for (i, t) in tokens.clone().enumerate() {
            copy_row(isa, &work.y[i * wide_p..][..p], part.y.row(t, 0..p));
        }

        scale_columns(isa, &work.shared.write_across, &work.rest, &mut work.write, n);
        let left = Left { data: &work.write, across: length, along: 1 };
        let factors = Factors { left, right: x, rows: n, inner: tokens.len() };
        scale(isa, state, work.steps.carry[tokens.len() - 1]);
        product_wide(isa, factors, state, |sum| sum);
    }
}

/// Writes what each token adds to the outputs, `L_tj (C_t · B_j) Δ_j` and the skip, and what is left of each step at the
/// end of the chunk, `L_cj Δ_j`.
#[inline(always)]
fn mix<I: Isa>(
    isa: I,
    (scores, steps): (&[f32], &Steps),
    skip: f32,
    (mix, rest): (&mut [f32], &mut [f32]),
    tokens: usize,
) {
    let length = rest.len();
    for block in (0..tokens).step_by(LANES) {
        let delta = isa.load(&steps.delta[block..]);
        let mut kept = isa.zero();
        for t in block..tokens {
            kept = kept * steps.decay[t];
            let at = t * length + block;
            let mut skipped = isa.zero();
            if t < block + LANES {
                let one = unit(isa, t - block);
                kept += one;
                skipped = one * skip;
            }
            (isa.load(&scores[at..]) * kept).mul_add(delta, skipped).store(&mut mix[at..][..LANES]);
        }
        (kept * delta).store(&mut rest[block..][..LANES]);
    }
}
