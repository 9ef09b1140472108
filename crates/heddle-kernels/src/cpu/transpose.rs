//! Transposes, sixteen by sixteen.

use super::simd::{Isa, LANES, Lanes};

/// A row-major matrix that is read, and the length of its rows.
pub(crate) type From<'a> = (&'a [f32], usize);

/// A row-major matrix that is written, and the length of its rows.
pub(crate) type To<'a> = (&'a mut [f32], usize);

/// `to[j, i] = from[i, j]` for so many rows `i` and columns `j`; whatever else there is stays.
///
/// # Panics
/// If a matrix has fewer rows or columns.
#[inline(always)]
pub(crate) fn transpose<I: Isa>(isa: I, from: From<'_>, to: To<'_>, [rows, columns]: [usize; 2]) {
    let ((from, from_width), (to, to_width)) = (from, to);
    assert!(columns <= from_width && rows <= to_width, "a row is shorter than the block");
    for row in (0..rows).step_by(LANES) {
        for column in (0..columns).step_by(LANES) {
            let (height, width) = (LANES.min(rows - row), LANES.min(columns - column));
            let mut block = [isa.zero(); LANES];
            for (i, vector) in block.iter_mut().enumerate().take(height) {
                *vector = isa.load(&from[(row + i) * from_width + column..][..width]);
            }
            let block = Lanes::transpose(block);
            for (j, vector) in block.iter().enumerate().take(width) {
                vector.store(&mut to[(column + j) * to_width + row..][..height]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::{Kernel, Level};

    struct Transpose(usize, usize);

    impl Kernel for Transpose {
        type Output = Vec<f32>;

        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> Vec<f32> {
            let (from_width, to_width) = (self.1 + 3, self.0 + 2);
            let from: Vec<f32> = (0..self.0 * from_width).map(|i| i as f32).collect();
            let mut to = vec![-1.0; self.1 * to_width];
            transpose(isa, (&from, from_width), (&mut to, to_width), [self.0, self.1]);
            to
        }
    }

    #[test]
    fn blocks_of_any_size_are_transposed_and_nothing_else_is_touched() {
        for level in Level::supported() {
            for (rows, columns) in [(1, 1), (16, 16), (5, 17), (33, 16), (40, 50)] {
                for (i, &x) in level.run(Transpose(rows, columns)).iter().enumerate() {
                    let (column, row) = (i / (rows + 2), i % (rows + 2));
                    let truth = if row < rows { (row * (columns + 3) + column) as f32 } else { -1.0 };
                    assert_eq!(x, truth, "{level:?} {rows} {columns}: {row}, {column}");
                }
            }
        }
    }
}
