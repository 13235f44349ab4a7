//! Conditional requests: whether media is sent, and which part of it.
//!
//! Owns the precedence of the conditions and how they are compared with stored media. Refuses to know which media it is and how the
//! response is written. [RFC 9110 §13](https://www.rfc-editor.org/rfc/rfc9110#section-13),
//! [§14](https://www.rfc-editor.org/rfc/rfc9110#section-14).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::http::range::{self, Extent};
use crate::matrix::Timestamp;

/// The lines of one header field. Several lines are one list (RFC 9110 §5.3).
pub(crate) type Lines<'a> = Vec<&'a [u8]>;

/// The header fields of a request that decide whether and how much of stored media is sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions<'a> {
    /// `If-Match`
    pub(crate) if_match: Lines<'a>,
    /// `If-Unmodified-Since`
    pub(crate) if_unmodified_since: Lines<'a>,
    /// `If-None-Match`
    pub(crate) if_none_match: Lines<'a>,
    /// `If-Modified-Since`
    pub(crate) if_modified_since: Lines<'a>,
    /// `Range`; nothing unless the method is GET, the only one that it is defined for (RFC 9110 §14.2).
    pub(crate) range: Lines<'a>,
    /// `If-Range`
    pub(crate) if_range: Lines<'a>,
}

/// The validators of stored media.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validators<'a> {
    /// The entity tag, quoted. Always a strong one: it is a hash of the bytes.
    pub(crate) etag: &'a str,
    /// `Last-Modified`. A strong validator too (RFC 9110 §8.8.2.2): media does not change under its ID.
    pub(crate) modified: Option<HttpDate>,
}

/// The result of evaluating the conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// 200, 206 or 416.
    Send(Extent),
    /// 304: the client has the media already.
    NotModified,
    /// 412: the media is not the one that the client expects.
    Failed,
}

/// An HTTP date: whole seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HttpDate(u64);

/// The last second of the year 9999: HTTP dates end there.
const LAST_SECOND: u64 = 253_402_300_799;

/// How two entity tags are compared (RFC 9110 §8.8.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    /// A weak tag equals no other tag.
    Strong,
    /// `W/` is ignored.
    Weak,
}

/// One member of a list of entity tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member<'a> {
    /// `*`
    Any,
    /// A tag with its quotes.
    Tag {
        /// Whether it begins with `W/`.
        is_weak: bool,
        text: &'a [u8],
    },
    /// Not a tag.
    Malformed,
}

impl Conditions<'_> {
    /// Whether the response depends on the bytes of the media, so that all of them must be known.
    pub(crate) fn needs_validators(&self) -> bool {
        let preconditions =
            [&self.if_match, &self.if_unmodified_since, &self.if_none_match, &self.if_modified_since];
        preconditions.iter().any(|lines| !lines.is_empty())
            || !(self.range.is_empty() || self.if_range.is_empty())
    }

    /// Evaluates the conditions for media of `size` bytes, in the order of RFC 9110 §13.2.2. The request would get 200 without them.
    pub(crate) fn judge(&self, validators: Validators<'_>, size: u64) -> Judgement {
        let Validators { etag, modified } = validators;
        if !self.if_match.is_empty() {
            if !lists(&self.if_match, etag, Comparison::Strong) {
                return Judgement::Failed;
            }
        } else if let (Some(modified), Some(since)) = (modified, date(&self.if_unmodified_since))
            && modified > since
        {
            return Judgement::Failed;
        }
        if !self.if_none_match.is_empty() {
            if lists(&self.if_none_match, etag, Comparison::Weak) {
                return Judgement::NotModified;
            }
        } else if let (Some(modified), Some(since)) = (modified, date(&self.if_modified_since))
            && modified <= since
        {
            return Judgement::NotModified;
        }
        Judgement::Send(if self.is_same_range(validators) {
            extent(&self.range, size)
        } else {
            Extent::Whole
        })
    }

    /// The requested range of `size` bytes; `If-Range` is not considered.
    pub(crate) fn extent(&self, size: u64) -> Extent {
        extent(&self.range, size)
    }

    /// Whether `If-Range` allows a range of these bytes (RFC 9110 §13.1.5). A value that is neither a tag nor a date does not.
    fn is_same_range(&self, Validators { etag, modified }: Validators<'_>) -> bool {
        match self.if_range.as_slice() {
            [] => true,
            [line] => match members(line).as_slice() {
                [Member::Tag { is_weak: false, text }] => *text == etag.as_bytes(),
                _ => date(&self.if_range).is_some_and(|date| modified == Some(date)),
            },
            _ => false,
        }
    }
}

impl HttpDate {
    /// `at`, rounded down to seconds.
    pub(crate) fn of(at: Timestamp) -> Self {
        Self::at(at.system_time())
    }

    /// The same for a system time. Times before 1970 or after 9999 are moved to these limits.
    fn at(time: SystemTime) -> Self {
        let since_1970 = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(since_1970.as_secs().min(LAST_SECOND))
    }

    /// The text for `Last-Modified`.
    pub(crate) fn text(self) -> String {
        let time = UNIX_EPOCH.checked_add(Duration::from_secs(self.0)).unwrap_or(UNIX_EPOCH);
        httpdate::fmt_http_date(time)
    }
}

/// The date in a field. `None`, if there is not exactly one valid date: then the field is ignored.
fn date(lines: &[&[u8]]) -> Option<HttpDate> {
    let [line] = lines else { return None };
    let text = str::from_utf8(line).ok()?;
    httpdate::parse_http_date(text.trim_matches([' ', '\t'])).ok().map(HttpDate::at)
}

/// The range of a `Range` field; several lines are invalid and count as none.
fn extent(lines: &[&[u8]], size: u64) -> Extent {
    match lines {
        [line] => str::from_utf8(line).map_or(Extent::Whole, |line| range::judge(line, size)),
        _ => Extent::Whole,
    }
}

/// Whether a list of entity tags contains `etag` or is `*`, which matches any media.
fn lists(lines: &[&[u8]], etag: &str, comparison: Comparison) -> bool {
    let mut members = lines.iter().flat_map(|line| members(line)).peekable();
    if members.peek() == Some(&Member::Any) {
        return members.all(|member| member == Member::Any);
    }
    members.any(|member| match member {
        Member::Tag { is_weak, text } => {
            text == etag.as_bytes() && !(is_weak && comparison == Comparison::Strong)
        }
        Member::Any | Member::Malformed => false,
    })
}

/// The members of a list of entity tags, without the empty ones (RFC 9110 §5.6.1.2).
fn members(line: &[u8]) -> Vec<Member<'_>> {
    let mut members = Vec::new();
    let mut rest = line;
    loop {
        rest = skip(rest, |byte| matches!(byte, b' ' | b'\t' | b','));
        if rest.is_empty() {
            return members;
        }
        let (member, after) = first_member(rest);
        let after = skip(after, |byte| matches!(byte, b' ' | b'\t'));
        // Text without a comma before it: this is not a list of tags.
        let ends_well = after.first().is_none_or(|byte| *byte == b',');
        members.push(if ends_well { member } else { Member::Malformed });
        rest = skip(after, |byte| byte != b',');
    }
}

/// The first member of `text` and the rest.
fn first_member(text: &[u8]) -> (Member<'_>, &[u8]) {
    if let Some(after) = text.strip_prefix(b"*") {
        return (Member::Any, after);
    }
    let (is_weak, tag) = text.strip_prefix(b"W/").map_or((false, text), |tag| (true, tag));
    let quoted = tag.strip_prefix(b"\"").and_then(|inner| {
        let end = inner.iter().position(|byte| *byte == b'"')?;
        // `etagc` of RFC 9110 §8.8.3.
        let is_etag = |byte: &u8| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..=0xff);
        inner.get(..end)?.iter().all(is_etag).then(|| tag.split_at_checked(end.saturating_add(2)))?
    });
    match quoted {
        Some((text, after)) => (Member::Tag { is_weak, text }, after),
        None => (Member::Malformed, skip(text, |byte| byte != b',')),
    }
}

/// The rest of `text` after the leading bytes that `passes` accepts.
fn skip(text: &[u8], passes: impl Fn(u8) -> bool) -> &[u8] {
    let start = text.iter().position(|byte| !passes(*byte)).unwrap_or(text.len());
    text.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ETAG: &str = "\"e\"";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    /// Media of 10 bytes.
    fn judge(conditions: &Conditions<'_>) -> Judgement {
        let modified = date(&[MODIFIED.as_bytes()]);
        conditions.judge(Validators { etag: ETAG, modified }, 10)
    }

    const WHOLE: Judgement = Judgement::Send(Extent::Whole);
    const PART: Judgement = Judgement::Send(Extent::Part { start: 0, length: 3 });

    #[test]
    fn lists_of_tags_are_read_and_compared_as_the_field_has_it() {
        // Lines, strongly equal, weakly equal.
        let table: [(&[&str], bool, bool); 22] = [
            (&["\"e\""], true, true),
            (&["W/\"e\""], false, true),
            (&["w/\"e\""], false, false),
            (&["\"x\", \"e\""], true, true),
            (&["\"x\",\"e\""], true, true),
            (&["\"x\"", "\"e\""], true, true),
            (&["W/\"x\"", "\"y\" ,\t\"e\" "], true, true),
            (&["W/\"e\", \"e\""], true, true),
            (&[",, \"e\" ,"], true, true),
            (&["*"], true, true),
            (&["*", "*"], true, true),
            (&["*, \"x\""], false, false),
            (&["\"x\", *"], false, false),
            (&["e"], false, false),
            (&["\"e"], false, false),
            (&["e\""], false, false),
            (&["\"x,\"e\""], false, false),
            (&["\"x, \"e\""], true, true),
            (&["\"e\"\"e\""], false, false),
            (&["x, \"e\""], true, true),
            (&["\"a,b\", \"e\""], true, true),
            (&[""], false, false),
        ];
        for (lines, strongly, weakly) in table {
            let lines: Lines<'_> = lines.iter().map(|line| line.as_bytes()).collect();
            let found = [Comparison::Strong, Comparison::Weak].map(|how| lists(&lines, ETAG, how));
            assert_eq!(found, [strongly, weakly], "{:?}", String::from_utf8_lossy(&lines.concat()));
        }
        assert!(
            lists(&[b"\"\xfc\", \"e\""], ETAG, Comparison::Strong),
            "bytes above ASCII may stand in a tag"
        );
    }

    #[test]
    fn an_if_range_is_one_strong_tag_or_the_very_date() {
        let table: [(&[&str], Judgement); 15] = [
            (&[], PART),
            (&[ETAG], PART),
            (&[MODIFIED], PART),
            (&["Sunday, 06-Nov-94 08:49:37 GMT"], PART),
            (&["Sun Nov  6 08:49:37 1994"], PART),
            (&["W/\"e\""], WHOLE),
            (&["\"x\""], WHOLE),
            (&["\"x\", \"e\""], WHOLE),
            (&["*"], WHOLE),
            (&[""], WHOLE),
            (&[BEFORE], WHOLE),
            (&[AFTER], WHOLE),
            (&["yesterday"], WHOLE),
            (&[ETAG, ETAG], WHOLE),
            (&[MODIFIED, MODIFIED], WHOLE),
        ];
        for (lines, expected) in table {
            let if_range = lines.iter().map(|line| line.as_bytes()).collect();
            let conditions = Conditions { range: vec![b"bytes=0-2"], if_range, ..Conditions::default() };
            assert_eq!(judge(&conditions), expected, "{lines:?}");
        }
        let without_range = Conditions { if_range: vec![b"\"x\""], ..Conditions::default() };
        assert_eq!(judge(&without_range), WHOLE);
        assert!(!without_range.needs_validators());
    }

    /// What a field can say, in the order of the tables below: nothing, that it holds, that it does not, and what is no such field.
    fn field(says: usize, [holds, fails, broken]: [&str; 3]) -> Lines<'_> {
        [holds, fails, broken].get(says.wrapping_sub(1)).map(|line| line.as_bytes()).into_iter().collect()
    }

    #[test]
    fn every_combination_of_conditions_is_judged_in_the_order_of_the_rfc() {
        // 0: absent, 1: holds, 2: does not, 3: malformed.
        let mut seen = [0; 4];
        for code in 0..4_usize.pow(6) {
            let says = |place: u32| code / 4_usize.pow(place) % 4;
            let conditions = Conditions {
                if_match: field(says(0), ["\"x\", \"e\"", "W/\"e\"", "e"]),
                if_unmodified_since: field(says(1), [MODIFIED, BEFORE, "x"]),
                if_none_match: field(says(2), ["\"x\"", "W/\"e\"", "e"]),
                if_modified_since: field(says(3), [BEFORE, MODIFIED, "x"]),
                range: field(says(4), ["bytes=0-2", "bytes=10-", "lines=1"]),
                if_range: field(says(5), [ETAG, "\"x\"", "x"]),
            };
            // A malformed list has no tag of ours; a malformed date is none.
            let is_there = match (says(0), says(1)) {
                (0, 2) => false,
                (0, _) => true,
                (if_match, _) => if_match == 1,
            };
            let is_new = !matches!((says(2), says(3)), (0, 2) | (2, _));
            let (expected, kind) = match (is_there, is_new, says(4), says(5)) {
                (false, ..) => (Judgement::Failed, 0),
                (true, false, ..) => (Judgement::NotModified, 1),
                (true, true, 1, 0 | 1) => (PART, 2),
                (true, true, 2, 0 | 1) => (Judgement::Send(Extent::Unsatisfiable), 3),
                (true, true, ..) => (WHOLE, 2),
            };
            seen[kind] += 1;
            assert_eq!(judge(&conditions), expected, "{conditions:?}");
        }
        assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    }

    #[test]
    fn without_a_date_of_its_own_media_has_no_conditions_on_dates() {
        let conditions = Conditions {
            if_unmodified_since: vec![BEFORE.as_bytes()],
            if_modified_since: vec![AFTER.as_bytes()],
            range: vec![b"bytes=0-2"],
            ..Conditions::default()
        };
        let validators = Validators { etag: ETAG, modified: None };
        assert_eq!(conditions.judge(validators, 10), PART);
        let dated = Conditions { if_range: vec![AFTER.as_bytes()], ..conditions };
        assert_eq!(dated.judge(validators, 10), WHOLE);
    }

    #[test]
    fn several_lines_of_a_date_or_a_range_are_ignored() {
        let twice = |line: &'static str| vec![line.as_bytes(), line.as_bytes()];
        let conditions = Conditions {
            if_unmodified_since: twice(BEFORE),
            if_modified_since: twice(AFTER),
            range: twice("bytes=0-2"),
            ..Conditions::default()
        };
        assert_eq!(judge(&conditions), WHOLE);
    }

    #[test]
    fn a_date_is_written_and_compared_in_whole_seconds() {
        let date_of = |ms| HttpDate::of(Timestamp(ms));
        assert_eq!(date_of(784_111_777_999).text(), MODIFIED);
        assert_eq!(date_of(784_111_777_999), date_of(784_111_777_000));
        assert_eq!(date_of(i64::MAX).text(), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(date_of(-1).text(), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    /// Something like a field's line.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..24),
            "([*, \tW/\"ex]|\"e\"|W/\"e\"){0,12}".prop_map(String::into_bytes),
            "(Sun|Mon), 0[5-7] Nov 1994 08:49:3[0-9] GMT".prop_map(String::into_bytes),
            "bytes=[0-9]{0,2}-[0-9]{0,2}(, ?[0-9]?-)?".prop_map(String::into_bytes),
        ]
    }

    /// Something like a field.
    fn lines() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(line(), 0..3)
    }

    proptest! {
        #[test]
        fn any_fields_are_judged_and_each_verdict_has_its_reason(fields in proptest::array::uniform6(lines())) {
            let [a, b, c, d, e, f] = fields.each_ref().map(|lines| lines.iter().map(Vec::as_slice).collect::<Lines<'_>>());
            let conditions = Conditions {
                if_match: a, if_unmodified_since: b, if_none_match: c, if_modified_since: d, range: e, if_range: f,
            };
            match judge(&conditions) {
                Judgement::Failed => {
                    prop_assert!(!conditions.if_match.is_empty() || !conditions.if_unmodified_since.is_empty());
                }
                Judgement::NotModified => {
                    prop_assert!(!conditions.if_none_match.is_empty() || !conditions.if_modified_since.is_empty());
                }
                Judgement::Send(Extent::Part { start, length }) => {
                    prop_assert!(conditions.range.len() == 1 && length >= 1 && start.saturating_add(length) <= 10);
                }
                Judgement::Send(Extent::Unsatisfiable) => prop_assert_eq!(conditions.range.len(), 1),
                Judgement::Send(Extent::Whole) => {}
            }
            // No order of the tags and no line break between them changes what a list means.
            let joined = |lines: &[&[u8]]| vec![lines.join(&b", "[..])];
            if !conditions.if_none_match.is_empty() && !conditions.if_match.is_empty() {
                let (matching, unmatched) = (joined(&conditions.if_match), joined(&conditions.if_none_match));
                let in_one_line = Conditions {
                    if_match: vec![matching[0].as_slice()],
                    if_none_match: vec![unmatched[0].as_slice()],
                    ..conditions.clone()
                };
                prop_assert_eq!(judge(&in_one_line), judge(&conditions));
            }
        }
    }
}
