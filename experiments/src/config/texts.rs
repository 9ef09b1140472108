//! What the documentation of settings says, read from their sources when the program is built.

use std::collections::BTreeMap;

use serde_json::Value;

/// The documentation of types that a run file sets: struct and field → text, and type.
#[derive(Default)]
pub(crate) struct Texts {
    structs: BTreeMap<String, String>,
    texts: BTreeMap<(String, String), String>,
    types: BTreeMap<(String, String), String>,
}

impl Texts {
    /// Those of a run's own tables.
    pub(crate) fn of_runs() -> Self {
        Self::read(&[
            include_str!("schema.rs"),
            include_str!("slurm.rs"),
            include_str!("../../../crates/heddle-hybrid/src/config.rs"),
        ])
    }

    /// Those of the built-in mixers and channel mixers.
    pub(crate) fn of_parts() -> Self {
        macro_rules! sources {
            ($($name:literal),* $(,)?) => { [$(include_str!(concat!("../../../crates/heddle-", $name, ".rs"))),*] };
        }
        Self::read(&sources![
            "attention/src/settings",
            "attention/src/linear",
            "hybrid/src/part",
            "hybrid/src/channel/gated",
            "hybrid/src/channel/experts",
            "hybrid/src/channel/plain",
            "ssm/src/base_conv",
            "ssm/src/delta_net",
            "ssm/src/gru",
            "ssm/src/lstm",
            "ssm/src/mamba",
            "ssm/src/mamba2",
            "ssm/src/min_gru",
            "ssm/src/rg_lru",
            "ssm/src/s4d",
            "ssm/src/short_conv",
        ])
    }

    fn read(sources: &[&str]) -> Self {
        let mut texts = Self::default();
        sources.iter().for_each(|source| texts.add(source));
        texts
    }

    fn add(&mut self, source: &str) {
        let (mut of, mut text) = (String::new(), Vec::new());
        for line in source.lines().map(str::trim) {
            if let Some(comment) = line.strip_prefix("///") {
                text.push(comment.trim());
            } else if let Some(declared) = line.strip_prefix("pub struct ") {
                of = declared.trim_end_matches(" {").to_owned();
                // The first paragraph; what follows are formulas and examples.
                let about: Vec<&str> = text.split(|line| line.is_empty()).next().unwrap_or_default().to_vec();
                self.structs.insert(of.clone(), about.join(" "));
                text.clear();
            } else if let Some((field, kind)) = line.strip_prefix("pub ").and_then(|line| line.split_once(": ")) {
                let field = (of.clone(), field.to_owned());
                self.texts.insert(field.clone(), text.join(" "));
                self.types.insert(field, kind.trim_end_matches(',').to_owned());
                text.clear();
            } else if !line.starts_with("#[") {
                text.clear();
            }
        }
    }

    /// What is written of a field, or, for an empty name, of the type.
    pub(crate) fn of(&self, of: &str, field: &str) -> Option<&str> {
        match field {
            "" => self.structs.get(of),
            _ => self.texts.get(&(of.to_owned(), field.to_owned())),
        }
        .map(String::as_str)
    }

    /// The same in a schema: null where nothing is written.
    pub(super) fn json(&self, of: &str, field: &str) -> Value {
        self.of(of, field).map_or(Value::Null, Value::from)
    }

    /// The type of a field, as it is written.
    pub(super) fn type_of(&self, of: &str, field: &str) -> Option<&str> {
        self.types.get(&(of.to_owned(), field.to_owned())).map(String::as_str)
    }
}
