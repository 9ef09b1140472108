//! Grid, zip, list and selection.

use super::*;

fn message(text: &str) -> String {
    try_load(text, &[]).map(drop).expect_err(text).to_string()
}

#[test]
fn zipped_axes_move_together() {
    let text = "[sweep.zip]\ntrain.lr = [0.1, 0.2, 0.3]\n'train.batch' = [1, 2, 3]";
    let told: Vec<_> = runs(text, &[]).iter().map(|run| (run.config.train.lr, run.config.train.batch)).collect();
    assert_eq!(told, [(0.1, 1), (0.2, 2), (0.3, 3)]);
    let zipped = &runs(text, &[])[1].axes;
    assert_eq!(zipped, &BTreeMap::from([("train.lr".into(), json!(0.2)), ("train.batch".into(), json!(2))]));
}

#[test]
fn zipped_axes_of_unequal_length_are_refused_by_name() {
    assert_eq!(
        message("[sweep.zip]\ntrain.batch = [1, 2]\ntrain.lr = [0.1]"),
        "`train.lr` has 1 values, and `train.batch`, zipped with it, 2\n --> run.toml:3:7\n  |\n3 | train.lr = [0.1]\n  \
         |       ^^\n  = axes of `[sweep.zip]` move together; those of `[sweep.axes]` make up a grid"
    );
}

#[test]
fn a_list_is_points_written_out_each_with_settings_of_its_own() {
    let text = "
        [[sweep.list]]
        train.steps = 500
        'train.lr' = 0.1
        [[sweep.list]]
        task = {kind = 'induction', length = 32}
        [[sweep.list]]";
    let points = runs(text, &[]);
    let told: Vec<_> = points.iter().map(|run| (run.config.train.steps, run.config.train.lr)).collect();
    assert_eq!(told, [(500, 0.1), (1000, 3e-3), (1000, 3e-3)]);
    assert_eq!(points[1].config.task["length"], 32);
    // What any of the points sets is told of all.
    let keys: Vec<&str> = points[0].axes.keys().map(String::as_str).collect();
    assert_eq!(keys, ["task.kind", "task.length", "train.lr", "train.steps"]);
    assert_eq!((&points[0].axes["task.kind"], &points[0].axes["task.length"]), (&json!("mqar"), &Value::Null));
    assert_eq!(points[1].axes["train.steps"], json!(1000));
}

#[test]
fn cases_come_first_then_list_zip_and_grid_then_seeds() {
    let text = "
        [sweep]
        seeds = [1, 2]
        [sweep.axes]
        train.clip = [3, 4]
        [sweep.zip]
        train.beta1 = [0.5, 0.6]
        train.beta2 = [0.7, 0.8]
        [[sweep.list]]
        train.lr = 0.1
        [[sweep.list]]
        train.lr = 0.2
        [sweep.case.b]
        [sweep.case.a]";
    let planned = runs(text, &[]);
    assert_eq!(planned.len(), 2 * 2 * 2 * 2 * 2);
    let told = |i: usize| {
        let RunConfig { case, seed, train, .. } = &planned[i].config;
        (case.as_str(), train.lr, train.beta1, train.beta2, train.clip, *seed)
    };
    assert_eq!(told(0), ("b", 0.1, 0.5, 0.7, 3.0, 1));
    assert_eq!(told(1), ("b", 0.1, 0.5, 0.7, 3.0, 2));
    assert_eq!(told(2), ("b", 0.1, 0.5, 0.7, 4.0, 1));
    assert_eq!(told(4), ("b", 0.1, 0.6, 0.8, 3.0, 1));
    assert_eq!(told(8), ("b", 0.2, 0.5, 0.7, 3.0, 1));
    assert_eq!(told(16), ("a", 0.1, 0.5, 0.7, 3.0, 1));
}

#[test]
fn a_point_wins_over_its_case_and_loses_to_an_override() {
    let text = "[[sweep.list]]\ntrain.lr = 0.1\n[sweep.case.a]\ntrain.lr = 0.5\ntrain.clip = 7";
    let point = run(text, &[]);
    assert_eq!((point.train.lr, point.train.clip), (0.1, 7.0));
    assert_eq!(run(text, &["train.lr=0.9"]).train.lr, 0.9);
    assert_eq!(run(text, &["sweep.list=[]"]).train.lr, 0.5);
}

#[test]
fn what_no_point_may_set_is_refused_wherever_it_stands() {
    assert!(message("sweep.zip.seed = [1]").starts_with("`seed` is no axis\n --> run.toml:1:11"));
    assert!(message("[[sweep.list]]\ncase = 'a'").starts_with("`case` is no axis\n --> run.toml:2:1"));
    assert!(message("[[sweep.list]]\ntrain.lrr = 1").starts_with("unknown key `train.lrr`\n --> run.toml:2:7"));
    assert!(message("sweep.list = [3]").starts_with("`sweep.list[0]` takes a table, not the integer 3"));
    assert!(message("sweep.list = 3").contains("below `[[sweep.list]]`"));
    assert!(message("sweep.zip.train.lr = []").starts_with("the axis `train.lr` has no values"));
    assert!(message("[sweep]\nlists = [{}]").contains("did you mean `sweep.list`?"));
    assert!(message("[[sweep.list]]\nsweep.seeds = [1]").contains("belongs to a run file as a whole"));
    let deep = format!("[[sweep.list]]\n'{}a' = 1", "a.".repeat(100_000));
    assert!(message(&deep).len() < 1_000_000);
    let many = format!("sweep.list = [{}]\n[sweep.axes]\ntrain.batch = {:?}", "{},".repeat(200), vec![1; 60]);
    assert!(message(&many).starts_with("the sweep plans more than 10000 runs"));
}

#[test]
fn no_setting_is_varied_twice() {
    let twice = "[sweep.axes]\ntrain.lr = [1]\n[sweep.zip]\ntrain.lr = [2]";
    assert!(message(twice).starts_with("`train.lr` of `sweep.axes` is varied by `sweep.zip` too\n --> run.toml:2:7"));
    let within = "[sweep.axes]\n'task.kind' = ['mqar']\n[[sweep.list]]\ntask = {pairs = 2}";
    assert_eq!(runs(within, &[]).len(), 1);
    let around = "sweep.axes.task = [{pairs = 2}]\n[[sweep.list]]\ntask = {pairs = 2}";
    assert!(message(around).starts_with("`task` of `sweep.axes` is varied by `sweep.list` too"));
}

#[test]
fn what_is_selected_is_an_axis_and_takes_along_what_moves_with_it() {
    let sweep = "[sweep.axes]\ntrain.lr = [1, 2]\n[sweep.zip]\ntrain.beta1 = [0.5]\ntrain.beta2 = [0.5]\n";
    let select = |keys: &str| try_load(&format!("[sweep]\nselect = {keys}\n{sweep}"), &[]).map(|l| l.sweep.select);
    assert_eq!(select("['train.lr']").unwrap(), ["train.lr"]);
    assert_eq!(select("['train.beta2']").unwrap(), ["train.beta1", "train.beta2"]);
    let unknown = select("['train.lrr']").unwrap_err().to_string();
    assert!(unknown.starts_with("`train.lrr` is no axis of this sweep\n --> run.toml:2:11"), "{unknown}");
    assert!(
        unknown.contains("the axes are train.beta1, train.beta2, train.lr\n  = did you mean `train.lr`?"),
        "{unknown}"
    );
    assert!(select("'train.lr'").unwrap_err().to_string().starts_with("`sweep.select` takes an array"));
    assert!(message("sweep.select = ['train.lr']").contains("it has none"));
    // It says how results are read, not what is run.
    let hashes = |text: &str| runs(text, &[]).into_iter().map(|run| run.hash).collect::<Vec<_>>();
    assert_eq!(hashes(sweep), hashes(&format!("[sweep]\nselect = ['train.lr']\n{sweep}")));
}
