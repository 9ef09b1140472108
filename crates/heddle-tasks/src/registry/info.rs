use serde::Serialize;

/// What a task is, in words.
///
/// ```
/// use heddle_tasks::TaskRegistry;
///
/// let registry = TaskRegistry::builtin();
/// let info = registry.info("parity")?;
/// assert_eq!((info.title, info.chance), ("Parity", "1 / 2"));
/// assert_eq!(info.settings.iter().map(|setting| setting.key).collect::<Vec<_>>(), ["loss", "train", "validation", "test"]);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
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
///
/// ```
/// use heddle_tasks::TaskRegistry;
///
/// let registry = TaskRegistry::builtin();
/// let vocab = &registry.info("mqar")?.settings[0];
/// assert_eq!((vocab.key, vocab.range), ("vocab", "4 … 16777216, with at least pairs keys"));
/// assert_eq!(registry.defaults("mqar")?[vocab.key].to_string(), vocab.default);
/// # Ok::<(), heddle_tasks::TaskError>(())
/// ```
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
