//! `usage`, `retention`, `media …` and `block …`: what takes the room, what goes, and what must not be served.
//!
//! Each command asks the running service through `ops.listen`. When none runs, it opens the store itself.

#![expect(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::Value;

use super::Failure;
use super::service::Operator;
use crate::config::{Rate, Size, Span};
use crate::matrix::Timestamp;
use crate::media::{AGES, Act, By, MAX_LISTED, OperatorRequest};

/// Columns of a name in a table, so that a row fits 80 columns.
const NAME_WIDTH: usize = 34;

/// What `media` acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// These MXC URIs.
    Listed(Vec<String>),
    /// All media of another server.
    Server(String),
    /// All that a user uploaded.
    User(String),
}

/// What `block` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockAct {
    /// Blocks hashes.
    Add(Vec<String>),
    /// Unblocks hashes.
    Remove(Vec<String>),
    /// Blocks the hashes of a file, one a line; `-` is standard input.
    Import(PathBuf),
    /// Prints all blocked hashes, one a line.
    Export,
}

/// What `retention` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionOptions {
    /// Only say what would go.
    pub dry_run: bool,
    /// Instead of `retention.keep_free`.
    pub keep_free: Option<Size>,
    /// Instead of `retention.max_store`.
    pub max_store: Option<Size>,
    /// Instead of `retention.remote.unused`.
    pub unused: Option<Span>,
}

/// `usage`: who and what takes the room.
pub fn usage(
    config: Option<&Path>,
    by: By,
    top: usize,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let report = Operator::find(config)?.ask(OperatorRequest::Usage { by, top })?;
    if as_json {
        return Ok(writeln!(out, "{report:#}")?);
    }
    writeln!(out, "stored {}, free on the disk {}", size(&report["stored"]), size(&report["free"]))?;
    writeln!(out)?;
    let title = match by {
        By::Kind => "kind",
        By::Server => "server",
        By::User => "user",
        By::Type => "content type",
        By::Age => "last access",
    };
    writeln!(out, "{title:NAME_WIDTH$} {:>10} {:>13} {:>16}", "files", "referenced", "freed if removed")?;
    let mut rows: Vec<_> = rows(&report).iter().collect();
    rows.sort_by_key(|row| rank(text(&row["name"])));
    for row in rows {
        writeln!(
            out,
            "{:NAME_WIDTH$} {:>10} {:>13} {:>16}",
            shortened(text(&row["name"])),
            count(&row["files"]),
            size(&row["referenced"]).to_string(),
            size(&row["freed"]).to_string()
        )?;
    }
    Ok(())
}

/// `retention`: evicts what is over the bounds, or says what would go.
pub fn retention(
    config: Option<&Path>,
    mode: &RetentionOptions,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let RetentionOptions { dry_run, keep_free, max_store, unused } = *mode;
    let (keep_free, max_store) = (keep_free.map(|size| size.0), max_store.map(|size| size.0));
    let unused_ms = unused.map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX));
    let report = Operator::find(config)?.ask(OperatorRequest::Retention {
        dry_run,
        keep_free,
        max_store,
        unused_ms,
    })?;
    if as_json {
        return Ok(writeln!(out, "{report:#}")?);
    }
    writeln!(out, "stored {}, free on the disk {}", size(&report["stored"]), size(&report["free"]))?;
    let total = &report["total"];
    let verb = if dry_run { "would go" } else { "went" };
    writeln!(out, "{} files {verb}, {}", total["files"], size(&total["bytes"]))?;
    for (title, key) in
        [("reason", "by_reason"), ("kind", "by_kind"), ("last access", "by_age"), ("server", "by_server")]
    {
        print_counts(out, title, &report[key])?;
    }
    let first = report["first"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !first.is_empty() {
        writeln!(out, "\nfirst")?;
    }
    for row in first {
        let last_access = date(&row["last_access"]);
        let name = row["mxc"].as_str().map_or_else(|| text(&row["kind"]).to_owned(), str::to_owned);
        let (bytes, reason) = (size(&row["bytes"]).to_string(), text(&row["reason"]));
        writeln!(out, "  {last_access} {bytes:>11} {reason:12} {}", escaped(&name))?;
    }
    for unmet in report["unmet"].as_array().into_iter().flatten() {
        writeln!(out, "\n{}", text(unmet))?;
    }
    Ok(())
}

/// Prints counts by name, the largest first, at most 20.
fn print_counts(out: &mut impl Write, title: &str, counts: &Value) -> io::Result<()> {
    let mut counts: Vec<_> = counts.as_object().into_iter().flatten().collect();
    if counts.is_empty() {
        return Ok(());
    }
    let bytes = |of_name: &Value| of_name["bytes"].as_u64().unwrap_or(0);
    counts.sort_by_key(|(name, of_name)| (rank(name), u64::MAX.saturating_sub(bytes(of_name))));
    writeln!(out, "\n{title:NAME_WIDTH$} {:>10} {:>13}", "files", "bytes")?;
    let rest = counts.len().saturating_sub(20);
    for (name, of_name) in counts.into_iter().take(20) {
        writeln!(
            out,
            "{:NAME_WIDTH$} {:>10} {:>13}",
            shortened(name),
            count(&of_name["files"]),
            size(&of_name["bytes"]).to_string()
        )?;
    }
    if rest > 0 {
        writeln!(out, "and {rest} more")?;
    }
    Ok(())
}

/// `media show|delete|quarantine|unquarantine|protect|unprotect`. Returns whether all addresses are known.
pub fn media(
    config: Option<&Path>,
    act: Act,
    target: Target,
    reason: Option<&str>,
    out: &mut impl Write,
) -> Result<bool, Failure> {
    let operator = Operator::find(config)?;
    let listed = match target {
        Target::Listed(listed) => listed,
        Target::Server(_) | Target::User(_) if act != Act::Delete => {
            return Err("--server and --user are for `media delete`".into());
        }
        Target::Server(server) => {
            let answer = operator.ask(OperatorRequest::DeleteAll { server: Some(server), user: None })?;
            writeln!(out, "deleted {} files", answer["deleted"])?;
            return Ok(true);
        }
        Target::User(user) => {
            let answer = operator.ask(OperatorRequest::DeleteAll { server: None, user: Some(user) })?;
            writeln!(out, "deleted {} files", answer["deleted"])?;
            return Ok(true);
        }
    };
    let mut is_all_known = true;
    for batch in listed.chunks(MAX_LISTED) {
        let answer = operator.ask(OperatorRequest::Media {
            act,
            media: batch.to_vec(),
            reason: reason.map(str::to_owned),
        })?;
        if act == Act::Delete {
            writeln!(out, "deleted {} of {} files", answer["deleted"], batch.len())?;
        }
        for row in rows(&answer) {
            if act == Act::Show {
                is_all_known &= row["state"] != "unknown";
                show(out, row)?;
            } else {
                is_all_known &= row["known"] == true;
                let what = match (row["known"].as_bool(), row["protected"].as_bool(), row["changed"].as_u64())
                {
                    (Some(false), ..) => "unknown, nothing was done".to_owned(),
                    (_, Some(true), _) => "protected, nothing was done".to_owned(),
                    (.., count) => format!("addresses changed: {}", count.unwrap_or(0)),
                };
                writeln!(out, "{}: {what}", text(&row["mxc"]))?;
            }
        }
    }
    Ok(is_all_known)
}

/// Prints what is known of one address, a line for each fact.
fn show(out: &mut impl Write, row: &Value) -> io::Result<()> {
    writeln!(out, "{}", text(&row["mxc"]))?;
    for (key, value) in
        row.as_object().into_iter().flatten().filter(|(key, value)| *key != "mxc" && !value.is_null())
    {
        let shown = match (key.as_str(), value) {
            ("created" | "last_access" | "since", _) => date(value),
            ("bytes", _) => size(value).to_string(),
            (_, Value::String(text)) => escaped(text),
            (_, other) => other.to_string(),
        };
        writeln!(out, "  {:24} {shown}", key.replace('_', " "))?;
    }
    Ok(())
}

/// `block add|remove|import|export`
pub fn block(
    config: Option<&Path>,
    act: BlockAct,
    reason: Option<&str>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let operator = Operator::find(config)?;
    let add = |hashes: Vec<String>, out: &mut dyn Write| -> Result<(), Failure> {
        let mut quarantined = 0;
        for batch in hashes.chunks(MAX_LISTED) {
            let (hashes, reason) = (batch.to_vec(), reason.map(str::to_owned));
            let answer = operator.ask(OperatorRequest::Block { hashes, reason })?;
            quarantined = answer["quarantined"].as_u64().unwrap_or(0).saturating_add(quarantined);
        }
        writeln!(out, "blocked {} hashes; {quarantined} addresses are not served any more", hashes.len())?;
        Ok(())
    };
    match act {
        BlockAct::Add(hashes) => add(hashes, out)?,
        BlockAct::Import(path) => add(read_hashes(&path)?, out)?,
        BlockAct::Remove(hashes) => {
            let mut unblocked = 0;
            for batch in hashes.chunks(MAX_LISTED) {
                let answer = operator.ask(OperatorRequest::Unblock { hashes: batch.to_vec() })?;
                unblocked = answer["unblocked"].as_u64().unwrap_or(0).saturating_add(unblocked);
            }
            writeln!(out, "unblocked {unblocked} of {} hashes", hashes.len())?;
        }
        BlockAct::Export => {
            let mut after = None;
            loop {
                let answer = operator.ask(OperatorRequest::Blocked { after })?;
                let rows = rows(&answer);
                for row in rows {
                    writeln!(out, "{}", text(&row["sha256"]))?;
                }
                let Some(last) = rows.last() else { break };
                after = Some(text(&last["sha256"]).to_owned());
            }
        }
    }
    Ok(())
}

/// `scrub`: reads all files for damage. Returns whether none was found that is lost.
pub fn scrub(config: Option<&Path>, rate: Rate, out: &mut impl Write) -> Result<bool, Failure> {
    let operator = Operator::find(config)?;
    let (mut after, mut files, mut bytes, mut removed, mut lost) = (None, 0_u64, 0_u64, 0_u64, 0_u64);
    let mut shown = std::time::Instant::now();
    loop {
        let answer = operator.ask(OperatorRequest::Scrub { after, rate: rate.0 })?;
        files = files.saturating_add(answer["files"].as_u64().unwrap_or(0));
        bytes = bytes.saturating_add(answer["bytes"].as_u64().unwrap_or(0));
        for damaged in answer["damaged"].as_array().into_iter().flatten() {
            let (name, sha256) = (text(&damaged["mxc"]), text(&damaged["sha256"]));
            if damaged["removed"] == true {
                removed = removed.saturating_add(1);
                writeln!(out, "damaged copy, removed: {sha256} {}", escaped(name))?;
            } else {
                lost = lost.saturating_add(1);
                writeln!(out, "DAMAGED, kept: {sha256} {}", escaped(name))?;
            }
        }
        after = answer["after"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
        if shown.elapsed() > Duration::from_mins(1) {
            shown = std::time::Instant::now();
            writeln!(io::stderr(), "{files} files, {} read", ByteSize(bytes))?;
        }
    }
    writeln!(
        out,
        "{files} files, {} read; damaged copies removed: {removed}; damaged and kept: {lost}",
        ByteSize(bytes)
    )?;
    Ok(lost == 0)
}

/// The hashes of a file, one a line. `#` begins a comment; empty lines are skipped.
fn read_hashes(path: &Path) -> Result<Vec<String>, Failure> {
    let mut content = String::new();
    if path == Path::new("-") {
        io::stdin().read_to_string(&mut content)?;
    } else {
        content = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let lines = content.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let mut hashes = Vec::new();
    for (number, line) in (1_usize..).zip(lines).filter(|(_, line)| !line.is_empty()) {
        if line.len() != 64 || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let shown: String = line.chars().take(80).collect();
            let what = format!(
                "{}:{number}: `{}` is not a SHA-256 in hex (64 digits)",
                path.display(),
                escaped(&shown)
            );
            return Err(what.into());
        }
        hashes.push(line.to_ascii_lowercase());
    }
    Ok(hashes)
}

fn rows(answer: &Value) -> &[Value] {
    answer["rows"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// The place of a row: ages by their time, the sum of all others last, and before it what stands in the order of its bytes.
fn rank(name: &str) -> usize {
    let last = AGES.len().saturating_add(1);
    let by_age = AGES.iter().position(|age| *age == name);
    if name == "others" { last } else { by_age.unwrap_or(0) }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn size(value: &Value) -> ByteSize {
    ByteSize(value.as_u64().unwrap_or(0))
}

/// A time as a date, UTC.
fn date(value: &Value) -> String {
    let time = Timestamp(value.as_i64().unwrap_or(0)).system_time();
    let date = httpdate::fmt_http_date(time);
    // "Sun, 06 Nov 1994 08:49:37 GMT"
    date.get(5..16).unwrap_or_default().to_owned()
}

/// Others chose parts of a name: control characters could change the terminal.
fn escaped(name: &str) -> String {
    let mut shown = String::new();
    for char in name.chars() {
        if char.is_control() { shown.extend(char.escape_default()) } else { shown.push(char) }
    }
    shown
}

/// A name that fits its column.
fn shortened(name: &str) -> String {
    let name = escaped(name);
    if name.chars().count() <= NAME_WIDTH {
        return name;
    }
    let start: String = name.chars().take(NAME_WIDTH.saturating_sub(1)).collect();
    format!("{start}…")
}
