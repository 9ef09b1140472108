//! The forward pass: chunk after chunk of some heads, each chunk as small products.

use super::chunk::{Gates, Keys};
use super::layout::{Delta, Dims, Place, SPAN, SQUARE, run_all, states_in, states_out};
use super::panel::{Step, Written};
use crate::cpu::aligned::Aligned;
use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::split::{Columns, columns, parts};

/// The results of a delta rule.
pub(super) struct Applied {
    pub(super) o: Vec<f32>,
    pub(super) state: Vec<f32>,
    /// The state before each span of chunks, if it was asked for: task after task, `[span, head]` in each.
    pub(super) boundaries: Vec<f32>,
}

/// Applies the rule; keeps states for the backward pass if `keep`.
pub(super) fn forward(call: Delta<'_>, keep: bool, level: Level) -> Applied {
    let dims @ Dims { b, l, h, p, n, .. } = call.dims;
    let heads = dims.heads_a_task();
    let kept = if keep { dims.spans() * heads * dims.head_state() } else { 0 };
    let mut o = vec![0.0; b * l * h * p];
    let mut state = vec![0.0; b * h * p * n];
    let mut boundaries = vec![0.0; b * h / heads * kept];

    let outputs = o.chunks_exact_mut(l * h * p).flat_map(|o| columns(o, h * p, heads * p));
    let states = state.chunks_exact_mut(heads * p * n);
    let kept = parts(&mut boundaries, dims.tasks().map(|_| kept));
    let tasks = dims.tasks().zip(outputs).zip(states.zip(kept));
    let tasks = tasks.map(|((place, o), (state, boundaries))| Task { call, level, place, o, state, boundaries });
    run_all(tasks.collect(), dims.parallel(), |task| level.run(task));
    Applied { o, state, boundaries }
}

/// The rule for some heads.
struct Task<'a> {
    call: Delta<'a>,
    level: Level,
    place: Place,
    o: Columns<'a>,
    state: &'a mut [f32],
    boundaries: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let (call, level) = (self.call, self.level);
        let dims = call.dims;
        let (mut keys, mut gates) = (Keys::new(dims.n), Gates::new());
        let mut work = std::array::from_fn(|_| Aligned::zeros(2 * SQUARE));
        let mut states = Aligned::zeros(self.place.heads.len() * dims.head_state());
        states_in(isa, &dims, call.states(call.state, &self.place), &mut states);
        for chunk in 0..dims.chunks() {
            keys.read(isa, level, &call, &self.place, dims.chunk(chunk));
            if chunk % SPAN == 0 && !self.boundaries.is_empty() {
                self.boundaries[chunk / SPAN * states.len()..][..states.len()].copy_from_slice(&states);
            }
            let heads = self.place.heads.clone();
            for (head, state) in heads.zip(states.chunks_exact_mut(dims.head_state())) {
                gates.read(isa, &call, (self.place.sequence, head), &keys);
                let step = Step { call, level, sequence: self.place.sequence, head, keys: &keys, gates: &gates };
                for (panel, state) in state.chunks_exact_mut(dims.n * LANES).enumerate() {
                    self.take(isa, &step, panel, state, &mut work);
                }
            }
        }
        states_out(isa, &dims, &states, self.state);
    }
}

impl Task<'_> {
    /// Takes a panel of a head through a chunk.
    #[inline(always)]
    fn take<I: Isa>(&mut self, isa: I, step: &Step<'_>, panel: usize, state: &mut [f32], work: &mut [Aligned; 4]) {
        let [answers, errors, now, at_end] = work;
        step.ask(state, true, answers);
        step.solve(isa, panel, answers, Written { errors, now, at_end });
        let outputs = &mut answers[step.keys.count() * LANES..];
        step.answer(isa, now, outputs);
        step.advance(at_end, state);
        let dims = self.call.dims;
        let first = (step.head - self.place.heads.start) * dims.p;
        let channels = dims.panel(panel);
        for (t, row) in step.keys.tokens.clone().zip(outputs.chunks_exact(LANES)) {
            isa.load(row).store(self.o.row(t, first + channels.start..first + channels.end));
        }
    }
}
