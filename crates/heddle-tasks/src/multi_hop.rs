//! Multi-hop look-up: can a model follow a chain of references without writing the steps down?
//!
//! A ring of nodes is given as its edges in random order; asked is the node that stands k steps after a given one. Each
//! step is one look-up, and k of them must happen between the question and the answer, in the depth of the model: what
//! one layer can do k times, or in doubling strides, a shallow one cannot.
//!
//! Source: Allen-Zhu, "Physics of Language Models: Part 4.1, Architecture Design and the Magic of Canon Layers",
//! arXiv:2512.17351, task Depo ("mental reasoning depth").
//!
//! # Layout
//! With length L, n nodes and Q questions; `nodes` 8, `most_hops` 4, `length` 16, `hops` 2, `questions` 2:
//!
//! ```text
//! position   0   1   2   3   4   5   6   7   8   9  10  11  12  13  14  15
//! token     12   5   4   4   3   3   0   1   5   0   1   9   0   5   9   1
//! label                                                      5           4
//! evidence                                                   8           2
//! ```
//!
//! - The edges: n pairs of a node and the one after it, in random order; n = ⌊(L − 3Q + 1)/2⌋. Where that leaves a
//!   position over, a blank stands in front.
//! - The questions: the token of k hops, a node, the node k steps after it. The last answer is only predicted, not given.
//! - The ring is a uniform choice of n nodes in a uniform order; k is uniform over `fewest` … `hops`; no two questions
//!   start at one node.
//! - The evidence is where the answer stands as the end of an edge: the last of the k edges to follow.
//!
//! Therefore hops < n (no question leads back to its own node) and Q ≤ n ≤ `nodes`.
//!
//! # Vocabulary
//! | token | role |
//! |---|---|
//! | 0 … nodes − 1 | nodes |
//! | nodes … nodes + most_hops − 1 | 1 to `most_hops` hops |
//! | nodes + most_hops | blank |
//!
//! # Chance
//! 1/nodes: an even guess among all nodes of the vocabulary.
//!
//! # Differences from the source
//! There a node's name has one to seven tokens, the size of the ring varies below a bound, and a sequence has a begin and
//! an end token. Here a name is one token and the length decides the size; slices of several lengths give several sizes.

use serde::{Deserialize, Serialize};

use crate::error::{require, require_between};
use crate::recipe::{LARGEST, Recipe, Shape, TEST_SETTING, VALIDATION_SETTING, train_setting};
use crate::sampling::Distinct;
use crate::stream::Stream;
use crate::{Alphabet, Example, SettingInfo, Split, TaskError, TaskInfo};

/// The settings of the multi-hop task; see the [module](self).
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let settings = json!({"train": [{"length": 64, "hops": 1}]});
/// let task = TaskRegistry::builtin().build("multi_hop", &settings)?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// let label = example.labels[0];
/// // The edge that starts at the node in question ends at the answer.
/// assert_eq!(example.tokens[label.evidence as usize], label.target);
/// assert_eq!(example.tokens[label.evidence as usize - 1], example.tokens[label.position as usize]);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MultiHop {
    /// Nodes in the vocabulary.
    pub nodes: usize,
    /// The most hops that have a token.
    pub most_hops: usize,
}

/// What sets one slice apart.
///
/// ```
/// use heddle_tasks::{Example, Split, TaskRegistry};
/// use serde_json::json;
///
/// let task = TaskRegistry::builtin().build("multi_hop", &json!({"train": [{"length": 64, "hops": 4, "questions": 2}]}))?;
/// let mut example = Example::default();
/// task.example(Split::Test, 0, 42, 0, &mut example);
/// // Without `fewest` every question is of four hops; 29 edges leave a blank over.
/// let asked = example.tokens.iter().filter(|token| task.describe_token(**token) == "hops 3").count();
/// assert_eq!((asked, example.labels.len()), (2, 2));
/// assert_eq!(2 * 29 + 3 * 2 - 1 + 1, 64);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Knobs {
    /// Tokens per example, L.
    pub length: usize,
    /// The most hops of a question.
    pub hops: usize,
    /// The fewest hops of a question; if absent, as many as the most.
    #[serde(default)]
    pub fewest: Option<usize>,
    /// Questions, Q.
    #[serde(default = "one")]
    pub questions: usize,
}

fn one() -> usize {
    1
}

impl Default for MultiHop {
    fn default() -> Self {
        Self { nodes: 64, most_hops: 16 }
    }
}

/// A planned slice.
#[doc(hidden)]
#[derive(Debug)]
pub struct Plan {
    blank: bool,
    ring: u32,
    fewest: u32,
    hops: u32,
    questions: u32,
}

/// Memory that a thread reuses.
#[doc(hidden)]
#[derive(Debug, Default)]
pub struct Scratch {
    distinct: Distinct,
    ring: Vec<u32>,
    slots: Vec<u32>,
    starts: Vec<u32>,
}

impl Recipe for MultiHop {
    const INFO: TaskInfo = TaskInfo {
        kind: "multi_hop",
        title: "Multi-hop look-up",
        doc: "The edges of a random ring of nodes are given in random order; the model is to name the node that stands a \
              given number of steps after a given one. All steps must be taken between question and answer, so the task \
              measures how deep a model can reason without writing anything down.",
        settings: &[
            SettingInfo { key: "nodes", default: "64", meaning: "nodes in the vocabulary", range: "2 to 16777216" },
            SettingInfo {
                key: "most_hops",
                default: "16",
                meaning: "the most hops that have a token of their own; the vocabulary is nodes + most_hops + 1",
                range: "1 to 16777216",
            },
            train_setting(
                "[{\"length\": 64, \"hops\": 4, \"fewest\": 1, \"questions\": 1, \"weight\": 1.0}]",
                "{length, hops, fewest (default hops), questions (default 1)}: 1 ≤ fewest ≤ hops ≤ most_hops; with a ring \
                 of n = ⌊(length − 3·questions + 1)/2⌋: hops < n, questions ≤ n ≤ nodes",
            ),
            VALIDATION_SETTING,
            TEST_SETTING,
        ],
        chance: "1 / nodes: an even guess among all nodes",
        source: "Allen-Zhu 2025, arXiv:2512.17351, task Depo; names of one token, the length decides the size of the ring",
    };
    type Knobs = Knobs;
    type Plan = Plan;
    type Scratch = Scratch;

    fn default_train() -> Vec<Knobs> {
        vec![Knobs { length: 64, hops: 4, fewest: Some(1), questions: 1 }]
    }

    fn alphabet(&self) -> Alphabet {
        Alphabet::of([("node", self.nodes as u32), ("hops", self.most_hops as u32), ("blank", 1)])
    }

    fn check(&self) -> Result<(), TaskError> {
        require_between(self.nodes, "nodes", 2, LARGEST)?;
        require_between(self.most_hops, "most_hops", 1, LARGEST)
    }

    fn plan(&self, _: Split, knobs: &Knobs) -> Result<(Shape, Plan), TaskError> {
        let Knobs { length, hops, fewest, questions } = *knobs;
        require_between(length, "length", 1, LARGEST)?;
        require_between(questions, "questions", 1, LARGEST)?;
        require_between(hops, "hops", 1, self.most_hops)?;
        let fewest = fewest.unwrap_or(hops);
        require_between(fewest, "fewest", 1, hops)?;
        let ring = (length + 1).saturating_sub(3 * questions) / 2;
        let least = questions.max(hops + 1);
        let explain = || {
            let shortest = 2 * least + 3 * questions - 1;
            let found = format!("a ring of {ring}, length {length}, hops {hops}, questions {questions}");
            (found, format!("use a length of at least {shortest}, or fewer hops or questions"))
        };
        require(ring >= least, "length", "hops < ring, questions ≤ ring", explain)?;
        require(ring <= self.nodes, "length", "ring ≤ nodes", || {
            let longest = 2 * self.nodes + 3 * questions;
            let found = format!("a ring of {ring}, length {length}, nodes {}", self.nodes);
            (found, format!("use at least {ring} nodes or a length of at most {longest}"))
        })?;
        // The rings, n of which name the same one; the order of the edges; the first question's node.
        let rings: f64 = (0..ring).map(|taken| ((self.nodes - taken) as f64).log2()).sum();
        let orders: f64 = (1..ring).map(|edges| (edges as f64).log2()).sum();
        let bits = rings + orders + (ring as f64).log2();
        let shape = Shape { length, labels: questions, chance: 1.0 / self.nodes as f64, bits };
        let blank = 2 * ring + 3 * questions - 1 < length;
        let [ring, fewest, hops, questions] = [ring, fewest, hops, questions].map(|n| n as u32);
        Ok((shape, Plan { blank, ring, fewest, hops, questions }))
    }

    fn write(&self, plan: &Plan, stream: &mut Stream, scratch: &mut Scratch, out: &mut Example) {
        let Scratch { distinct, ring, slots, starts } = scratch;
        let Plan { blank, ring: n, fewest, hops, questions } = *plan;
        let nodes = self.nodes as u32;
        distinct.draw(nodes, n, stream, ring);
        distinct.draw(n, n, stream, slots);
        distinct.draw(n, questions, stream, starts);

        if blank {
            out.tokens.push(nodes + self.most_hops as u32);
        }
        let first = out.tokens.len();
        out.tokens.resize(first + 2 * n as usize, 0);
        let after = ring.iter().skip(1).chain(ring.first());
        for ((node, next), slot) in ring.iter().zip(after).zip(slots.iter()) {
            let at = first + 2 * *slot as usize;
            out.tokens[at] = *node;
            out.tokens[at + 1] = *next;
        }
        for start in starts.iter() {
            let k = fewest + stream.below(hops - fewest + 1);
            out.tokens.extend([nodes + k - 1, ring[*start as usize]]);
            let edge = slots[((start + k - 1) % n) as usize];
            let target = ring[((start + k) % n) as usize];
            out.ask(target, first as u32 + 2 * edge + 1);
            out.tokens.push(target);
        }
        out.tokens.pop();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::sampling::chi_square_p_value;
    use crate::testing::{Examined, build, examine, message, shows};

    /// Follows the edges, read in pairs up to the first token of hops, from the last token as often as the one before says.
    fn oracle(nodes: u32, most_hops: u32, tokens: &[u32]) -> u32 {
        let (asked, start) = (tokens[tokens.len() - 2], tokens[tokens.len() - 1]);
        let hop = |token: u32| (nodes..nodes + most_hops).contains(&token);
        let first = usize::from(tokens[0] == nodes + most_hops);
        let body = &tokens[first..tokens.iter().position(|token| hop(*token)).unwrap_or(0).max(first)];
        let next: BTreeMap<u32, u32> = body.chunks_exact(2).map(|edge| (edge[0], edge[1])).collect();
        let steps = if hop(asked) { asked - nodes + 1 } else { 0 };
        (0..steps).fold(start, |node, _| next.get(&node).copied().unwrap_or(nodes))
    }

    #[test]
    fn it_is_what_it_says() {
        examine::<MultiHop>(&Examined {
            settings: json!({"train": [
                {"length": 33, "hops": 4, "fewest": 1},
                {"length": 48, "hops": 7, "questions": 5},
            ]}),
            at_length: |length| json!({"nodes": length / 2, "train": [{"length": length, "hops": 3, "questions": 2}]}),
            golden: "558ad17d0c1442e3",
            oracle: |task, tokens| {
                let nodes = (0..).find(|token| task.describe_token(*token).starts_with("hops")).unwrap();
                oracle(nodes, 16, tokens)
            },
            guess: |_, stream| stream.below(64),
        });
    }

    #[test]
    fn the_page_shows_an_example() {
        let train = json!([{"length": 16, "hops": 2, "questions": 2}]);
        shows(include_str!("multi_hop.rs"), "multi_hop", json!({"nodes": 8, "most_hops": 4, "train": train}));
    }

    #[test]
    fn hops_are_even_over_their_range_and_the_edges_make_one_ring() {
        let task = build("multi_hop", json!({"train": [{"length": 64, "hops": 7, "fewest": 3}]}));
        let (mut counts, mut example) = ([0; 5], Example::default());
        for index in 0..5000 {
            task.example(Split::Train, 0, 0, index, &mut example);
            counts[example.tokens[62] as usize - 64 - 2] += 1;
            let next: BTreeMap<u32, u32> = example.tokens[..62].chunks_exact(2).map(|e| (e[0], e[1])).collect();
            let start = example.tokens[0];
            let round = std::iter::successors(Some(next[&start]), |node| (*node != start).then(|| next[node]));
            assert_eq!(round.count(), 31);
        }
        assert!(chi_square_p_value(&counts, &[0.2; 5]) > 1e-6, "{counts:?}");
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let train = |knobs| message("multi_hop", json!({"train": [knobs]}));
        assert_eq!(
            train(json!({"length": 8, "hops": 3})),
            "setting 'train[0].length': hops < ring, questions ≤ ring fails (a ring of 3, length 8, hops 3, questions \
             1): use a length of at least 10, or fewer hops or questions"
        );
        assert_eq!(
            train(json!({"length": 256, "hops": 3})),
            "setting 'train[0].length': ring ≤ nodes fails (a ring of 127, length 256, nodes 64): use at least 127 \
             nodes or a length of at most 131"
        );
        assert_eq!(
            train(json!({"length": 64, "hops": 17})),
            "setting 'train[0].hops': 1 ≤ hops ≤ 16 fails (hops 17): use at most 16"
        );
        for key in ["length", "hops", "fewest", "questions"] {
            for number in [0, usize::MAX] {
                let mut knobs = json!({"length": 64, "hops": 4});
                knobs[key] = json!(number);
                assert!(train(knobs).starts_with(&format!("setting 'train[0].{key}'")), "{key}");
            }
        }
        for key in ["nodes", "most_hops"] {
            assert!(message("multi_hop", json!({key: usize::MAX})).starts_with(&format!("setting '{key}'")));
        }
        // Built, however far apart the numbers stand.
        build("multi_hop", json!({"nodes": 1 << 24, "most_hops": 1 << 24}));
    }
}
