//! The forward recurrence.
//!
//! Tasks and chunks are those of `cpu/channels.rs`. Within a chunk a block's states are taken a few at a time, as many as
//! the registers hold with their coefficients, and each few walks over all tokens of the chunk; the outputs, which sum over
//! them, stay in the nearest cache.

use std::ops::Range;

use crate::cpu::channels::{CHUNK, Dims, Place, state_parts, token_parts, transpose_in, transpose_out};
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::split::{Columns, parts};
use crate::cpu::tasks::run_all;

/// States that the forward pass takes at a time: each needs six registers.
const fn few<I: Isa>() -> usize {
    if I::REGISTERS >= 32 { 4 } else { 1 }
}

/// The inputs of a recurrence.
#[derive(Clone, Copy)]
pub(super) struct Recurrence<'a> {
    pub(super) dims: Dims,
    pub(super) decay: [&'a [f32]; 2],
    pub(super) u: &'a [f32],
    pub(super) read: [&'a [f32]; 2],
    pub(super) skip: &'a [f32],
    pub(super) state: [&'a [f32]; 2],
}

/// The results of a recurrence.
pub(super) struct Outcome {
    pub(super) y: Vec<f32>,
    pub(super) state: [Vec<f32>; 2],
    /// The state before each chunk, if it was asked for: task after task, `[chunk, block, part, n, lane]` in each.
    pub(super) boundaries: Vec<f32>,
}

/// Numbers of a task's states: `[block, padded n]` of each part, with zeros behind the n states.
pub(super) struct States<I: Isa> {
    pub(super) parts: [Vec<Lanes<I>>; 2],
    pub(super) padded: usize,
}

impl<I: Isa> States<I> {
    #[inline(always)]
    pub(super) fn zeros(isa: I, blocks: usize, padded: usize) -> Self {
        Self { parts: [vec![isa.zero(); blocks * padded], vec![isa.zero(); blocks * padded]], padded }
    }

    /// From rows of `n` a channel.
    #[inline(always)]
    pub(super) fn load(isa: I, from: [&[f32]; 2], n: usize, padded: usize) -> Self {
        let blocks = (from[0].len() / n).div_ceil(LANES);
        let mut states = Self::zeros(isa, blocks, padded);
        for (part, from) in states.parts.iter_mut().zip(from) {
            for (block, rows) in part.chunks_exact_mut(padded).zip(from.chunks(LANES * n)) {
                transpose_in(isa, rows, n, &mut block[..n]);
            }
        }
        states
    }

    /// To rows of `n` a channel.
    #[inline(always)]
    pub(super) fn store(&self, n: usize, to: &mut [&mut [f32]; 2]) {
        for (part, to) in self.parts.iter().zip(to) {
            for (block, rows) in part.chunks_exact(self.padded).zip(to.chunks_mut(LANES * n)) {
                transpose_out(&block[..n], n, rows);
            }
        }
    }

    /// Multiplies each part by a number.
    #[inline(always)]
    pub(super) fn scale(&mut self, factors: [f32; 2]) {
        for (part, factor) in self.parts.iter_mut().zip(factors) {
            for x in part {
                *x = *x * factor;
            }
        }
    }

    /// `COUNT` neighbours.
    #[inline(always)]
    pub(super) fn few<const COUNT: usize>(&self, first: usize) -> [[Lanes<I>; COUNT]; 2] {
        let [re, im] = &self.parts;
        let mut few = [[re[first]; COUNT], [im[first]; COUNT]];
        few[0].copy_from_slice(&re[first..first + COUNT]);
        few[1].copy_from_slice(&im[first..first + COUNT]);
        few
    }

    /// Puts neighbours back.
    #[inline(always)]
    pub(super) fn put<const COUNT: usize>(&mut self, first: usize, few: [[Lanes<I>; COUNT]; 2]) {
        for (part, few) in self.parts.iter_mut().zip(&few) {
            part[first..first + COUNT].copy_from_slice(few);
        }
    }
}

/// A chunk of a task's sequence: `[block, token]`. Memory is read and written row by row, which it likes best.
pub(super) struct Rows<I: Isa>(Vec<Lanes<I>>);

impl<I: Isa> Rows<I> {
    #[inline(always)]
    pub(super) fn zeros(isa: I, blocks: usize) -> Self {
        Self(vec![isa.zero(); blocks * CHUNK])
    }

    #[inline(always)]
    pub(super) fn load(&mut self, isa: I, from: &[f32], (place, dims): (&Place, &Dims), tokens: &Range<usize>) {
        for (i, t) in tokens.clone().enumerate() {
            for (block, from) in from[place.of_token(dims, t)].chunks(LANES).enumerate() {
                self.0[block * CHUNK + i] = isa.load(from);
            }
        }
    }

    #[inline(always)]
    pub(super) fn store(&self, to: &mut Columns<'_>, place: &Place, tokens: &Range<usize>) {
        for (i, t) in tokens.clone().enumerate() {
            for (block, to) in to.row(t, 0..place.channels.len()).chunks_mut(LANES).enumerate() {
                self.0[block * CHUNK + i].store(to);
            }
        }
    }

    #[inline(always)]
    pub(super) fn block(&self, block: usize) -> &[Lanes<I>] {
        &self.0[block * CHUNK..][..CHUNK]
    }

    #[inline(always)]
    pub(super) fn block_mut(&mut self, block: usize) -> &mut [Lanes<I>] {
        &mut self.0[block * CHUNK..][..CHUNK]
    }
}

/// `λ h + u`
#[inline(always)]
pub(super) fn step<I: Isa>(decay: [Lanes<I>; 2], h: [Lanes<I>; 2], u: Lanes<I>) -> [Lanes<I>; 2] {
    let re = decay[0].mul_add(h[0], (-decay[1]).mul_add(h[1], u));
    let im = decay[0].mul_add(h[1], decay[1] * h[0]);
    [re, im]
}

/// Runs the recurrence; keeps the chunk-boundary states if `keep`.
pub(super) fn forward(call: Recurrence<'_>, keep: bool, level: Level) -> Outcome {
    let dims @ Dims { b, l, e, n } = call.dims;
    let mut y = vec![0.0; b * l * e];
    let mut state = [vec![0.0; b * e * n], vec![0.0; b * e * n]];
    let chunks_kept = if keep { dims.chunks() } else { 0 };
    let mut boundaries = vec![0.0; b * chunks_kept * dims.blocks() * 2 * n * LANES];

    let kept = parts(&mut boundaries, Place::all(dims).map(|p| chunks_kept * 2 * dims.boundary(&p.channels)));
    let [re, im] = state.each_mut().map(|part| state_parts(part, dims));
    let states = re.zip(im).map(|(re, im)| [re, im]);
    let tasks = Place::all(dims)
        .zip(token_parts(&mut y, dims))
        .zip(states.zip(kept))
        .map(|((place, y), (state, boundaries))| Task { call, place, y, state, boundaries });
    run_all(tasks.collect(), dims.parallel(), |task| level.run(task));
    Outcome { y, state, boundaries }
}

/// The recurrence of some channels of one sequence.
struct Task<'a> {
    call: Recurrence<'a>,
    place: Place,
    y: Columns<'a>,
    state: [&'a mut [f32]; 2],
    boundaries: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let Recurrence { dims, decay, read, state, .. } = self.call;
        let (n, padded) = (dims.n, dims.n.next_multiple_of(few::<I>()));
        let (of_channels, of_states) = (self.place.of_channels(&dims), self.place.of_states(&dims));
        let decay = States::load(isa, decay.map(|part| &part[of_channels.clone()]), n, padded);
        let mut read = States::load(isa, read.map(|part| &part[of_channels.clone()]), n, padded);
        // y takes the real part of a product, twice.
        read.scale([2.0, -2.0]);
        let mut h = States::load(isa, state.map(|part| &part[of_states.clone()]), n, padded);
        let mut kept = self.boundaries.chunks_exact_mut(n * LANES);
        let (mut u, mut y) = (Rows::zeros(isa, self.place.blocks()), Rows::zeros(isa, self.place.blocks()));
        for chunk in 0..dims.chunks() {
            let tokens = dims.chunk(chunk);
            u.load(isa, self.call.u, (&self.place, &dims), &tokens);
            for block in 0..self.place.blocks() {
                for (part, kept) in h.parts.iter().zip(kept.by_ref()) {
                    for (h, kept) in part[block * padded..][..n].iter().zip(kept.chunks_exact_mut(LANES)) {
                        h.store(kept);
                    }
                }
                let skip = isa.load(&self.call.skip[self.place.window(block).1]);
                let (u, y) = (&u.block(block)[..tokens.len()], &mut y.block_mut(block)[..tokens.len()]);
                for (y, u) in y.iter_mut().zip(u) {
                    *y = skip * *u;
                }
                for first in (block * padded..(block + 1) * padded).step_by(few::<I>()) {
                    if few::<I>() == 4 {
                        walk::<I, 4>(first, [&decay, &read], &mut h, u, y);
                    } else {
                        walk::<I, 1>(first, [&decay, &read], &mut h, u, y);
                    }
                }
            }
            y.store(&mut self.y, &self.place, &tokens);
        }
        h.store(n, &mut self.state);
    }
}

/// Takes some states over a chunk and adds what they say to its outputs.
#[inline(always)]
fn walk<I: Isa, const COUNT: usize>(
    first: usize,
    [decay, read]: [&States<I>; 2],
    h: &mut States<I>,
    u: &[Lanes<I>],
    y: &mut [Lanes<I>],
) {
    let (decay, read) = (decay.few::<COUNT>(first), read.few::<COUNT>(first));
    let [mut re, mut im] = h.few::<COUNT>(first);
    for (u, y) in u.iter().zip(y) {
        let mut sum = *y;
        for i in 0..COUNT {
            [re[i], im[i]] = step([decay[0][i], decay[1][i]], [re[i], im[i]], *u);
            sum = read[0][i].mul_add(re[i], read[1][i].mul_add(im[i], sum));
        }
        *y = sum;
    }
    h.put(first, [re, im]);
}
