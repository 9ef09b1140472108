//! What needles lie in, and where they lie.

use crate::TaskError;
use crate::error::require;
use crate::recipe::LARGEST;
use crate::sampling::Distinct;
use crate::stream::Stream;

/// A source of tokens 0 … size − 1 that mean nothing.
///
/// Noise is uniform. Text is a fixed Markov chain with the two marks of natural text: few tokens are frequent, and what
/// follows a token is mostly one of few. In 1 step of 4 the next token follows the unigram law, which gives token x a
/// probability proportional to (x + 1)^⅓ − x^⅓, close to rank^(−⅔); in the others it is one of eight successors of the
/// last token, the r-th likeliest with a weight of about 1/r. The successors of a token are a fixed hash of it, mapped to
/// the same unigram law; no seed changes them.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    text: bool,
    size: u32,
    last: u32,
}

/// Of 128 equally likely choices, how many take the r-th successor; the rest follow the unigram law.
const SUCCESSORS: [u32; 8] = [36, 18, 12, 9, 7, 6, 4, 4];
const CHOICES: u32 = 128;
/// The cube below is taken of numbers of so many bits.
const BITS: u32 = 24;

/// The successor that each choice takes.
const RANKS: [u8; 96] = {
    let (mut ranks, mut next, mut rank) = ([0; 96], 0, 0);
    while rank < SUCCESSORS.len() {
        let end = next + SUCCESSORS[rank] as usize;
        while next < end {
            ranks[next] = rank as u8;
            next += 1;
        }
        rank += 1;
    }
    ranks
};

impl Source {
    /// Noise over `size` tokens, at least one.
    pub(crate) fn noise(size: u32) -> Self {
        Self { text: false, size, last: 0 }
    }

    /// Text over `size` tokens, at least one.
    pub(crate) fn text(size: u32) -> Self {
        Self { text: true, size, last: 0 }
    }

    /// Appends tokens until there are `length`.
    pub(crate) fn fill(&mut self, length: u32, stream: &mut Stream, tokens: &mut Vec<u32>) {
        let count = (length as usize).saturating_sub(tokens.len());
        if self.text {
            tokens.extend((0..count).map(|_| self.continued(stream)));
        } else if self.size == 1 {
            tokens.resize(tokens.len() + count, 0);
        } else {
            tokens.extend((0..count).map(|_| stream.below(self.size)));
        }
    }

    fn continued(&mut self, stream: &mut Stream) -> u32 {
        let draw = stream.below(CHOICES << BITS);
        self.last = match RANKS.get((draw >> BITS) as usize) {
            Some(rank) => self.successor(self.last, *rank),
            None => self.unigram(draw & ((1 << BITS) - 1)),
        };
        self.last
    }

    /// The successor of a token with this rank from 0.
    fn successor(&self, token: u32, rank: u8) -> u32 {
        // The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
        let mut hash = (u64::from(token) << 3 | u64::from(rank)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.unigram(((hash ^ hash >> 31) >> (64 - BITS)) as u32)
    }

    /// The token at the quantile `point` / 2²⁴ of the unigram law: ⌊u³·size⌋.
    fn unigram(&self, point: u32) -> u32 {
        let u = u64::from(point);
        let cube = (((u * u) >> BITS) * u) >> BITS;
        ((cube * u64::from(self.size)) >> BITS) as u32
    }

    /// A lower bound of the bits that a token adds, whatever stands before it.
    pub(crate) fn bits(&self) -> f64 {
        let size = f64::from(self.size);
        if !self.text {
            return size.log2();
        }
        // The likeliest token, were it all eight successors; rounding adds less than 10⁻⁴ to its unigram probability.
        let jump = 1.0 - RANKS.len() as f64 / f64::from(CHOICES);
        let likeliest = 1.0 - jump + jump * (size.powf(-1.0 / 3.0) + 1e-4);
        (-likeliest.log2()).max(0.0)
    }
}

/// Fills `starts` with the starts, ascending, of `count` stretches of `width` tokens in a row of `length`, none over
/// another; all such choices are equally likely.
pub(crate) fn scatter(
    (count, width): (u32, u32),
    length: u32,
    stream: &mut Stream,
    distinct: &mut Distinct,
    starts: &mut Vec<u32>,
) {
    // Stretches one behind the other are places among what remains if each is shrunk to one token.
    distinct.draw(length - count * (width - 1), count, stream, starts);
    starts.sort_unstable();
    starts.iter_mut().zip(0..).for_each(|(start, before)| *start += before * (width - 1));
}

/// Where a stretch of `width` tokens starts in a row of `length` so that the share `depth` of what is left lies before it.
pub(crate) fn start_at(depth: f64, width: u32, length: u32) -> u32 {
    (depth * f64::from(length - width)).round() as u32
}

/// Refuses a depth that is no share.
///
/// # Errors
/// [`TaskError::OutOfRange`].
pub(crate) fn check_depth(depth: Option<f64>) -> Result<(), TaskError> {
    let depth = depth.unwrap_or_default();
    require((0.0..=1.0).contains(&depth), "depth", "0 ≤ depth ≤ 1", || {
        (format!("depth {depth}"), "use 0 for the beginning, 1 for the end, or null for any place".to_owned())
    })
}

/// What to do about a number that is too large for a length: `fewer` of it, or a length of `least`, as far as there are
/// such.
pub(crate) fn fewer_or_longer(fewer: Option<String>, least: u128) -> String {
    let longer = (least <= LARGEST as u128).then(|| format!("a length of at least {least}"));
    let ways: Vec<_> = fewer.into_iter().chain(longer).collect();
    if ways.is_empty() {
        "use smaller numbers and a longer sequence".to_owned()
    } else {
        format!("use {}", ways.join(" or "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;
    use crate::sampling::chi_square_p_value;

    const IMPLAUSIBLE: f64 = 1e-6;

    #[test]
    fn text_follows_its_law_of_transitions() {
        let source = Source::text(6);
        let mut unigram = [0.0; 6];
        (0..1 << BITS).for_each(|point| unigram[source.unigram(point) as usize] += 0.25 / f64::from(1 << BITS));
        for (x, p) in unigram.iter().enumerate() {
            let expected = 0.25 * ((x as f64 + 1.0).cbrt() - (x as f64).cbrt()) / 6.0_f64.cbrt();
            assert!((p - expected).abs() < 1e-4, "{x}: {p} {expected}");
        }
        let mut tokens = Vec::new();
        let mut stream = Stream::of_example("text", Split::Train, 0, 0, 0);
        Source::text(6).fill(200_000, &mut stream, &mut tokens);
        for last in 0..6 {
            let mut law = unigram;
            for (rank, count) in SUCCESSORS.iter().enumerate() {
                law[source.successor(last, rank as u8) as usize] += f64::from(*count) / f64::from(CHOICES);
            }
            assert!(law.iter().all(|p| -p.log2() > source.bits()));
            let mut counts = [0; 6];
            let followed = tokens.windows(2).filter(|pair| pair[0] == last);
            followed.for_each(|pair| counts[pair[1] as usize] += 1);
            assert!(chi_square_p_value(&counts, &law) > IMPLAUSIBLE, "{last}: {counts:?} {law:?}");
            assert!(chi_square_p_value(&counts, &[1.0 / 6.0; 6]) < IMPLAUSIBLE);
        }
    }

    #[test]
    fn every_size_is_filled_within_its_tokens() {
        let mut stream = Stream::of_example("text", Split::Train, 0, 0, 0);
        for size in [1, 2, 3, 1 << 24] {
            for mut source in [Source::text(size), Source::noise(size)] {
                let mut tokens = vec![0; 3];
                source.fill(500, &mut stream, &mut tokens);
                assert!(tokens.len() == 500 && tokens.iter().all(|token| *token < size));
                source.fill(10, &mut stream, &mut tokens);
                assert_eq!(tokens.len(), 500);
            }
        }
        assert_eq!((Source::text(1).bits(), Source::noise(1).bits()), (0.0, 0.0));
    }

    #[test]
    fn stretches_are_scattered_evenly_and_never_overlap() {
        // Two stretches of 3 in a row of 8: 6 choices.
        let (mut distinct, mut starts, mut counts) = (Distinct::default(), Vec::new(), [0; 36]);
        for index in 0..30_000 {
            let mut stream = Stream::of_example("scatter", Split::Train, 0, 0, index);
            scatter((2, 3), 8, &mut stream, &mut distinct, &mut starts);
            assert!(starts[0] + 3 <= starts[1] && starts[1] + 3 <= 8);
            counts[(6 * starts[0] + starts[1]) as usize] += 1;
        }
        let seen: Vec<u64> = counts.into_iter().filter(|count| *count > 0).collect();
        assert!(chi_square_p_value(&seen, &[1.0 / 6.0; 6]) > IMPLAUSIBLE, "{seen:?}");
    }
}
