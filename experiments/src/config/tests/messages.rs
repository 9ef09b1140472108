//! What is said about the usual mistakes, to the letter.

use super::*;

/// The message, without the indentation of the expected text.
fn assert_refused(text: &str, overrides: &[&str], expected: &str) {
    let error = try_load(text, overrides).map(|_| ()).expect_err(text);
    let margin = expected.lines().nth(1).map_or(0, |line| line.len() - line.trim_start().len());
    let expected: Vec<&str> = expected.lines().skip(1).map(|line| line.get(margin..).unwrap_or_default()).collect();
    assert_eq!(error.to_string(), expected.join("\n").trim_end());
}

#[test]
fn a_mistyped_key_is_drawn_with_the_nearest_known_one() {
    assert_refused(
        "# a run\n[train]\nlrr = 0.1\n",
        &[],
        "
        unknown key `train.lrr`
         --> run.toml:3:1
          |
        3 | lrr = 0.1
          | ^^^
          = did you mean `train.lr`?
        ",
    );
}

#[test]
fn a_key_in_the_wrong_table_is_sent_to_the_right_one() {
    assert_refused(
        "batch = 8",
        &[],
        "
        unknown key `batch`
         --> run.toml:1:1
          |
        1 | batch = 8
          | ^^^^^
          = did you mean `train.batch` or `eval.batch`?
        ",
    );
}

#[test]
fn a_key_like_no_other_is_answered_with_the_keys_there_are() {
    assert_refused(
        "[model.mixer.mamba]\nwindow = 8",
        &[],
        "
        unknown key `model.mixer.mamba.window`
         --> run.toml:2:1
          |
        2 | window = 8
          | ^^^^^^
          = the keys here are kind, d_state, expand
          = in the kind `mamba`
        ",
    );
}

#[test]
fn a_float_for_an_integer_is_refused_with_the_default() {
    assert_refused(
        "[train]\r\n\tsteps = 2e3 # many\r\n",
        &[],
        "
        `train.steps` takes an integer, not the float 2000.0
         --> run.toml:2:10
          |
        2 |  steps = 2e3 # many
          |          ^^^
          = write it as 2000
          = default: 1000
        ",
    );
}

#[test]
fn a_negative_count_is_refused() {
    assert_refused(
        "eval.every = -1",
        &[],
        "
        `eval.every` takes an integer of at least 0, not the integer -1
         --> run.toml:1:14
          |
        1 | eval.every = -1
          |              ^^
          = default: 100
        ",
    );
}

#[test]
fn an_unknown_kind_is_answered_with_the_kinds_there_are() {
    assert_refused(
        "[task]\nkind = 'mqarr'",
        &[],
        "
        `task.kind` names no kind: \"mqarr\"
         --> run.toml:2:8
          |
        2 | kind = 'mqarr'
          |        ^^^^^^^
          = the kinds are mqar, induction
          = did you mean `mqar`?
        ",
    );
}

#[test]
fn a_mixer_that_is_nowhere_defined_is_not_defined_by_a_typing_error() {
    assert_refused(
        "[model.mixer.local]\nkind = 'attention'\n[model.mixer.locale]\nwindow = 8",
        &[],
        "
        `model.mixer.locale` has no `kind`
         --> run.toml:3:14
          |
        3 | [model.mixer.locale]
          |              ^^^^^^
          = the kinds are attention, mamba
          = did you mean `model.mixer.local`?
        ",
    );
    let case = "[model.mixer.local]\nkind = 'attention'\n[sweep.case.a.model.mixer.locale]";
    assert!(try_load(case, &[]).unwrap_err().to_string().contains("did you mean `model.mixer.local`?"));
    assert!(!try_load("[model.mixer.x]\n[model.mixer.mamba]", &[]).unwrap_err().to_string().contains("did you mean"));
}

#[test]
fn an_unknown_variant_is_drawn_with_the_nearest_one() {
    assert_refused(
        "[train]\nschedule = 'cosin'",
        &[],
        "
        `train.schedule`: unknown variant `cosin`, expected one of `constant`, `cosine`, `linear`, `wsd`
         --> run.toml:2:12
          |
        2 | schedule = 'cosin'
          |            ^^^^^^^
          = did you mean `cosine`?
        ",
    );
}

#[test]
fn a_value_out_of_range_is_drawn_where_it_or_its_bound_was_written() {
    assert_refused(
        "train.lr = 0",
        &[],
        "
        `train.lr` is 0; it must be above 0 and finite
         --> run.toml:1:12
          |
        1 | train.lr = 0
          |            ^
        ",
    );
    assert_refused(
        "",
        &["train.steps=50"],
        "
        `train.warmup` is 100; it must be at most `train.steps` (50)
         --> --set
          |
          | train.steps=50
          |             ^^
        ",
    );
}

#[test]
fn a_mistake_in_a_tasks_segments_is_drawn_at_the_element() {
    assert_refused(
        "[task]\nsegments = [\n  {length = 64, pairs = 4},\n  {length = 64, pears = 4},\n]",
        &[],
        "
        unknown key `task.segments[1].pears`
         --> run.toml:4:17
          |
        4 |   {length = 64, pears = 4},
          |                 ^^^^^
          = did you mean `task.segments[1].pairs`?
        ",
    );
    assert_refused(
        "task.segments = [{length = 64, pairs = 17}]",
        &[],
        "
        `task.segments[0].pairs`: four times the pairs must fit into the length
         --> run.toml:1:40
          |
        1 | task.segments = [{length = 64, pairs = 17}]
          |                                        ^^
        ",
    );
    assert_refused(
        "task.segments = [{pairs = 4}]",
        &[],
        "
        `task.segments[0]`: missing field `length`
         --> run.toml:1:18
          |
        1 | task.segments = [{pairs = 4}]
          |                  ^^^^^^^^^^^
        ",
    );
}

#[test]
fn a_key_that_a_layer_would_ignore_is_refused() {
    let error = try_load("model.layers = [{repeat = 2, layers = [], every = 3}]", &[]).unwrap_err().to_string();
    assert!(error.contains("`model.layers[0]"), "{error}");
    assert!(error.contains("\n --> run.toml:1:"), "{error}");
}

#[test]
fn an_override_is_drawn_as_it_was_typed() {
    assert_refused(
        "",
        &["train.lr=fast"],
        "
        `train.lr` takes a number, not the string \"fast\"
         --> --set
          |
          | train.lr=fast
          |          ^^^^
          = default: 0.003
        ",
    );
    assert_refused(
        "",
        &["train.lr"],
        "
        an override is written `key=value`
         --> --set
          |
          | train.lr
          | ^^^^^^^^
          = for example `train.lr=0.001`
        ",
    );
}

#[test]
fn a_mistake_in_a_sweep_names_its_case() {
    assert_refused(
        "[sweep.case.small]\nmodel.d_modle = 8",
        &[],
        "
        unknown key `model.d_modle`
         --> run.toml:2:7
          |
        2 | model.d_modle = 8
          |       ^^^^^^^
          = did you mean `model.d_model`?
          = in the case `small`
        ",
    );
    assert_refused(
        "[sweep.axes]\ntrain.lr = [0.1, 'big']",
        &[],
        "
        `train.lr` takes a number, not the string \"big\"
         --> run.toml:2:18
          |
        2 | train.lr = [0.1, 'big']
          |                  ^^^^^
          = default: 0.003
        ",
    );
}

#[test]
fn an_axis_must_have_values_and_a_sweep_must_end() {
    let message = |text| try_load(text, &[]).unwrap_err().to_string();
    assert!(message("sweep.axes.train.lr = []").starts_with("the axis `train.lr` has no values\n --> run.toml:1:18"));
    assert!(message("sweep.axes.seed = [1]").starts_with("`seed` is no axis"));
    assert!(message("[sweep]\nseed = [1]").contains("did you mean `sweep.seeds`?"));
    let many = format!("'train.lr' = {0}\n'train.clip' = {0}\n'train.steps' = {0}", json!(vec![100; 30]));
    assert!(message(&format!("[sweep.axes]\n{many}")).starts_with("the sweep plans more than 10000 runs"));
}

#[test]
fn broken_toml_is_drawn_at_the_break() {
    assert_refused(
        "\u{feff}name = 'a'\nseed = \n",
        &[],
        "
        not TOML: string values must be quoted, expected literal string
         --> run.toml:2:8
          |
        2 | seed =
          |        ^
        ",
    );
}

#[test]
fn a_choice_between_runs_is_laid_out() {
    let loaded = try_load(SWEEP, &["model.d_model=32"]).unwrap();
    let message = |case, seed| loaded.select(case, seed).unwrap_err().to_string();
    assert_eq!(
        message(None, Some(1)),
        "run.toml plans 4 runs; choose one, or run them all with `heddle sweep`\
         \n = --case hybrid|attention\n = --set train.lr=0.001|1.0"
    );
    assert_eq!(message(Some("mamba"), None), "run.toml has no case `mamba`\n = --case hybrid|attention");
}

#[test]
fn a_setting_found_wrong_after_loading_is_drawn_too() {
    let [run] = runs("model.layers = ['mamba',\n  'atention']", &[]).try_into().unwrap();
    let error = run.blame("model.layers[1]", "no mixer is called `atention`");
    assert!(error.to_string().starts_with("`model.layers[1]`: no mixer is called `atention`\n --> run.toml:2:3\n"));
    // A default has no line.
    assert_eq!(run.blame("train.lr", "too high").to_string(), "`train.lr`: too high");
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let none = BTreeMap::new();
    let kinds = Kinds { tasks: &Tasks, mixers: &none, channels: &none };
    let message = |path: &Path| load(path, &[], &kinds).unwrap_err().to_string();
    let missing = folder.path().join("missing.toml");
    assert!(message(&missing).starts_with(&format!("cannot read the run file {}: ", missing.display())));
    assert!(message(folder.path()).contains("is a directory; give the run file itself"));
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, b"seed = 1\nname = '\xff'").unwrap();
    assert!(message(&binary).ends_with("is not UTF-8: line 2 holds other bytes"));
}
