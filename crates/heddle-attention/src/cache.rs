//! The keys and values that later tokens still look at.

use burn::tensor::Tensor;
use heddle_kernels::MixerState;

/// Keys and values of the tokens so far that later ones see: of all tokens, or of the first few and the last few.
///
/// They lie in the first places of arrays with room for more, so that a token is written where it belongs and nothing else
/// moves. Arrays that are full are copied to new ones of twice what is held: over a sequence, each token is copied once
/// more on average. Behind a window those that nobody sees any more stay where they are until then, and are left behind by
/// that copy; the rule of attention hides them. (A ring would not copy at all, but its tokens would stand out of order, and
/// the kernel tells distances by places and reads runs of neighbours.)
///
/// Cloned arrays are shared until one of the clones grows, which then copies them. Where gradients may be asked for, a token
/// is appended by a differentiable copy.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_attention::AttentionSettings;
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
///
/// let (device, settings) = (Device::flex(), AttentionSettings { window: Some(4), ..Default::default() });
/// let block = settings.init(32, &mut Init::new(0, &device)).unwrap();
/// let (_, cache) = block.forward(Tensor::ones([2, 9, 32], &device), block.state(2, 32, &device));
/// // Nine tokens came, of which the next one sees three: in each of two sequences a key and a value, 32 wide.
/// assert_eq!((cache.seen(), cache.len(), cache.bytes()), (9, 3, 4 * 2 * 3 * 2 * 32));
/// ```
#[derive(Clone, Debug, Default)]
pub struct KeyValueCache {
    /// Keys and values, each `[b, g, room, p]`; none where nothing is held.
    held: Option<[Tensor<4>; 2]>,
    /// Places that are taken.
    filled: usize,
    /// Tokens that came, held or not.
    seen: usize,
    /// What later tokens see; none stands for all.
    kept: Option<Kept>,
}

/// How much of the past a windowed cache keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    /// First tokens.
    pub(crate) first: usize,
    /// Last tokens.
    pub(crate) last: usize,
}

impl Kept {
    /// Tokens held of a sequence of `length`.
    pub(crate) fn of(self, length: usize) -> usize {
        length.min(self.first + self.last)
    }
}

impl KeyValueCache {
    /// Number of tokens held that later ones see.
    pub fn len(&self) -> usize {
        self.kept.map_or(self.filled, |kept| kept.of(self.filled))
    }

    /// Whether no token is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of tokens that came so far: the position of the next.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// Places that are taken: what later tokens see, and perhaps some in between that they do not.
    pub(crate) fn filled(&self) -> usize {
        self.filled
    }

    /// The arrays of keys and values, `[b, g, room, p]`, oldest first; those behind the filled places mean nothing.
    ///
    /// # Panics
    /// If no token ever came.
    pub(crate) fn arrays(&self) -> [Tensor<4>; 2] {
        self.held.clone().expect("a cache is read when tokens were added")
    }

    /// The same with the keys and values of the newest tokens, `[b, g, l, p]`, of which later ones see what is `kept`.
    ///
    /// # Panics
    /// If the cache belongs to another batch size or another shape of heads.
    pub(crate) fn with(self, k: Tensor<4>, v: Tensor<4>, kept: Option<Kept>) -> Self {
        let l = k.dims()[2];
        let seen = self.seen + l;
        let Some([k_before, v_before]) = self.held else {
            return Self { held: Some([k, v]), filled: l, seen, kept };
        };
        let ([b, g, room, p], [b_new, g_new, _, p_new]) = (k_before.dims(), k.dims());
        assert!(
            (b, g, p) == (b_new, g_new, p_new),
            "key/value cache: holds {b} sequences of {g} heads of width {p}, was given {b_new} of {g_new} of {p_new}"
        );
        let tracked = k.is_autodiff() || k_before.is_autodiff();
        if !tracked && self.filled + l <= room {
            let places = [0..b, 0..g, self.filled..self.filled + l, 0..p];
            let held = [k_before.slice_assign(places.clone(), k), v_before.slice_assign(places, v)];
            return Self { held: Some(held), filled: self.filled + l, seen, kept };
        }
        let ends = ends(self.filled, kept);
        let filled = ends.iter().map(|(_, count)| count).sum::<usize>() + l;
        let spare = if tracked || filled > most(kept) { 0 } else { filled };
        let held = [(k_before, k), (v_before, v)].map(|(before, new)| moved(before, &ends, Some(new), spare));
        Self { held: Some(held), filled, seen, kept }
    }

    /// The same without what no later token sees, if that has become more than half.
    pub(crate) fn trimmed(self) -> Self {
        if self.filled <= most(self.kept) {
            return self;
        }
        let (ends, filled) = (ends(self.filled, self.kept), self.len());
        let held = self.held.filter(|_| filled > 0).map(|held| held.map(|before| moved(before, &ends, None, 0)));
        Self { held, filled, ..self }
    }
}

/// The most places that are taken before those of which no later token sees anything are left behind.
fn most(kept: Option<Kept>) -> usize {
    kept.map_or(usize::MAX, |kept| 2 * (kept.first + kept.last + 1))
}

/// Start and number of the places, of those that are `filled`, that hold what is `kept`.
fn ends(filled: usize, kept: Option<Kept>) -> Vec<(usize, usize)> {
    match kept {
        Some(kept) if kept.of(filled) < filled => {
            let ends = [(0, kept.first), (filled - kept.last, kept.last)];
            ends.into_iter().filter(|(_, count)| *count > 0).collect()
        }
        _ => vec![(0, filled)],
    }
}

/// A copy of some places and, behind them, new keys or values and room for more.
fn moved(before: Tensor<4>, ends: &[(usize, usize)], new: Option<Tensor<4>>, spare: usize) -> Tensor<4> {
    let [b, g, _, p] = before.dims();
    let room = (spare > 0).then(|| Tensor::zeros([b, g, spare, p], &before.device()));
    let ends = ends.iter().map(|(start, count)| before.clone().narrow(2, *start, *count));
    Tensor::cat(ends.chain(new).chain(room).collect(), 2)
}

impl MixerState for KeyValueCache {
    /// Bytes of what later tokens see. Room for more comes on top: at most as much again, and twice the window and the sinks
    /// where there is a window.
    fn bytes(&self) -> usize {
        let one = |x: &Tensor<4>| {
            let [b, g, _, p] = x.dims();
            4 * b * g * p * self.len()
        };
        self.held.iter().flatten().map(one).sum()
    }

    fn detach(self) -> Self {
        Self { held: self.held.map(|held| held.map(Tensor::detach)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;

    /// Keys and values of tokens `from..to`: `[2, 3, l, 4]` of the token's number, and its negative.
    fn tokens(from: usize, to: usize, device: &Device) -> [Tensor<4>; 2] {
        let l = to - from;
        let numbers: Vec<f32> = (0..2 * 3 * l * 4).map(|i| (from + i / 4 % l) as f32).collect();
        let keys = Tensor::<4>::from_data(TensorData::new(numbers, [2, 3, l, 4]), device);
        [keys.clone(), -keys]
    }

    fn add(cache: KeyValueCache, from: usize, to: usize, kept: Option<Kept>) -> KeyValueCache {
        let [k, v] = tokens(from, to, &Device::flex());
        cache.with(k, v, kept).trimmed()
    }

    /// The tokens in the filled places, which must be the same in every head of keys and of values.
    fn numbers(cache: &KeyValueCache) -> Vec<usize> {
        let [k, v] = cache.arrays().map(|x| x.narrow(2, 0, cache.filled()));
        assert_eq!(k.clone().into_data(), (-v).into_data());
        let first = k.clone().narrow(0, 0, 1).narrow(1, 0, 1);
        assert_eq!(first.clone().expand(k.dims()).into_data(), k.into_data());
        let channel: Vec<f32> = first.narrow(3, 0, 1).into_data().try_to_vec().unwrap();
        channel.into_iter().map(|x| x as usize).collect()
    }

    fn room(cache: &KeyValueCache) -> usize {
        cache.arrays()[0].dims()[2]
    }

    #[test]
    fn tokens_stand_in_order_and_are_seldom_moved() {
        let (mut cache, mut moves) = (KeyValueCache::default(), 0);
        for t in 0..300 {
            let before = if t == 0 { 0 } else { room(&cache) };
            cache = add(cache, t, t + 1, None);
            moves += usize::from(room(&cache) != before);
            assert_eq!(numbers(&cache), (0..=t).collect::<Vec<_>>());
            assert!(room(&cache) <= 2 * cache.len() && cache.bytes() == 2 * 4 * 2 * 3 * 4 * (t + 1));
        }
        assert!(moves <= 10, "{moves} moves");
    }

    #[test]
    fn a_window_holds_its_ends_in_little_more_than_twice_their_room() {
        for (first, last, chunk) in [(0, 7, 1), (3, 7, 1), (0, 0, 1), (2, 0, 1), (0, 5, 3), (2, 5, 40)] {
            let kept = Some(Kept { first, last });
            let mut cache = KeyValueCache::default();
            for t in (0..240).step_by(chunk) {
                cache = add(cache, t, t + chunk, kept);
                let seen = t + chunk;
                assert_eq!((cache.seen(), cache.len()), (seen, seen.min(first + last)));
                if cache.is_empty() {
                    continue;
                }
                let (found, len) = (numbers(&cache), cache.len());
                let start = len.min(first);
                assert_eq!(found[..start], (0..start).collect::<Vec<_>>());
                assert_eq!(found[found.len() + start - len..], (seen + start - len..seen).collect::<Vec<_>>());
                assert!(room(&cache) <= 2 * (first + last + chunk), "{} places", room(&cache));
            }
        }
    }

    #[test]
    fn both_of_two_clones_go_on() {
        let cache = add(add(KeyValueCache::default(), 0, 5, None), 5, 6, None);
        assert!(room(&cache) > 7, "there is room that clones share");
        let (one, other) = (add(cache.clone(), 6, 7, None), add(cache.clone(), 50, 52, None));
        assert_eq!(numbers(&one), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(numbers(&other), [0, 1, 2, 3, 4, 5, 50, 51]);
        assert_eq!(numbers(&cache), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    #[should_panic(expected = "holds 2 sequences of 3 heads of width 4, was given 1 of 3 of 4")]
    fn a_cache_of_another_batch_is_refused() {
        let cache = add(KeyValueCache::default(), 0, 5, None);
        let [k, v] = tokens(5, 6, &Device::flex()).map(|x| x.narrow(0, 0, 1));
        cache.with(k, v, None);
    }
}
