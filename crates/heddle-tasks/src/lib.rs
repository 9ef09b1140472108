//! Synthetic long-context tasks: each example is a pure function of (settings, seed, split, slice, index).
//!
//! A [`Task`] writes token sequences in which some positions carry a [`Label`]: the token to predict there, and the
//! position of the evidence that determines it. A task is divided into [`Slice`]s, one for each combination of its
//! knobs (a length, a number of pairs), so that a score can be reported slice by slice; a training batch holds one
//! slice ([`slice_of_batch`]), because all rows of a batch have one length.
//!
//! Nothing is stored and nothing is drawn in sequence: example 1 000 000 costs what example 0 costs, any number of
//! threads gives the same bits ([`batch::fill_batch`]), and every platform gives the same tokens, since a
//! [`Stream`](stream::Stream) is ChaCha8 under integer arithmetic. [`content_hash`] names the data of a run.
//!
//! | kind | task | reference |
//! |---|---|---|
//! | `char_lm` | [a character language model](char_lm) | arXiv:1611.01368 |
//! | `common_words` | [common words of a list](common_words) | arXiv:2404.06654 |
//! | `compositional_recall` | [recall of composed keys](recall) | arXiv:2312.04927 |
//! | `compression` | [compression] | arXiv:2403.17844 |
//! | `copying` | [copying strings, plain or with a duplicate](copying) | arXiv:2402.01032 |
//! | `coreference` | [the noun a pronoun stands for](coreference) | Levesque et al. 2012 |
//! | `dyck` | [brackets of bounded depth](dyck) | arXiv:2010.07515 |
//! | `forgetting_recall` | [recall with forgetting](recall) | arXiv:2312.04927 |
//! | `frequent_words` | [frequent words of a list](frequent_words) | arXiv:2404.06654 |
//! | `fuzzy_recall` | [fuzzy in-context recall](fuzzy_recall) | arXiv:2403.17844 |
//! | `in_context_recall` | [in-context recall](in_context_recall) | arXiv:2403.17844 |
//! | `induction` | [induction heads](induction) | arXiv:2312.00752, arXiv:2209.11895 |
//! | `listops` | [nested lists of digits](listops) | arXiv:1804.06028, arXiv:2011.04006 |
//! | `memorization` | [memorization] | arXiv:2403.17844 |
//! | `modular_counting` | [running sums modulo m](modular_counting) | arXiv:2207.02098 |
//! | `mqar` | [multi-query associative recall](mqar) | arXiv:2312.04927 |
//! | `multi_hop` | [multi-hop look-up in a ring](multi_hop) | arXiv:2512.17351 |
//! | `multi_pass_recall` | [recall from a repeated context](recall) | arXiv:2407.05483 |
//! | `needle` | [needles in a haystack](needle) | arXiv:2404.06654 |
//! | `ngram_lookup` | [look-up by n-gram, prefix or suffix](ngram_lookup) | arXiv:2402.01032 |
//! | `noisy_recall` | [noisy in-context recall](in_context_recall) | arXiv:2403.17844 |
//! | `parity` | [the parity of all bits so far](parity) | arXiv:2207.02098 |
//! | `passkey` | [passkey retrieval](passkey) | arXiv:2305.16300 |
//! | `phonebook` | [phonebook look-up](phonebook) | arXiv:2402.01032 |
//! | `selective_copying` | [selective copying](selective_copying) | arXiv:2312.00752, arXiv:2403.17844 |
//! | `variable_tracking` | [variable tracking](variable_tracking) | arXiv:2404.06654 |
//! | `word_problem` | [running products of permutations](word_problem) | arXiv:2404.08819 |
//!
//! The six tasks of mechanistic architecture design and its 66 settings are gathered in [`mad`].
//!
//! ```
//! use heddle_tasks::{Example, Split, TaskRegistry, draw};
//! use serde_json::json;
//!
//! let registry = TaskRegistry::builtin();
//! let settings = json!({"vocab": 16, "train": [{"length": 12, "pairs": 3}]});
//! let task = registry.build("mqar", &settings)?;
//!
//! let mut example = Example::default();
//! task.example(Split::Train, 0, 42, 0, &mut example);
//! assert_eq!(example.tokens.len(), 12);
//! for label in &example.labels {
//!     assert_eq!(example.tokens[label.evidence as usize], label.target);
//! }
//! println!("{}", draw(task.as_ref(), &example));
//! # Ok::<(), heddle_tasks::TaskError>(())
//! ```
//!
//! # A task of your own
//! Implement [`Recipe`] for its settings, in your own crate, and [`register`](TaskRegistry::register)
//! [`Segmented<YourRecipe>`](Segmented): slices, streams, disjoint splits and thread-local memory come with it. What fits
//! no recipe implements [`Task`] and [`TaskSettings`] itself. The built-in tasks use the same doors.
#![forbid(unsafe_code)]

mod alphabet;
pub mod batch;
pub mod char_lm;
pub mod common_words;
pub mod compression;
pub mod copying;
pub mod coreference;
mod draw;
pub mod dyck;
mod error;
pub mod frequent_words;
pub mod fuzzy_recall;
mod haystack;
pub mod in_context_recall;
pub mod induction;
pub mod listops;
pub mod mad;
pub mod memorization;
pub mod modular_counting;
pub mod mqar;
pub mod multi_hop;
pub mod needle;
pub mod ngram_lookup;
pub mod parity;
pub mod passkey;
pub mod phonebook;
pub mod recall;
pub mod recipe;
mod registry;
pub mod sampling;
pub mod score;
pub mod selective_copying;
mod shuffle;
pub mod state_tracking;
pub mod stream;
mod task;
#[cfg(test)]
mod testing;
pub mod variable_tracking;
pub mod word_problem;

pub use alphabet::Alphabet;
pub use draw::draw;
pub use error::{TaskError, require};
pub use recipe::{Recipe, Segmented};
pub use registry::{SettingInfo, TaskInfo, TaskRegistry, TaskSettings};
pub use task::{
    Example, Label, Mark, ParseSplitError, Readout, Slice, Split, Task, content_hash, slice_by_weight, slice_of_batch,
};
