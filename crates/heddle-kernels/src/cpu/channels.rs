//! What recurrences over independent channels share: how they are cut into tasks and chunks, and how states lie in vectors.
//!
//! A vector holds one state of sixteen neighbouring channels, so a step has no sums across lanes. A task owns some blocks of
//! sixteen channels of one sequence.

use std::ops::Range;

use super::simd::{Isa, LANES, Lanes};
use super::split::{Columns, columns, parts};

/// Tokens between two states that the forward pass keeps. The backward pass holds a chunk's states in the cache.
pub(crate) const CHUNK: usize = 32;

/// Tasks that a recurrence is cut into if its shape allows: enough to keep many threads busy, and always as many, because
/// the cut decides the order in which gradients are summed.
const TASKS: usize = 32;

/// The same where a channel has one state: memory sets the speed, and it is fastest read in whole rows.
const TASKS_OF_ONE_STATE: usize = 8;

/// Below this many state updates, starting threads takes longer than the recurrence.
const WORTH_THREADS: usize = 1 << 15;

/// The sizes of a recurrence: e channels of n states each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dims {
    pub(crate) b: usize,
    pub(crate) l: usize,
    pub(crate) e: usize,
    pub(crate) n: usize,
}

impl Dims {
    /// Blocks of sixteen channels.
    pub(crate) fn blocks(&self) -> usize {
        self.e.div_ceil(LANES)
    }

    /// Chunks of tokens.
    pub(crate) fn chunks(&self) -> usize {
        self.l.div_ceil(CHUNK)
    }

    /// Blocks that a task owns.
    fn blocks_a_task(&self) -> usize {
        let tasks = if self.n == 1 { TASKS_OF_ONE_STATE } else { TASKS };
        self.blocks().div_ceil(tasks.div_ceil(self.b).min(self.blocks()))
    }

    /// Channels that a task owns; the last of a sequence may own fewer.
    pub(crate) fn channels_a_task(&self) -> usize {
        self.blocks_a_task() * LANES
    }

    /// The channels of each task of one sequence.
    pub(crate) fn tasks(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (e, width) = (self.e, self.channels_a_task());
        (0..e).step_by(width).map(move |start| start..e.min(start + width))
    }

    /// The tokens of a chunk.
    pub(crate) fn chunk(&self, index: usize) -> Range<usize> {
        index * CHUNK..self.l.min((index + 1) * CHUNK)
    }

    /// Floats of a chunk-boundary state, over all blocks of `channels`.
    pub(crate) fn boundary(&self, channels: &Range<usize>) -> usize {
        channels.len().div_ceil(LANES) * self.n * LANES
    }

    /// Whether threads pay.
    pub(crate) fn parallel(&self) -> bool {
        self.b * self.l * self.e * self.n >= WORTH_THREADS
    }
}

/// The channels of one sequence that a task owns.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) sequence: usize,
    pub(crate) channels: Range<usize>,
}

impl Place {
    /// Every task's, sequence after sequence.
    pub(crate) fn all(dims: Dims) -> impl Iterator<Item = Self> {
        (0..dims.b).flat_map(move |sequence| dims.tasks().map(move |channels| Self { sequence, channels }))
    }

    /// Blocks of sixteen channels.
    pub(crate) fn blocks(&self) -> usize {
        self.channels.len().div_ceil(LANES)
    }

    /// A block's channels, within the task and within the row.
    #[inline(always)]
    pub(crate) fn window(&self, block: usize) -> (Range<usize>, Range<usize>) {
        let window = block * LANES..self.channels.len().min((block + 1) * LANES);
        let channels = self.channels.start + window.start..self.channels.start + window.end;
        (window, channels)
    }

    /// Where its part of `[e, n]` is.
    pub(crate) fn of_channels(&self, dims: &Dims) -> Range<usize> {
        self.channels.start * dims.n..self.channels.end * dims.n
    }

    /// Where its part of `[b, e, n]` is.
    pub(crate) fn of_states(&self, dims: &Dims) -> Range<usize> {
        let first = self.sequence * dims.e;
        (first + self.channels.start) * dims.n..(first + self.channels.end) * dims.n
    }

    /// Where its part of row `t` of `[b, l, e]` is.
    #[inline(always)]
    pub(crate) fn of_token(&self, dims: &Dims, t: usize) -> Range<usize> {
        let row = (self.sequence * dims.l + t) * dims.e;
        row + self.channels.start..row + self.channels.end
    }
}

/// Each task's part of `[b, l, e]`.
pub(crate) fn token_parts(array: &mut [f32], dims: Dims) -> std::vec::IntoIter<Columns<'_>> {
    let sequences = array.chunks_exact_mut(dims.l * dims.e);
    let parts = sequences.flat_map(|sequence| columns(sequence, dims.e, dims.channels_a_task()));
    parts.collect::<Vec<_>>().into_iter()
}

/// Each task's part of `[b, e, n]`.
pub(crate) fn state_parts(array: &mut [f32], dims: Dims) -> std::vec::IntoIter<&mut [f32]> {
    parts(array, Place::all(dims).map(|place| place.of_states(&dims).len())).into_iter()
}

/// Sixteen channels' rows of `n` as `n` vectors; lanes without a channel are 0.
#[inline(always)]
pub(crate) fn transpose_in<I: Isa>(isa: I, rows: &[f32], n: usize, to: &mut [Lanes<I>]) {
    for (s, vector) in to.iter_mut().enumerate() {
        let mut lanes = [0.0; LANES];
        for (lane, row) in lanes.iter_mut().zip(rows.chunks_exact(n)) {
            *lane = row[s];
        }
        *vector = isa.load(&lanes);
    }
}

/// The reverse of [`transpose_in`].
#[inline(always)]
pub(crate) fn transpose_out<I: Isa>(from: &[Lanes<I>], n: usize, rows: &mut [f32]) {
    for (s, vector) in from.iter().enumerate() {
        let lanes = vector.to_array();
        for (lane, row) in lanes.iter().zip(rows.chunks_exact_mut(n)) {
            row[s] = *lane;
        }
    }
}
