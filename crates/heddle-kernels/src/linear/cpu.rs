//! Products of few rows and a matrix.
//!
//! A task computes some columns of all rows. It reads its part of the matrix in the order in which it lies: either four long
//! rows side by side, added up where the results stay in the nearest cache, or one row after the other, each of which gives
//! one result. Every result is summed in an order that depends on the sizes alone.

use crate::cpu::simd::{Isa, Kernel, LANES, Lanes, Level};
use crate::cpu::tasks::run_all;

/// Columns that a task computes at most: they and as much of four rows stay in the nearest cache but one.
const MOST_COLUMNS: usize = 1 << 14;

/// Columns that a task computes at least, if there are as many.
const FEWEST_COLUMNS: usize = 128;

/// Tasks that the columns are cut into, as long as the tasks keep that size.
const TASKS: usize = 4;

/// From as many weights on, a second thread saves more than it takes to wake it.
const WORTH_THREADS: usize = 1 << 17;

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
const SIDE_BY_SIDE: usize = 4;

/// Four rows of `width`.
#[inline(always)]
fn split(four: &[f32], width: usize) -> [&[f32]; SIDE_BY_SIDE] {
    let (first, second) = four.split_at(2 * width);
    let ((a, b), (c, d)) = (first.split_at(width), second.split_at(width));
    [a, b, c, d]
}

impl Task<'_> {
    #[inline(always)]
    fn add_rows<I: Isa>(&mut self, isa: I) {
        let Dims { k, n, .. } = self.dims;
        let columns = self.first..self.first + self.columns;
        if let Some(bias) = self.bias {
            for y in self.y.chunks_exact_mut(self.columns) {
                y.copy_from_slice(&bias[columns.clone()]);
            }
        }
        let weights = self.weight.chunks_exact(SIDE_BY_SIDE * n);
        let rest = weights.remainder();
        for (i, four) in weights.enumerate() {
            let four = split(four, n);
            for (x, y) in self.x.chunks_exact(k).zip(self.y.chunks_exact_mut(self.columns)) {
                let x = &x[i * SIDE_BY_SIDE..][..SIDE_BY_SIDE];
                let four = [
                    &four[0][columns.clone()],
                    &four[1][columns.clone()],
                    &four[2][columns.clone()],
                    &four[3][columns.clone()],
                ];
                add_four(isa, [x[0], x[1], x[2], x[3]], four, y);
            }
        }
        for (i, weights) in (k / SIDE_BY_SIDE * SIDE_BY_SIDE..).zip(rest.chunks_exact(n)) {
            for (x, y) in self.x.chunks_exact(k).zip(self.y.chunks_exact_mut(self.columns)) {
                let factor = isa.splat(x[i]);
                for (weights, y) in weights[columns.clone()].chunks(LANES).zip(y.chunks_mut(LANES)) {
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
            // Sixteen results at a time, so that what a vector holds of each is added up for all of them at once.
            for (rows, y) in weights.chunks(LANES * k).zip(y.chunks_mut(LANES)) {
                let mut sums = [isa.zero(); LANES];
                for (row, sum) in rows.chunks_exact(k).zip(&mut sums) {
                    *sum = multiply(isa, x, row);
                }
                let mut total = isa.zero();
                for part in Lanes::transpose(sums) {
                    total += part;
                }
                total.store(y);
            }
        }
    }
}

/// `y += Σ_j factor_j row_j`. The whole vectors go first, in a loop in which nothing is left to check.
#[inline(always)]
fn add_four<I: Isa>(isa: I, factors: [f32; SIDE_BY_SIDE], rows: [&[f32]; SIDE_BY_SIDE], y: &mut [f32]) {
    let [f, g, h, i] = [isa.splat(factors[0]), isa.splat(factors[1]), isa.splat(factors[2]), isa.splat(factors[3])];
    let (y, y_rest) = y.as_chunks_mut::<LANES>();
    let [(a, a_rest), (b, b_rest)] = [rows[0].as_chunks::<LANES>(), rows[1].as_chunks::<LANES>()];
    let [(c, c_rest), (d, d_rest)] = [rows[2].as_chunks::<LANES>(), rows[3].as_chunks::<LANES>()];
    for ((y, (a, b)), (c, d)) in y.iter_mut().zip(a.iter().zip(b)).zip(c.iter().zip(d)) {
        let sum = f.mul_add(isa.load(a), isa.load(y));
        let sum = g.mul_add(isa.load(b), sum);
        let sum = h.mul_add(isa.load(c), sum);
        i.mul_add(isa.load(d), sum).store(y);
    }
    if !y_rest.is_empty() {
        let sum = f.mul_add(isa.load(a_rest), isa.load(y_rest));
        let sum = g.mul_add(isa.load(b_rest), sum);
        let sum = h.mul_add(isa.load(c_rest), sum);
        i.mul_add(isa.load(d_rest), sum).store(y_rest);
    }
}

/// The products of two rows, to be added up.
#[inline(always)]
fn multiply<I: Isa>(isa: I, x: &[f32], row: &[f32]) -> Lanes<I> {
    const FOUR: usize = 4 * LANES;
    let ((x, x_rest), (row, row_rest)) = (x.as_chunks::<FOUR>(), row.as_chunks::<FOUR>());
    // Four sums, so that an addition need not wait for the one before it.
    let (mut p, mut q, mut r, mut s) = (isa.zero(), isa.zero(), isa.zero(), isa.zero());
    for (x, row) in x.iter().zip(row) {
        p = isa.load(&x[..LANES]).mul_add(isa.load(&row[..LANES]), p);
        q = isa.load(&x[LANES..2 * LANES]).mul_add(isa.load(&row[LANES..2 * LANES]), q);
        r = isa.load(&x[2 * LANES..3 * LANES]).mul_add(isa.load(&row[2 * LANES..3 * LANES]), r);
        s = isa.load(&x[3 * LANES..]).mul_add(isa.load(&row[3 * LANES..]), s);
    }
    for (x, row) in x_rest.chunks(LANES).zip(row_rest.chunks(LANES)) {
        p = isa.load(x).mul_add(isa.load(row), p);
    }
    (p + q) + (r + s)
}
