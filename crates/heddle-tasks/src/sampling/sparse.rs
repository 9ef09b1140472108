use super::Distinct;
use crate::stream::Stream;

/// Draws distinct numbers below a bound of up to 64 bits, all ordered choices being equally likely, in memory that grows
/// with the numbers drawn and not with the bound.
///
/// A number drawn before is drawn anew, which gives the law of [`Distinct`]; where at least a quarter of all numbers is
/// asked for, [`Distinct`] draws them.
///
/// ```
/// use heddle_tasks::{Split, sampling::SparseDistinct, stream::Stream};
///
/// let mut stream = Stream::of_example("example", Split::Train, 0, 0, 0);
/// let mut drawn = Vec::new();
/// SparseDistinct::default().draw(1 << 60, 3, &mut stream, &mut drawn);
/// assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2] && drawn[2] != drawn[0]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct SparseDistinct {
    /// The numbers drawn, by open addressing; at most half full.
    table: Vec<u64>,
    dense: Distinct,
    narrow: Vec<u32>,
}

/// An entry of the table that holds nothing: no bound exceeds it.
const EMPTY: u64 = u64::MAX;

impl SparseDistinct {
    /// Fills `drawn` with `count` distinct numbers below `bound`, in the order in which they were drawn.
    ///
    /// # Panics
    /// If `count` exceeds `bound`.
    pub fn draw(&mut self, bound: u64, count: u32, stream: &mut Stream, drawn: &mut Vec<u64>) {
        drawn.clear();
        if let Some(bound) = u32::try_from(bound).ok().filter(|bound| bound / 4 <= count) {
            self.dense.draw(bound, count, stream, &mut self.narrow);
            drawn.extend(self.narrow.iter().map(|number| u64::from(*number)));
            return;
        }
        let size = (2 * u64::from(count)).next_power_of_two().max(2);
        self.table.clear();
        self.table.resize(size as usize, EMPTY);
        while drawn.len() < count as usize {
            let number = stream.below_u64(bound);
            if insert(&mut self.table, number) {
                drawn.push(number);
            }
        }
    }
}

/// Enters a number; whether it is new.
fn insert(table: &mut [u64], number: u64) -> bool {
    /// 2⁶⁴ divided by the golden ratio spreads neighbours over the table (Knuth, volume 3, section 6.4).
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let shift = 64 - table.len().ilog2();
    let mut place = (number.wrapping_mul(SPREAD) >> shift) as usize;
    loop {
        match table[place] {
            EMPTY => {
                table[place] = number;
                return true;
            }
            entry if entry == number => return false,
            _ => place = (place + 1) & (table.len() - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;
    use crate::sampling::chi_square_p_value;

    #[test]
    fn numbers_are_distinct_and_uniform_in_order_whether_few_or_many_are_asked_for() {
        for (bound, few) in [(4, false), (16, true)] {
            let (mut sparse, mut drawn) = (SparseDistinct::default(), Vec::new());
            let mut counts = vec![0; (bound * bound) as usize];
            for index in 0..50_000 {
                let mut stream = Stream::of_example("sparse", Split::Train, 0, 0, index);
                sparse.draw(bound, 2, &mut stream, &mut drawn);
                counts[(drawn[0] * bound + drawn[1]) as usize] += 1;
            }
            assert_eq!(sparse.table.is_empty(), !few);
            let unequal: Vec<u64> =
                (0..bound * bound).filter(|c| c / bound != c % bound).map(|c| counts[c as usize]).collect();
            assert_eq!(unequal.iter().sum::<u64>(), 50_000, "two were equal");
            let law = vec![1.0 / unequal.len() as f64; unequal.len()];
            assert!(chi_square_p_value(&unequal, &law) > 1e-6, "{counts:?}");
        }
    }

    #[test]
    fn memory_follows_the_numbers_drawn() {
        let (mut sparse, mut drawn) = (SparseDistinct::default(), Vec::new());
        for (bound, count) in [(u64::MAX, 0), (u64::MAX, 1), (1 << 40, 1000), (4001, 1000), (1000, 1000), (1, 1)] {
            sparse.draw(bound, count, &mut Stream::of_example("sparse", Split::Train, 0, 0, 0), &mut drawn);
            assert_eq!(drawn.len(), count as usize);
            assert!(drawn.iter().all(|number| *number < bound));
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), count as usize);
        }
        assert!(sparse.table.capacity() <= 2048 && sparse.narrow.capacity() <= 1024);
    }

    #[test]
    #[should_panic(expected = "3 distinct numbers below 2 were asked for")]
    fn more_numbers_than_there_are_are_refused() {
        let mut stream = Stream::of_example("sparse", Split::Train, 0, 0, 0);
        SparseDistinct::default().draw(2, 3, &mut stream, &mut Vec::new());
    }
}
