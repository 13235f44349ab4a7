//! `previews.accept_language`: languages, best first, each with or without a weight.
//!
//! Owns the step from the list to the header. [RFC 9110 §12.5.4](https://www.rfc-editor.org/rfc/rfc9110#section-12.5.4).

/// An entry that is not a language range, with or without a weight.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a language (like de, pt-BR or fr;q=0.8)")]
pub(crate) struct NotALanguage(String);

/// The `Accept-Language` header for these entries. An entry without a weight gets 1.0 minus 0.1 for each entry before it, and never more
/// than the entry before it.
///
/// # Errors
/// The first entry that is not a language.
pub(crate) fn accept_language(entries: &[String]) -> Result<String, NotALanguage> {
    let mut highest = 1000;
    let mut parts = Vec::new();
    for (rank, entry) in entries.iter().flat_map(|entry| entry.split(',')).enumerate() {
        let refused = || NotALanguage(entry.trim().to_owned());
        let (range, parameters) =
            entry.split_once(';').map_or((entry, None), |(range, rest)| (range, Some(rest)));
        let range = range.trim();
        if !is_range(range) {
            return Err(refused());
        }
        let of_rank =
            1000_u16.saturating_sub(u16::try_from(rank).unwrap_or(u16::MAX).saturating_mul(100)).max(100);
        let weight = match parameters {
            Some(parameters) => weight(parameters).ok_or_else(refused)?,
            None => of_rank.min(highest),
        };
        highest = weight.max(1);
        parts.push(match weight {
            1000 => range.to_owned(),
            weight => format!("{range};q={}", decimal(weight)),
        });
    }
    Ok(parts.join(", "))
}

/// Whether this is a language range: `*`, or parts of one to eight letters and digits (RFC 4647 §2.1).
fn is_range(text: &str) -> bool {
    let is_part =
        |part: &str| (1..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let starts_with_letters =
        text.split('-').next().is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_alphabetic()));
    text == "*" || (starts_with_letters && text.split('-').all(is_part))
}

/// `q=0.8` in thousandths.
fn weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.split_once('=')?;
    if !name.trim().eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, digits) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    if digits.len() > 3 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{digits:0<3}").parse::<u16>().ok()?;
    match (whole, thousandths) {
        ("0", thousandths) => Some(thousandths),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

/// Thousandths, as short as they can be written.
fn decimal(thousandths: u16) -> String {
    let text = format!("0.{thousandths:03}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(entries: &[&str]) -> Result<String, NotALanguage> {
        accept_language(&entries.iter().map(|&entry| entry.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn languages_are_weighed_by_their_rank_unless_they_have_weights_of_their_own() {
        for (entries, header) in [
            (&["en"][..], "en"),
            (&["de", "en", "fr"], "de, en;q=0.9, fr;q=0.8"),
            (&["en-GB", "fr;q=0.8"], "en-GB, fr;q=0.8"),
            (&["en-GB", "fr;q=0.75", "de"], "en-GB, fr;q=0.75, de;q=0.75"),
            (&["de-CH-1996", "*;q=0.1"], "de-CH-1996, *;q=0.1"),
            (&["en ; Q=0.500", "x;q=0"], "en;q=0.5, x;q=0"),
            (&["en;q=1", "de;q=1.000"], "en, de"),
            (&["en-GB,en;q=0.8"], "en-GB, en;q=0.8"),
            (&[], ""),
        ] {
            assert_eq!(sent(entries).as_deref(), Ok(header), "{entries:?}");
        }
        assert!(sent(&["x"; 20]).unwrap().ends_with("x;q=0.1"));
    }

    #[test]
    fn what_is_no_language_is_refused_by_name() {
        for entry in [
            "",
            "fr;q=2",
            "fr;q=0.8888",
            "fr;q=",
            "fr;level=1",
            "fr;q=-1",
            "fr;q=0.8;q=0.9",
            "a b",
            "en_GB",
            "fran\u{e7}ais",
            "1a",
            "en,",
        ] {
            assert!(sent(&["de", entry]).is_err(), "{entry}");
        }
        assert!(sent(&["de", "en_GB"]).unwrap_err().to_string().contains("`en_GB`"));
    }
}
