//! The `Range` header: one range of bytes, or the whole.
//!
//! Owns the decision 200, 206 or 416. Refuses to know whose bytes they are.
//! [RFC 9110 §14](https://www.rfc-editor.org/rfc/rfc9110#section-14).

/// What to send of a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it, status 200.
    Whole,
    /// `length` bytes from `start` on, status 206. Never empty, never past the end.
    Part {
        /// First byte.
        start: u64,
        /// Number of bytes, at least 1.
        length: u64,
    },
    /// Status 416: the range starts past the end.
    Unsatisfiable,
}

/// Evaluates a `Range` header for a representation of `size` bytes.
///
/// Several ranges, other units and malformed headers get the whole representation: RFC 9110 §14.2 allows a server to ignore the header.
pub(crate) fn judge(header: &str, size: u64) -> Extent {
    let Some((unit, set)) = header.split_once('=') else { return Extent::Whole };
    // Empty members of the list do not count (RFC 9110 §5.6.1.2).
    let mut specs = set.split(',').map(str::trim).filter(|spec| !spec.is_empty());
    let (Some(spec), None) = (specs.next(), specs.next()) else { return Extent::Whole };
    let Some((first, last)) = spec.split_once('-') else { return Extent::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Extent::Whole;
    }
    match (position(first), position(last)) {
        (Position::Number(first), Position::Number(last)) if first > last => Extent::Whole,
        (Position::Number(start), last @ (Position::Number(_) | Position::Absent)) => {
            let end = match last {
                Position::Number(last) => last.saturating_add(1).min(size),
                Position::Absent | Position::Malformed => size,
            };
            part(start, end)
        }
        // All of nothing is satisfiable (RFC 9110 §14.1.2), and no `Content-Range` can say so.
        (Position::Absent, Position::Number(suffix)) if suffix > 0 && size == 0 => Extent::Whole,
        (Position::Absent, Position::Number(suffix)) => part(size.saturating_sub(suffix), size),
        (..) => Extent::Whole,
    }
}

/// The bytes from `start` up to `end`.
fn part(start: u64, end: u64) -> Extent {
    match end.checked_sub(start) {
        Some(length) if length > 0 => Extent::Part { start, length },
        Some(_) | None => Extent::Unsatisfiable,
    }
}

/// The text on one side of the dash.
enum Position {
    /// Digits.
    Number(u64),
    /// Nothing.
    Absent,
    /// Anything else.
    Malformed,
}

/// Reads one side of the dash. Digits past 2^64 mean the end of everything.
fn position(text: &str) -> Position {
    match text.trim() {
        "" => Position::Absent,
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Position::Number(digits.parse().unwrap_or(u64::MAX))
        }
        _ => Position::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn single_ranges_of_rfc_9110() {
        for (header, size, expected) in [
            ("bytes=0-499", 10_000, Extent::Part { start: 0, length: 500 }),
            ("bytes=500-999", 10_000, Extent::Part { start: 500, length: 500 }),
            ("bytes=-500", 10_000, Extent::Part { start: 9500, length: 500 }),
            ("bytes=9500-", 10_000, Extent::Part { start: 9500, length: 500 }),
            ("bytes=0-0", 1, Extent::Part { start: 0, length: 1 }),
            ("Bytes= 1 - 2 ", 10, Extent::Part { start: 1, length: 2 }),
            ("bytes=-99", 10, Extent::Part { start: 0, length: 10 }),
            ("bytes=5-99999999999999999999999", 10, Extent::Part { start: 5, length: 5 }),
            ("bytes=10-", 10, Extent::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Extent::Unsatisfiable),
            ("bytes=-0", 10, Extent::Unsatisfiable),
            ("bytes=0-", 0, Extent::Unsatisfiable),
            ("bytes=-0", 0, Extent::Unsatisfiable),
            ("bytes=-5", 0, Extent::Whole),
            ("bytes=, 1-2,,", 10, Extent::Part { start: 1, length: 2 }),
        ] {
            assert_eq!(judge(header, size), expected, "{header}");
        }
    }

    #[test]
    fn what_we_do_not_serve_is_answered_with_the_whole() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=,",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=0-1,3-4",
            "items=0-1",
            "bytes=+1-2",
        ] {
            assert_eq!(judge(header, 10), Extent::Whole, "{header}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_representation(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size in any::<u64>()) {
            if let Extent::Part { start, length } = judge(&header, size) {
                prop_assert!(length >= 1 && start.checked_add(length).is_some_and(|end| end <= size));
            }
        }

        #[test]
        fn any_text_is_judged(header in "\\PC{0,40}", size in 0_u64..100) {
            judge(&header, size);
        }
    }
}
