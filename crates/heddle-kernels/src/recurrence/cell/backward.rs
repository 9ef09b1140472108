//! The loop over time, backwards (back-propagation through time).
//!
//! What the forward pass kept gives the gradients of a token's gates; their product with the transposed weight is what flows
//! on to the token before. The gradient of the weight waits until all of them are there (`weight.rs`).

use std::ops::Range;

use super::forward::EVERY;
use super::panels::transposed;
use super::weight::{self, Summed};
use super::{Cell, Dims, Sequences, blocks, load_each, store_each};

use crate::cpu::product::{Factors, Left, Right, product};
use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::split::parts;
use crate::cpu::tasks::run_all;

/// What the forward pass left, and the gradients of the outputs where there are any.
#[derive(Clone, Copy)]
pub(in crate::recurrence) struct Upstream<'a, const M: usize> {
    pub(in crate::recurrence) kept: &'a [f32],
    /// `h` after every token.
    pub(in crate::recurrence) all: &'a [f32],
    pub(in crate::recurrence) g_all: Option<&'a [f32]>,
    pub(in crate::recurrence) g_h: Option<&'a [f32]>,
    pub(in crate::recurrence) g_memory: [Option<&'a [f32]>; M],
}

/// The gradients of the inputs.
pub(in crate::recurrence) struct Gradients<const M: usize> {
    pub(in crate::recurrence) gates: Vec<f32>,
    pub(in crate::recurrence) weight: Vec<f32>,
    /// Of what is added to each product, were it the same for all tokens: `[G·d]`.
    pub(in crate::recurrence) bias: Vec<f32>,
    pub(in crate::recurrence) h: Vec<f32>,
    pub(in crate::recurrence) memory: [Vec<f32>; M],
}

/// The gradients of a recurrence.
pub(in crate::recurrence) fn backward<C, const G: usize, const K: usize, const M: usize>(
    cell: C,
    call: Sequences<'_, M>,
    upstream: Upstream<'_, M>,
    level: Level,
) -> Gradients<M>
where
    C: Cell<G, K, M>,
{
    let dims @ Dims { b, l, d } = call.dims;
    let given = |gradient: Option<&[f32]>| gradient.map_or_else(|| vec![0.0; b * d], <[f32]>::to_vec);
    let mut gates = vec![0.0; b * l * G * d];
    let mut sums = vec![0.0; if C::APART { gates.len() } else { 0 }];
    let mut h = given(upstream.g_h);
    let mut memory = upstream.g_memory.map(given);
    let panels = &transposed(call.weight, d)[..];

    let lengths = |each: usize| dims.tasks().map(move |sequences| sequences.len() * each);
    let mut all_gates = parts(&mut gates, lengths(l * G * d)).into_iter();
    let mut all_sums = parts(&mut sums, lengths(if C::APART { l * G * d } else { 0 })).into_iter();
    let mut hs = parts(&mut h, lengths(d)).into_iter();
    let mut memories = memory.each_mut().map(|memory| parts(memory, lengths(d)).into_iter());
    let mut tasks = vec![];
    for sequences in dims.tasks() {
        let mut next = || Some((all_gates.next()?, all_sums.next()?, hs.next()?));
        let (gates, sums, h) = next().expect(EVERY);
        let memory = memories.each_mut().map(|memory| memory.next().expect(EVERY));
        tasks.push(Task { cell, call, upstream, panels, sequences, gates, sums, h, memory });
    }
    run_all(tasks, dims.parallel(G), |task| level.run(task));
    let of_sums = if C::APART { &sums } else { &gates };
    let Summed { weight, bias } = weight::gradients((dims, G), (upstream.all, call.h), of_sums, level);
    Gradients { gates, weight, bias, h, memory }
}

/// The gradients of some sequences.
struct Task<'a, C, const G: usize, const K: usize, const M: usize> {
    cell: C,
    call: Sequences<'a, M>,
    upstream: Upstream<'a, M>,
    panels: &'a [f32],
    sequences: Range<usize>,
    gates: &'a mut [f32],
    /// Empty where they are the same as those of the gates.
    sums: &'a mut [f32],
    /// The gradients of the state, which begin as those of the last.
    h: &'a mut [f32],
    memory: [&'a mut [f32]; M],
}

/// What a task computes with.
struct Workspace {
    /// The gradients of `h`, padded to whole blocks: `[row, padded d]`.
    g_h: Vec<f32>,
    /// The gradients of the products: `[row, G·d]`.
    g_sums: Vec<f32>,
}

impl<C: Cell<G, K, M>, const G: usize, const K: usize, const M: usize> Kernel for Task<'_, C, G, K, M> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let Dims { l, d, .. } = self.call.dims;
        let (rows, padded) = (self.sequences.len(), d.next_multiple_of(LANES));
        let mut work = Workspace { g_h: vec![0.0; rows * padded], g_sums: vec![0.0; rows * G * d] };
        for (g_h, h) in work.g_h.chunks_exact_mut(padded).zip(self.h.chunks_exact(d)) {
            g_h[..d].copy_from_slice(h);
        }
        for t in (0..l).rev() {
            for row in 0..rows {
                self.formulas(isa, &mut work, t, row);
            }
            for (block, panel) in self.panels.chunks_exact(G * d * LANES).enumerate() {
                let left = Left { data: &work.g_sums, across: G * d, along: 1 };
                let factors = Factors { left, right: Right { data: panel, stride: LANES }, rows, inner: G * d };
                product(isa, factors, &mut work.g_h[block * LANES..], padded, |sum| sum);
            }
        }
        for (g_h, h) in work.g_h.chunks_exact(padded).zip(self.h.chunks_exact_mut(d)) {
            h.copy_from_slice(&g_h[..d]);
        }
    }
}

impl<C: Cell<G, K, M>, const G: usize, const K: usize, const M: usize> Task<'_, C, G, K, M> {
    /// Goes back through the formulas of one sequence's token.
    #[inline(always)]
    fn formulas<I: Isa>(&mut self, isa: I, work: &mut Workspace, t: usize, row: usize) {
        let Dims { l, d, .. } = self.call.dims;
        let padded = d.next_multiple_of(LANES);
        let sequence = self.sequences.start + row;
        let (token, own) = (sequence * l + t, row * l + t);
        let before = match t {
            0 => &self.call.h[sequence * d..][..d],
            _ => &self.upstream.all[(token - 1) * d..][..d],
        };
        let g_sums = &mut work.g_sums[row * G * d..][..G * d];
        // Backwards, as time is: the processor foresees which memory a steady walk will need.
        for channels in blocks(d).rev() {
            let kept = load_each(isa, &self.upstream.kept[token * K * d..][..K * d], d, &channels);
            let carried = &mut work.g_h[row * padded..][channels.clone()];
            let mut g_h = isa.load(carried);
            if let Some(g_all) = self.upstream.g_all {
                g_h += isa.load(&g_all[token * d..][channels.clone()]);
            }
            let mut g_memory = [isa.zero(); M];
            for (g_memory, from) in g_memory.iter_mut().zip(&self.memory) {
                *g_memory = isa.load(&from[row * d..][channels.clone()]);
            }
            let g = self.cell.step_back(kept, isa.load(&before[channels.clone()]), g_h, g_memory);
            g.h.store(carried);
            for (g_memory, to) in g.memory.iter().zip(&mut self.memory) {
                g_memory.store(&mut to[row * d..][channels.clone()]);
            }
            store_each(g.inputs, &mut self.gates[own * G * d..][..G * d], d, &channels);
            store_each(g.sums, g_sums, d, &channels);
        }
        if C::APART {
            self.sums[own * G * d..][..G * d].copy_from_slice(g_sums);
        }
    }
}
