//! Tasks: running them, and adding up what each of them found.

use rayon::iter::plumbing::{Producer, ProducerCallback};
use rayon::prelude::*;

/// Runs `work` on one of the threads that kernels run on.
///
/// A kernel that is called there shares its tasks with the other threads and computes some itself; called elsewhere, it hands
/// them all over and sleeps until they are done. Between two small operations that takes longer than they do, so what is
/// made of many of them, as a step of decoding, is better done in here.
///
/// ```
/// assert_eq!(heddle_kernels::on_workers(|| 1 + 1), 2);
/// ```
pub fn on_workers<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| work())
}

/// Runs over all items in parallel, and on this thread where there is only one: to hand it to another and to wait for that
/// takes longer than most of what decoding a token does at a time.
pub(crate) fn for_each<P: IndexedParallelIterator>(items: P, run: impl Fn(P::Item) + Sync + Send) {
    struct Here<F>(F);

    impl<T, F: Fn(T)> ProducerCallback<T> for Here<F> {
        type Output = ();

        fn callback<P: Producer<Item = T>>(self, producer: P) {
            producer.into_iter().for_each(self.0);
        }
    }

    match items.len() {
        0 | 1 => items.with_producer(Here(run)),
        _ => items.for_each(run),
    }
}

/// Runs tasks, in parallel if that pays.
pub(crate) fn run_all<T: Send>(tasks: Vec<T>, parallel: bool, run: impl Fn(T) + Sync + Send) {
    if parallel && tasks.len() > 1 {
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
