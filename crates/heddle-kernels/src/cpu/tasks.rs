//! Tasks: running them, and adding up what each of them found.

use rayon::prelude::*;

/// Runs tasks, in parallel if that pays.
pub(crate) fn run_all<T: Send>(tasks: Vec<T>, parallel: bool, run: impl Fn(T) + Sync + Send) {
    if parallel {
        // Tasks may differ in length, so each may be taken by another thread.
        tasks.into_par_iter().with_max_len(1).for_each(run);
    } else {
        tasks.into_iter().for_each(run);
    }
}

/// The sum of rows of `width`, in their order.
pub(crate) fn sum_rows(rows: &[f32], width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        total.iter_mut().zip(row).for_each(|(sum, term)| *sum += term);
    }
    total
}

/// The sums over the middle axis of `[outer, terms, inner]`, in order.
pub(crate) fn sum_terms(x: &[f32], terms: usize, inner: usize) -> Vec<f32> {
    x.chunks_exact(terms * inner).flat_map(|rows| sum_rows(rows, inner)).collect()
}
