//! What the operator asks for, on the command line: usage, retention, moderation.
//!
//! The same requests come through `ops.listen` while the service runs, and directly while it does not.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Media;
use super::retention::{Age, Ages, Mode};
use crate::config::{Size, Span};
use crate::error::{Error, Kind, Result};
use crate::matrix::{Mxc, ServerName, UserId};
use crate::store::catalog::{Block, NewBlock, Record, Selection, UsageBy};
use crate::store::sha256::Sha256;
use crate::sync::pools::Pool;

/// Most addresses or hashes in one request.
pub(crate) const MAX_LISTED: usize = 10_000;

/// Who acts, in the catalog.
const OPERATOR: &str = "operator";

/// A request of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum OperatorRequest {
    Usage {
        by: By,
        /// Rows; the rest is summed up.
        top: usize,
    },
    Retention {
        dry_run: bool,
        /// Instead of the configured one, bytes.
        keep_free: Option<u64>,
        /// Instead of the configured one, bytes.
        max_store: Option<u64>,
        /// How long media of other servers may be unused, instead of the configured time, milliseconds.
        unused_ms: Option<u64>,
    },
    Media {
        act: Act,
        /// `mxc://…` URIs.
        media: Vec<String>,
        reason: Option<String>,
    },
    /// Deletes all media of another server, or of a user.
    DeleteAll {
        server: Option<String>,
        user: Option<String>,
    },
    Block {
        /// In hex.
        hashes: Vec<String>,
        reason: Option<String>,
    },
    Unblock {
        hashes: Vec<String>,
    },
    /// Reads files behind `after` for damage, for some seconds.
    Scrub {
        after: Option<String>,
        /// Bytes a second.
        rate: u64,
    },
    /// Lists blocked hashes behind `after`.
    Blocked {
        after: Option<String>,
    },
}

/// What is done to media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Tells what is known.
    Show,
    /// Deletes for good.
    Delete,
    /// Stops serving the content, everywhere.
    Quarantine,
    /// Serves it again.
    Unquarantine,
    /// Keeps it from quarantine and eviction.
    Protect,
    /// Ends that.
    Unprotect,
}

/// What the rows of a report on usage are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Local, remote, previews, thumbnails.
    Kind,
    /// Other servers.
    Server,
    /// Uploaders.
    User,
    /// Content types.
    Type,
    /// Time since last access.
    Age,
}

impl Media {
    /// Does what the operator asks for. What was done is logged.
    ///
    /// # Errors
    /// `InvalidParam` for addresses, hashes and names that do not parse.
    pub(crate) async fn operate(self: &Arc<Self>, request: OperatorRequest) -> Result<Value> {
        match request {
            OperatorRequest::Retention { dry_run, keep_free, max_store, unused_ms } => {
                let mut rules = self.config.get().retention.clone();
                if let Some(keep_free) = keep_free {
                    rules.keep_free = Size(keep_free);
                }
                rules.max_store = max_store.map(Size).or(rules.max_store);
                let unused = unused_ms.map(|ms| Span(Duration::from_millis(ms)));
                rules.remote.unused = unused.or(rules.remote.unused);
                let mode = if dry_run { Mode::DryRun } else { Mode::Evict };
                to_json(&self.sweep(rules, mode, Ages::Asked).await?)
            }
            OperatorRequest::Usage { by, top } => {
                self.blocking(Pool::Disk, move |media| media.usage(by, top)).await
            }
            OperatorRequest::Media { act, media: listed, reason } => {
                let listed = parse_all(
                    &listed,
                    |text| Mxc::parse(text).ok(),
                    "an MXC URI (like mxc://example.org/abc)",
                )?;
                self.blocking(Pool::Disk, move |media| media.moderate(act, listed, reason.as_deref())).await
            }
            OperatorRequest::DeleteAll { server, user } => {
                let selection = match (server, user) {
                    (Some(server), None) => Selection::Server(
                        ServerName::parse(&server).map_err(|_error| invalid(&server, "a server name"))?,
                    ),
                    (None, Some(user)) if UserId::is_well_formed(&user) => {
                        Selection::User(UserId::new(&user))
                    }
                    (None, Some(user)) => return Err(invalid(&user, "a user ID (like @alice:example.org)")),
                    _ => return Err(Error::new(Kind::InvalidParam, "name either a server or a user")),
                };
                self.blocking(Pool::Disk, move |media| {
                    let deleted = media.delete(&selection)?;
                    Ok(json!({"deleted": deleted}))
                })
                .await
            }
            OperatorRequest::Block { hashes, reason } => {
                let hashes = parse_all(&hashes, Sha256::from_hex, "a SHA-256 in hex, 64 digits")?;
                self.blocking(Pool::Disk, move |media| {
                    let quarantined = media.store.block(&hashes, &media.new_block(reason))?;
                    tracing::info!(hashes = hashes.len(), quarantined, "blocked content");
                    Ok(json!({"blocked": hashes.len(), "quarantined": quarantined}))
                })
                .await
            }
            OperatorRequest::Unblock { hashes } => {
                let hashes = parse_all(&hashes, Sha256::from_hex, "a SHA-256 in hex, 64 digits")?;
                self.blocking(Pool::Disk, move |media| {
                    let unblocked = media.store.unblock(&hashes)?;
                    tracing::info!(unblocked, "unblocked content");
                    Ok(json!({"unblocked": unblocked}))
                })
                .await
            }
            OperatorRequest::Scrub { after, rate } => {
                let after = after.as_deref().map(parse_hash).transpose()?;
                self.scrub_part(after, rate).await
            }
            OperatorRequest::Blocked { after } => {
                self.blocking(Pool::Disk, move |media| media.list_blocked(after.as_deref())).await
            }
        }
    }
}

/// The blocking steps.
impl Media {
    fn usage(&self, by: By, top: usize) -> Result<Value> {
        let by = match by {
            By::Kind => UsageBy::Kind,
            By::Server => UsageBy::Server,
            By::User => UsageBy::User,
            By::Type => UsageBy::Type,
            By::Age => UsageBy::Age { now: (self.clock)().0 },
        };
        let mut rows = self.store.usage(by, Age::name_of_days)?;
        let others = rows.split_off(top.min(rows.len()));
        let totals = self.store.totals()?;
        let mut rest = crate::store::catalog::Usage { name: "others".to_owned(), ..Default::default() };
        for other in &others {
            rest.files = rest.files.saturating_add(other.files);
            rest.referenced = rest.referenced.saturating_add(other.referenced);
            rest.freed = rest.freed.saturating_add(other.freed);
        }
        if !others.is_empty() {
            rows.push(rest);
        }
        Ok(json!({"stored": totals.bytes(), "free": self.store.free()?, "rows": rows}))
    }

    fn new_block(&self, reason: Option<String>) -> NewBlock {
        NewBlock { since: (self.clock)(), by: OPERATOR.to_owned(), reason }
    }

    fn moderate(&self, act: Act, listed: Vec<Mxc>, reason: Option<&str>) -> Result<Value> {
        if act == Act::Delete {
            let deleted = self.delete(&Selection::Listed(listed))?;
            return Ok(json!({"deleted": deleted}));
        }
        let mut rows = Vec::new();
        for mxc in &listed {
            let before = self.store.record(mxc)?;
            let is_known = before != Record::Unknown;
            let row = match act {
                Act::Show | Act::Delete => described(mxc, &before),
                Act::Quarantine => {
                    let is_protected = matches!(before, Record::Media { is_protected: true, .. });
                    let quarantined =
                        self.store.quarantine(mxc, self.new_block(reason.map(str::to_owned)))?;
                    tracing::info!(%mxc, quarantined, "quarantined media");
                    json!({"mxc": mxc.to_string(), "known": is_known, "protected": is_protected, "changed": quarantined})
                }
                Act::Unquarantine => {
                    let changed = self.store.unquarantine(mxc)?;
                    tracing::info!(%mxc, changed, "ended a quarantine");
                    json!({"mxc": mxc.to_string(), "known": is_known, "changed": changed})
                }
                Act::Protect | Act::Unprotect => {
                    let changed = self.store.protect(mxc, act == Act::Protect)?;
                    tracing::info!(%mxc, protected = act == Act::Protect, changed, "changed the protection of media");
                    json!({"mxc": mxc.to_string(), "known": changed, "changed": u8::from(changed)})
                }
            };
            rows.push(row);
        }
        Ok(json!({"rows": rows}))
    }

    /// Up to 10 000 blocked hashes behind `after`.
    fn list_blocked(&self, after: Option<&str>) -> Result<Value> {
        let after = after.map(parse_hash).transpose()?;
        let limit = u32::try_from(MAX_LISTED).unwrap_or(u32::MAX);
        let blocked = self.store.blocked(after, limit)?;
        let rows: Vec<Value> = blocked
            .into_iter()
            .map(|Block { sha256, since, by, reason }| {
                json!({"sha256": sha256.to_string(), "since": since.0, "by": by, "reason": reason})
            })
            .collect();
        Ok(json!({"rows": rows}))
    }
}

/// What is known of an address.
fn described(mxc: &Mxc, record: &Record) -> Value {
    match record {
        Record::Media {
            user_id,
            created,
            last_access,
            content,
            content_type,
            upload_name,
            quarantined_by,
            is_protected,
            sharing,
        } => {
            let content = *content;
            json!({
                "mxc": mxc.to_string(), "state": if content.is_some() { "stored" } else { "pending" },
                "uploader": user_id.as_ref().map(UserId::as_str), "created": created.0, "last_access": last_access.0,
                "sha256": content.map(|(sha256, _)| sha256.to_string()), "bytes": content.map(|(_, size)| size),
                "content_type": content_type, "upload_name": upload_name, "quarantined_by": quarantined_by,
                "protected": is_protected, "addresses_with_this_content": sharing,
            })
        }
        Record::Gone { since, is_quarantined } => json!({
            "mxc": mxc.to_string(), "state": if *is_quarantined { "quarantined, not stored" } else { "deleted" }, "since": since.0,
        }),
        Record::Unknown => json!({"mxc": mxc.to_string(), "state": "unknown"}),
    }
}

fn parse_hash(text: &str) -> Result<Sha256> {
    Sha256::from_hex(text).ok_or_else(|| invalid(text, "a SHA-256 in hex, 64 digits"))
}

/// Parses all texts.
///
/// # Errors
/// `InvalidParam` for the first one that does not parse, and for too many.
fn parse_all<T>(texts: &[String], parse: impl Fn(&str) -> Option<T>, what: &str) -> Result<Vec<T>> {
    if texts.len() > MAX_LISTED {
        return Err(Error::new(Kind::InvalidParam, format!("at most {MAX_LISTED} entries in one request")));
    }
    texts.iter().map(|text| parse(text).ok_or_else(|| invalid(text, what))).collect()
}

fn invalid(text: &str, what: &str) -> Error {
    Error::new(Kind::InvalidParam, format!("`{}` is not {what}", text.escape_debug()))
}

/// A report as JSON.
fn to_json(report: &impl Serialize) -> Result<Value> {
    serde_json::to_value(report).map_err(|error| Error::internal("writing a report", error))
}
