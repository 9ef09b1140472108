//! The forward scan.
//!
//! A vector holds one state of sixteen neighbouring channels, so a step has no sums across lanes. A task owns some blocks of
//! sixteen channels of one sequence and walks over time in chunks; within a chunk it takes block after block, which keeps
//! the rows it reads in the cache.

use std::ops::Range;

use crate::cpu::channels::{Dims, transpose_in, transpose_out};
use crate::cpu::math::{exp2, sigmoid, softplus};
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::split::{Columns, columns, parts};
use crate::cpu::tasks::run_all;

/// The inputs of a scan.
#[derive(Clone, Copy)]
pub(super) struct Scan<'a> {
    pub(super) dims: Dims,
    /// Whether `delta` goes through a softplus.
    pub(super) softplus: bool,
    pub(super) u: &'a [f32],
    pub(super) delta: &'a [f32],
    pub(super) a: &'a [f32],
    pub(super) write: &'a [f32],
    pub(super) read: &'a [f32],
    pub(super) skip: &'a [f32],
    pub(super) state: &'a [f32],
    pub(super) delta_bias: Option<&'a [f32]>,
    pub(super) gate: Option<&'a [f32]>,
}

impl<'a> Scan<'a> {
    /// The states of a token's row of `write` or `read`.
    #[inline(always)]
    pub(super) fn states(&self, of: &'a [f32], sequence: usize, t: usize) -> &'a [f32] {
        let Dims { l, n, .. } = self.dims;
        &of[(sequence * l + t) * n..][..n]
    }

    /// Some channels of a token's row of `u` or `delta`.
    #[inline(always)]
    pub(super) fn channels<I: Isa>(
        &self,
        isa: I,
        of: &[f32],
        (sequence, t): (usize, usize),
        block: &Range<usize>,
    ) -> Lanes<I> {
        let Dims { l, e, .. } = self.dims;
        isa.load(&of[(sequence * l + t) * e..][block.clone()])
    }

    /// Some channels of a token's `delta` with its bias, before the softplus.
    #[inline(always)]
    pub(super) fn raw_delta<I: Isa>(&self, isa: I, at: (usize, usize), block: &Range<usize>) -> Lanes<I> {
        let delta = self.channels(isa, self.delta, at, block);
        match self.delta_bias {
            Some(bias) => delta + isa.load(&bias[block.clone()]),
            None => delta,
        }
    }

    /// The step size of some channels of a token.
    #[inline(always)]
    pub(super) fn step<I: Isa>(&self, isa: I, at: (usize, usize), block: &Range<usize>) -> Lanes<I> {
        let raw = self.raw_delta(isa, at, block);
        if self.softplus { softplus(raw) } else { raw }
    }
}

/// The results of a scan.
pub(super) struct Scanned {
    pub(super) y: Vec<f32>,
    pub(super) state: Vec<f32>,
    /// The state before each chunk, if it was asked for: task after task, `[chunk, block, n, lane]` in each.
    pub(super) boundaries: Vec<f32>,
}

/// Scans; keeps the chunk-boundary states if `keep`.
pub(super) fn forward(scan: Scan<'_>, keep: bool, level: Level) -> Scanned {
    let dims = scan.dims;
    let Dims { b, l, e, n } = dims;
    let mut y = vec![0.0; b * l * e];
    let mut state = vec![0.0; b * e * n];
    let chunks_kept = if keep { dims.chunks() } else { 0 };
    let mut boundaries = vec![0.0; b * chunks_kept * dims.blocks() * n * LANES];

    let all = || (0..b).flat_map(|sequence| dims.tasks().map(move |channels| (sequence, channels)));
    let ys = y.chunks_exact_mut(l * e).flat_map(|y| columns(y, e, dims.channels_a_task()));
    let states = parts(&mut state, all().map(|(_, channels)| channels.len() * n));
    let kept = parts(&mut boundaries, all().map(|(_, channels)| chunks_kept * dims.boundary(&channels)));
    let tasks =
        all().zip(ys).zip(states.into_iter().zip(kept)).map(|(((sequence, channels), y), (state, boundaries))| Task {
            scan,
            sequence,
            channels,
            y,
            state,
            boundaries,
        });
    run_all(tasks.collect(), dims.parallel(), |task| level.run(task));
    Scanned { y, state, boundaries }
}

/// The scan of some channels of one sequence.
struct Task<'a> {
    scan: Scan<'a>,
    sequence: usize,
    channels: Range<usize>,
    y: Columns<'a>,
    state: &'a mut [f32],
    boundaries: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let Dims { e, n, .. } = self.scan.dims;
        let rows = (self.sequence * e + self.channels.start) * n..(self.sequence * e + self.channels.end) * n;
        let blocks = self.channels.len().div_ceil(LANES);
        let mut a = vec![isa.zero(); blocks * n];
        let mut h = vec![isa.zero(); blocks * n];
        let rates = self.scan.a[self.channels.start * n..self.channels.end * n].chunks(LANES * n);
        let states = self.scan.state[rows].chunks(LANES * n);
        for ((a, h), (rates, state)) in a.chunks_exact_mut(n).zip(h.chunks_exact_mut(n)).zip(rates.zip(states)) {
            transpose_in(isa, rates, n, a);
            transpose_in(isa, state, n, h);
            a.iter_mut().for_each(|a| *a = *a * std::f32::consts::LOG2_E);
        }
        for chunk in 0..self.scan.dims.chunks() {
            for (block, (a, h)) in a.chunks_exact(n).zip(h.chunks_exact_mut(n)).enumerate() {
                if !self.boundaries.is_empty() {
                    let kept = self.boundaries[(chunk * blocks + block) * n * LANES..].chunks_exact_mut(LANES);
                    kept.zip(h.iter()).for_each(|(kept, h)| h.store(kept));
                }
                self.steps(isa, chunk, block, a, h);
            }
        }
        for (h, rows) in h.chunks_exact(n).zip(self.state.chunks_mut(LANES * n)) {
            transpose_out(h, n, rows);
        }
    }
}

impl Task<'_> {
    /// Takes one block over one chunk.
    #[inline(always)]
    fn steps<I: Isa>(&mut self, isa: I, chunk: usize, block: usize, a: &[Lanes<I>], h: &mut [Lanes<I>]) {
        let scan = self.scan;
        let window = block * LANES..self.channels.len().min((block + 1) * LANES);
        let channels = self.channels.start + window.start..self.channels.start + window.end;
        let skip = isa.load(&scan.skip[channels.clone()]);
        for t in scan.dims.chunk(chunk) {
            let at = (self.sequence, t);
            let u = scan.channels(isa, scan.u, at, &channels);
            let delta = scan.step(isa, at, &channels);
            let (write, read) = (scan.states(scan.write, self.sequence, t), scan.states(scan.read, self.sequence, t));
            let entering = delta * u;
            let mut y = skip * u;
            for (((h, a), &write), &read) in h.iter_mut().zip(a).zip(write).zip(read) {
                *h = exp2(delta * *a).mul_add(*h, entering * write);
                y = h.mul_add(isa.splat(read), y);
            }
            if let Some(gate) = scan.gate {
                let gate = scan.channels(isa, gate, at, &channels);
                y = y * (gate * sigmoid(gate));
            }
            y.store(self.y.row(t, window.clone()));
        }
    }
}
