//! Rotation of pairs of channels.

use rayon::prelude::*;

use super::{Pairing, Rotary};
use crate::cpu::simd::{Isa, Kernel, LANES, Level};
use crate::cpu::tasks::for_each;

/// Floats that a task turns, about: 64 KiB.
const PIECE: usize = 1 << 14;

/// Which way to turn.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Forward,
    Back,
}

/// The rows of `x`, `[b, h, l, p]`, turned.
pub(super) fn rotate(x: &[f32], [_, _, l, p]: [usize; 4], rotary: &Rotary, turn: Turn, level: Level) -> Vec<f32> {
    let table = &Table::new(rotary, l, turn);
    let rows = PIECE.div_ceil(p);
    let mut y = vec![0.0; x.len()];
    let pieces = x.par_chunks(rows * p).zip(y.par_chunks_mut(rows * p)).enumerate();
    for_each(pieces, |(i, (x, y))| level.run(Rows { x, y, p, first: i * rows, l, pairing: rotary.pairing, table }));
    y
}

/// Cosines and sines of every position and pair: `[l, k]`.
struct Table {
    k: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Table {
    /// Each position's angle is the one before it turned once more. In `f64` the roundings of a million turns add up to
    /// some 1e-10, far below what the result in `f32` can show.
    fn new(rotary: &Rotary, l: usize, turn: Turn) -> Self {
        let k = rotary.frequencies.len();
        let (mut cos, mut sin) = (Vec::with_capacity(l * k), Vec::with_capacity(l * k));
        let sign = if turn == Turn::Back { -1.0 } else { 1.0 };
        let steps: Vec<(f64, f64)> = rotary.frequencies.iter().map(|w| w.sin_cos()).collect();
        let mut angles: Vec<_> = rotary.frequencies.iter().map(|w| (rotary.offset as f64 * w).sin_cos()).collect();
        for _ in 0..l {
            for ((s, c), (step_s, step_c)) in angles.iter_mut().zip(&steps) {
                cos.push(*c as f32);
                sin.push(sign * *s as f32);
                (*s, *c) = (*s * step_c + *c * step_s, *c * step_c - *s * step_s);
            }
        }
        Self { k, cos, sin }
    }
}

struct Rows<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    p: usize,
    /// Where the rows stand among all rows.
    first: usize,
    l: usize,
    pairing: Pairing,
    table: &'a Table,
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Table { k, cos, sin } = self.table;
        let rows = self.x.chunks_exact(self.p).zip(self.y.chunks_exact_mut(self.p));
        for (i, (x, y)) in rows.enumerate() {
            let position = (self.first + i) % self.l;
            let (cos, sin) = (&cos[position * k..][..*k], &sin[position * k..][..*k]);
            let (x, rest) = x.split_at(2 * k);
            let (y, rest_y) = y.split_at_mut(2 * k);
            match self.pairing {
                Pairing::Halves => halves(isa, x, y, cos, sin),
                Pairing::Neighbours => neighbours(x, y, cos, sin),
            }
            rest_y.copy_from_slice(rest);
        }
    }
}

#[inline(always)]
fn halves<I: Isa>(isa: I, x: &[f32], y: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (low, high) = x.split_at(cos.len());
    let (y_low, y_high) = y.split_at_mut(cos.len());
    let turns = cos.chunks(LANES).zip(sin.chunks(LANES));
    let pairs = low.chunks(LANES).zip(high.chunks(LANES)).zip(y_low.chunks_mut(LANES).zip(y_high.chunks_mut(LANES)));
    for ((cos, sin), ((low, high), (y_low, y_high))) in turns.zip(pairs) {
        let (cos, sin, low, high) = (isa.load(cos), isa.load(sin), isa.load(low), isa.load(high));
        low.mul_add(cos, -(high * sin)).store(y_low);
        high.mul_add(cos, low * sin).store(y_high);
    }
}

#[inline(always)]
fn neighbours(x: &[f32], y: &mut [f32], cos: &[f32], sin: &[f32]) {
    let turns = cos.iter().zip(sin);
    for ((x, y), (cos, sin)) in x.as_chunks::<2>().0.iter().zip(y.as_chunks_mut::<2>().0).zip(turns) {
        *y = [x[0] * cos - x[1] * sin, x[1] * cos + x[0] * sin];
    }
}
