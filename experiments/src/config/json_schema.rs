//! The run file as a JSON Schema, for editors that complete and check TOML.
//!
//! All of it is read off the defaults, the registries and what they say of a value that is none: a setting that is added to
//! one of them enters the schema by itself.

use std::collections::BTreeMap;

use heddle_hybrid::PRESETS;
use serde_json::{Map, Value, json};

use super::kinds::{KindDefaults, Kinds, defaults, join};
use super::schema::{RunConfig, Stage};
use super::slurm::SlurmConfig;
use super::texts::Texts;

/// The JSON Schema (draft 2020-12) of a run file that may name these kinds.
///
/// It accepts every file that [`load`](super::load) accepts. It is less strict where TOML or a schema cannot tell: ranges,
/// sums over settings, and tables that leave their `kind` to a layer below, whose keys may be those of any kind.
///
/// ```
/// use experiments::{Registry, config::json_schema};
///
/// let schema = json_schema(&Registry::default().kinds());
/// let lr = &schema["properties"]["train"]["properties"]["lr"];
/// assert_eq!((&lr["type"], &lr["default"], &lr["description"]), (&"number".into(), &3e-3.into(), &"Peak learning rate.".into()));
/// ```
pub fn json_schema(kinds: &Kinds<'_>) -> Value {
    let mut definitions = Map::new();
    for (name, registry) in [("task", kinds.tasks), ("mixer", kinds.mixers), ("channel", kinds.channels)] {
        define_kinds(name, registry, &mut definitions);
    }
    definitions.insert("layer".into(), layer());
    let settings = settings();
    let properties = |schema: &Value| schema["properties"].as_object().cloned().unwrap_or_default();
    let mut root = properties(&settings);
    let point = with(settings.clone(), "patternProperties", json!({"\\.": {}}));
    definitions.insert("settings".into(), settings);
    definitions.insert("point".into(), point);
    let mut varied: Map<String, Value> = root.iter().map(|(key, schema)| (key.clone(), varied(schema))).collect();
    ["seed", "case"].iter().for_each(|key| drop(varied.remove(*key)));
    let values = json!({"type": "array", "minItems": 1});
    let axes = json!({
        "type": "object", "properties": varied, "patternProperties": {"\\.": values}, "additionalProperties": false,
    });
    definitions.insert("axes".into(), axes);
    let path = json!({"type": "string", "minLength": 1});
    let extends = json!({
        "description": "Run files that this one is laid over: a path relative to this file, or a list of them, the later winning.",
        "anyOf": [path, {"type": "array", "items": path}],
    });
    root.insert("extends".into(), extends);
    root.insert("sweep".into(), sweep());
    root.insert("slurm".into(), slurm());
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Run file of Heddle",
        "type": "object",
        "properties": root,
        "additionalProperties": false,
        "$defs": definitions,
    })
}

/// The settings of one run, as the defaults and their types tell.
fn settings() -> Value {
    let defaults = defaults();
    let refused = |path: &str, value: Value| {
        let mut config = defaults.clone();
        *path.split('.').try_fold(&mut config, |table, key| table.get_mut(key))? = value;
        serde_json::from_value::<RunConfig>(config).err().map(|error| error.to_string())
    };
    let texts = Texts::of_runs();
    let mut settings = described(shape(&defaults, "", &refused), "RunConfig", &texts);
    let properties = |table: &mut Value| table["properties"].as_object_mut().map(std::mem::take).unwrap_or_default();
    let mut root = properties(&mut settings);
    root.insert("task".into(), with(json!({"$ref": "#/$defs/task"}), "description", texts.json("RunConfig", "task")));
    let mut model = properties(&mut root["model"]);
    for group in ["mixer", "channel"] {
        let named = json!({"type": "object", "additionalProperties": {"$ref": format!("#/$defs/{group}")}});
        model.insert(group.into(), with(named, "description", texts.json("ModelConfig", group)));
    }
    let layers = json!({"type": "array", "items": {"$ref": "#/$defs/layer"}});
    model.insert("layers".into(), with(layers, "description", texts.json("ModelConfig", "layers")));
    let about = "A published model that everything else is laid over.";
    model.insert("preset".into(), json!({"description": about, "enum": PRESETS}));
    root["model"]["properties"] = Value::Object(model);
    let stage = serde_json::to_value(Stage { steps: 1, weights: vec![1.0] }).unwrap_or_default();
    let stage = with(shape(&stage, "", &|_, _| None), "required", json!(["steps", "weights"]));
    root["train"]["properties"]["curriculum"]["items"] = stage;
    settings["properties"] = Value::Object(root);
    settings
}

fn sweep() -> Value {
    let texts = Texts::of_runs();
    let text = |key| texts.json("SweepConfig", key);
    let axes = json!({"$ref": "#/$defs/axes"});
    let case = json!({"type": "object", "additionalProperties": {"$ref": "#/$defs/settings"}});
    let keys = [
        ("seeds", json!({"type": "array", "items": {"type": "integer", "minimum": 0}})),
        ("axes", axes.clone()),
        ("zip", axes),
        ("list", json!({"type": "array", "items": {"$ref": "#/$defs/point"}})),
        ("select", json!({"type": "array", "items": {"type": "string"}})),
        ("case", case),
    ];
    let properties: Map<String, Value> =
        keys.into_iter().map(|(key, schema)| (key.to_owned(), with(schema, "description", text(key)))).collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

fn slurm() -> Value {
    let defaults = serde_json::to_value(SlurmConfig::default()).unwrap_or_default();
    let refused = |path: &str, value: Value| {
        let settings = serde_json::from_value::<SlurmConfig>(json!({ path: value }));
        settings.err().map(|error| error.to_string())
    };
    let mut slurm = described(shape(&defaults, "", &refused), "SlurmConfig", &Texts::of_runs());
    for (_, list) in slurm["properties"].as_object_mut().into_iter().flatten().filter(|(_, of)| of["type"] == "array") {
        list["items"] = json!({"type": "string"});
    }
    slurm
}

/// What an axis may say of a setting: values for it, or for what it holds.
fn varied(schema: &Value) -> Value {
    let values = json!({"type": "array", "minItems": 1, "items": schema});
    match schema.get("properties").and_then(Value::as_object) {
        Some(properties) => {
            let below: Map<String, Value> =
                properties.iter().map(|(key, schema)| (key.clone(), varied(schema))).collect();
            json!({"anyOf": [values, {"type": "object", "properties": below, "additionalProperties": false}]})
        }
        None if schema.get("$ref").is_some() || schema["type"] == "object" => {
            json!({"anyOf": [values, {"type": "object"}]})
        }
        None => values,
    }
}

/// An entry of a list of layers.
fn layer() -> Value {
    let repeated = json!({
        "type": "object",
        "properties": {
            "repeat": {"type": "integer", "minimum": 0},
            "layers": {"type": "array", "items": {"$ref": "#/$defs/layer"}},
        },
        "required": ["repeat", "layers"],
        "additionalProperties": false,
    });
    json!({"anyOf": [{"type": "string"}, repeated]})
}

/// Defines the table `name` and, as `name.KIND`, what it holds under each kind.
fn define_kinds(name: &str, registry: &dyn KindDefaults, definitions: &mut Map<String, Value>) {
    let (mut any_of, mut loose): (Vec<Value>, BTreeMap<String, Vec<Value>>) = Default::default();
    for kind in registry.kinds() {
        let defaults = registry.defaults(&kind).unwrap_or_else(|| json!({}));
        let refused = |path: &str, value: Value| {
            let mut settings = defaults.as_object()?.clone();
            *settings.get_mut(path)? = value;
            registry.complaint(&kind, settings)
        };
        let schema = shape(&defaults, "", &refused);
        let mut properties = Map::from_iter([("kind".to_owned(), json!({"const": kind}))]);
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            let meaning = registry.meaning(&kind, key);
            let schema = with(schema.clone(), "description", meaning.map_or(Value::Null, Value::from));
            let mut plain = schema.clone();
            plain.as_object_mut().into_iter().for_each(|schema| drop(schema.remove("default")));
            let variants = loose.entry(key.clone()).or_default();
            if !variants.contains(&plain) {
                variants.push(plain);
            }
            properties.insert(key.clone(), schema);
        }
        let schema = json!({
            "type": "object", "properties": properties, "required": ["kind"], "additionalProperties": false,
        });
        let about = registry.meaning(&kind, "");
        definitions
            .insert(format!("{name}.{kind}"), with(schema, "description", about.map_or(Value::Null, Value::from)));
        any_of.push(json!({"$ref": format!("#/$defs/{name}.{kind}")}));
    }
    let one_of_several = |mut variants: Vec<Value>| match variants.len() {
        1 => variants.remove(0),
        _ => json!({ "anyOf": variants }),
    };
    let loose: Map<String, Value> = loose.into_iter().map(|(key, variants)| (key, one_of_several(variants))).collect();
    let about = "Settings of a kind that is stated elsewhere.";
    any_of.push(json!({"description": about, "type": "object", "properties": loose, "additionalProperties": false}));
    // Named here too, so that an unknown kind is told as such.
    let kind = json!({"description": "Decides the other keys.", "enum": registry.kinds()});
    definitions.insert(name.to_owned(), json!({"type": "object", "properties": {"kind": kind}, "anyOf": any_of}));
}

/// The schema of what has this default. `refused` puts another value in the place at a path, and returns what its type says
/// against it.
fn shape(default: &Value, path: &str, refused: &dyn Fn(&str, Value) -> Option<String>) -> Value {
    let schema = match default {
        Value::Bool(_) => json!({"type": "boolean"}),
        Value::Number(number) if number.is_u64() => json!({"type": "integer", "minimum": 0}),
        Value::Number(number) if number.is_i64() => json!({"type": "integer"}),
        Value::Number(_) => json!({"type": "number"}),
        Value::String(_) => match refused(path, json!(NO_NAME)).as_deref().and_then(variants) {
            Some(variants) => json!({ "enum": variants }),
            None => json!({"type": "string"}),
        },
        Value::Null => optional(&refused(path, json!(NO_NAME)), &refused(path, json!(-0.5))),
        Value::Array(items) => match items.first() {
            Some(item) => json!({"type": "array", "items": shape(item, "", &|_, _| None)}),
            None => json!({"type": "array"}),
        },
        Value::Object(table) if table.is_empty() => json!({"type": "object"}),
        Value::Object(table) => {
            let below = |(key, value): (&String, &Value)| (key.clone(), shape(value, &join(path, key), refused));
            let properties: Map<String, Value> = table.iter().map(below).collect();
            return json!({"type": "object", "properties": properties, "additionalProperties": false});
        }
    };
    with(schema, "default", default.clone())
}

/// A string that names nothing.
const NO_NAME: &str = "\u{1}";

/// The schema of a setting that may be left out, by what its type says against a string and against a number.
fn optional(string: &Option<String>, number: &Option<String>) -> Value {
    let expected = |text: &Option<String>| text.as_ref()?.split("expected ").nth(1).map(str::to_owned);
    match (string.as_deref().and_then(variants), expected(string), expected(number)) {
        (Some(variants), ..) => json!({ "enum": variants }),
        (None, Some(what), _) if what.starts_with(['f', 'F']) => json!({"type": "number"}),
        (None, Some(what), _) if what.starts_with(['u', 'U']) => json!({"type": "integer", "minimum": 0}),
        (None, Some(what), _) if what.starts_with("a boolean") => json!({"type": "boolean"}),
        (None, Some(what), _) if what.starts_with("a sequence") => json!({"type": "array"}),
        (None, None, Some(what)) if what.starts_with("a string") => json!({"type": "string"}),
        _ => json!({}),
    }
}

/// What Serde would have taken in place of an unknown name: "unknown variant `a`, expected one of `b`, `c`".
fn variants(message: &str) -> Option<Vec<String>> {
    let expected = message.split_once("unknown variant")?.1.split_once("expected")?.1;
    let names: Vec<String> = expected.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    (!names.is_empty()).then_some(names)
}

/// The schema with a keyword more, unless that is null.
fn with(mut schema: Value, keyword: &str, value: Value) -> Value {
    if !value.is_null() {
        schema[keyword] = value;
    }
    schema
}

/// Adds to every property what the documentation of its field says.
fn described(mut schema: Value, of: &str, texts: &Texts) -> Value {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (key, property) in properties.into_iter().flatten() {
        let below = match texts.type_of(of, key) {
            Some(kind) => described(property.take(), kind, texts),
            None => property.take(),
        };
        *property = with(below, "description", texts.json(of, key));
    }
    schema
}
