//! The keys that exist. Looks values up by dotted keys; the defaults are the list of all keys.
//!
//! Refuses to know where values come from.

use figment::value::{Dict, Value};

use super::Config;
use crate::matrix::ServerName;

/// What lies below `value` at a path of keys and indices.
pub(super) fn value_at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, part| match value {
        Value::Dict(_, dict) => dict.get(*part),
        Value::Array(_, entries) => entries.get(part.parse::<usize>().ok()?),
        Value::String(..) | Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..) => None,
    })
}

/// The defaults as figment's values, `server_name` present only as a known key.
pub(super) fn default_dict() -> Dict {
    let nameless = ServerName::parse("missing.invalid").map(Config::defaults);
    let value = nameless.ok().and_then(|config| Value::serialize(config).ok());
    let mut dict = value.and_then(Value::into_dict).unwrap_or_default();
    dict.remove("server_name");
    dict
}

/// The value at a dotted key. `server_name` has no default but is a key.
pub(super) fn find_key<'a>(dict: &'a Dict, key: &str) -> Option<&'a Value> {
    /// The value of the only key without a default.
    static SERVER_NAME: std::sync::LazyLock<Value> =
        std::sync::LazyLock::new(|| Value::from("missing.invalid"));
    if key == "server_name" {
        return Some(&SERVER_NAME);
    }
    let (head, rest) = key.split_once('.').map_or((key, None), |(head, rest)| (head, Some(rest)));
    let value = dict.get(head)?;
    match rest {
        None => Some(value),
        Some(rest) => find_key(value.as_dict()?, rest),
    }
}

/// The longest beginning of a dotted path that is a key, and its default: a path may end in a list's index.
pub(super) fn nearest_key<'a, 'b>(dict: &'a Dict, path: &'b str) -> Option<(&'b str, &'a Value)> {
    match find_key(dict, path) {
        Some(value) => Some((path, value)),
        None => nearest_key(dict, path.rsplit_once('.')?.0),
    }
}

/// Collects the dotted keys of `dict` that `known` lacks, each with the keys it might have meant.
pub(super) fn collect_unknown(dict: &Dict, known: &Dict, at: &str, unknown: &mut Vec<(String, String)>) {
    for (name, value) in dict {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match (known.get(name), value) {
            (None, _) if path == "server_name" => {}
            (None, _) => {
                let nameless = Some("server_name").filter(|_| at.is_empty());
                let known: Vec<_> = nameless.into_iter().chain(known.keys().map(String::as_str)).collect();
                unknown.push((path, known.join(", ")));
            }
            (Some(Value::Dict(_, known)), Value::Dict(_, dict)) => {
                collect_unknown(dict, known, &path, unknown);
            }
            (Some(_), _) => {}
        }
    }
}
