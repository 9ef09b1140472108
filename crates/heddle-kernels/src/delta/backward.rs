//! The backward pass.
//!
//! Spans of chunks are taken from the last to the first. A span's states and errors are computed again from the state kept
//! before it, then the gradient of the state runs back through its chunks (`pull.rs`). The gradients of queries and keys
//! sum over the heads that share them: a task adds up those of its heads, and the tasks' sums are added in the order of
//! the heads, whatever thread made them.

use super::chunk::{Gates, Keys};
use super::layout::{CHUNK, Delta, Dims, Place, SPAN, SQUARE, states_in, states_out, turn_out};
use super::panel::{Step, Written};
use super::pull::{Before, Pull};
use crate::cpu::aligned::Aligned;
use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::split::{Columns, columns};
use crate::cpu::tasks::{run_all, sum_terms};

/// The gradients of the outputs, where there are any.
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    pub(super) o: Option<&'a [f32]>,
    pub(super) state: Option<&'a [f32]>,
}

/// The gradients of the inputs.
pub(super) struct Gradients {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    pub(super) beta: Vec<f32>,
    pub(super) state: Vec<f32>,
    pub(super) log_decay: Vec<f32>,
}

/// The gradients of a delta rule whose forward pass kept `boundaries`.
pub(super) fn backward(call: Delta<'_>, boundaries: &[f32], upstream: Upstream<'_>, level: Level) -> Gradients {
    let dims @ Dims { b, l, h, g, p, n } = call.dims;
    let heads = dims.heads_a_task();
    let mut q = vec![0.0; b * dims.parts() * l * g * n];
    let mut k = vec![0.0; b * dims.parts() * l * g * n];
    let mut v = vec![0.0; b * l * h * p];
    let mut beta = vec![0.0; b * l * h];
    let mut log_decay = vec![0.0; b * l * h];
    let mut state = vec![0.0; b * h * p * n];

    let (mut qs, mut ks) = (by_tasks(&dims, &mut q).into_iter(), by_tasks(&dims, &mut k).into_iter());
    let mut vs = v.chunks_exact_mut(l * h * p).flat_map(|v| columns(v, h * p, heads * p));
    let mut betas = beta.chunks_exact_mut(l * h).flat_map(|beta| columns(beta, h, heads));
    let mut decays = log_decay.chunks_exact_mut(l * h).flat_map(|decay| columns(decay, h, heads));
    let mut states = state.chunks_exact_mut(heads * p * n);
    let mut kept = boundaries.chunks_exact(dims.spans() * heads * dims.head_state());
    let mut tasks = vec![];
    for place in dims.tasks() {
        let task = (|| {
            Some(Task {
                call,
                level,
                upstream,
                place,
                boundaries: kept.next()?,
                q: qs.next()?,
                k: ks.next()?,
                heads: HeadGradients { v: vs.next()?, beta: betas.next()?, log_decay: decays.next()? },
                state: states.next()?,
            })
        })();
        tasks.push(task.expect("every task has its part of every array"));
    }
    run_all(tasks, dims.parallel(), |task| level.run(task));
    Gradients { q: sum(q, &dims), k: sum(k, &dims), v, beta, state, log_decay }
}

/// Each task's columns of `[b, parts, l, g, n]`.
fn by_tasks<'a>(dims: &Dims, array: &'a mut [f32]) -> Vec<Columns<'a>> {
    let Dims { b, l, g, n, .. } = *dims;
    let mut windows: Vec<_> =
        array.chunks_exact_mut(l * g * n).map(|part| columns(part, g * n, n).into_iter()).collect();
    let mut result = Vec::with_capacity(b * g * dims.parts());
    for parts in windows.chunks_mut(dims.parts()) {
        for _ in 0..g {
            result.extend(parts.iter_mut().filter_map(Iterator::next));
        }
    }
    result
}

/// The sums over the parts of `[b, parts, l, g, n]`, in order.
fn sum(array: Vec<f32>, dims: &Dims) -> Vec<f32> {
    if dims.parts() == 1 {
        return array;
    }
    sum_terms(&array, dims.parts(), dims.l * dims.g * dims.n)
}

/// Where a task writes what belongs to its heads alone.
pub(super) struct HeadGradients<'a> {
    pub(super) v: Columns<'a>,
    pub(super) beta: Columns<'a>,
    pub(super) log_decay: Columns<'a>,
}

/// The gradients of some heads.
struct Task<'a> {
    call: Delta<'a>,
    level: Level,
    upstream: Upstream<'a>,
    place: Place,
    boundaries: &'a [f32],
    q: Columns<'a>,
    k: Columns<'a>,
    heads: HeadGradients<'a>,
    state: &'a mut [f32],
}

/// A chunk of a span, computed again.
struct Chunk {
    keys: Keys,
    gates: Gates,
    /// A head's state before the chunk, and its errors: panel after panel, `[n, 16]` and `[16, 16]`.
    state: Aligned,
    errors: Aligned,
    /// The gradients of queries and keys, summed over heads: `[n, 16]`.
    g_q: Aligned,
    g_k: Aligned,
}

impl Chunk {
    fn new(dims: &Dims) -> Self {
        Self {
            keys: Keys::new(dims.n),
            gates: Gates::new(),
            state: Aligned::zeros(dims.head_state()),
            errors: Aligned::zeros(dims.panels() * SQUARE),
            g_q: Aligned::zeros(dims.n * LANES),
            g_k: Aligned::zeros(dims.n * LANES),
        }
    }
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let (dims, heads) = (self.call.dims, self.place.heads.clone());
        let mut chunks: Vec<_> = (0..SPAN.min(dims.chunks())).map(|_| Chunk::new(&dims)).collect();
        let mut work = std::array::from_fn(|_| Aligned::zeros(SQUARE));
        let mut rows = Aligned::zeros(CHUNK * dims.n);
        let mut pull = Pull::new(dims.n);
        let mut gradients = Aligned::zeros(heads.len() * dims.head_state());
        if let Some(last) = self.upstream.state {
            states_in(isa, &dims, self.call.states(last, &self.place), &mut gradients);
        }
        for span in (0..dims.spans()).rev() {
            let count = SPAN.min(dims.chunks() - span * SPAN);
            for (index, chunk) in chunks[..count].iter_mut().enumerate() {
                chunk.keys.read(isa, self.level, &self.call, &self.place, dims.chunk(span * SPAN + index));
                chunk.g_q.fill(0.0);
                chunk.g_k.fill(0.0);
            }
            for (head, g_state) in heads.clone().zip(gradients.chunks_exact_mut(dims.head_state())) {
                let index = span * heads.len() + head - heads.start;
                let kept = &self.boundaries[index * dims.head_state()..][..dims.head_state()];
                self.recompute(isa, head, kept, &mut chunks[..count], &mut work);
                for chunk in chunks[..count].iter_mut().rev() {
                    self.take_back(isa, head, chunk, g_state, &mut pull);
                }
            }
            for chunk in &chunks[..count] {
                self.write_keys(isa, chunk, &mut rows);
            }
        }
        states_out(isa, &dims, &gradients, self.state);
    }
}

impl Task<'_> {
    /// Computes a head's states and errors in a span.
    #[inline(always)]
    fn recompute<I: Isa>(&self, isa: I, head: usize, kept: &[f32], chunks: &mut [Chunk], work: &mut [Aligned; 2]) {
        let dims = self.call.dims;
        let [answers, at_end] = work;
        chunks[0].state.copy_from_slice(kept);
        for index in 0..chunks.len() {
            let (chunks, rest) = chunks.split_at_mut(index + 1);
            let Chunk { keys, gates, state, errors, .. } = &mut chunks[index];
            gates.read(isa, &self.call, (self.place.sequence, head), keys);
            let (call, level, sequence) = (self.call, self.level, self.place.sequence);
            let step = Step { call, level, sequence, head, keys, gates };
            let panels = state.chunks_exact(dims.n * LANES).zip(errors.chunks_exact_mut(SQUARE));
            for (panel, (state, errors)) in panels.enumerate() {
                step.ask(state, answers);
                step.solve(isa, panel, answers, Written { errors, at_end });
                if let Some(next) = rest.first_mut() {
                    let next = &mut next.state[panel * dims.n * LANES..][..dims.n * LANES];
                    next.copy_from_slice(state);
                    step.advance(at_end, next);
                }
            }
        }
    }

    /// Takes the gradient of a head's state back through a chunk.
    #[inline(always)]
    fn take_back<I: Isa>(&mut self, isa: I, head: usize, chunk: &mut Chunk, g_state: &mut [f32], pull: &mut Pull) {
        let Chunk { keys, gates, state, errors, g_q, g_k } = chunk;
        let dims = self.call.dims;
        let (call, level, sequence) = (self.call, self.level, self.place.sequence);
        let step = Step { call, level, sequence, head, keys, gates };
        let first = head - self.place.heads.start;
        let mut sums = pull.start(isa);
        let size = dims.n * LANES;
        let panels = state.chunks_exact(size).zip(errors.chunks_exact(SQUARE)).zip(g_state.chunks_exact_mut(size));
        for (panel, ((state, errors), g_state)) in panels.enumerate() {
            let before = Before { panel, state, errors, upstream: self.upstream.o };
            pull.panel(isa, &step, before, g_state, &mut sums);
            let channels = dims.panel(panel);
            for (t, row) in step.keys.tokens.clone().zip(pull.g_v()) {
                isa.load(row)
                    .store(self.heads.v.row(t, first * dims.p + channels.start..first * dims.p + channels.end));
            }
        }
        let (beta, log_decay) = pull.finish(isa, &step, sums, g_q, g_k);
        for (i, t) in step.keys.tokens.clone().enumerate() {
            self.heads.beta.row(t, first..first + 1)[0] = beta[i];
            self.heads.log_decay.row(t, first..first + 1)[0] = log_decay[i];
        }
    }

    /// Writes a chunk's gradients of queries and keys.
    #[inline(always)]
    fn write_keys<I: Isa>(&mut self, isa: I, chunk: &Chunk, rows: &mut [f32]) {
        let n = self.call.dims.n;
        for (across, to) in [(&chunk.g_q, &mut self.q), (&chunk.g_k, &mut self.k)] {
            turn_out(isa, across, n, rows);
            for (t, row) in chunk.keys.tokens.clone().zip(rows.chunks_exact(n)) {
                to.row(t, 0..n).copy_from_slice(row);
            }
        }
    }
}
