use std::collections::BTreeSet;

use serde_json::json;

use crate::testing::{build, message};
use crate::{Example, Split, Task, TaskRegistry, content_hash};

fn tokens(task: &dyn Task, seed: u64, indices: std::ops::Range<u64>) -> Vec<Vec<u32>> {
    let of = |index| {
        let mut example = Example::default();
        task.example(Split::Train, 0, seed, index, &mut example);
        example.tokens
    };
    indices.map(of).collect()
}

#[test]
fn a_slice_of_few_examples_repeats_each_of_them_once_an_epoch_in_a_new_order() {
    let few = build("induction", json!({"train": [{"length": 64, "examples": 20}]}));
    let endless = build("induction", json!({"train": [{"length": 64}]}));
    let first: BTreeSet<Vec<u32>> = tokens(endless.as_ref(), 3, 0..20).into_iter().collect();
    let epochs: Vec<_> = (0..4).map(|epoch| tokens(few.as_ref(), 3, 20 * epoch..20 * (epoch + 1))).collect();
    for (i, epoch) in epochs.iter().enumerate() {
        assert_eq!(epoch.iter().cloned().collect::<BTreeSet<_>>(), first);
        assert!(!epochs[..i].contains(epoch), "epoch {i} repeats an order");
    }
    assert_eq!(few.slices(Split::Train)[0].examples, 20);
    // Evaluation is what it was.
    assert_eq!(few.slices(Split::Test), endless.slices(Split::Test));
    assert_ne!(content_hash(few.as_ref(), 0), content_hash(endless.as_ref(), 0));
}

#[test]
fn the_number_of_examples_is_null_where_it_is_not_set_and_refused_at_zero() {
    let settings = json!({"train": [{"length": 64, "repeats": 1, "weight": 1.0, "examples": 800}, {"length": 32}]});
    let complete = TaskRegistry::builtin().complete("induction", &settings).unwrap();
    assert_eq!(complete["train"][0], settings["train"][0]);
    assert_eq!(complete["train"][1], json!({"length": 32, "repeats": 1, "weight": 1.0, "examples": null}));
    assert_eq!(
        message("induction", json!({"train": [{"length": 64, "examples": 0}]})),
        "setting 'train[0].examples': 1 ≤ examples fails (examples 0): use at least 1 example, or leave it out for no end \
         of them"
    );
    assert_eq!(
        message("induction", json!({"train": [{"length": 64, "examples": "all"}]})),
        "induction, setting 'train[0].examples': invalid type: string \"all\", expected usize"
    );
}
