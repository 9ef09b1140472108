//! TensorBoard's own reader finds what a run recorded.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Bench, SMALL, text};

/// Prints every scalar of an event directory as `{tag: [[step, value], …]}`.
const READER: &str = "
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})
events.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()['scalars']}))
";

#[test]
fn python_reads_the_events_that_the_metrics_hold() {
    let Ok(python) = std::env::var("HEDDLE_TEST_PYTHON") else {
        assert!(std::env::var_os("CI").is_none(), "HEDDLE_TEST_PYTHON is not set: start the tests with tests/run.sh");
        return;
    };
    let bench = Bench::new();
    bench.write("run.toml", SMALL);
    bench.succeed(&["run", "run.toml"]);
    let run = bench.run_directory("runs", "small");
    let output = Command::new(python).args(["-c", READER]).arg(run.join("events")).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let events: Value = serde_json::from_slice(&output.stdout).unwrap();

    let rows = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let recorded = |kind: &str, field: &str, keep: &dyn Fn(&Value) -> bool| -> Vec<(u64, f64)> {
        let rows = rows.iter().filter(|row| row["kind"] == kind && keep(row));
        rows.map(|row| (row["step"].as_u64().unwrap(), row[field].as_f64().unwrap())).collect()
    };
    let check = |tag: &str, expected: Vec<(u64, f64)>| {
        assert!(!expected.is_empty(), "{tag}");
        let found = events[tag].as_array().unwrap_or_else(|| panic!("no events are tagged {tag}: {events}"));
        assert_eq!(found.len(), expected.len(), "{tag}");
        for (event, (step, value)) in found.iter().zip(expected) {
            assert_eq!(event[0], step, "{tag}");
            // Events hold f32.
            assert_eq!(event[1].as_f64().unwrap() as f32, value as f32, "{tag} at step {step}");
        }
    };
    let all = |_: &Value| true;
    check("train/loss", recorded("train", "loss", &all));
    check("train/learning_rate", recorded("train", "lr", &all));
    check("train/gradient_norm", recorded("train", "grad_norm", &all));
    check("train/tokens_per_second", recorded("train", "tokens_per_second", &all));
    for (split, slice) in
        [("validation", "length=16,pairs=2"), ("test", "length=16,pairs=2"), ("test", "length=24,pairs=3")]
    {
        let of_slice = |row: &Value| row["split"] == split && row["slice"] == slice;
        check(&format!("{split}/accuracy/{slice}"), recorded("eval", "accuracy", &of_slice));
        check(&format!("{split}/loss/{slice}"), recorded("eval", "loss", &of_slice));
    }
}
