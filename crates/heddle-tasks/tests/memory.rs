//! What an example of a million tokens takes in memory, for every kind of task.
//!
//! A binary of its own with a single test: whatever else allocated beside it would be counted too.

use std::thread;

use heddle_tasks::{Example, Split, TaskRegistry};
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const LENGTH: usize = 1 << 20;
/// Of one example with the memory that the thread reuses for the next ones.
const MOST_BYTES: usize = 64 << 20;

/// Settings of a kind with one slice of this length.
fn at_length(kind: &str) -> Value {
    let length = LENGTH;
    let slice = match kind {
        "common_words" => json!({"length": length, "common": length / 64, "rare": length / 256}),
        "compositional_recall" | "multi_pass_recall" | "mqar" => json!({"length": length, "pairs": 1024}),
        "dyck" => json!({"length": length, "depth": 8}),
        "forgetting_recall" => json!({"length": length, "pairs": 1024, "updates": 512}),
        "multi_hop" => json!({"length": length, "hops": 3, "questions": 2}),
        "ngram_lookup" => json!({"length": length, "symbols": 2}),
        "noisy_recall" => json!({"length": length, "noise": 0.4}),
        "phonebook" => json!({"length": length, "queries": 2, "number_tokens": 3}),
        "selective_copying" => json!({"length": length, "tokens": length / 4}),
        _ => json!({"length": length}),
    };
    let mut settings = json!({"train": [slice]});
    if kind == "multi_hop" {
        settings["nodes"] = json!(length / 2);
    }
    settings
}

/// Settings that take more than those of their kind above.
fn heavier() -> [(&'static str, Value); 5] {
    let length = LENGTH;
    let needles = |haystack| json!([{"length": length, "haystack": haystack, "key_digits": 5, "value_digits": 4}]);
    [
        ("induction", json!({"loss": "all", "train": [{"length": length}]})),
        ("mqar", json!({"vocab": length, "train": [{"length": length, "pairs": length / 4}]})),
        ("needle", json!({"train": needles("needles")})),
        ("needle", json!({"train": needles("text")})),
        ("selective_copying", json!({"layout": "mamba", "train": [{"length": length, "tokens": length / 2}]})),
    ]
}

#[test]
fn an_example_of_a_million_tokens_takes_at_most_64_mib() {
    let registry = TaskRegistry::builtin();
    let plain = registry.kinds().into_iter().map(|kind| (kind, at_length(kind)));
    for (kind, settings) in plain.chain(heavier()) {
        let build = || registry.build(kind, &settings).unwrap_or_else(|error| panic!("{kind}: {error}"));
        // Built in a thread of its own, which takes the memory that it reuses with it.
        let task = thread::scope(|scope| scope.spawn(build).join().unwrap());
        for split in [Split::Train, Split::Test] {
            let before = ALLOCATED.current_usage();
            ALLOCATED.reset_peak_usage();
            thread::scope(|scope| {
                let drawn = scope.spawn(|| {
                    let mut example = Example::default();
                    task.example(split, 0, 0, 0, &mut example);
                    example.tokens.len()
                });
                assert_eq!(drawn.join().unwrap(), LENGTH, "{kind}");
            });
            let taken = ALLOCATED.peak_usage() - before;
            // The tokens alone tell that the allocator counts.
            assert!((4 * LENGTH..=MOST_BYTES).contains(&taken), "{kind}, {settings}, {split}: {taken} bytes");
        }
    }
}
