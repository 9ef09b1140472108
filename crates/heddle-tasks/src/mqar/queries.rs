use std::sync::Arc;

use super::Filler;
use crate::sampling::Successive;
use crate::stream::Stream;
use crate::{Example, Label};

/// What stands behind the context: every key once, in a slot of its own, and filler.
///
/// A slot holds a key and one position more; slot j = 1, 2, … is drawn with a probability proportional to j^(a−1) among
/// those left. What is left behind the last slot is filler.
#[derive(Clone, Debug)]
pub(crate) struct Queries {
    /// Tokens of the whole sequence.
    pub(crate) length: u32,
    /// Tokens of a key.
    pub(crate) width: u32,
    pub(crate) vocab: u32,
    pub(crate) filler: Filler,
    /// The law of the slots in which the keys are queried.
    pub(crate) slots: Arc<Successive>,
}

/// What is stated and asked for, and memory that one thread reuses from example to example.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// The tokens of all keys, one key behind the other.
    pub(crate) keys: Vec<u32>,
    /// The value of each key.
    pub(crate) values: Vec<u32>,
    /// Where it stands.
    pub(crate) evidence: Vec<u32>,
    slots: Vec<u32>,
    tree: Vec<u64>,
    /// At each slot, 1 + the number of the key queried there, or 0; all 0 between examples.
    queried: Vec<u32>,
    /// At each token, whether it is part of a key of the sequence; all false between examples.
    live: Vec<bool>,
}

impl Queries {
    /// Appends the queries of the keys in `scratch`: slots first, then the filler from left to right.
    pub(crate) fn write(&self, stream: &mut Stream, scratch: &mut Scratch, out: &mut Example) {
        let keys = scratch.values.len() as u32;
        self.slots.draw_distinct(keys, stream, &mut scratch.tree, &mut scratch.slots);
        match self.filler {
            Filler::Zero => self.fill(scratch, out, || 0),
            Filler::Random => self.fill(scratch, out, || stream.below(self.vocab)),
            Filler::Disjoint => {
                let mut live = std::mem::take(&mut scratch.live);
                live.resize(live.len().max(self.vocab as usize), false);
                scratch.keys.iter().for_each(|key| live[*key as usize] = true);
                self.fill(scratch, out, || {
                    loop {
                        let token = stream.below(self.vocab);
                        if !live[token as usize] {
                            break token;
                        }
                    }
                });
                scratch.keys.iter().for_each(|key| live[*key as usize] = false);
                scratch.live = live;
            }
        }
    }

    /// Appends the slots, each a key or filler, then filler.
    fn fill(&self, scratch: &mut Scratch, out: &mut Example, mut filler: impl FnMut() -> u32) {
        let Scratch { keys, values, evidence, slots, queried, .. } = scratch;
        let (space, width) = (self.slots.outcomes(), self.width as usize);
        queried.resize(queried.len().max(space), 0);
        for (key, slot) in slots.iter().enumerate() {
            queried[*slot as usize] = key as u32 + 1;
        }
        for entry in &mut queried[..space] {
            if *entry == 0 {
                (0..width).for_each(|_| out.tokens.push(filler()));
            } else {
                let key = *entry as usize - 1;
                out.tokens.extend_from_slice(&keys[width * key..][..width]);
                let position = out.tokens.len() as u32 - 1;
                out.labels.push(Label { position, target: values[key], evidence: evidence[key] });
                *entry = 0;
            }
            out.tokens.push(filler());
        }
        while out.tokens.len() < self.length as usize {
            out.tokens.push(filler());
        }
    }
}

/// The law of the slots: slot j = 1, 2, … has weight j^(a−1).
pub(crate) fn slot_law(space: usize, power_a: f64) -> Successive {
    let weights: Vec<f64> = (1..=space).map(|j| libm::pow(j as f64, power_a - 1.0)).collect();
    Successive::new(&weights)
}
