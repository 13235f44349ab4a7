//! A figment provider over a YAML file that remembers the line of every key.
//!
//! Owns the step from YAML to figment's values. Refuses to know which keys exist.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider, Source};
use saphyr::{LoadableYamlNode as _, MarkedYaml, Scalar, YamlData};

/// One YAML file, read.
pub(super) struct YamlFile {
    /// Where it came from, for messages.
    path: PathBuf,
    /// Its contents.
    dict: Dict,
    /// Dotted key → line, counted from 1.
    lines: BTreeMap<String, usize>,
}

impl YamlFile {
    /// Reads `text`, the contents of `path`. The error is one complaint with file and line.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let mut file = Self { path: path.to_owned(), dict: Dict::new(), lines: BTreeMap::new() };
        let documents =
            MarkedYaml::load_from_str(text).map_err(|why| format!("{}: {why}", path.display()))?;
        match documents.first().map(|document| &document.data) {
            None | Some(YamlData::Value(Scalar::Null)) => {}
            Some(YamlData::Mapping(_)) => {
                if let Some(document) = documents.first()
                    && let Value::Dict(_, dict) = file.value(document, "")
                {
                    file.dict = dict;
                }
            }
            Some(_) => return Err(format!("{}: expected `key: value` lines", path.display())),
        }
        Ok(file)
    }

    /// The line of a dotted key, or of the nearest one above it.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        let mut key = key;
        loop {
            if let Some(line) = self.lines.get(key) {
                return Some(*line);
            }
            key = key.rsplit_once('.')?.0;
        }
    }

    /// The file's contents as figment has them.
    pub(super) fn dict(&self) -> &Dict {
        &self.dict
    }

    /// Converts one node, noting the lines of its keys below `at`.
    fn value(&mut self, node: &MarkedYaml<'_>, at: &str) -> Value {
        match &node.data {
            YamlData::Mapping(entries) => {
                let mut dict = Dict::new();
                for (key, value) in entries {
                    let name = key.data.as_str().map_or_else(|| format!("{:?}", key.data), str::to_owned);
                    let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                    self.lines.insert(path.clone(), key.span.start.line());
                    let value = self.value(value, &path);
                    dict.insert(name, value);
                }
                Value::from(dict)
            }
            YamlData::Sequence(items) => {
                Value::from(items.iter().map(|item| self.value(item, at)).collect::<Vec<_>>())
            }
            YamlData::Value(scalar) => scalar_value(scalar),
            YamlData::Tagged(_, inner) => self.value(inner, at),
            YamlData::Representation(text, ..) => Value::from(text.to_string()),
            YamlData::Alias(_) | YamlData::BadValue => {
                Value::serialize(()).unwrap_or_else(|_| Value::from(""))
            }
        }
    }
}

/// A scalar in figment's types.
fn scalar_value(scalar: &Scalar<'_>) -> Value {
    match scalar {
        Scalar::Null => Value::serialize(()).unwrap_or_else(|_| Value::from("")),
        Scalar::Boolean(value) => Value::from(*value),
        Scalar::Integer(value) => Value::from(*value),
        Scalar::FloatingPoint(value) => Value::from(value.into_inner()),
        Scalar::String(value) => Value::from(value.to_string()),
    }
}

impl Provider for &YamlFile {
    fn metadata(&self) -> Metadata {
        Metadata::named("YAML file").source(Source::File(self.path.clone()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.dict.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_lines() {
        let text = "a: 1\n\n# why\nb:\n  c: [x, y]\n  d:\n    e: null\n";
        let file = YamlFile::parse(Path::new("x.yaml"), text).unwrap();
        assert_eq!(file.line("a"), Some(1));
        assert_eq!(file.line("b.c"), Some(5));
        assert_eq!(file.line("b.d.e"), Some(7));
        assert_eq!(file.line("b.c.0"), Some(5));
        assert_eq!(file.line("z"), None);
    }

    #[test]
    fn broken_yaml_names_file_and_line() {
        let why = YamlFile::parse(Path::new("x.yaml"), "a: [1\nb: 2\n").err().unwrap();
        assert!(why.contains("x.yaml") && why.contains("line 2"), "{why}");
        assert!(YamlFile::parse(Path::new("x.yaml"), "just words").is_err());
        assert!(YamlFile::parse(Path::new("x.yaml"), "").unwrap().dict().is_empty());
    }
}
