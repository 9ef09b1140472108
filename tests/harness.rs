//! The program, run in a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use experiments::checkpoint::{Tensors, restore};
use serde_json::Value;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_owned()
}

/// The files below a directory of the repository that end in `.EXTENSION`, in order; what is built or run is left out.
pub(crate) fn files_below(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    for path in fs::read_dir(directory).expect("the directory is readable").map(|entry| entry.unwrap().path()) {
        let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
        if path.is_dir() && !["target", "runs", ".git"].contains(&name.as_str()) {
            found.extend(files_below(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A directory of its own and the program to run in it.
pub(crate) struct Bench(tempfile::TempDir);

/// A model and task so small that a run takes about a second.
pub(crate) const SMALL: &str = r#"
name = "small"

[task]
kind = "mqar"
vocab = 32
train = [{ length = 16, pairs = 2 }, { length = 24, pairs = 3 }]
validation = [{ length = 16, pairs = 2, examples = 32 }]
test = [{ length = 16, pairs = 2, examples = 32 }, { length = 24, pairs = 3, examples = 32 }]

[model]
d_model = 16
layers = ["mamba", "attention+mlp"]

[model.mixer.mamba]
d_state = 4

[model.mixer.attention]
heads = 2

[model.channel.mlp]
kind = "swiglu"

[train]
steps = 60
batch = 8
warmup = 10
checkpoint_every = 5

[eval]
every = 20
batch = 16
"#;

impl Bench {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        fs::write(self.path(name), text).expect("the directory is writable");
        self.path(name)
    }

    /// The program, to be started in this directory.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heddle"));
        command.args(args).current_dir(self.0.path());
        command
    }

    pub(crate) fn heddle(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("the program starts")
    }

    /// Runs the program, which must succeed, and returns what it prints.
    pub(crate) fn succeed(&self, args: &[&str]) -> String {
        let output = self.heddle(args);
        assert!(output.status.success(), "heddle {args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Runs the program, which must end with `code`, and returns what it complains of.
    pub(crate) fn fail(&self, code: i32, args: &[&str]) -> String {
        let output = self.heddle(args);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "heddle {args:?}: {complaint}");
        assert!(!complaint.contains("panicked"), "{complaint}");
        complaint
    }

    /// The only run directory of an experiment.
    pub(crate) fn run_directory(&self, out: &str, name: &str) -> PathBuf {
        let runs = fs::read_dir(self.path(out).join(name)).expect("the experiment has runs");
        let mut runs: Vec<PathBuf> = runs.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
        assert_eq!(runs.len(), 1, "{runs:?}");
        runs.remove(0)
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("the program prints UTF-8")
}

/// Everything of a result that is a function of the config.
pub(crate) fn result_without_timing(run: &Path) -> Value {
    let text = fs::read_to_string(run.join("result.json")).expect("the run is finished");
    let mut result: Value = serde_json::from_str(&text).expect("a result is JSON");
    result.as_object_mut().unwrap().remove("timing").expect("a result has a timing");
    result
}

/// The parameters, moments, best and averaged parameters that a run ended with, as bits.
pub(crate) fn last_tensors(run: &Path) -> [Vec<(String, Vec<u8>)>; 4] {
    let (checkpoint, warnings) = restore(&run.join("checkpoint")).unwrap().expect("the run has a checkpoint");
    assert_eq!(warnings, Vec::<String>::new());
    let bits = |tensors: Tensors| tensors.into_iter().map(|(name, data)| (name, data.as_bytes().to_vec())).collect();
    [checkpoint.model, checkpoint.moments, checkpoint.best, checkpoint.average].map(bits)
}

/// The rows of a run's metrics.
pub(crate) fn metrics(run: &Path) -> Vec<Value> {
    let rows = fs::read_to_string(run.join("metrics.jsonl")).expect("the run has metrics");
    rows.lines().map(|line| serde_json::from_str(line).expect("no row is half-written")).collect()
}

/// Whether two executions of a config left the same bits behind, the clock aside.
pub(crate) fn assert_same(a: &Path, b: &Path) {
    assert_eq!(result_without_timing(a), result_without_timing(b));
    assert!(last_tensors(a) == last_tensors(b), "the parameters differ");
    let timeless = |run| {
        let mut rows = metrics(run);
        rows.iter_mut().for_each(|row| drop(row.as_object_mut().unwrap().remove("tokens_per_second")));
        rows
    };
    assert_eq!(timeless(a), timeless(b));
    let checkpoints = |run: &Path| {
        let files = fs::read_dir(run.join("checkpoint")).unwrap();
        files.map(|file| file.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    // A checkpoint's name holds the hash of its content.
    assert_eq!(checkpoints(a), checkpoints(b));
}
