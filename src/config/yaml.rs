//! A figment provider over a YAML file that remembers the line of every key.
//!
//! Owns the step from YAML to figment's values. Refuses to know which keys exist. Written here because serde-saphyr's figment provider
//! keeps no lines: figment's values have no place for them, and what is wrong is found only after file and environment are merged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider, Source};
use saphyr::{LoadableYamlNode as _, MarkedYaml, Scalar, ScanError, YamlData};

/// Why a file cannot be used.
#[derive(Debug)]
pub(super) struct Broken {
    /// Line, counted from 1.
    pub(super) line: Option<usize>,
    /// What is wrong, and how to fix it.
    pub(super) message: String,
}

/// A parsed YAML file.
pub(super) struct YamlFile {
    /// Its path, for messages.
    path: PathBuf,
    /// Its content.
    dict: Dict,
    /// Dotted key → line, counted from 1.
    lines: BTreeMap<String, usize>,
}

impl YamlFile {
    /// Reads `text`, the contents of `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, Broken> {
        let mut file = Self { path: path.to_owned(), dict: Dict::new(), lines: BTreeMap::new() };
        if let Some(line) = line_too_deep(text) {
            let message = "this is nested too deeply; no key has so many levels".to_owned();
            return Err(Broken { line: Some(line), message });
        }
        let documents = MarkedYaml::load_from_str(text).map_err(|why| in_words(&why, text))?;
        if let Some(second) = documents.get(1) {
            let message = "a second document begins here; put all keys into one document, without `---`";
            return Err(Broken { line: Some(second.span.start.line()), message: message.to_owned() });
        }
        match documents.first().map(|document| &document.data) {
            None | Some(YamlData::Value(Scalar::Null)) => {}
            Some(YamlData::Mapping(_)) => {
                if let Some(document) = documents.first()
                    && let Value::Dict(_, dict) = file.value(document, "")
                {
                    file.dict = dict;
                }
            }
            Some(_) => {
                let line = documents.first().map(|document| document.span.start.line());
                let message = "expected lines like `server_name: example.org`, with a colon and a space";
                return Err(Broken { line, message: message.to_owned() });
            }
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

    /// The content as figment's values.
    pub(super) fn dict(&self) -> &Dict {
        &self.dict
    }

    /// Turns `group: value` into a group with this value at `key`. Returns whether the file has that short form.
    pub(super) fn expand(&mut self, group: &str, key: &str) -> bool {
        match self.dict.get_mut(group) {
            None | Some(Value::Dict(..)) => false,
            Some(value) => {
                *value = Value::from(Dict::from([(key.to_owned(), value.clone())]));
                true
            }
        }
    }

    /// Converts one node, and records the lines of its keys below `at`.
    fn value(&mut self, node: &MarkedYaml<'_>, at: &str) -> Value {
        match &node.data {
            YamlData::Mapping(entries) => {
                let mut dict = Dict::new();
                for (key, value) in entries {
                    let name = key_text(key);
                    let path = below(at, &name);
                    self.lines.insert(path.clone(), key.span.start.line());
                    let value = self.value(value, &path);
                    dict.insert(name, value);
                }
                Value::from(dict)
            }
            YamlData::Sequence(items) => {
                let entry = |(index, item): (usize, &MarkedYaml<'_>)| {
                    let path = below(at, &index.to_string());
                    self.lines.insert(path.clone(), item.span.start.line());
                    self.value(item, &path)
                };
                Value::from(items.iter().enumerate().map(entry).collect::<Vec<_>>())
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

/// Whether a variable nests brackets deeper than any key needs: figment's parser uses some of the stack for each level.
pub(super) fn is_nested_deep(text: &str) -> bool {
    let mut depth = 0_usize;
    text.chars().any(|char| {
        match char {
            '[' | '{' => depth = depth.saturating_add(1),
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > 16
    })
}

/// The dotted key of `name` in the group `at`.
fn below(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

/// A key as it was written; YAML reads some as numbers or booleans.
fn key_text(key: &MarkedYaml<'_>) -> String {
    match &key.data {
        YamlData::Value(Scalar::String(text)) | YamlData::Representation(text, ..) => text.to_string(),
        YamlData::Value(Scalar::Integer(number)) => number.to_string(),
        YamlData::Value(Scalar::FloatingPoint(number)) => number.to_string(),
        YamlData::Value(Scalar::Boolean(flag)) => flag.to_string(),
        YamlData::Value(Scalar::Null) => "null".to_owned(),
        YamlData::Tagged(_, inner) => key_text(inner),
        YamlData::Sequence(_) => "[…]".to_owned(),
        YamlData::Mapping(_) => "{…}".to_owned(),
        YamlData::Alias(_) | YamlData::BadValue => "?".to_owned(),
    }
}

/// The parser's error in the operator's words; rare errors keep the parser's text.
fn in_words(why: &ScanError, text: &str) -> Broken {
    let said = why.info();
    let is_tab =
        said.contains("tabs disallowed") || said.contains("tab character") || said.contains("found a tab");
    let place = (why.marker().line(), why.marker().col());
    // The parser reports the position of the previous value if it reads the tab as a part of it.
    let (line, column) = if is_tab { indenting_tab(text, place.0).unwrap_or(place) } else { place };
    let from_there = || text.lines().nth(line.saturating_sub(1)).unwrap_or_default().chars().skip(column);
    let message = if is_tab {
        "a tab; YAML is indented with spaces".to_owned()
    } else if said.contains("duplicated key") {
        let key: String = from_there().take_while(|c| *c != ':').collect();
        format!("`{}` is in the same group twice; keep one", key.trim())
    } else if said.contains("quoted scalar") {
        "a quote that begins here is not closed".to_owned()
    } else if said.contains("mapping values are not allowed") || said.contains("invalid indentation") {
        "the indentation differs from the lines above, or a value that contains `: ` needs quotes".to_owned()
    } else if said.contains("illegal placement of ':'")
        || said.contains("flow sequence")
        || said.contains("flow mapping")
    {
        "a `[` or `{` before it is not closed".to_owned()
    } else if said.contains("anchor or alias") {
        "a value that begins with `*` or `&` needs quotes, like \"*\"".to_owned()
    } else if let Some(first) = from_there().next().filter(|_| said.contains("unexpected character")) {
        format!("a value that begins with `{first}` needs quotes")
    } else {
        said.to_owned()
    };
    Broken { line: Some(line), message: format!("{message} (column {})", column.saturating_add(1)) }
}

/// Line, counted from 1, and column, from 0, of the first tab that indents something in line `first` or below.
fn indenting_tab(text: &str, first: usize) -> Option<(usize, usize)> {
    text.lines().enumerate().skip(first.saturating_sub(1)).find_map(|(index, line)| {
        let content = line.trim_start_matches([' ', '\t']);
        let column = line.find('\t').filter(|at| at.saturating_add(content.len()) < line.len())?;
        (!content.is_empty()).then_some((index.saturating_add(1), column))
    })
}

/// The first line, counted from 1, whose content begins further to the right than any key does. The parser limits the nesting of `[` and
/// `{`, but not nesting by indentation or by `- - -`, and each level uses some of the stack.
fn line_too_deep(text: &str) -> Option<usize> {
    let is_deep = |line: &str| {
        let content = line.trim_start_matches([' ', '\t', '-', '?', ':']);
        !content.is_empty() && line.len().saturating_sub(content.len()) > DEEPEST
    };
    text.lines().position(is_deep).map(|index| index.saturating_add(1))
}

/// Columns to the left of a line's content.
const DEEPEST: usize = 128;

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
    fn what_is_nested_without_end_is_refused_with_its_line() {
        let indented: Vec<String> = (0..3000).map(|depth| format!("{}a:", " ".repeat(depth))).collect();
        for (text, line) in [
            (format!("a:\n  {}x\n", "- ".repeat(100_000)), Some(2)),
            (format!("a:\n  {}x\n", "? ".repeat(100_000)), Some(2)),
            (indented.join("\n"), Some(130)),
            (format!("a: {}", "[".repeat(100_000)), None),
            (format!("a: {}", "{a: ".repeat(100_000)), None),
        ] {
            let broken = YamlFile::parse(Path::new("x.yaml"), &text).err().unwrap();
            assert!(line.is_none() || broken.line == line, "{broken:?}");
        }
        let shipped = include_str!("../../sidecar.yaml");
        assert_eq!(line_too_deep(shipped), None);
    }

    #[test]
    fn keys_keep_their_lines() {
        let text = "a: 1\n\n# why\nb:\n  c: [x, y]\n  d:\n    e: null\n";
        let file = YamlFile::parse(Path::new("x.yaml"), text).unwrap();
        assert_eq!(file.line("a"), Some(1));
        assert_eq!(file.line("b.c"), Some(5));
        assert_eq!(file.line("b.d.e"), Some(7));
        assert_eq!(file.line("b.c.1"), Some(5));
        assert_eq!(file.line("b.c.7"), Some(5));
        assert_eq!(file.line("z"), None);
    }

    #[test]
    fn broken_yaml_is_told_with_its_line_and_column_in_characters() {
        for (text, line, words) in [
            ("a: [1\nb: 2\n", 2, "a `[` or `{` before it is not closed"),
            ("a: [1, 2\n", 2, "not closed"),
            ("a: {b: 1\nc: 2\n", 2, "not closed"),
            ("just words", 1, "expected lines like `server_name: example.org`"),
            ("- a: 1\n", 1, "expected lines like"),
            ("a:\n\tb: 1\n", 2, "a tab; YAML is indented with spaces"),
            ("a:\n  b: 1\n\tc: 1\n", 3, "a tab"),
            ("a:\n  b: 1\n  \tc: 1\n", 3, "a tab; YAML is indented with spaces (column 3)"),
            ("a: 1\n\tb: 1\n", 2, "a tab"),
            ("a: 1\n\n\tb: 1\n", 3, "a tab"),
            ("a:\n\t- b\n", 2, "a tab"),
            ("a:\n  - b\n\t- c\n", 3, "a tab"),
            ("a: [1,\n\t2]\nb:\n\tc: 1\n", 4, "a tab"),
            ("# why\na:\n\t\n\tb: 1\n", 4, "a tab"),
            ("a: 1\nb: 2\na: 3\n", 3, "`a` is in the same group twice; keep one (column 1)"),
            ("ä: 1\nb: {ü: 1, ü: 2}\n", 2, "`ü` is in the same group twice; keep one (column 11)"),
            ("a: \"x\nb: 1\n", 1, "a quote that begins here is not closed"),
            ("a: b: c\n", 1, "a value that contains `: ` needs quotes (column 5)"),
            ("ü: ü: c\n", 1, "needs quotes (column 5)"),
            ("a:\n  b: 1\n   c: 2\n", 3, "the indentation differs from the lines above"),
            ("a: [*]\n", 1, "needs quotes, like \"*\""),
            ("a: @b\n", 1, "a value that begins with `@` needs quotes (column 4)"),
            ("a: 1\n---\nb: 2\n", 3, "a second document begins here"),
        ] {
            let why = YamlFile::parse(Path::new("x.yaml"), text).err().unwrap_or_else(|| panic!("{text}"));
            assert_eq!(why.line, Some(line), "{text}: {why:?}");
            assert!(why.message.contains(words), "{text}: {words} is not in {why:?}");
        }
        assert!(YamlFile::parse(Path::new("x.yaml"), "").unwrap().dict().is_empty());
    }

    #[test]
    fn a_byte_order_mark_and_carriage_returns_are_no_part_of_the_values() {
        let file = YamlFile::parse(Path::new("x.yaml"), "\u{feff}a: x\r\nb: y\r\n").unwrap();
        assert_eq!(file.dict().get("a"), Some(&Value::from("x")));
        assert_eq!(file.dict().get("b"), Some(&Value::from("y")));
    }
}
