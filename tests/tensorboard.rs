//! TensorBoard's own readers find what a run recorded.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Bench, SMALL, metrics, text};

/// Prints what an event directory holds: scalars and histograms by tag, texts, sizes of images, and the messages of the HParams page.
const READER: &str = "
import json, sys
from google.protobuf.json_format import MessageToDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
events = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0, 'histograms': 0, 'tensors': 0})
events.Reload()
tags = events.Tags()
def of_plugin(name):
    try:
        return events.PluginTagToContent(name)
    except KeyError:
        return {}
texts = of_plugin('text')
def histogram(value):
    return [value.min, value.max, value.num, value.sum, value.sum_squares, list(value.bucket_limit), list(value.bucket)]
print(json.dumps({
    'scalars': {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags['scalars']},
    'histograms': {tag: [[e.step, histogram(e.histogram_value)] for e in events.Histograms(tag)] for tag in tags['histograms']},
    'texts': {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in texts},
    'images': {tag: [events.Images(tag)[0].width, events.Images(tag)[0].height] for tag in tags['images']},
    'hparams': {tag: MessageToDict(HParamsPluginData.FromString(content))
                for tag, content in of_plugin('hparams').items()},
}))
";

/// Prints the runs that the HParams page compares, as its own backend lists them: settings and metrics of each.
const PAGE: &str = "
import json, sys
from google.protobuf.json_format import MessageToDict
from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups
events = plugin_event_multiplexer.EventMultiplexer()
events.AddRunsFromDirectory(sys.argv[1])
events.Reload()
provider = data_provider.MultiplexerDataProvider(events, sys.argv[1])
page = backend_context.Context(base_plugin.TBContext(data_provider=provider, logdir=sys.argv[1]))
request = context.RequestContext()
experiment = get_experiment.Handler(request, page, '', api_pb2.GetExperimentRequest()).run()
wanted = api_pb2.ListSessionGroupsRequest(
    start_index=0, slice_size=100,
    allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING, api_pb2.STATUS_FAILURE, api_pb2.STATUS_UNKNOWN])
for info in experiment.metric_infos:
    wanted.col_params.add(metric=info.name)
groups = list_session_groups.Handler(request, page, '', wanted).run()
print(json.dumps({'experiment': MessageToDict(experiment), 'groups': [MessageToDict(g) for g in groups.session_groups]}))
";

/// What a Python program says of a directory, as JSON; none where there is no TensorBoard to ask.
fn ask(program: &str, directory: &Path) -> Option<Value> {
    let Ok(python) = std::env::var("HEDDLE_TEST_PYTHON") else {
        assert!(std::env::var_os("CI").is_none(), "HEDDLE_TEST_PYTHON is not set: start the tests with tests/run.sh");
        return None;
    };
    let output = Command::new(python).args(["-c", program]).arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn python_reads_the_events_that_the_metrics_hold() {
    let bench = Bench::new();
    bench.write("run.toml", SMALL);
    bench.succeed(&["run", "run.toml"]);
    let run = bench.run_directory("runs", "small");
    let Some(found) = ask(READER, &run.join("events")) else { return };
    let events = &found["scalars"];
    let rows = metrics(&run);
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

#[test]
fn python_reads_histograms_the_config_and_the_hyper_parameters() {
    let bench = Bench::new();
    bench.write("run.toml", &SMALL.replace("[train]", "[train]\nhistograms = 30"));
    bench.succeed(&["run", "run.toml"]);
    let run = bench.run_directory("runs", "small");
    let Some(all) = ask(READER, &run.join("events")) else { return };
    let rows = metrics(&run);
    let histograms: Vec<&Value> = rows.iter().filter(|row| row["kind"] == "histogram").collect();
    assert!(histograms.iter().any(|row| row["name"] == "gradients/embedding"));
    for row in histograms {
        let tag = row["name"].as_str().unwrap();
        let found = all["histograms"][tag].as_array().unwrap_or_else(|| panic!("no histogram is tagged {tag}"));
        let of_step = found.iter().find(|event| event[0] == row["step"]).unwrap();
        for (at, field) in ["min", "max"].into_iter().enumerate() {
            assert_eq!(of_step[1][at], row[field], "{tag}");
        }
        let counts: Vec<f64> = row["counts"].as_array().unwrap().iter().map(|count| count.as_f64().unwrap()).collect();
        assert_eq!(of_step[1][2].as_f64(), Some(counts.iter().sum()), "{tag}");
        let read: Vec<f64> = of_step[1][6].as_array().unwrap().iter().map(|count| count.as_f64().unwrap()).collect();
        assert_eq!(read, counts, "{tag}");
    }

    assert!(all["texts"]["config"].as_str().unwrap().contains("\"d_model\": 16"), "{}", all["texts"]);
    let hparams = &all["hparams"];
    let settings = &hparams["_hparams_/session_start_info"]["sessionStartInfo"]["hparams"];
    assert_eq!((settings["train.lr"].as_f64(), settings["task.kind"].as_str()), (Some(3e-3), Some("mqar")));
    assert_eq!(hparams["_hparams_/session_end_info"]["sessionEndInfo"]["status"], "STATUS_SUCCESS");
}

#[test]
fn the_hparams_page_compares_the_runs_of_a_sweep() {
    let bench = Bench::new();
    let sweep = "\n[sweep]\nseeds = [0, 1]\n[sweep.axes]\ntrain.lr = [1e-3, 4e-3]\n";
    bench.write("sweep.toml", &format!("{SMALL}{sweep}").replace("steps = 60", "steps = 20"));
    bench.succeed(&["sweep", "sweep.toml"]);
    let folder = bench.path("runs/small");
    let Some(page) = ask(PAGE, &folder) else { return };
    let names = |list: &Value, name: &dyn Fn(&Value) -> Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|info| name(info).as_str().unwrap().to_owned()).collect()
    };
    let experiment = &page["experiment"];
    assert_eq!(names(&experiment["hparamInfos"], &|info| info["name"].clone()), ["case", "seed", "train.lr"]);
    let metric = |info: &Value| info["name"]["tag"].clone();
    let tags = ["accuracy", "loss"].map(|of| format!("test/{of}/length=16,pairs=2"));
    assert_eq!(names(&experiment["metricInfos"], &metric)[..2], tags);
    let groups = page["groups"].as_array().unwrap();
    assert_eq!(groups.len(), 4);
    for group in groups {
        let session = group["sessions"][0]["name"].as_str().unwrap();
        let hash = session.split('/').next().unwrap();
        let result = crate::harness::result_without_timing(&folder.join(hash));
        assert_eq!(group["hparams"]["seed"].as_f64(), result["seed"].as_f64());
        assert_eq!(group["hparams"]["train.lr"], result["axes"]["train.lr"]);
        let values = group["metricValues"].as_array().unwrap();
        let accuracy = values.iter().find(|value| value["name"]["tag"] == tags[0].as_str()).unwrap();
        // A value of zero is left out of JSON.
        let found = accuracy["value"].as_f64().unwrap_or(0.0) as f32;
        assert_eq!(found, result["test"][0]["accuracy"].as_f64().unwrap() as f32);
    }
    let pictures = ask(READER, &folder.join("events")).unwrap()["images"].clone();
    let figure = &pictures["report/validation-accuracy"];
    assert!(figure[0].as_u64() > figure[1].as_u64() && figure[1].as_u64() > Some(100), "{pictures}");
}
