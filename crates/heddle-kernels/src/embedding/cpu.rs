//! Lookup of rows, and the sum of gradients by row.

use rayon::prelude::*;

use crate::cpu::tasks::for_each;

/// Floats that a task copies or sums, about.
const PIECE: usize = 1 << 14;

/// The row of each token.
pub(super) fn forward(weight: &[f32], [v, d]: [usize; 2], tokens: &[usize]) -> Vec<f32> {
    if let Some((i, token)) = tokens.iter().enumerate().find(|(_, token)| **token >= v) {
        panic!("embed: token {token} at place {i} has no row in a table of {v}");
    }
    let rows = PIECE.div_ceil(d);
    let mut x = vec![0.0; tokens.len() * d];
    for_each(x.par_chunks_mut(rows * d).zip(tokens.par_chunks(rows)), |(x, tokens)| {
        for (x, token) in x.chunks_exact_mut(d).zip(tokens) {
            x.copy_from_slice(&weight[token * d..][..d]);
        }
    });
    x
}

/// The sum of the gradients of each row's tokens, in the order of the tokens.
///
/// The tokens are sorted by their row (a counting sort, which keeps their order), so that each row is summed by one task.
pub(super) fn backward(g: &[f32], [v, d]: [usize; 2], tokens: &[usize]) -> Vec<f32> {
    let mut ends = vec![0; v + 1];
    for &token in tokens {
        ends[token + 1] += 1;
    }
    for row in 0..v {
        ends[row + 1] += ends[row];
    }
    let starts = ends.clone();
    let mut places = vec![0; tokens.len()];
    for (place, &token) in tokens.iter().enumerate() {
        places[ends[token]] = place;
        ends[token] += 1;
    }
    let rows = PIECE.div_ceil(d);
    let mut g_weight = vec![0.0; v * d];
    g_weight.par_chunks_mut(rows * d).enumerate().for_each(|(i, g_rows)| {
        for (row, g_row) in (i * rows..).zip(g_rows.chunks_exact_mut(d)) {
            for place in &places[starts[row]..starts[row + 1]] {
                g_row.iter_mut().zip(&g[place * d..][..d]).for_each(|(sum, g)| *sum += g);
            }
        }
    });
    g_weight
}
