//! The Pareto front: what no other beats in both accuracy and cost.

/// Whether less or more of the first number is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    /// A cost.
    Less,
    /// A speed.
    More,
}

/// Places of the points `(number, accuracy)` that no other point dominates, in rising order of the number.
///
/// A point dominates another if it is no worse in both and better in one; of equal points all are kept.
pub(crate) fn front(points: &[(f64, f64)], better: Better) -> Vec<usize> {
    let cost = |number: f64| match better {
        Better::Less => number,
        Better::More => -number,
    };
    let dominates =
        |a: &(f64, f64), b: &(f64, f64)| cost(a.0) <= cost(b.0) && a.1 >= b.1 && (cost(a.0) < cost(b.0) || a.1 > b.1);
    let mut kept: Vec<usize> =
        (0..points.len()).filter(|&place| !points.iter().any(|other| dominates(other, &points[place]))).collect();
    kept.sort_by(|&a, &b| points[a].0.total_cmp(&points[b].0));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dearer_and_no_better_is_not_on_the_front() {
        let points = [(4.0, 0.9), (1.0, 0.2), (2.0, 0.2), (2.0, 0.5), (8.0, 0.8)];
        assert_eq!(front(&points, Better::Less), [1, 3, 0]);
        assert_eq!(front(&points, Better::More), [0, 4]);
    }

    #[test]
    fn equal_points_are_all_on_the_front() {
        assert_eq!(front(&[(1.0, 0.5), (1.0, 0.5)], Better::Less), [0, 1]);
        assert!(front(&[], Better::More).is_empty());
    }
}
