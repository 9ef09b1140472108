//! Recurrent layers whose state is multiplied by a matrix from token to token: the loop over time that LSTM and GRU share.
//!
//! A task owns some sequences and walks over their tokens, so threads never wait for each other within the loop. A token
//! costs one product of the task's states and the weight, sixteen channels of every gate at a time; the cell's formulas
//! then turn these into sixteen channels of the next state while they are in the nearest cache.

mod backward;
mod forward;
mod panels;
mod weight;

use std::ops::Range;

pub(super) use backward::{Upstream, backward};
pub(super) use forward::{Outcome, forward};

use crate::cpu::simd::{Isa, LANES, Lanes};

/// Tasks that a batch is cut into if that leaves each enough sequences.
const TASKS: usize = 8;

/// Sequences of a task, at least and at most, if the batch has as many. Each weight that is loaded is used for all of them;
/// with fewer than four, the arithmetic units wait for the last addition.
const SEQUENCES: (usize, usize) = (4, 8);

/// Below this many multiplications, starting threads takes longer than the work.
const WORTH_THREADS: usize = 1 << 18;

/// The formulas of a cell with `G` gates, whose state is `h` and `M` more numbers a channel, and which keeps `K` numbers a
/// channel and token for the backward pass.
pub(super) trait Cell<const G: usize, const K: usize, const M: usize>: Copy + Send + Sync {
    /// Whether the gradients of some gate's input and product differ.
    const APART: bool;

    /// What the products with the weight are added to, given the inputs of the gates.
    fn start<I: Isa>(self, inputs: [Lanes<I>; G], channels: &Range<usize>) -> [Lanes<I>; G];

    /// The next state from the inputs, the sums that began with [`start`](Self::start), and the state before.
    fn step<I: Isa>(
        self,
        inputs: [Lanes<I>; G],
        sums: [Lanes<I>; G],
        h: Lanes<I>,
        memory: [Lanes<I>; M],
    ) -> Step<I, K, M>;

    /// The gradients of what made a state, from those of the state, given what was kept and `h` before it.
    fn step_back<I: Isa>(
        self,
        kept: [Lanes<I>; K],
        h: Lanes<I>,
        g_h: Lanes<I>,
        g_memory: [Lanes<I>; M],
    ) -> StepBack<I, G, M>;
}

/// Sixteen channels of a new state.
pub(super) struct Step<I: Isa, const K: usize, const M: usize> {
    pub(super) h: Lanes<I>,
    pub(super) memory: [Lanes<I>; M],
    pub(super) kept: [Lanes<I>; K],
}

/// Sixteen channels of gradients.
pub(super) struct StepBack<I: Isa, const G: usize, const M: usize> {
    /// Of the inputs of the gates.
    pub(super) inputs: [Lanes<I>; G],
    /// Of the products with the weight.
    pub(super) sums: [Lanes<I>; G],
    /// Of `h` before, but for what flows through the products.
    pub(super) h: Lanes<I>,
    /// Of the rest of the state before.
    pub(super) memory: [Lanes<I>; M],
}

/// The sizes of a recurrence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    pub(super) b: usize,
    pub(super) l: usize,
    pub(super) d: usize,
}

impl Dims {
    /// The sequences of each task, as equal in number as can be.
    fn tasks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let b = self.b;
        let most = b.div_ceil(TASKS).clamp(SEQUENCES.0, SEQUENCES.1);
        let tasks = b.div_ceil(most);
        (0..tasks).map(move |task| task * b / tasks..(task + 1) * b / tasks)
    }

    /// Whether threads pay for a cell of so many gates.
    fn parallel(&self, gates: usize) -> bool {
        self.b * self.l * self.d * self.d * gates >= WORTH_THREADS
    }
}

/// The inputs of a recurrence.
#[derive(Clone, Copy)]
pub(super) struct Sequences<'a, const M: usize> {
    pub(super) dims: Dims,
    /// `[b, l, G·d]`
    pub(super) gates: &'a [f32],
    /// `[d, G·d]`
    pub(super) weight: &'a [f32],
    /// `[b, d]`
    pub(super) h: &'a [f32],
    /// Each `[b, d]`.
    pub(super) memory: [&'a [f32]; M],
}

/// The blocks of sixteen channels.
fn blocks(d: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..d.div_ceil(LANES)).map(move |block| block * LANES..d.min((block + 1) * LANES))
}

/// Sixteen channels of `N` neighbouring vectors of `d` channels.
#[inline(always)]
fn load_each<I: Isa, const N: usize>(isa: I, from: &[f32], d: usize, channels: &Range<usize>) -> [Lanes<I>; N] {
    let mut vectors = [isa.zero(); N];
    for (vector, from) in vectors.iter_mut().zip(from.chunks_exact(d)) {
        *vector = isa.load(&from[channels.clone()]);
    }
    vectors
}

/// The reverse of [`load_each`].
#[inline(always)]
fn store_each<I: Isa, const N: usize>(vectors: [Lanes<I>; N], to: &mut [f32], d: usize, channels: &Range<usize>) {
    for (vector, to) in vectors.iter().zip(to.chunks_exact_mut(d)) {
        vector.store(&mut to[channels.clone()]);
    }
}
