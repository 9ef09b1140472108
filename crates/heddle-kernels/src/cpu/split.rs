//! Disjoint parts of one array, so that tasks may write them at the same time.

use std::marker::PhantomData;
use std::ops::Range;

/// Some columns of a row-major matrix.
#[derive(Debug)]
pub(crate) struct Columns<'a> {
    first: *mut f32,
    rows: usize,
    stride: usize,
    width: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: a window owns its columns as a `&mut [f32]` owns its elements, and no two windows share one (`columns`).
unsafe impl Send for Columns<'_> {}

impl Columns<'_> {
    /// One row of the window, at columns `range` of the window.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize, range: Range<usize>) -> &mut [f32] {
        assert!(row < self.rows && range.start <= range.end && range.end <= self.width);
        // SAFETY: by the assertion the slice lies in this window's part of row `row` of the matrix, which `columns` found to
        // be in bounds. It is borrowed from `self`, which alone owns that part.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.stride + range.start), range.len()) }
    }
}

/// Splits a row-major matrix of rows of `stride` floats into windows of `width` columns, the last one narrower if it must.
pub(crate) fn columns(matrix: &mut [f32], stride: usize, width: usize) -> Vec<Columns<'_>> {
    assert!(stride > 0 && width > 0 && matrix.len().is_multiple_of(stride), "the matrix has no whole number of rows");
    let rows = matrix.len() / stride;
    let base = matrix.as_mut_ptr();
    (0..stride)
        .step_by(width)
        .map(|start| Columns {
            // Wrapping, because a matrix without rows has no column to point at; its windows have no row to read either.
            first: base.wrapping_add(start),
            rows,
            stride,
            width: width.min(stride - start),
            matrix: PhantomData,
        })
        .collect()
}

/// Splits an array into consecutive parts of the given lengths.
pub(crate) fn parts<T>(mut array: &mut [T], lengths: impl IntoIterator<Item = usize>) -> Vec<&mut [T]> {
    let mut result = Vec::new();
    for length in lengths {
        let (part, rest) = std::mem::take(&mut array).split_at_mut(length);
        result.push(part);
        array = rest;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_cover_every_element_once() {
        for (rows, stride, width) in [(3, 7, 2), (1, 16, 16), (4, 5, 9), (0, 3, 2)] {
            let mut matrix = vec![0.0; rows * stride];
            for (i, mut window) in columns(&mut matrix, stride, width).into_iter().enumerate() {
                let wide = width.min(stride - i * width);
                for row in 0..rows {
                    for x in window.row(row, 0..wide) {
                        *x += 1.0;
                    }
                }
            }
            assert!(matrix.iter().all(|&x| x == 1.0), "{rows} {stride} {width}: {matrix:?}");
        }
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn a_row_beyond_the_window_is_refused() {
        let mut matrix = [0.0; 6];
        columns(&mut matrix, 3, 2)[1].row(0, 0..2);
    }

    #[test]
    fn parts_follow_each_other() {
        let mut array = [0, 1, 2, 3, 4, 5];
        let split = parts(&mut array, [1, 0, 3]);
        assert_eq!(split, [&mut [0][..], &mut [], &mut [1, 2, 3]]);
    }
}
