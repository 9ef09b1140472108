use crate::stream::Stream;

/// A random order of the numbers below `size`, of which any one costs the same to find.
///
/// A Feistel network permutes an even power of two at or above `size`; a number that leaves the range walks on until it
/// is back (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002, method 3). So nothing is stored and place
/// 10⁹ costs what place 0 costs. Good enough to mix examples; no cipher.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shuffle {
    size: u64,
    /// Bits of each half.
    half: u32,
    keys: [u64; ROUNDS],
}

/// Four rounds of a pseudorandom function make a pseudorandom permutation of a large range (Luby and Rackoff, 1988); a
/// small one takes more, and halves that are not too small.
const ROUNDS: usize = 6;
const LEAST_HALF: u32 = 4;

impl Shuffle {
    /// The order of `size` numbers that `stream` decides.
    ///
    /// # Panics
    /// If `size` is 0.
    pub(crate) fn new(size: u64, stream: &mut Stream) -> Self {
        assert!(size > 0, "an order of no numbers was asked for");
        let bits = u64::BITS - (size - 1).leading_zeros();
        let keys = [(); ROUNDS].map(|()| stream.below_u64(u64::MAX));
        Self { size, half: bits.div_ceil(2).max(LEAST_HALF), keys }
    }

    /// The order in which a slice's `examples` come in an epoch.
    pub(crate) fn of_epoch(kind: &str, slice: usize, seed: u64, epoch: u64, examples: u64) -> Self {
        Self::new(examples, &mut Stream::of_epoch(kind, slice, seed, epoch))
    }

    /// The number at a place.
    pub(crate) fn at(&self, place: u64) -> u64 {
        debug_assert!(place < self.size);
        let mask = u64::MAX >> (u64::BITS - self.half);
        let mut number = place;
        loop {
            let (mut left, mut right) = (number >> self.half, number & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mixed(right ^ key) & mask));
            }
            number = left << self.half | right;
            if number < self.size {
                return number;
            }
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit hangs on every other.
fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;
    use crate::sampling::chi_square_p_value;

    fn order(size: u64, index: u64) -> Vec<u64> {
        let shuffle = Shuffle::new(size, &mut Stream::of_example("shuffle", Split::Train, 0, 0, index));
        (0..size).map(|place| shuffle.at(place)).collect()
    }

    #[test]
    fn every_number_has_one_place() {
        for size in [1, 2, 3, 4, 5, 17, 64, 1000, 4097] {
            let mut numbers = order(size, 0);
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..size), "{size}");
        }
        let large = Shuffle::new(u64::MAX, &mut Stream::of_example("shuffle", Split::Train, 0, 0, 0));
        assert_ne!(large.at(0), large.at(u64::MAX - 1));
    }

    #[test]
    fn every_place_holds_every_number_as_often() {
        let mut counts = [0; 25];
        for index in 0..20_000 {
            let order = order(5, index);
            for place in 0..5 {
                counts[place * 5 + order[place] as usize] += 1;
            }
        }
        for place in counts.chunks(5) {
            assert!(chi_square_p_value(place, &[0.2; 5]) > 1e-6, "{counts:?}");
        }
        // Neighbours are not kept together: of 1000 numbers about one follows its predecessor.
        let order = order(1000, 0);
        assert!(order.windows(2).filter(|pair| pair[1] == pair[0] + 1).count() < 10);
    }
}
