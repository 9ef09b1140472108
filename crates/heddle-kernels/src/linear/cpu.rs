//! Products of few rows and a matrix.
//!
//! A task computes some columns of all rows. It reads its part of the matrix in the order in which it lies: either eight
//! rows side by side, added up where the results stay in the nearest cache, or four rows at a time, each of which gives one
//! result. Every result is summed in an order that depends on the sizes alone.

use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::tasks::run_all;

/// Columns that a task computes at most: they and as much of eight rows stay in the nearest cache but one.
const MOST_COLUMNS: usize = 4096;

/// Columns that a task computes at least, if there are as many.
const FEWEST_COLUMNS: usize = 128;

/// Tasks that the columns are cut into, as long as the tasks keep that size.
const TASKS: usize = 4;

/// From as many weights on, a second thread saves more than it takes to wake it.
const WORTH_THREADS: usize = 1 << 16;

/// How the matrix lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `[k, n]`: what one number of a row is multiplied by.
    ByInput,
    /// `[n, k]`: what makes one result.
    ByOutput,
}

/// The sizes of a product: rows of `k` numbers become rows of `n`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dims {
    pub(super) rows: usize,
    pub(super) k: usize,
    pub(super) n: usize,
    pub(super) layout: Layout,
}

/// `y = x W + b`, `[rows, n]`.
pub(super) fn forward(dims: Dims, [x, weight]: [&[f32]; 2], bias: Option<&[f32]>, level: Level) -> Vec<f32> {
    let Dims { rows, k, n, .. } = dims;
    let width = n.div_ceil(TASKS).next_multiple_of(LANES).clamp(FEWEST_COLUMNS, MOST_COLUMNS);
    // Task after task, and row after row in each.
    let mut parts = vec![0.0; rows * n];
    let tasks = parts.chunks_mut(rows * width).enumerate();
    let tasks = tasks.map(|(i, y)| Task { dims, x, weight, bias, first: i * width, columns: y.len() / rows, y });
    run_all(tasks.collect(), k * n >= WORTH_THREADS, |task| level.run(task));
    if rows == 1 {
        return parts;
    }
    let mut y = vec![0.0; rows * n];
    for (part, start) in parts.chunks(rows * width).zip((0..n).step_by(width)) {
        let columns = part.len() / rows;
        for (row, part) in part.chunks_exact(columns).enumerate() {
            y[row * n + start..][..columns].copy_from_slice(part);
        }
    }
    y
}

/// Some columns of all rows.
struct Task<'a> {
    dims: Dims,
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    first: usize,
    columns: usize,
    y: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        match self.dims.layout {
            Layout::ByInput => self.add_rows(isa),
            Layout::ByOutput => self.multiply_rows(isa),
        }
    }
}

/// Rows of the matrix that are read side by side.
const SIDE_BY_SIDE: usize = 8;

impl Task<'_> {
    #[inline(always)]
    fn add_rows<I: Isa>(&mut self, isa: I) {
        let Dims { k, n, .. } = self.dims;
        if let Some(bias) = self.bias {
            for y in self.y.chunks_exact_mut(self.columns) {
                y.copy_from_slice(&bias[self.first..][..self.columns]);
            }
        }
        let whole = k / SIDE_BY_SIDE * SIDE_BY_SIDE;
        for i in (0..whole).step_by(SIDE_BY_SIDE) {
            let weights = &self.weight[i * n + self.first..];
            for (x, y) in self.x.chunks_exact(k).zip(self.y.chunks_exact_mut(self.columns)) {
                let mut factors = [isa.zero(); SIDE_BY_SIDE];
                for j in 0..SIDE_BY_SIDE {
                    factors[j] = isa.splat(x[i + j]);
                }
                for (start, y) in (0..self.columns).step_by(LANES).zip(y.chunks_mut(LANES)) {
                    let mut sum = isa.load(y);
                    for j in 0..SIDE_BY_SIDE {
                        sum = factors[j].mul_add(isa.load(&weights[j * n + start..][..y.len()]), sum);
                    }
                    sum.store(y);
                }
            }
        }
        for i in whole..k {
            let weights = &self.weight[i * n + self.first..][..self.columns];
            for (x, y) in self.x.chunks_exact(k).zip(self.y.chunks_exact_mut(self.columns)) {
                let factor = isa.splat(x[i]);
                for (weights, y) in weights.chunks(LANES).zip(y.chunks_mut(LANES)) {
                    factor.mul_add(isa.load(weights), isa.load(y)).store(y);
                }
            }
        }
    }

    #[inline(always)]
    fn multiply_rows<I: Isa>(&mut self, isa: I) {
        let Dims { k, .. } = self.dims;
        let weights = &self.weight[self.first * k..][..self.columns * k];
        for (x, y) in self.x.chunks_exact(k).zip(self.y.chunks_exact_mut(self.columns)) {
            let (mut fours, mut results) = (weights.chunks_exact(4 * k), y.chunks_exact_mut(4));
            for (weights, y) in fours.by_ref().zip(results.by_ref()) {
                let mut sums = [isa.zero(); 4];
                for (start, x) in (0..k).step_by(LANES).zip(x.chunks(LANES)) {
                    let factor = isa.load(x);
                    for j in 0..4 {
                        sums[j] = factor.mul_add(isa.load(&weights[j * k + start..][..x.len()]), sums[j]);
                    }
                }
                for j in 0..4 {
                    y[j] = sums[j].sum();
                }
            }
            for (weights, y) in fours.remainder().chunks_exact(k).zip(results.into_remainder()) {
                let mut sum = isa.zero();
                for (weights, x) in weights.chunks(LANES).zip(x.chunks(LANES)) {
                    sum = isa.load(x).mul_add(isa.load(weights), sum);
                }
                *y = sum.sum();
            }
        }
    }
}
