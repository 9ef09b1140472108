//! The loop over time, forwards.

use std::ops::Range;

use super::panels::Panels;
use super::{Cell, Dims, Sequences, blocks, load_each, store_each};

use crate::cpu::product::{Factors, Left, product};
use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::split::parts;
use crate::cpu::tasks::run_all;

/// The results of a recurrence.
pub(in crate::recurrence) struct Outcome<const M: usize> {
    /// `h` after every token: `[b, l, d]`.
    pub(in crate::recurrence) all: Vec<f32>,
    /// The state after the last: `[b, d]`.
    pub(in crate::recurrence) h: Vec<f32>,
    pub(in crate::recurrence) memory: [Vec<f32>; M],
    /// What the backward pass reads, if it was asked for: `[b, l, K·d]`.
    pub(in crate::recurrence) kept: Vec<f32>,
}

/// Runs the recurrence; keeps what the backward pass reads if `keep`.
pub(in crate::recurrence) fn forward<C, const G: usize, const K: usize, const M: usize>(
    cell: C,
    call: Sequences<'_, M>,
    keep: bool,
    level: Level,
) -> Outcome<M>
where
    C: Cell<G, K, M>,
{
    let dims @ Dims { b, l, d } = call.dims;
    let mut all = vec![0.0; b * l * d];
    let mut kept = vec![0.0; if keep { b * l * K * d } else { 0 }];
    let mut h = call.h.to_vec();
    let mut memory = call.memory.map(<[f32]>::to_vec);
    let panels = &Panels::new(call.weight, d, b * l);

    let lengths = |each: usize| dims.tasks().map(move |sequences| sequences.len() * each);
    let mut alls = parts(&mut all, lengths(l * d)).into_iter();
    let mut kepts = parts(&mut kept, lengths(if keep { l * K * d } else { 0 })).into_iter();
    let mut hs = parts(&mut h, lengths(d)).into_iter();
    let mut memories = memory.each_mut().map(|memory| parts(memory, lengths(d)).into_iter());
    let mut tasks = vec![];
    for sequences in dims.tasks() {
        let mut next = || Some((alls.next()?, kepts.next()?, hs.next()?));
        let (all, kept, h) = next().expect(EVERY);
        let memory = memories.each_mut().map(|memory| memory.next().expect(EVERY));
        tasks.push(Task { cell, call, panels, sequences, all, kept, h, memory });
    }
    run_all(tasks, dims.parallel(G), |task| level.run(task));
    Outcome { all, h, memory, kept }
}

/// Why a task finds its part of an array.
pub(super) const EVERY: &str = "every task has its part of every array";

/// The recurrence of some sequences.
struct Task<'a, C, const G: usize, const K: usize, const M: usize> {
    cell: C,
    call: Sequences<'a, M>,
    panels: &'a Panels<'a>,
    sequences: Range<usize>,
    all: &'a mut [f32],
    kept: &'a mut [f32],
    /// The state, which begins as that before the first token.
    h: &'a mut [f32],
    memory: [&'a mut [f32]; M],
}

impl<C: Cell<G, K, M>, const G: usize, const K: usize, const M: usize> Kernel for Task<'_, C, G, K, M> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let Dims { l, d, .. } = self.call.dims;
        let rows = self.sequences.len();
        // What the gates' products add up to, for a block of channels: `[row, gate, 16]`.
        let mut sums = vec![0.0; rows * G * LANES];
        let mut next = vec![0.0; rows * d];
        for t in 0..l {
            for (block, channels) in blocks(d).enumerate() {
                for (row, sums) in sums.chunks_exact_mut(G * LANES).enumerate() {
                    let start = self.cell.start(self.inputs(isa, t, row, &channels), &channels);
                    store_each(start, sums, LANES, &(0..LANES));
                }
                for gate in 0..G {
                    let left = Left { data: self.h, across: d, along: 1 };
                    let factors = Factors { left, right: self.panels.right(block, gate), rows, inner: d };
                    product(isa, factors, &mut sums[gate * LANES..], G * LANES, |sum| sum);
                }
                for (row, sums) in sums.chunks_exact(G * LANES).enumerate() {
                    let sums = load_each(isa, sums, LANES, &(0..LANES));
                    self.step(isa, (t, row), &channels, sums).store(&mut next[row * d..][channels.clone()]);
                }
            }
            self.h.copy_from_slice(&next);
        }
    }
}

impl<C: Cell<G, K, M>, const G: usize, const K: usize, const M: usize> Task<'_, C, G, K, M> {
    /// Sixteen channels of each gate's input.
    #[inline(always)]
    fn inputs<I: Isa>(&self, isa: I, t: usize, row: usize, channels: &Range<usize>) -> [Lanes<I>; G] {
        let Dims { l, d, .. } = self.call.dims;
        let token = (self.sequences.start + row) * l + t;
        load_each(isa, &self.call.gates[token * G * d..][..G * d], d, channels)
    }
    /// Takes sixteen channels of one sequence a step further; returns the new `h`, which others still need as it was.
    #[inline(always)]
    fn step<I: Isa>(
        &mut self,
        isa: I,
        (t, row): (usize, usize),
        channels: &Range<usize>,
        sums: [Lanes<I>; G],
    ) -> Lanes<I> {
        let Dims { l, d, .. } = self.call.dims;
        let inputs = self.inputs(isa, t, row, channels);
        let mut memory = [isa.zero(); M];
        for (memory, from) in memory.iter_mut().zip(&self.memory) {
            *memory = isa.load(&from[row * d..][channels.clone()]);
        }
        let step = self.cell.step(inputs, sums, isa.load(&self.h[row * d..][channels.clone()]), memory);
        step.h.store(&mut self.all[(row * l + t) * d..][channels.clone()]);
        for (memory, to) in step.memory.iter().zip(&mut self.memory) {
            memory.store(&mut to[row * d..][channels.clone()]);
        }
        if !self.kept.is_empty() {
            store_each(step.kept, &mut self.kept[(row * l + t) * K * d..][..K * d], d, channels);
        }
        step.h
    }
}
