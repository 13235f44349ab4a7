//! Loading: file and environment become a [`Config`], or a list of all problems.

use std::collections::BTreeMap;
use std::path::Path;

use figment::Figment;
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use serde::Deserialize as _;

use super::complaints;
use super::file::{no_file, read, unreadable};
use super::keys::{collect_unknown, default_dict, find_key, nearest_key, value_at};
use super::yaml::{YamlFile, is_nested_deep};
use super::{Config, Problem, Problems};

/// A configuration and its warnings.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings for the log about ignored settings.
    pub warnings: Vec<String>,
}

/// Most problems reported at once.
const MAX_PROBLEMS: usize = 256;

/// The group whose one key may be given alone, and that key: `listen: ADDRESS` is short for `listen: {addresses: ADDRESS}`.
const SHORT_GROUP: (&str, &str) = ("listen", "addresses");

/// Prefix of environment variables that set keys.
const PREFIX: &str = "SIDECAR_";

/// Loads and validates the file at `path` and the variables of `env`. Relative paths in the configuration are relative to the folder of the
/// file.
pub fn load(
    path: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Problems> {
    let file = match path {
        Some(path) => Some(read(path).map_err(|broken| unreadable(path, broken))?),
        None => None,
    };
    judge(path, file, env)
}

/// [`load`] of `text`, the contents of `path`, for the fuzz targets.
#[cfg(any(fuzzing, test))]
pub(crate) fn load_text(path: &Path, text: &str) -> Result<Loaded, Problems> {
    let file = YamlFile::parse(path, text).map_err(|broken| unreadable(path, broken))?;
    judge(Some(path), Some(file), [])
}

/// Loads and validates the file and the variables.
fn judge(
    path: Option<&Path>,
    file: Option<YamlFile>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Problems> {
    let mut file = file;
    let is_short = file.as_mut().is_some_and(|file| file.expand(SHORT_GROUP.0, SHORT_GROUP.1));
    let mut sources =
        Sources { path, file, is_short, env: BTreeMap::new(), problems: Vec::new(), broken: Vec::new() };
    let defaults = default_dict();
    let warnings = sources.take_env(env, &defaults);
    sources.reject_unknown_keys(&defaults);

    let mut config = sources.extract(&defaults);
    if let Some(config) = &config {
        sources.broken = sources.problems.iter().map(|problem| problem.key.clone()).collect();
        sources.validate(config);
    }
    if let (Some(config), Some(folder)) = (&mut config, path.and_then(Path::parent)) {
        config.data_dir = folder.join(&config.data_dir);
        config.homeserver.signing_key = folder.join(&config.homeserver.signing_key);
        for ca_file in [&mut config.federation.ca_file, &mut config.previews.ca_file] {
            *ca_file = ca_file.as_ref().map(|file| folder.join(file));
        }
    }
    sources.problems.sort_by_key(Problem::line);
    match config {
        Some(config) if sources.problems.is_empty() => Ok(Loaded { config, warnings }),
        _ => Err(Problems(sources.problems)),
    }
}

/// The sources of values, and the problems found so far.
pub(super) struct Sources<'a> {
    /// The file's path, if there is one.
    path: Option<&'a Path>,
    /// The file, parsed.
    file: Option<YamlFile>,
    /// Whether [`SHORT_GROUP`] was last set in its short form.
    is_short: bool,
    /// Dotted key → the variable that sets it, and its value.
    env: BTreeMap<String, Variable>,
    /// Findings.
    problems: Vec<Problem>,
    /// Keys with a reported problem. They have their defaults for now, and further problems with them are not reported.
    broken: Vec<String>,
}

/// An environment variable that sets a key.
struct Variable {
    name: String,
    value: Value,
}

impl Sources<'_> {
    /// Keeps the variables that name keys. Returns a warning for each other one.
    fn take_env(&mut self, env: impl IntoIterator<Item = (String, String)>, defaults: &Dict) -> Vec<String> {
        let mut warnings = Vec::new();
        for (name, text) in env {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            let key = key.to_ascii_lowercase().replace("__", ".");
            if find_key(defaults, &key).is_none() {
                warnings
                    .push(format!("environment variable {name} names no configuration key and is ignored"));
            } else if is_nested_deep(&text) {
                self.problems.push(Problem {
                    place: name,
                    key,
                    message: "this is nested too deeply".to_owned(),
                });
            } else {
                let Ok(value) = text.parse::<Value>();
                let (group, inner) = SHORT_GROUP;
                let (long, is_short) =
                    (format!("{group}.{inner}"), key == group && value.as_dict().is_none());
                let key = if is_short { long.clone() } else { key };
                if key == long {
                    self.is_short = is_short;
                }
                self.env.insert(key, Variable { name, value });
            }
        }
        warnings
    }

    /// Reports keys of the file that do not exist.
    fn reject_unknown_keys(&mut self, defaults: &Dict) {
        let Some(file) = &self.file else { return };
        let mut unknown = Vec::new();
        collect_unknown(file.dict(), defaults, "", &mut unknown);
        for (key, known) in unknown {
            self.complain(&key, format!("unknown key; known here: {known}"));
        }
    }

    /// Builds the configuration. Each invalid value is reported and replaced by its default, so that all problems are found at once; `None`
    /// if that is not possible.
    fn extract(&mut self, defaults: &Dict) -> Option<Config> {
        let mut figment = Figment::from(Serialized::defaults(defaults));
        if let Some(file) = &self.file {
            figment = figment.merge(file);
        }
        for (key, variable) in &self.env {
            figment = figment.merge((key.as_str(), &variable.value));
        }
        // Entries removed from each list so far.
        let mut removed: BTreeMap<String, usize> = BTreeMap::new();
        for _attempt in 0..MAX_PROBLEMS {
            // From figment's merged value: `Figment::extract` would compile the code of every group six times.
            let error = match figment.find_value("") {
                Ok(merged) => match Config::deserialize(&merged) {
                    Ok(config) => return Some(config),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let path = error.path.join(".");
            if let figment::error::Kind::MissingField(field) = &error.kind {
                if self.path.is_none() {
                    self.problems.push(no_file());
                } else {
                    let message =
                        "missing; set it to the name in your users' IDs (`server_name: example.org`)";
                    self.complain(field, message);
                }
                figment = figment.merge((field.as_ref(), "missing.invalid"));
                continue;
            }
            let (key, default) = nearest_key(defaults, &path)?;
            let rest: Vec<&str> = path.get(key.len()..)?.split('.').filter(|part| !part.is_empty()).collect();
            let value = figment.find_value(key).ok();
            let at = value.as_ref().and_then(|value| value_at(value, &rest));
            let index = rest.first().and_then(|index| index.parse::<usize>().ok());
            match (index, value.clone().and_then(Value::into_array)) {
                // serde would accept a list as a group, in the order of its keys.
                (_, Some(_)) if matches!(default, Value::Dict(..)) => {
                    self.complain(key, complaints::not_a_group(key));
                    figment = figment.merge((key, default));
                }
                (Some(index), Some(mut entries)) if index < entries.len() => {
                    let gone = removed.entry(key.to_owned()).or_default();
                    let written = index.saturating_add(*gone);
                    *gone = gone.saturating_add(1);
                    let inner = rest.get(1..).unwrap_or_default();
                    let within =
                        if inner.is_empty() { key.to_owned() } else { format!("{key}.{}", inner.join(".")) };
                    let told = complaints::misfit(&within, &error.kind, at);
                    let inner = inner.first().map_or_else(String::new, |name| format!("`{name}`: "));
                    let told = format!("entry {}: {inner}{told}", written.saturating_add(1));
                    self.complain_at(key, &format!("{key}.{written}"), told);
                    entries.remove(index);
                    figment = figment.merge((key, entries));
                }
                _ => {
                    self.complain(key, complaints::misfit(key, &error.kind, at));
                    figment = figment.merge((key, default));
                }
            }
        }
        None
    }

    /// Reports a problem with `key`, with the place that last set it.
    pub(super) fn complain(&mut self, key: &str, message: impl Into<String>) {
        self.complain_at(key, key, message);
    }

    /// The same, with the place of the value at the path `at`, such as an entry of a list.
    fn complain_at(&mut self, key: &str, at: &str, message: impl Into<String>) {
        let from_env = self.env.iter().find(|(set, _)| key.starts_with(set.as_str()));
        let (key, at) = (self.as_written(key), self.as_written(at));
        if self.broken.contains(&key) {
            return;
        }
        let file = self.path.map(|path| path.display().to_string());
        let line = self.file.as_ref().and_then(|file| file.line(&at));
        let place = match (from_env, file, line) {
            (Some((_, variable)), ..) => variable.name.clone(),
            (None, Some(file), Some(line)) => format!("{file}:{line}"),
            (None, Some(file), None) => file,
            (None, None, _) => "environment".to_owned(),
        };
        self.problems.push(Problem { place, key, message: message.into() });
    }

    /// A dotted key as the operator wrote it.
    fn as_written(&self, key: &str) -> String {
        let (group, inner) = SHORT_GROUP;
        let long = format!("{group}.{inner}");
        match key.strip_prefix(&long) {
            Some(rest) if self.is_short => format!("{group}{rest}"),
            _ => key.to_owned(),
        }
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
