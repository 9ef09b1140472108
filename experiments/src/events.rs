//! TensorBoard events: scalars, histograms, texts, and the hyper-parameters that its HParams page compares runs by.
//!
//! The records are framed by `tensorboard-rs`; they are written here and not through its own writer, which has no texts and
//! no hyper-parameters, and ends the process where a disk is full.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use protobuf::well_known_types::{Value as ProtoValue, Value_oneof_kind as Kind};
use protobuf::{Message, RepeatedField};
use serde_json::Value;
use tensorboard_proto::api::{DataType as HparamType, Experiment, HParamInfo, MetricInfo, MetricName, Status};
use tensorboard_proto::event::Event;
use tensorboard_proto::plugin_hparams::{HParamsPluginData, SessionEndInfo, SessionStartInfo};
use tensorboard_proto::summary::{Summary, Summary_Image, Summary_Value, SummaryMetadata, SummaryMetadata_PluginData};
use tensorboard_proto::tensor::TensorProto;
use tensorboard_proto::types::DataType;
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary::histogram_raw;

use crate::files::{FileError, create_dir};
use crate::result::Histogram;

/// A directory's one file of events.
pub struct Events {
    path: PathBuf,
    writer: RecordWriter<BufWriter<File>>,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Events {
    /// Begins the events of a directory anew.
    ///
    /// # Errors
    /// If old events cannot be removed or the file cannot be created.
    pub fn create(directory: &Path) -> Result<Self, FileError> {
        create_dir(directory)?;
        for entry in fs::read_dir(directory).map_err(FileError::of("read the directory", directory))?.flatten() {
            fs::remove_file(entry.path()).map_err(FileError::of("remove", &entry.path()))?;
        }
        // TensorBoard asks for `tfevents` in the name, and reads files in the order of their names.
        let path = directory.join(format!("events.out.tfevents.{:010}", now() as u64));
        let file = File::create(&path).map_err(FileError::of("create", &path))?;
        let mut events = Self { path, writer: RecordWriter::new(BufWriter::new(file)) };
        let mut first = Event::new();
        first.set_file_version("brain.Event:2".into());
        events.write(first, 0)?;
        Ok(events)
    }

    /// Adds a point of a curve.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn scalar(&mut self, tag: &str, value: f64, step: u64) -> Result<(), FileError> {
        let mut point = Summary_Value::new();
        point.set_tag(tag.into());
        point.set_simple_value(value as f32);
        self.add(point, step)
    }

    /// Adds a distribution.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn histogram(&mut self, tag: &str, of: &Histogram, step: u64) -> Result<(), FileError> {
        let counts: Vec<f64> = of.counts.iter().map(|&count| count as f64).collect();
        let limits = of.limits();
        let numbers = counts.iter().sum();
        let summary = histogram_raw(tag, of.min, of.max, numbers, of.sum, of.sum_squares, &limits, &counts);
        self.summary(summary, step)
    }

    /// Adds a text in Markdown.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn text(&mut self, tag: &str, text: &str) -> Result<(), FileError> {
        let mut tensor = TensorProto::new();
        tensor.set_dtype(DataType::DT_STRING);
        tensor.set_string_val(RepeatedField::from_vec(vec![text.as_bytes().to_vec()]));
        self.add(of_plugin(tag, "text", vec![], tensor), 0)
    }

    /// Adds a picture, given as a PNG file.
    ///
    /// # Errors
    /// If it cannot be written.
    ///
    /// # Panics
    /// If it is no PNG.
    pub fn image(&mut self, tag: &str, png: &[u8]) -> Result<(), FileError> {
        let (width, height, channels) = png_header(png).expect("events: a picture is a PNG");
        let mut image = Summary_Image::new();
        image.set_width(width);
        image.set_height(height);
        image.set_colorspace(channels);
        image.set_encoded_image_string(png.to_vec());
        let mut point = Summary_Value::new();
        point.set_tag(tag.into());
        point.set_image(image);
        self.add(point, 0)
    }

    /// States the hyper-parameters of a run: the settings of its config, by dotted key.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn begin_session(&mut self, config: &Value) -> Result<(), FileError> {
        let mut session = SessionStartInfo::new();
        let settings = leaves(config);
        session.set_hparams(settings.into_iter().map(|(key, value)| (key, proto_value(&value))).collect());
        session.set_start_time_secs(now());
        let mut data = HParamsPluginData::new();
        data.set_session_start_info(session);
        self.hparams("session_start_info", &data)
    }

    /// States that a run is finished.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn end_session(&mut self) -> Result<(), FileError> {
        let mut session = SessionEndInfo::new();
        session.set_status(Status::STATUS_SUCCESS);
        session.set_end_time_secs(now());
        let mut data = HParamsPluginData::new();
        data.set_session_end_info(session);
        self.hparams("session_end_info", &data)
    }

    /// States what the runs of an experiment are compared by: the settings that set them apart, and the metrics.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn experiment(
        &mut self,
        name: &str,
        settings: &[(String, Vec<Value>)],
        metrics: &[String],
    ) -> Result<(), FileError> {
        let setting = |(key, values): &(String, Vec<Value>)| {
            let mut info = HParamInfo::new();
            info.set_name(key.clone());
            info.set_field_type(match values.first() {
                Some(Value::Bool(_)) => HparamType::DATA_TYPE_BOOL,
                Some(Value::Number(_)) => HparamType::DATA_TYPE_FLOAT64,
                _ => HparamType::DATA_TYPE_STRING,
            });
            info.mut_domain_discrete().set_values(values.iter().map(proto_value).collect());
            info
        };
        let metric = |tag: &String| {
            let mut name = MetricName::new();
            name.set_tag(tag.clone());
            let mut info = MetricInfo::new();
            info.set_name(name);
            info
        };
        let mut experiment = Experiment::new();
        experiment.set_name(name.into());
        experiment.set_time_created_secs(now());
        experiment.set_hparam_infos(settings.iter().map(setting).collect());
        experiment.set_metric_infos(metrics.iter().map(metric).collect());
        let mut data = HParamsPluginData::new();
        data.set_experiment(experiment);
        self.hparams("experiment", &data)
    }

    /// Hands everything to the system.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> Result<(), FileError> {
        self.writer.flush().map_err(FileError::of("write", &self.path))
    }

    fn hparams(&mut self, tag: &str, data: &HParamsPluginData) -> Result<(), FileError> {
        let content = data.write_to_bytes().expect("the message has all that it must have");
        let mut none = TensorProto::new();
        none.set_dtype(DataType::DT_FLOAT);
        none.set_float_val(vec![0.0]);
        self.add(of_plugin(&format!("_hparams_/{tag}"), "hparams", content, none), 0)
    }

    fn add(&mut self, value: Summary_Value, step: u64) -> Result<(), FileError> {
        let mut summary = Summary::new();
        summary.set_value(RepeatedField::from_vec(vec![value]));
        self.summary(summary, step)
    }

    fn summary(&mut self, summary: Summary, step: u64) -> Result<(), FileError> {
        let mut event = Event::new();
        event.set_summary(summary);
        self.write(event, step)
    }

    fn write(&mut self, mut event: Event, step: u64) -> Result<(), FileError> {
        event.set_wall_time(now());
        event.set_step(step as i64);
        let bytes = event.write_to_bytes().map_err(io::Error::other);
        bytes.and_then(|bytes| self.writer.write(&bytes)).map_err(FileError::of("write", &self.path))
    }
}

/// A value that a plugin of TensorBoard reads.
fn of_plugin(tag: &str, plugin: &str, content: Vec<u8>, tensor: TensorProto) -> Summary_Value {
    let mut data = SummaryMetadata_PluginData::new();
    data.set_plugin_name(plugin.into());
    data.set_content(content);
    let mut metadata = SummaryMetadata::new();
    metadata.set_plugin_data(data);
    let mut value = Summary_Value::new();
    value.set_tag(tag.into());
    value.set_metadata(metadata);
    value.set_tensor(tensor);
    value
}

/// Every setting that is a single value, by dotted key; lists as their JSON.
fn leaves(config: &Value) -> Vec<(String, Value)> {
    fn walk(path: &str, value: &Value, found: &mut Vec<(String, Value)>) {
        match value {
            Value::Object(table) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(&path, value, found);
                }
            }
            Value::Null => {}
            value => found.push((path.to_owned(), value.clone())),
        }
    }
    let mut found = vec![];
    walk("", config, &mut found);
    found
}

fn proto_value(value: &Value) -> ProtoValue {
    let kind = match value {
        Value::Bool(flag) => Kind::bool_value(*flag),
        Value::Number(number) => Kind::number_value(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::string_value(text.clone()),
        other => Kind::string_value(other.to_string()),
    };
    ProtoValue { kind: Some(kind), ..ProtoValue::new() }
}

/// Width, height and channels of a PNG file.
fn png_header(bytes: &[u8]) -> Option<(i32, i32, i32)> {
    let (info, _) = png::Decoder::new(bytes).read_info().ok()?;
    let [width, height] = [info.width, info.height].map(|side| i32::try_from(side).ok());
    Some((width?, height?, info.color_type.samples() as i32))
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
