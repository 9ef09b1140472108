//! Whether weights turn from one noun to the other with the word that decides.

use heddle_tasks::score::Count;
use heddle_tasks::{Example, Task};
use serde::Serialize;

use super::measure::{Bench, Counted};
use super::tensor;
use super::view::{Asked, marked};

/// Counts over all pairs of the slice.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Pairs {
    /// Pairs of which the model answers both sentences right.
    pub(crate) both_right: Counted,
    pub(crate) heads: Vec<HeadTurns>,
}

/// How often one head's weights turn, as seen from one token of the sentences.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HeadTurns {
    pub(crate) layer: usize,
    pub(crate) head: String,
    /// The token that looks: `adjective`, `pronoun`, or `asked`, the last.
    pub(crate) from: &'static str,
    /// Pairs in which the noun with the larger weight is another in the two sentences.
    pub(crate) turns: Counted,
    /// Pairs in which it is the right one in both.
    pub(crate) to_the_right: Counted,
}

/// The tokens that are asked whom they look at.
const FROM: [&str; 3] = ["asked", "adjective", "pronoun"];

/// Pairs in a batch.
const BATCH: usize = 16;

/// One sentence: where it looks from, and its nouns.
struct Places {
    from: [usize; 3],
    right: usize,
    wrong: usize,
}

impl Places {
    fn of(example: &Example) -> Option<Self> {
        let at = |name| marked(example, name);
        let asked = example.labels.last()?.position as usize;
        let from = [asked, at("adjective").unwrap_or(asked), at("pronoun").unwrap_or(asked)];
        Some(Self { from, right: at("right noun")?, wrong: at("wrong noun")? })
    }

    /// Whether the right noun weighs more than the wrong one in a row; nothing where they weigh the same.
    fn is_right(&self, row: &[f32]) -> Option<bool> {
        let [right, wrong] = [self.right, self.wrong].map(|noun| row[noun].abs());
        (right != wrong).then_some(right > wrong)
    }
}

impl Bench<'_> {
    /// Counts over every pair of the slice.
    pub(crate) fn pairs(&self, task: &dyn Task, asked: &Asked) -> Pairs {
        let all = task.slices(asked.split)[0].examples as u64 / 2;
        let pairs: Vec<[Example; 2]> = (0..all).filter_map(|pair| asked.pair(task, pair)).collect();
        let heads: usize = self.choice.shown.iter().map(|shown| shown.heads.len()).sum();
        let mut turns = vec![[[0u64; 2]; FROM.len()]; heads];
        let mut both_right = 0;
        for batch in pairs.chunks(BATCH) {
            both_right += self.count(batch, &mut turns);
        }
        let of = pairs.len() as u64;
        let counted = |right: u64| Counted::from(Count { right, of });
        let names =
            self.choice.shown.iter().flat_map(|shown| shown.heads.iter().map(|head| (shown.layer, shown.label(*head))));
        let rows = names.zip(&turns).flat_map(|((layer, head), turns)| {
            FROM.iter().zip(turns).map(move |(from, [turns, right])| HeadTurns {
                layer,
                head: head.clone(),
                from,
                turns: counted(*turns),
                to_the_right: counted(*right),
            })
        });
        Pairs { both_right: counted(both_right), heads: rows.collect() }
    }

    /// Adds what a batch of pairs shows, and returns how many the model answers right.
    fn count(&self, batch: &[[Example; 2]], turns: &mut [[[u64; 2]; FROM.len()]]) -> u64 {
        let forms: Vec<&Example> = batch.iter().flatten().collect();
        let sequences: Vec<&[u32]> = forms.iter().map(|example| &*example.tokens).collect();
        let places: Vec<Places> = forms.iter().map(|form| Places::of(form).expect("a pair has marks")).collect();
        let inside = self.model.inspect(tensor(&sequences, self.device));
        let l = sequences[0].len();
        let mut first = 0;
        for shown in &self.choice.shown {
            let heads = shown.heads.len();
            let maps: Vec<f32> = shown.maps(&inside, &[0..l; 1]).into_data().iter::<f32>().collect();
            let row = |form: usize, head: usize, from: usize| {
                let start = ((form * heads + head) * l + places[form].from[from]) * l;
                &maps[start..start + l]
            };
            for (pair, head, from) in (0..batch.len())
                .flat_map(|pair| (0..heads).flat_map(move |head| (0..FROM.len()).map(move |from| (pair, head, from))))
            {
                let right = [2 * pair, 2 * pair + 1].map(|form| places[form].is_right(row(form, head, from)));
                // The right noun of one sentence is the wrong one of the other: alike means turned.
                let count = &mut turns[first + head][from];
                count[0] += u64::from(right[0].is_some() && right[0] == right[1]);
                count[1] += u64::from(right == [Some(true); 2]);
            }
            first += heads;
        }
        let hidden = inside.hidden();
        let d = self.model.d_model();
        let is_right = |form: usize| {
            let label = forms[form].labels.last().expect("a pair is asked");
            let hidden = hidden.clone().narrow(0, form, 1).narrow(1, label.position as usize, 1);
            let said = self.model.logits(hidden.reshape([1, d])).argmax(1).into_scalar::<i64>();
            said == i64::from(label.target)
        };
        (0..batch.len()).filter(|pair| is_right(2 * pair) && is_right(2 * pair + 1)).count() as u64
    }
}
