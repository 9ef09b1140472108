//! The forward pass, token by token.
//!
//! A chunk of products takes more arithmetic than its tokens one after another. The backward pass is chunked
//! nevertheless, because it would have to sum across lanes at every token; forwards nothing has to. A vector holds one of a
//! state's `n` columns for sixteen of its rows. One pass over a panel's state adds what the token before has written, and
//! asks for the next token's key and query.

use super::layout::{CHUNK, Delta, Dims, Place, SPAN, states_in, states_out};
use crate::cpu::aligned::Aligned;
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::split::{Columns, columns, parts};
use crate::cpu::tasks::run_all;

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
    let tasks = tasks.map(|((place, o), (state, boundaries))| Task { call, place, o, state, boundaries });
    run_all(tasks.collect(), dims.parallel(), |task| level.run(task));
    Applied { o, state, boundaries }
}

/// The rule for some heads.
struct Task<'a> {
    call: Delta<'a>,
    place: Place,
    o: Columns<'a>,
    state: &'a mut [f32],
    boundaries: &'a mut [f32],
}

/// What a span's tokens are to a head.
struct Tokens {
    first: usize,
    count: usize,
    /// Keys and queries: `[token, n]`.
    k: Aligned,
    q: Aligned,
    /// What a token's query finds of its own key.
    own: [f32; SPAN * CHUNK],
    decay: [f32; SPAN * CHUNK],
    beta: [f32; SPAN * CHUNK],
}

/// What a token has yet to do to some panels.
struct Pending<I: Isa, const P: usize> {
    decay: f32,
    write: [Lanes<I>; P],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let dims = self.call.dims;
        let mut tokens = Tokens {
            first: 0,
            count: 0,
            k: Aligned::zeros(SPAN * CHUNK * dims.n),
            q: Aligned::zeros(SPAN * CHUNK * dims.n),
            own: [0.0; SPAN * CHUNK],
            decay: [1.0; SPAN * CHUNK],
            beta: [0.0; SPAN * CHUNK],
        };
        let mut states = Aligned::zeros(self.place.heads.len() * dims.head_state());
        states_in(isa, &dims, self.call.states(self.call.state, &self.place), &mut states);
        for span in 0..dims.spans() {
            tokens.read_keys(isa, &self.call, &self.place, span);
            if !self.boundaries.is_empty() {
                self.boundaries[span * states.len()..][..states.len()].copy_from_slice(&states);
            }
            for (head, state) in self.place.heads.clone().zip(states.chunks_exact_mut(dims.head_state())) {
                tokens.read_scalars(&self.call, &self.place, head);
                let mut panels = state.chunks_exact_mut(2 * dims.n * LANES);
                for (pair, state) in panels.by_ref().enumerate() {
                    self.walk::<I, 2>(isa, &tokens, (head, 2 * pair), state);
                }
                let rest = panels.into_remainder();
                if !rest.is_empty() {
                    self.walk::<I, 1>(isa, &tokens, (head, dims.panels() - 1), rest);
                }
            }
        }
        states_out(isa, &dims, &states, self.state);
    }
}

impl Tokens {
    #[inline(always)]
    fn read_keys<I: Isa>(&mut self, isa: I, call: &Delta<'_>, place: &Place, span: usize) {
        let Dims { l, n, .. } = call.dims;
        self.first = span * SPAN * CHUNK;
        self.count = (SPAN * CHUNK).min(l - self.first);
        let rows = self.k.chunks_exact_mut(n).zip(self.q.chunks_exact_mut(n)).zip(&mut self.own);
        for (i, ((k, q), own)) in rows.take(self.count).enumerate() {
            k.copy_from_slice(call.key_row(call.k, place, self.first + i));
            q.copy_from_slice(call.key_row(call.q, place, self.first + i));
            let mut sum = isa.zero();
            for (k, q) in k.chunks(LANES).zip(q.chunks(LANES)) {
                sum = isa.load(k).mul_add(isa.load(q), sum);
            }
            *own = sum.sum();
        }
    }

    #[inline(always)]
    fn read_scalars(&mut self, call: &Delta<'_>, place: &Place, head: usize) {
        for i in 0..self.count {
            let at = (place.sequence, self.first + i);
            self.beta[i] = call.scalar(call.beta, at, head);
            if let Some(log) = call.log_decay {
                self.decay[i] = call.scalar(log, at, head).exp();
            }
        }
    }
}

impl Task<'_> {
    /// Takes `P` panels of a head, from a given one on, through a span.
    #[inline(always)]
    fn walk<I: Isa, const P: usize>(
        &mut self,
        isa: I,
        tokens: &Tokens,
        (head, panel): (usize, usize),
        state: &mut [f32],
    ) {
        let dims = self.call.dims;
        let n = dims.n;
        let first = (head - self.place.heads.start) * dims.p;
        let mut pending = Pending { decay: 1.0, write: [isa.zero(); P] };
        let mut written = 0..n;
        for i in 0..tokens.count {
            let row = i * n..(i + 1) * n;
            let keys = [&tokens.k[written], &tokens.k[row.clone()], &tokens.q[row.clone()]];
            let (to_key, to_query) = pass(isa, &pending, keys, state);
            let t = tokens.first + i;
            for j in 0..P {
                let v = self.call.values(isa, self.call.v, (self.place.sequence, t), head, panel + j);
                let write = to_key[j].mul_add(isa.splat(-tokens.decay[i]), v) * tokens.beta[i];
                let channels = dims.panel(panel + j);
                let to = self.o.row(t, first + channels.start..first + channels.end);
                write.mul_add(isa.splat(tokens.own[i]), to_query[j] * tokens.decay[i]).store(to);
                pending.write[j] = write;
            }
            pending.decay = tokens.decay[i];
            written = row;
        }
        let none = &tokens.k[..n];
        pass(isa, &pending, [&tokens.k[written], none, none], state);
    }
}

/// Does to a state what is pending, under the first key, and asks for the second and for the query behind it.
#[inline(always)]
fn pass<I: Isa, const P: usize>(
    isa: I,
    pending: &Pending<I, P>,
    [written, key, query]: [&[f32]; 3],
    state: &mut [f32],
) -> ([Lanes<I>; P], [Lanes<I>; P]) {
    let n = written.len();
    let decay = isa.splat(pending.decay);
    let (mut to_key, mut to_query) = ([isa.zero(); P], [isa.zero(); P]);
    for (channel, ((w, k), q)) in written.iter().zip(key).zip(query).enumerate() {
        let (w, k, q) = (isa.splat(*w), isa.splat(*k), isa.splat(*q));
        // All loads before all stores: panels may lie whole pages apart, which makes a load wait for a store.
        let mut before = [isa.zero(); P];
        for panel in 0..P {
            before[panel] = isa.load(&state[(panel * n + channel) * LANES..][..LANES]) * decay;
        }
        for panel in 0..P {
            let moved = pending.write[panel].mul_add(w, before[panel]);
            moved.store(&mut state[(panel * n + channel) * LANES..][..LANES]);
            to_key[panel] = moved.mul_add(k, to_key[panel]);
            to_query[panel] = moved.mul_add(q, to_query[panel]);
        }
    }
    (to_key, to_query)
}
