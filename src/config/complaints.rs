//! Messages about invalid values, in the operator's words.
//!
//! Owns the conversion of figment's errors to sentences. Refuses to know where a value came from.

use figment::error::{Actual, Kind};
use figment::value::{Empty, Num, Value};

/// Longest value repeated in a message, characters.
const MAX_SHOWN: usize = 80;

/// A value as the operator wrote it; lists and groups are only named as such.
pub(super) fn shown(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(_, text) => text.clone(),
        Value::Char(_, c) => c.to_string(),
        Value::Bool(_, flag) => flag.to_string(),
        Value::Num(_, number) => number_text(*number),
        Value::Empty(_, Empty::None | Empty::Unit) | Value::Dict(..) | Value::Array(..) => return None,
    };
    Some(if text.chars().count() > MAX_SHOWN {
        format!("{}…", text.chars().take(MAX_SHOWN).collect::<String>())
    } else {
        text
    })
}

/// A number in its shortest form.
fn number_text(number: Num) -> String {
    match (number.to_i128(), number.to_u128(), number.to_f64()) {
        (Some(number), ..) => number.to_string(),
        (None, Some(number), _) => number.to_string(),
        (None, None, Some(number)) => number.to_string(),
        (None, None, None) => String::new(),
    }
}

/// The message about the value at `key`, which the operator wrote as `value`.
pub(super) fn misfit(key: &str, kind: &Kind, value: Option<&Value>) -> String {
    let text = value.and_then(shown);
    let quoted = text.as_ref().map(|text| format!("`{text}`"));
    match kind {
        Kind::Message(message) => match quoted {
            Some(quoted) if is_address_list(key) => format!("{quoted} is not {ADDRESS_RANGE}"),
            // The messages of `units` contain the value already.
            Some(quoted) if message.contains(&quoted) => message.clone(),
            Some(quoted) if message.starts_with("not ") => format!("{quoted} is {message}"),
            Some(quoted) => format!("{quoted}: {message}"),
            None => message.clone(),
        },
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let wanted = wanted(key, expected);
            match (actual, quoted) {
                (Actual::Unit | Actual::Option, _) => format!("it is empty; give {wanted}"),
                (Actual::Seq, _) => format!("it is a list; give {wanted}"),
                (Actual::Map, _) => format!("it is a group of keys; give {wanted}"),
                (
                    Actual::Bool(_) | Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_),
                    Some(quoted),
                ) if wanted == TEXT || wanted == PATH => {
                    format!("{quoted} is not {wanted}; put it in quotes")
                }
                (_, Some(quoted)) if wanted == TRUTH => {
                    format!("{quoted}: write true or false, without quotes")
                }
                (_, Some(quoted)) if wanted == LIST => {
                    format!("{quoted} is not {LIST}; write [{}]", quoted.trim_matches('`'))
                }
                (_, Some(quoted)) => format!("{quoted} is not {wanted}"),
                (_, None) => format!("give {wanted}"),
            }
        }
        Kind::UnknownVariant(found, known) => format!("`{found}` is none of {}", known.join(", ")),
        Kind::UnknownField(found, known) => {
            format!("unknown field `{found}`; known here: {}", known.join(", "))
        }
        Kind::ISizeOutOfRange(number) => format!("`{number}` is not {}", wanted(key, "")),
        Kind::USizeOutOfRange(number) => format!("`{number}` is not {}", wanted(key, "")),
        Kind::MissingField(field) => format!("`{field}` is missing"),
        Kind::InvalidLength(..)
        | Kind::DuplicateField(_)
        | Kind::Unsupported(_)
        | Kind::UnsupportedKey(..) => {
            format!("give {}", wanted(key, ""))
        }
    }
}

/// The message about a list in the place of the group `key`.
pub(super) fn not_a_group(key: &str) -> String {
    format!("it is a list; give {}", wanted(key, "a map"))
}

/// The word for text.
const TEXT: &str = "text";

/// The word for the name of a file or folder.
const PATH: &str = "a path";

/// The words for a boolean.
const TRUTH: &str = "true or false";

/// The word for a list.
const LIST: &str = "a list";

/// The words for the entries of `ip_deny` and `ip_allow`.
const ADDRESS_RANGE: &str =
    "a range of addresses (like 10.0.0.0/8, fd00::/8, or 192.0.2.7/32 for a single one)";

/// Whether a key holds ranges of addresses.
fn is_address_list(key: &str) -> bool {
    ["ip_deny", "ip_allow"].iter().any(|name| key.ends_with(&format!(".{name}")))
}

/// What `key` takes, where serde expects `expected`.
fn wanted(key: &str, expected: &str) -> String {
    match expected {
        "a sequence" => LIST.to_owned(),
        _ if is_address_list(key) => ADDRESS_RANGE.to_owned(),
        "a string" => TEXT.to_owned(),
        "path string" => PATH.to_owned(),
        "a boolean" => TRUTH.to_owned(),
        "enum Guests" => "spec or allow".to_owned(),
        "enum UnauthenticatedMedia" => "open, frozen or closed".to_owned(),
        "enum Family" => "msc1902, msc3916 or legacy".to_owned(),
        "u16" if key.ends_with("ports") => "a port (1 to 65535)".to_owned(),
        "u16" => "a whole number (0 to 65535)".to_owned(),
        "u32" => "a whole number (0 to 4294967295)".to_owned(),
        "u64" | "usize" | "i64" => "a whole number".to_owned(),
        _ if expected.starts_with("struct ") || expected == "a map" => {
            format!("a group of keys (lines like `{}` indented below it)", example_of(key))
        }
        _ if expected.is_empty() || expected.starts_with("enum ") => "another value".to_owned(),
        _ => expected.to_owned(),
    }
}

/// An example line for the group `key`.
fn example_of(key: &str) -> &'static str {
    match key {
        "homeserver" => "url: http://127.0.0.1:6167",
        "uploads" | "federation" => "max_size: 50MiB",
        "thumbnails" => "workers: 1",
        "previews" => "enabled: true",
        "ops" => "listen: off",
        _ => "key: value",
    }
}
