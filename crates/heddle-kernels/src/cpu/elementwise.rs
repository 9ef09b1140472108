//! Functions of one element at a time.

use rayon::prelude::*;

use super::simd::{Isa, Kernel, LANES, Lanes, Level};
use super::tasks::for_each;

/// Elements that a task computes: 64 KiB of each array.
const PIECE: usize = 1 << 14;

/// A function of one element of each of `N` arrays of one length.
pub(crate) trait Elementwise<const N: usize>: Copy + Send + Sync {
    /// What it computes.
    fn value<I: Isa>(self, x: [Lanes<I>; N]) -> Lanes<I>;

    /// The gradients of the arguments, given that of the value.
    fn gradient<I: Isa>(self, x: [Lanes<I>; N], g: Lanes<I>) -> [Lanes<I>; N];
}

/// The function at every element.
pub(crate) fn values<F: Elementwise<N>, const N: usize>(function: F, x: [&[f32]; N], level: Level) -> Vec<f32> {
    let mut y = vec![0.0; x[0].len()];
    let pieces = y.par_chunks_mut(PIECE).enumerate();
    for_each(pieces, |(i, y)| level.run(Values { function, x: x.map(|x| &x[i * PIECE..][..y.len()]), y }));
    y
}

/// The gradients of the arguments at every element.
pub(crate) fn gradients<F: Elementwise<N>, const N: usize>(
    function: F,
    x: [&[f32]; N],
    g: &[f32],
    level: Level,
) -> [Vec<f32>; N] {
    let mut results = x.map(|x| vec![0.0; x.len()]);
    let mut columns = results.each_mut().map(|result| result.chunks_mut(PIECE));
    let mut tasks = Vec::with_capacity(g.len().div_ceil(PIECE));
    for (i, g) in g.chunks(PIECE).enumerate() {
        let x = x.map(|x| &x[i * PIECE..][..g.len()]);
        let g_x = columns.each_mut().map(|column| column.next().expect("all arrays have one length"));
        tasks.push(Gradients { function, x, g, g_x });
    }
    tasks.into_par_iter().for_each(|task| level.run(task));
    results
}

/// A vector of each array. (A loop, because the closure of a `map` would not be inlined.)
#[inline(always)]
fn load_each<I: Isa, const N: usize>(isa: I, x: &[&[f32]; N], start: usize, width: usize) -> [Lanes<I>; N] {
    let mut vectors = [isa.zero(); N];
    for j in 0..N {
        vectors[j] = isa.load(&x[j][start..][..width]);
    }
    vectors
}

struct Values<'a, F, const N: usize> {
    function: F,
    x: [&'a [f32]; N],
    y: &'a mut [f32],
}

impl<F: Elementwise<N>, const N: usize> Kernel for Values<'_, F, N> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (i, y) in self.y.chunks_mut(LANES).enumerate() {
            let x = load_each(isa, &self.x, i * LANES, y.len());
            self.function.value(x).store(y);
        }
    }
}

struct Gradients<'a, F, const N: usize> {
    function: F,
    x: [&'a [f32]; N],
    g: &'a [f32],
    g_x: [&'a mut [f32]; N],
}

impl<F: Elementwise<N>, const N: usize> Kernel for Gradients<'_, F, N> {
    type Output = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        for (i, g) in self.g.chunks(LANES).enumerate() {
            let x = load_each(isa, &self.x, i * LANES, g.len());
            let g_x = self.function.gradient(x, isa.load(g));
            for (lanes, out) in g_x.into_iter().zip(&mut self.g_x) {
                lanes.store(&mut out[i * LANES..][..g.len()]);
            }
        }
    }
}
