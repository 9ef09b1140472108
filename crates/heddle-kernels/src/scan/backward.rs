//! The backward scan.
//!
//! Chunks are taken from the last to the first. A chunk's states are computed again from the one kept before it, then the
//! gradient of the state, `g_t = C_t ∂y_t + exp(Δ_{t+1} A) g_{t+1}`, runs back through it. The gradients of `write` and
//! `read` sum over channels: each task collects them lane by lane over its blocks, adds up the lanes once a chunk, and the
//! tasks' sums are added in the order of the channels, whatever thread made them.

use std::ops::Range;

use super::cpu::Scan;
use crate::activation::silu_slope;
use crate::cpu::channels::{CHUNK, Dims, transpose_in, transpose_out};
use crate::cpu::math::{exp2, sigmoid};
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::split::{Columns, columns, parts};
use crate::cpu::tasks::{run_all, sum_terms};

/// The gradients of the outputs, where there are any.
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    pub(super) y: Option<&'a [f32]>,
    pub(super) state: Option<&'a [f32]>,
}

/// The gradients of the inputs.
pub(super) struct Gradients {
    pub(super) u: Vec<f32>,
    pub(super) delta: Vec<f32>,
    pub(super) a: Vec<f32>,
    pub(super) write: Vec<f32>,
    pub(super) read: Vec<f32>,
    pub(super) skip: Vec<f32>,
    pub(super) state: Vec<f32>,
    pub(super) delta_bias: Vec<f32>,
    /// Empty if there is no gate.
    pub(super) gate: Vec<f32>,
}

/// The gradients of a scan whose forward pass kept `boundaries`.
pub(super) fn backward(scan: Scan<'_>, boundaries: &[f32], upstream: Upstream<'_>, level: Level) -> Gradients {
    let dims = scan.dims;
    let Dims { b, l, e, n } = dims;
    let tasks_a_sequence = dims.tasks().count();
    let mut u = vec![0.0; b * l * e];
    let mut delta = vec![0.0; b * l * e];
    let mut state = vec![0.0; b * e * n];
    let mut a = vec![0.0; b * e * n];
    let mut skip = vec![0.0; b * e];
    let mut delta_bias = vec![0.0; b * e];
    let mut gate = vec![0.0; if scan.gate.is_some() { b * l * e } else { 0 }];
    let mut write = vec![0.0; b * tasks_a_sequence * l * n];
    let mut read = vec![0.0; b * tasks_a_sequence * l * n];

    let all: Vec<_> = (0..b).flat_map(|sequence| dims.tasks().map(move |channels| (sequence, channels))).collect();
    let width = dims.channels_a_task();
    let mut us = u.chunks_exact_mut(l * e).flat_map(|u| columns(u, e, width));
    let mut deltas = delta.chunks_exact_mut(l * e).flat_map(|delta| columns(delta, e, width));
    let mut states = parts(&mut state, all.iter().map(|(_, channels)| channels.len() * n)).into_iter();
    let mut rates = parts(&mut a, all.iter().map(|(_, channels)| channels.len() * n)).into_iter();
    let mut gates = gate.chunks_exact_mut(l * e).flat_map(|gate| columns(gate, e, width));
    let mut biases = parts(&mut delta_bias, all.iter().map(|(_, channels)| channels.len())).into_iter();
    let mut skips = parts(&mut skip, all.iter().map(|(_, channels)| channels.len())).into_iter();
    let (mut writes, mut reads) = (write.chunks_exact_mut(l * n), read.chunks_exact_mut(l * n));
    let mut start = 0;
    let mut tasks = Vec::with_capacity(all.len());
    for (sequence, channels) in all {
        let kept = dims.chunks() * dims.boundary(&channels);
        let task = (|| {
            Some(Task {
                scan,
                upstream,
                sequence,
                channels,
                boundaries: &boundaries[start..start + kept],
                u: us.next()?,
                delta: deltas.next()?,
                state: states.next()?,
                a: rates.next()?,
                skip: skips.next()?,
                delta_bias: biases.next()?,
                gate: gates.next(),
                write: writes.next()?,
                read: reads.next()?,
            })
        })();
        tasks.push(task.expect("every task has its part of every array"));
        start += kept;
    }
    run_all(tasks, dims.parallel(), |task| level.run(task));
    Gradients {
        u,
        delta,
        state,
        a: sum_terms(&a, b, e * n),
        skip: sum_terms(&skip, b, e),
        delta_bias: sum_terms(&delta_bias, b, e),
        gate,
        write: sum_terms(&write, tasks_a_sequence, l * n),
        read: sum_terms(&read, tasks_a_sequence, l * n),
    }
}

/// The gradients of some channels of one sequence.
struct Task<'a> {
    scan: Scan<'a>,
    upstream: Upstream<'a>,
    sequence: usize,
    channels: Range<usize>,
    boundaries: &'a [f32],
    u: Columns<'a>,
    delta: Columns<'a>,
    state: &'a mut [f32],
    a: &'a mut [f32],
    skip: &'a mut [f32],
    delta_bias: &'a mut [f32],
    gate: Option<Columns<'a>>,
    write: &'a mut [f32],
    read: &'a mut [f32],
}

/// What a task computes with.
struct Workspace<I: Isa> {
    /// `A` and `A log₂ e`, which saves `exp2` a factor: `[block, n]`.
    a: Vec<Lanes<I>>,
    a_log2: Vec<Lanes<I>>,
    /// The running gradients of the state, and the sums of those of `A`, `D` and the bias of `Δ`: `[block, n]`, `[block]`.
    g: Vec<Lanes<I>>,
    g_a: Vec<Lanes<I>>,
    g_skip: Vec<Lanes<I>>,
    g_bias: Vec<Lanes<I>>,
    /// A chunk's states, the first of them before it, decays and step sizes: `[token, n]` and `[token]`.
    h: Vec<Lanes<I>>,
    decay: Vec<Lanes<I>>,
    delta: Vec<Lanes<I>>,
    /// The gradients of `write` and `read` before the sum over lanes: `[token, n]`.
    g_write: Vec<Lanes<I>>,
    g_read: Vec<Lanes<I>>,
}

impl<I: Isa> Workspace<I> {
    #[inline(always)]
    fn new(isa: I, blocks: usize, tokens: usize, n: usize) -> Self {
        let zeros = |length| vec![isa.zero(); length];
        Self {
            a: zeros(blocks * n),
            a_log2: zeros(blocks * n),
            g: zeros(blocks * n),
            g_a: zeros(blocks * n),
            g_skip: zeros(blocks),
            g_bias: zeros(blocks),
            h: zeros((tokens + 1) * n),
            decay: zeros(tokens * n),
            delta: zeros(tokens),
            g_write: zeros(tokens * n),
            g_read: zeros(tokens * n),
        }
    }
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let Dims { l, e, n, .. } = self.scan.dims;
        let blocks = self.channels.len().div_ceil(LANES);
        let mut work = Workspace::new(isa, blocks, CHUNK.min(l), n);
        let rates = &self.scan.a[self.channels.start * n..self.channels.end * n];
        for (a, rates) in work.a.chunks_exact_mut(n).zip(rates.chunks(LANES * n)) {
            transpose_in(isa, rates, n, a);
        }
        for (scaled, a) in work.a_log2.iter_mut().zip(&work.a) {
            *scaled = *a * std::f32::consts::LOG2_E;
        }
        if let Some(last) = self.upstream.state {
            let rows =
                &last[(self.sequence * e + self.channels.start) * n..(self.sequence * e + self.channels.end) * n];
            for (g, rows) in work.g.chunks_exact_mut(n).zip(rows.chunks(LANES * n)) {
                transpose_in(isa, rows, n, g);
            }
        }
        for chunk in (0..self.scan.dims.chunks()).rev() {
            work.g_write.fill(isa.zero());
            work.g_read.fill(isa.zero());
            for block in 0..blocks {
                self.recompute(isa, &mut work, chunk, block);
                self.steps_back(isa, &mut work, chunk, block);
            }
            let tokens = self.scan.dims.chunk(chunk);
            let (write, read) = (&mut self.write[tokens.start * n..tokens.end * n], &mut self.read[tokens.start * n..]);
            for ((write, read), (g_write, g_read)) in
                write.iter_mut().zip(read).zip(work.g_write.iter().zip(&work.g_read))
            {
                *write = g_write.sum();
                *read = g_read.sum();
            }
        }
        for (g, rows) in work.g.chunks_exact(n).zip(self.state.chunks_mut(LANES * n)) {
            transpose_out(g, n, rows);
        }
        for (g_a, rows) in work.g_a.chunks_exact(n).zip(self.a.chunks_mut(LANES * n)) {
            transpose_out(g_a, n, rows);
        }
        for (g_skip, row) in work.g_skip.iter().zip(self.skip.chunks_mut(LANES)) {
            g_skip.store(row);
        }
        for (g_bias, row) in work.g_bias.iter().zip(self.delta_bias.chunks_mut(LANES)) {
            g_bias.store(row);
        }
    }
}

impl Task<'_> {
    /// A block's channels, within the task and within the row.
    #[inline(always)]
    fn window(&self, block: usize) -> (Range<usize>, Range<usize>) {
        let window = block * LANES..self.channels.len().min((block + 1) * LANES);
        let channels = self.channels.start + window.start..self.channels.start + window.end;
        (window, channels)
    }

    /// Computes a chunk's states and decays.
    #[inline(always)]
    fn recompute<I: Isa>(&self, isa: I, work: &mut Workspace<I>, chunk: usize, block: usize) {
        let scan = self.scan;
        let n = scan.dims.n;
        let blocks = self.channels.len().div_ceil(LANES);
        let (_, channels) = self.window(block);
        let kept = self.boundaries[(chunk * blocks + block) * n * LANES..].chunks_exact(LANES);
        work.h[..n].iter_mut().zip(kept).for_each(|(h, kept)| *h = isa.load(kept));
        let a = &work.a_log2[block * n..][..n];
        for (i, t) in scan.dims.chunk(chunk).enumerate() {
            let at = (self.sequence, t);
            let delta = scan.step(isa, at, &channels);
            let entering = delta * scan.channels(isa, scan.u, at, &channels);
            work.delta[i] = delta;
            let write = scan.states(scan.write, self.sequence, t);
            let (before, after) = work.h[i * n..][..2 * n].split_at_mut(n);
            let decay = &mut work.decay[i * n..][..n];
            for ((((after, before), decay), a), &write) in after.iter_mut().zip(before).zip(decay).zip(a).zip(write) {
                *decay = exp2(delta * *a);
                *after = decay.mul_add(*before, entering * write);
            }
        }
    }

    /// Takes a block's gradients back over a chunk.
    #[inline(always)]
    fn steps_back<I: Isa>(&mut self, isa: I, work: &mut Workspace<I>, chunk: usize, block: usize) {
        let scan = self.scan;
        let n = scan.dims.n;
        let (window, channels) = self.window(block);
        let skip = isa.load(&scan.skip[channels.clone()]);
        let a = &work.a[block * n..][..n];
        let g = &mut work.g[block * n..][..n];
        let g_a = &mut work.g_a[block * n..][..n];
        for (i, t) in scan.dims.chunk(chunk).enumerate().rev() {
            let at = (self.sequence, t);
            let u = scan.channels(isa, scan.u, at, &channels);
            let delta = work.delta[i];
            let g_out = match self.upstream.y {
                Some(g_y) => scan.channels(isa, g_y, at, &channels),
                None => isa.zero(),
            };
            // The gradient before the gate, and the slope of the gate.
            let (g_y, slope) = match scan.gate {
                Some(gate) => {
                    let gate = scan.channels(isa, gate, at, &channels);
                    let open = sigmoid(gate);
                    (g_out * (gate * open), silu_slope(gate, open))
                }
                None => (g_out, isa.zero()),
            };
            let (write, read) = (scan.states(scan.write, self.sequence, t), scan.states(scan.read, self.sequence, t));
            let (before, after) = work.h[i * n..][..2 * n].split_at(n);
            let decay = &work.decay[i * n..][..n];
            let (g_write, g_read) = (&mut work.g_write[i * n..][..n], &mut work.g_read[i * n..][..n]);
            let entering = delta * u;
            let mut y = skip * u;
            let mut g_entering = isa.zero();
            let mut g_delta = isa.zero();
            for s in 0..n {
                let read = isa.splat(read[s]);
                let g_h = g_y.mul_add(read, g[s]);
                y = after[s].mul_add(read, y);
                g_read[s] = g_y.mul_add(after[s], g_read[s]);
                g_write[s] = g_h.mul_add(entering, g_write[s]);
                g_entering = g_h.mul_add(isa.splat(write[s]), g_entering);
                let g_before = g_h * decay[s];
                let g_exponent = g_before * before[s];
                g_delta = g_exponent.mul_add(a[s], g_delta);
                g_a[s] = g_exponent.mul_add(delta, g_a[s]);
                g[s] = g_before;
            }
            g_delta = g_entering.mul_add(u, g_delta);
            if scan.softplus {
                g_delta = g_delta * sigmoid(scan.raw_delta(isa, at, &channels));
            }
            g_entering.mul_add(delta, g_y * skip).store(self.u.row(t, window.clone()));
            g_delta.store(self.delta.row(t, window.clone()));
            if let Some(g_gate) = &mut self.gate {
                (g_out * y * slope).store(g_gate.row(t, window.clone()));
            }
            work.g_skip[block] = g_y.mul_add(u, work.g_skip[block]);
            work.g_bias[block] += g_delta;
        }
    }
}
