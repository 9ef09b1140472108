//! The backward recurrence.
//!
//! Chunks are taken from the last to the first, and within a chunk a few states at a time. Their values at every token are
//! computed again from those kept before the chunk; then their gradient, `g_t = 2 c̄ ∂y_t + λ̄ g_{t+1}`, runs back. A complex
//! number's gradient is the pair of those of its parts.

use super::cpu::{Recurrence, Rows, States, step};
use crate::cpu::channels::{CHUNK, Dims, Place, state_parts, token_parts};
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::split::{Columns, parts};
use crate::cpu::tasks::{run_all, sum_terms};

/// States that the backward pass takes at a time: each needs ten registers.
const fn few<I: Isa>() -> usize {
    if I::REGISTERS >= 32 { 2 } else { 1 }
}

/// The gradients of the outputs, where there are any.
#[derive(Clone, Copy)]
pub(super) struct Upstream<'a> {
    pub(super) y: Option<&'a [f32]>,
    pub(super) state: [Option<&'a [f32]>; 2],
}

/// The gradients of the inputs.
pub(super) struct Gradients {
    pub(super) decay: [Vec<f32>; 2],
    pub(super) u: Vec<f32>,
    pub(super) read: [Vec<f32>; 2],
    pub(super) skip: Vec<f32>,
    pub(super) state: [Vec<f32>; 2],
}

/// The gradients of a recurrence whose forward pass kept `boundaries`.
pub(super) fn backward(call: Recurrence<'_>, boundaries: &[f32], upstream: Upstream<'_>, level: Level) -> Gradients {
    let dims @ Dims { b, l, e, n } = call.dims;
    let mut u = vec![0.0; b * l * e];
    let mut skip = vec![0.0; b * e];
    // Of decay, read and state, the real and then the imaginary parts.
    let mut pairs: [Vec<f32>; 6] = std::array::from_fn(|_| vec![0.0; b * e * n]);

    let mut us = token_parts(&mut u, dims);
    let mut skips = parts(&mut skip, Place::all(dims).map(|place| place.channels.len())).into_iter();
    let mut of_pairs = pairs.each_mut().map(|part| state_parts(part, dims));
    let mut start = 0;
    let mut tasks = vec![];
    for place in Place::all(dims) {
        let kept = 2 * dims.chunks() * dims.boundary(&place.channels);
        let task = (|| {
            let mut pair = |i: usize| Some([of_pairs[i].next()?, of_pairs[i + 1].next()?]);
            Some(Task {
                call,
                upstream,
                place,
                boundaries: &boundaries[start..start + kept],
                u: us.next()?,
                skip: skips.next()?,
                decay: pair(0)?,
                read: pair(2)?,
                state: pair(4)?,
            })
        })();
        tasks.push(task.expect("every task has its part of every array"));
        start += kept;
    }
    run_all(tasks, dims.parallel(), |task| level.run(task));
    let [decay, decay_im, read, read_im, state, state_im] = pairs;
    Gradients {
        decay: [decay, decay_im].map(|part| sum_terms(&part, b, e * n)),
        u,
        read: [read, read_im].map(|part| sum_terms(&part, b, e * n)),
        skip: sum_terms(&skip, b, e),
        state: [state, state_im],
    }
}

/// The gradients of some channels of one sequence.
struct Task<'a> {
    call: Recurrence<'a>,
    upstream: Upstream<'a>,
    place: Place,
    boundaries: &'a [f32],
    u: Columns<'a>,
    skip: &'a mut [f32],
    decay: [&'a mut [f32]; 2],
    read: [&'a mut [f32]; 2],
    state: [&'a mut [f32]; 2],
}

/// What a task computes with.
struct Workspace<I: Isa> {
    decay: States<I>,
    /// Twice the read weights, the imaginary part negated.
    read: States<I>,
    /// The running gradients of the state, and the sums of those of `λ` and, but for a factor, of `c`.
    g: States<I>,
    g_decay: States<I>,
    g_read: States<I>,
    /// Some states before each token of a chunk: `[token, part, few]`.
    before: Vec<Lanes<I>>,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let dims = self.call.dims;
        let n = dims.n;
        let mut work = self.workspace(isa);
        let blocks = self.place.blocks();
        let mut rows = [(); 3].map(|()| Rows::zeros(isa, blocks));
        for chunk in (0..dims.chunks()).rev() {
            let tokens = dims.chunk(chunk);
            let [u, g_y, g_u] = &mut rows;
            u.load(isa, self.call.u, (&self.place, &dims), &tokens);
            if let Some(upstream) = self.upstream.y {
                g_y.load(isa, upstream, (&self.place, &dims), &tokens);
            }
            for block in 0..blocks {
                let (window, channels) = self.place.window(block);
                let length = ..tokens.len();
                let (u, g_y) = (&u.block(block)[length], &g_y.block(block)[length]);
                let g_u = &mut g_u.block_mut(block)[length];
                let skip = isa.load(&self.call.skip[channels]);
                let mut g_skip = isa.load(&self.skip[window.clone()]);
                for ((u, g_y), g_u) in u.iter().zip(g_y).zip(g_u.iter_mut()) {
                    *g_u = skip * *g_y;
                    g_skip = g_y.mul_add(*u, g_skip);
                }
                g_skip.store(&mut self.skip[window]);
                let kept = &self.boundaries[(chunk * blocks + block) * 2 * n * LANES..][..2 * n * LANES];
                for state in (0..n).step_by(few::<I>()) {
                    let first = block * work.g.padded + state;
                    if few::<I>() == 2 {
                        walk_back::<I, 2>(load_kept(isa, kept, n, state), first, &mut work, u, g_y, g_u);
                    } else {
                        walk_back::<I, 1>(load_kept(isa, kept, n, state), first, &mut work, u, g_y, g_u);
                    }
                }
            }
            g_u.store(&mut self.u, &self.place, &tokens);
        }
        work.g.store(n, &mut self.state);
        work.g_decay.store(n, &mut self.decay);
        work.g_read.scale([2.0, -2.0]);
        work.g_read.store(n, &mut self.read);
    }
}

impl Task<'_> {
    #[inline(always)]
    fn workspace<I: Isa>(&self, isa: I) -> Workspace<I> {
        let Recurrence { dims, decay, read, .. } = self.call;
        let (n, padded, blocks) = (dims.n, dims.n.next_multiple_of(few::<I>()), self.place.blocks());
        let (of_channels, of_states) = (self.place.of_channels(&dims), self.place.of_states(&dims));
        let mut read = States::load(isa, read.map(|part| &part[of_channels.clone()]), n, padded);
        read.scale([2.0, -2.0]);
        let mut g = States::zeros(isa, blocks, padded);
        for (part, last) in self.upstream.state.into_iter().enumerate() {
            if let Some(last) = last {
                let last = &last[of_states.clone()];
                // Both parts are loaded alike; this one is taken.
                g.parts[part] = std::mem::take(&mut States::load(isa, [last; 2], n, padded).parts[part]);
            }
        }
        Workspace {
            decay: States::load(isa, decay.map(|part| &part[of_channels.clone()]), n, padded),
            read,
            g,
            g_decay: States::zeros(isa, blocks, padded),
            g_read: States::zeros(isa, blocks, padded),
            before: vec![isa.zero(); CHUNK * 2 * few::<I>()],
        }
    }
}

/// Some of the states `[part, n, lane]` that were kept, with zeros behind the last.
#[inline(always)]
fn load_kept<I: Isa, const COUNT: usize>(isa: I, kept: &[f32], n: usize, first: usize) -> [[Lanes<I>; COUNT]; 2] {
    let mut states = [[isa.zero(); COUNT]; 2];
    for (part, kept) in states.iter_mut().zip(kept.chunks_exact(n * LANES)) {
        for (state, kept) in part.iter_mut().zip(kept[first * LANES..].chunks_exact(LANES)) {
            *state = isa.load(kept);
        }
    }
    states
}

/// Takes some states over a chunk, from `h` before it, and their gradients back, which add up to `g_u`.
#[inline(always)]
fn walk_back<I: Isa, const COUNT: usize>(
    [mut re, mut im]: [[Lanes<I>; COUNT]; 2],
    first: usize,
    work: &mut Workspace<I>,
    u: &[Lanes<I>],
    g_y: &[Lanes<I>],
    g_u: &mut [Lanes<I>],
) {
    let decay = work.decay.few::<COUNT>(first);
    let [mut g_read, mut g_read_im] = work.g_read.few::<COUNT>(first);
    for ((before, u), g_y) in work.before.chunks_exact_mut(2 * COUNT).zip(u).zip(g_y) {
        before[..COUNT].copy_from_slice(&re);
        before[COUNT..].copy_from_slice(&im);
        for i in 0..COUNT {
            [re[i], im[i]] = step([decay[0][i], decay[1][i]], [re[i], im[i]], *u);
            g_read[i] = g_y.mul_add(re[i], g_read[i]);
            g_read_im[i] = g_y.mul_add(im[i], g_read_im[i]);
        }
    }
    work.g_read.put(first, [g_read, g_read_im]);

    let read = work.read.few::<COUNT>(first);
    let [mut g, mut g_im] = work.g.few::<COUNT>(first);
    let [mut g_decay, mut g_decay_im] = work.g_decay.few::<COUNT>(first);
    let before = work.before[..2 * COUNT * u.len()].chunks_exact(2 * COUNT);
    for ((before, g_y), g_u) in before.zip(g_y).zip(g_u).rev() {
        let (re, im) = before.split_at(COUNT);
        let mut sum = *g_u;
        for i in 0..COUNT {
            let g_re = read[0][i].mul_add(*g_y, g[i]);
            let g_imaginary = read[1][i].mul_add(*g_y, g_im[i]);
            sum += g_re;
            g_decay[i] = g_re.mul_add(re[i], g_imaginary.mul_add(im[i], g_decay[i]));
            g_decay_im[i] = g_imaginary.mul_add(re[i], (-g_re).mul_add(im[i], g_decay_im[i]));
            g[i] = decay[0][i].mul_add(g_re, decay[1][i] * g_imaginary);
            g_im[i] = decay[0][i].mul_add(g_imaginary, -(decay[1][i] * g_re));
        }
        *g_u = sum;
    }
    work.g.put(first, [g, g_im]);
    work.g_decay.put(first, [g_decay, g_decay_im]);
}
