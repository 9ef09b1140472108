use serde::Serialize;

/// What a task is, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TaskInfo {
    /// The name under which configs ask for the task.
    pub kind: &'static str,
    /// The task's name in the literature.
    pub title: &'static str,
    /// One paragraph: what a sequence holds and what is asked.
    pub doc: &'static str,
    /// The settings, in the order of the defaults.
    pub settings: &'static [SettingInfo],
    /// The formula of the chance level.
    pub chance: &'static str,
    /// The paper, and where we differ from it.
    pub source: &'static str,
}

/// What one setting of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SettingInfo {
    /// The setting's name.
    pub key: &'static str,
    /// The default, in JSON.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
    /// The values it takes.
    pub range: &'static str,
}
