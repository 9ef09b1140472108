//! Products of small matrices, the inner loop of attention and of everything that runs in chunks.
//!
//! A vector holds one row of the right factor and of the result, sixteen columns wide. A strip of as many rows of the
//! result as fit the registers is summed there, one element of the left factor after another spread over a vector. The
//! left factor is read where it lies, whether row by row or column by column, so keys and values need no packing.

use super::simd::{Isa, LANES, Lanes};

/// The left factor: element `(row, k)` lies at `row · across + k · along`.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) across: usize,
    pub(crate) along: usize,
}

/// The right factor: row `k` is the vector at `k · stride`.
#[derive(Clone, Copy)]
pub(crate) struct Right<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) stride: usize,
}

/// Two factors of which the left is `[rows, inner]` and the right `[inner, 16]`.
#[derive(Clone, Copy)]
pub(crate) struct Factors<'a> {
    pub(crate) left: Left<'a>,
    pub(crate) right: Right<'a>,
    pub(crate) rows: usize,
    pub(crate) inner: usize,
}

/// Rows of a strip: accumulators that leave registers for the factors.
const fn most_rows<I: Isa>() -> usize {
    match I::REGISTERS {
        32.. => 12,
        8.. => 6,
        _ => 2,
    }
}

/// `out[row] = start(out[row]) + Σ_k left[row, k] · right[k]`, where row `row` of the result is the vector at `row · stride`.
///
/// Each element is summed in the order of `k`, however many rows there are.
///
/// # Panics
/// If there is nothing to sum, or a factor or the result does not lie within its slice.
#[inline(always)]
pub(crate) fn product<I: Isa>(
    isa: I,
    factors: Factors<'_>,
    out: &mut [f32],
    stride: usize,
    start: impl Fn(Lanes<I>) -> Lanes<I> + Copy,
) {
    assert!(factors.inner > 0, "a product needs something to sum");
    // Strips as equal as can be: a last strip of one row would leave most of the arithmetic units idle.
    let strips = factors.rows.div_ceil(most_rows::<I>());
    let (rows, longer) = (factors.rows / strips, factors.rows % strips);
    let mut row = 0;
    for strip in 0..strips {
        let rows = rows + usize::from(strip < longer);
        macro_rules! strips_of {
            ($($rows:literal)*) => {
                match rows {
                    $($rows if $rows <= most_rows::<I>() => sum_strip::<I, $rows>(isa, factors, row, &mut out[row * stride..], stride, start),)*
                    _ => unreachable!("a strip has at most as many rows as fit the registers"),
                }
            };
        }
        strips_of!(1 2 3 4 5 6 7 8 9 10 11 12);
        row += rows;
    }
}

#[inline(always)]
fn sum_strip<I: Isa, const R: usize>(
    isa: I,
    factors: Factors<'_>,
    row: usize,
    out: &mut [f32],
    stride: usize,
    start: impl Fn(Lanes<I>) -> Lanes<I>,
) {
    let Factors { left, right, inner, .. } = factors;
    let data = &left.data[row * left.across..];
    let last = inner - 1;
    assert!((R - 1) * left.across + last * left.along < data.len(), "the left factor is too small");
    assert!(last * right.stride + LANES <= right.data.len(), "the right factor is too small");
    let mut sums = [isa.zero(); R];
    for (r, sum) in sums.iter_mut().enumerate() {
        *sum = start(isa.load(&out[r * stride..][..LANES]));
    }
    for k in 0..inner {
        // The crate's own tests check every bound.
        let row = k * right.stride..k * right.stride + LANES;
        // SAFETY: `k <= last`, for which the assertion above found the sixteen floats in bounds.
        let row = if cfg!(test) { &right.data[row] } else { unsafe { right.data.get_unchecked(row) } };
        let b = isa.load(row);
        for (r, sum) in sums.iter_mut().enumerate() {
            let place = r * left.across + k * left.along;
            // SAFETY: `r <= R − 1` and `k <= last`, for which the assertion above found the element in bounds.
            let a = if cfg!(test) { data[place] } else { unsafe { *data.get_unchecked(place) } };
            *sum = isa.splat(a).mul_add(b, *sum);
        }
    }
    for (r, sum) in sums.iter().enumerate() {
        sum.store(&mut out[r * stride..][..LANES]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Kernel, Level};

    struct Multiply {
        rows: usize,
        inner: usize,
        by_rows: bool,
    }

    impl Kernel for Multiply {
        type Output = (Vec<f32>, Vec<f32>);

        /// The product, plus twice what stood in its place, and the same in plain loops. Small integers, so both are exact.
        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> (Vec<f32>, Vec<f32>) {
            const STRIDE: usize = LANES + 3;
            let Self { rows, inner, by_rows } = self;
            let numbers =
                |count: usize, seed: usize| -> Vec<f32> { (0..count).map(|i| ((i * seed) % 7) as f32 - 3.0).collect() };
            let (left, right) = (numbers(rows * inner, 5), numbers(inner * STRIDE, 3));
            let (across, along) = if by_rows { (inner, 1) } else { (1, rows) };
            let mut out = numbers(rows * STRIDE, 2);
            let mut truth = out.clone();
            for row in 0..rows {
                for lane in 0..LANES {
                    let terms = (0..inner).map(|k| left[row * across + k * along] * right[k * STRIDE + lane]);
                    truth[row * STRIDE + lane] = 2.0 * truth[row * STRIDE + lane] + terms.sum::<f32>();
                }
            }
            let (left, right) = (Left { data: &left, across, along }, Right { data: &right, stride: STRIDE });
            product(isa, Factors { left, right, rows, inner }, &mut out, STRIDE, |old| old * 2.0);
            (out, truth)
        }
    }

    #[test]
    fn products_of_any_number_of_rows_are_exact_and_touch_nothing_else() {
        for level in Level::supported() {
            for rows in 1..30 {
                for inner in [1, 2, 5] {
                    for by_rows in [false, true] {
                        let (out, truth) = level.run(Multiply { rows, inner, by_rows });
                        assert_eq!(out, truth, "{level:?} {rows} {inner} {by_rows}");
                    }
                }
            }
        }
    }
}
