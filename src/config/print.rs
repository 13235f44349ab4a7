//! Prints the configuration as YAML, for `media-sidecar config`.
//!
//! Owns what is redacted: credentials in URLs. saphyr, which reads the file, writes it too; serde-saphyr's serialiser would be a second YAML
//! library for the 15 lines that turn JSON values into saphyr's.

use saphyr::{Yaml, YamlEmitter};

use super::Config;

impl Config {
    /// The configuration as YAML, credentials in URLs redacted.
    pub fn to_yaml(&self) -> String {
        let mut shown = self.clone();
        shown.homeserver.url = redacted(&shown.homeserver.url);
        let mut text = String::new();
        let tree = serde_json::to_value(&shown).unwrap_or_default();
        if YamlEmitter::new(&mut text).dump(&to_saphyr(&tree)).is_err() {
            text.clear();
        }
        format!("{}\n", text.trim_start_matches("---\n"))
    }
}

/// A URL, or text that should be one, without its credentials.
pub(crate) fn redacted(url: &str) -> String {
    let (scheme, rest) = url.find("://").map_or(("", url), |at| url.split_at(at.saturating_add(3)));
    rest.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, host)| format!("{scheme}[redacted]@{host}"))
}

/// JSON's values as saphyr's, for printing.
fn to_saphyr(value: &serde_json::Value) -> Yaml<'_> {
    use serde_json::Value as Json;
    match value {
        Json::Null => Yaml::value_from_str("null"),
        Json::Bool(flag) => Yaml::value_from_str(if *flag { "true" } else { "false" }),
        Json::Number(number) => Yaml::Value(saphyr::Scalar::Integer(number.as_i64().unwrap_or(i64::MAX))),
        Json::String(text) => Yaml::Value(saphyr::Scalar::String(text.into())),
        Json::Array(items) => Yaml::Sequence(items.iter().map(to_saphyr).collect()),
        Json::Object(entries) => Yaml::Mapping(
            entries
                .iter()
                .map(|(key, value)| (Yaml::Value(saphyr::Scalar::String(key.into())), to_saphyr(value)))
                .collect(),
        ),
    }
}
