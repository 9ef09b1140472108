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
//! | `mqar` | [multi-query associative recall](mqar) | arXiv:2312.04927 |
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
//! Implement [`Task`] for the generator and [`TaskSettings`] for its settings, in your own crate, and
//! [`register`](TaskRegistry::register) the settings; the built-in tasks use the same door. Draw from a
//! [`Stream`](stream::Stream), keep scratch memory per thread, and keep every example of a slice at the slice's
//! length and number of labels.
#![forbid(unsafe_code)]

pub mod batch;
mod draw;
mod error;
pub mod mqar;
mod registry;
pub mod sampling;
pub mod stream;
mod task;

pub use draw::draw;
pub use error::TaskError;
pub use registry::{SettingInfo, TaskInfo, TaskRegistry, TaskSettings};
pub use task::{Example, Label, ParseSplitError, Slice, Split, Task, content_hash, slice_of_batch};
