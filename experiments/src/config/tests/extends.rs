//! Run files laid over run files.

use super::*;

/// A directory with these files; the last is the one that is loaded.
fn load_files(files: &[(&str, &str)], overrides: &[&str]) -> Result<Vec<PlannedRun>, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let overrides: Vec<String> = overrides.iter().map(|argument| argument.to_string()).collect();
    let registry = crate::Registry::default();
    let kinds = Kinds { tasks: &Tasks, ..registry.kinds() };
    let path = folder.path().join(files.last().unwrap().0);
    let here = format!("{}/", folder.path().display());
    load(&path, &overrides, &kinds).map(Loaded::expand).map_err(|error| error.to_string().replace(&here, ""))
}

fn one(files: &[(&str, &str)]) -> PlannedRun {
    let [run] = load_files(files, &[]).unwrap_or_else(|error| panic!("{error}")).try_into().expect("one run");
    run
}

#[test]
fn a_file_is_laid_over_those_that_it_extends_and_the_later_wins() {
    let files = [
        ("parts/optimizer.toml", "[train]\nlr = 0.1\nclip = 2\nsteps = 111"),
        ("parts/base.toml", "extends = 'optimizer.toml'\nseed = 5\n[train]\nsteps = 222"),
        ("task.toml", "[task]\npairs = 3\n[train]\nsteps = 333"),
        ("runs/run.toml", "extends = ['../parts/base.toml', '../task.toml']\n[train]\nlr = 0.2"),
    ];
    let PlannedRun { config, .. } = one(&files);
    assert_eq!((config.train.lr, config.train.clip, config.train.steps), (0.2, 2.0, 333));
    assert_eq!((config.seed, &config.task["pairs"]), (5, &json!(3)));
}

#[test]
fn the_hash_is_that_of_the_settings_wherever_they_are_written() {
    let text = "[train]\nlr = 0.2\n[task]\nkind = 'induction'\nlength = 32";
    let split = [
        ("base.toml", "[train]\nlr = 0.1\n[task]\npairs = 3"),
        ("run.toml", "extends = 'base.toml'\n[train]\nlr = 0.2\n[task]\nkind = 'induction'\nlength = 32"),
    ];
    // The settings of the other task in the base mean nothing to this one.
    assert_eq!(one(&split).hash, one(&[("run.toml", text)]).hash);
    assert!(!one(&split).config.to_toml().contains("extends"));
}

#[test]
fn the_sweep_and_the_preset_of_a_base_are_taken_along() {
    let base = "model.preset = 'mamba'\n[sweep]\nseeds = [1, 2]\n[sweep.case.a]\ntrain.lr = 0.1\n[sweep.case.b]";
    let run = "extends = 'base.toml'\n[sweep]\nseeds = [3]\n[sweep.case.a]\ntrain.clip = 2";
    let runs = load_files(&[("base.toml", base), ("run.toml", run)], &["sweep.case.c.train.lr=0.5"]).unwrap();
    let told: Vec<_> =
        runs.iter().map(|run| (run.config.case.as_str(), run.config.seed, run.config.train.lr)).collect();
    assert_eq!(told, [("a", 3, 0.1), ("b", 3, 3e-3), ("c", 3, 0.5)]);
    assert_eq!(runs[0].config.train.clip, 2.0);
    assert!(runs.iter().all(|run| run.config.model.mixer.contains_key("mamba")));
    let other = "extends = 'base.toml'\nmodel.preset = 'mistral'";
    let overridden = load_files(&[("base.toml", base), ("run.toml", other)], &["sweep.seeds=[1]"]).unwrap();
    assert!(!overridden[0].config.model.mixer.contains_key("mamba"), "the later preset counts");
}

#[test]
fn an_error_in_a_base_is_drawn_from_the_bases_own_text() {
    let files =
        [("base/a.toml", "# shared\n[train]\nlrr = 0.1\n"), ("run.toml", "extends = 'base/a.toml'\nseed = 1\n")];
    assert_eq!(
        load_files(&files, &[]).unwrap_err(),
        "unknown key `train.lrr`\n --> base/a.toml:3:1\n  |\n3 | lrr = 0.1\n  | ^^^\n  = did you mean `train.lr`?"
    );
    let broken = [("a.toml", "seed = \n"), ("run.toml", "extends = 'a.toml'")];
    assert!(load_files(&broken, &[]).unwrap_err().contains("not TOML") && load_files(&broken, &[]).is_err());
    // A range that a setting of one file breaks and a setting of another states is drawn at the first.
    let across = [("a.toml", "train.warmup = 700"), ("run.toml", "extends = 'a.toml'\ntrain.steps = 600")];
    let message = load_files(&across, &[]).unwrap_err();
    assert!(message.contains("--> a.toml:1:16") && message.contains("`train.steps` (600)"), "{message}");
}

#[test]
fn a_missing_base_is_drawn_on_the_line_that_names_it() {
    let message = load_files(&[("run.toml", "seed = 1\nextends = ['bse.toml']\n")], &[]).unwrap_err();
    assert!(message.starts_with("`extends`: cannot read the run file bse.toml: No such file"), "{message}");
    assert!(message.contains("\n --> run.toml:2:12\n"), "{message}");
    assert!(message.ends_with("= the path is relative to the file that it is written in"), "{message}");
    let nested = [("b/a.toml", "extends = '.'"), ("run.toml", "extends = 'b/a.toml'")];
    let message = load_files(&nested, &[]).unwrap_err();
    assert!(message.contains("is a directory") && message.contains("\n --> b/a.toml:1:11\n"), "{message}");
}

#[test]
fn a_circle_is_an_error_and_a_file_reached_twice_is_none() {
    let circle = [("a.toml", "extends = 'run.toml'"), ("run.toml", "# x\nextends = './a.toml'")];
    let message = load_files(&circle, &[]).unwrap_err();
    assert!(message.starts_with("`extends` leads in a circle: ") && message.contains("/a.toml:1:11\n"), "{message}");
    assert!(load_files(&[("run.toml", "extends = 'run.toml'")], &[]).unwrap_err().contains("leads in a circle"));
    let twice = [
        ("a.toml", "seed = 1\ntrain.lr = 0.1"),
        ("b.toml", "extends = 'a.toml'\ntrain.lr = 0.2"),
        ("run.toml", "extends = ['b.toml', 'a.toml']"),
    ];
    assert_eq!(one(&twice).config.train.lr, 0.1);
    let fan = |to: &str| format!("extends = {:?}", vec![to; 10]);
    let (a, b, run) = (fan("c.toml"), fan("a.toml"), fan("b.toml"));
    let many = [("c.toml", ""), ("a.toml", &*a), ("b.toml", &*b), ("run.toml", &*run)];
    assert!(load_files(&many, &[]).unwrap_err().starts_with("`extends` leads to more than 100 files"));
}

#[test]
fn extends_is_no_setting() {
    let message = |text: &str, overrides: &[&str]| load_files(&[("run.toml", text)], overrides).unwrap_err();
    assert!(message("extends = 3", &[]).starts_with("`extends` takes a path or a list of paths, not the integer 3"));
    assert!(message("extend = 'a.toml'", &[]).contains("did you mean `extends`?"));
    assert!(message("sweep.case.a.extends = 'b'", &[]).contains("belongs to a run file as a whole"));
    assert!(message("", &["extends=b.toml"]).contains("belongs to a run file as a whole"));
}
