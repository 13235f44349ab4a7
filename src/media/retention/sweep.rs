//! A sweep: stages, each of which evicts one group for one reason.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::candidates::{Candidates, day};
use super::report::{Count, Reason, Report};
use super::{Ages, Mode, Retention, STEP, terms};
use crate::config::{Retention as Rules, Size};
use crate::error::Result;
use crate::matrix::{ServerName, Timestamp};
use crate::store::catalog::{Candidate, Group, Terms, Totals};
use crate::store::sha256::Sha256;
use crate::sync::lock;

/// Candidates that a sweep reads at once; about 200 bytes each.
const PAGE: u32 = 512;

/// A sweep for `keep_free` ends when so many bytes more are free.
const FREE_MARGIN: u64 = 256 << 20;

/// A part of a sweep: one group, for one reason.
#[derive(Clone, Debug)]
struct Stage {
    group: Group,
    reason: Reason,
    until: Until,
}

/// When a stage ends.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// At the first one that was used since.
    UsedSince(Timestamp),
    /// When all have gone that came before.
    ArrivedSince(Timestamp),
    /// When all of its kind takes less than this.
    Below(u64),
    /// When there are so many bytes less of the server.
    Freed(u64),
    /// When store and disk are within their bounds.
    InBounds,
}

/// What a step of a sweep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It evicted some files, or counted them.
    Took,
    /// A stage has ended.
    Nothing,
    /// The last stage has ended.
    Done,
}

/// A sweep in progress.
pub(super) struct Sweep {
    retention: Arc<Retention>,
    rules: Rules,
    mode: Mode,
    terms: Terms,
    stages: VecDeque<Stage>,
    groups: Vec<Candidates>,
    /// Bytes freed by the present stage.
    freed_here: u64,
    /// The last hash that the present stage has seen, if it goes by arrival.
    seen: Option<Sha256>,
    /// Why store or disk are out of their bounds, and how many bytes are needed.
    needed: Option<(Reason, u64)>,
    /// Bytes freed of these.
    freed_for_bounds: u64,
    report: Report,
}

/// The stages that evict by age.
fn age_stages(rules: &Rules, now: Timestamp) -> Vec<Stage> {
    let Rules { thumbnails, remote, local, .. } = rules;
    let mut stages = Vec::new();
    for (group, unused) in [
        (Group::Thumbnails, thumbnails.unused),
        (Group::Anonymous, remote.unused),
        (Group::Remote, remote.unused),
        (Group::Local, local.unused),
    ] {
        let until = unused.map(|span| Until::UsedSince(now.before(span.0)));
        stages.extend(until.map(|until| Stage { group, reason: Reason::Unused, until }));
    }
    for (group, older) in [(Group::Remote, remote.older), (Group::Local, local.older)] {
        let until = older.map(|span| Until::ArrivedSince(now.before(span.0)));
        stages.extend(until.map(|until| Stage { group, reason: Reason::Older, until }));
    }
    stages
}

/// Where a sweep ends that begins at `bound`: at 95 % of it.
fn below(bound: u64) -> u64 {
    bound.saturating_sub(bound.div_ceil(20))
}

impl Retention {
    /// Begins a sweep. `server_cap` says how many bytes another server may have here.
    pub(super) fn sweep(
        self: &Arc<Self>,
        rules: &Rules,
        server_cap: &dyn Fn(&str) -> Option<u64>,
        (mode, ages): (Mode, Ages),
    ) -> Result<Sweep> {
        let now = (self.clock)();
        let terms = terms(rules, now);
        let mut sweep = Sweep {
            retention: Arc::clone(self),
            rules: rules.clone(),
            mode,
            terms,
            stages: VecDeque::new(),
            groups: Vec::new(),
            freed_here: 0,
            seen: None,
            needed: None,
            freed_for_bounds: 0,
            report: Report {
                dry_run: mode == Mode::DryRun,
                stored: self.store.totals()?.bytes(),
                free: self.store.free()?,
                ..Report::default()
            },
        };
        if self.may_age(now, ages)? {
            sweep.stages.extend(age_stages(rules, now));
        }
        let of_kind = |group, max_size: Option<Size>| {
            max_size.map(|max| Stage { group, reason: Reason::MaxSize, until: Until::Below(max.0) })
        };
        sweep.stages.extend(of_kind(Group::Thumbnails, rules.thumbnails.max_size));
        sweep.stages.extend(of_kind(Group::Anonymous, rules.remote.max_size));
        sweep.stages.extend(of_kind(Group::Remote, rules.remote.max_size));
        sweep.stages.extend(of_kind(Group::Local, rules.local.max_size));
        let mut servers = Vec::new();
        self.store.server_usage(&mut |name, bytes| {
            if let (Some(cap), Ok(name)) = (server_cap(name), ServerName::parse(name))
                && bytes > cap
            {
                let until = Until::Freed(bytes.saturating_sub(below(cap)));
                servers.push(Stage { group: Group::Server(name), reason: Reason::ServerQuota, until });
            }
        })?;
        sweep.stages.extend(servers);
        let in_bounds = |group| Stage { group, reason: Reason::MaxStore, until: Until::InBounds };
        sweep.stages.extend([Group::Thumbnails, Group::Anonymous, Group::Remote].map(in_bounds));
        Ok(sweep)
    }
}

impl Sweep {
    /// Evicts up to 256 files.
    pub(super) fn step(&mut self) -> Result<Step> {
        let retention = Arc::clone(&self.retention);
        let _evicting = (self.mode == Mode::Evict).then(|| lock(&retention.evicting));
        let Some(stage) = self.stages.front().cloned() else { return Ok(Step::Done) };
        let Some(goal) = self.goal(&stage)? else {
            self.end_stage();
            return Ok(Step::Nothing);
        };
        if let Until::ArrivedSince(created) = stage.until {
            return self.step_by_arrival(&stage, created);
        }
        let mut batch = Vec::new();
        let mut size = self.freed_here;
        let group = self.group(&stage.group);
        while batch.len() < STEP && size < goal {
            let Some(candidates) = self.groups.get_mut(group) else { break };
            let Some(candidate) = candidates.next(&retention.store, self.terms)? else { break };
            if let Until::UsedSince(since) = stage.until
                && day(candidate.last_access) >= day(since)
            {
                candidates.put_back(candidate);
                break;
            }
            size = size.saturating_add(candidate.size);
            batch.push(candidate);
        }
        if batch.is_empty() {
            self.end_stage();
            return Ok(Step::Nothing);
        }
        let reason = self.needed.map_or(stage.reason, |(reason, _)| reason);
        self.take(&stage.group, reason, batch)?;
        Ok(Step::Took)
    }

    /// What was done, when all steps are.
    pub(super) fn into_report(self) -> Result<Report> {
        let mut report = self.report.clone();
        report.trim_servers();
        if let Some((reason, missing)) = self.pressure()? {
            let key = if reason == Reason::KeepFree { "retention.keep_free" } else { "retention.max_store" };
            let missing = bytesize::ByteSize(missing);
            report.unmet.push(format!(
                "{key} is not met: {missing} too much, and nothing more may go; local media goes only where \
                 retention.local says so"
            ));
        }
        Ok(report)
    }

    /// How many bytes the present stage is to free, those included that it has freed; `None` if there is nothing to do.
    fn goal(&mut self, stage: &Stage) -> Result<Option<u64>> {
        match stage.until {
            Until::UsedSince(_) | Until::ArrivedSince(_) => Ok(Some(u64::MAX)),
            Until::Freed(bytes) => Ok(Some(bytes).filter(|bytes| *bytes > self.freed_here)),
            Until::Below(max) => {
                let held = self.held()?;
                let held = match stage.group {
                    Group::Thumbnails => held.thumbnail.bytes,
                    Group::Local => held.local.bytes,
                    Group::Anonymous | Group::Remote | Group::Server(_) => held.remote.bytes,
                };
                // Where callers without a token come first, the stage of all others goes on with the same task.
                let goes_on = self.freed_here > 0 || stage.group == Group::Remote;
                let is_over = held > if goes_on { below(max) } else { max };
                if !is_over && stage.group == Group::Anonymous && self.freed_here == 0 {
                    self.stages
                        .retain(|other| other.group != Group::Remote || other.reason != Reason::MaxSize);
                }
                Ok(is_over.then(|| self.freed_here.saturating_add(held.saturating_sub(below(max)))))
            }
            Until::InBounds => {
                if self.needed.is_none() {
                    self.needed = self.pressure()?;
                }
                let Some((reason, needed)) = self.needed else { return Ok(None) };
                let left = |sweep: &Self| needed.saturating_sub(sweep.freed_for_bounds);
                if self.freed_here == 0 && stage.group == Group::Anonymous && left(self) > 0 {
                    self.take_previews(reason, left(self))?;
                }
                let left = left(self);
                Ok((left > 0).then(|| self.freed_here.saturating_add(left)))
            }
        }
    }

    /// The bound of store or disk that is crossed, and how many bytes have to go to be well within both.
    fn pressure(&self) -> Result<Option<(Reason, u64)>> {
        let stored = self.held()?.bytes();
        let free = match self.mode {
            Mode::Evict => self.retention.store.free()?,
            Mode::DryRun => self.report.free.saturating_add(self.report.total.bytes),
        };
        let keep_free = self.rules.keep_free.0;
        let from_disk =
            if free < keep_free { keep_free.saturating_add(FREE_MARGIN).saturating_sub(free) } else { 0 };
        let from_store = match self.rules.max_store {
            Some(max) if stored > max.0 => stored.saturating_sub(below(max.0)),
            _ => 0,
        };
        let reason = if from_disk > from_store { Reason::KeepFree } else { Reason::MaxStore };
        let needed = from_disk.max(from_store);
        Ok((needed > 0).then_some((reason, needed)))
    }

    /// What the store holds, or would hold by now.
    fn held(&self) -> Result<Totals> {
        let mut totals = self.retention.store.totals()?;
        if self.mode == Mode::DryRun {
            for (kind, total) in [
                ("local", &mut totals.local),
                ("remote", &mut totals.remote),
                ("preview", &mut totals.preview),
                ("thumbnail", &mut totals.thumbnail),
            ] {
                let gone = self.report.by_kind.get(kind).copied().unwrap_or_default();
                total.bytes = total.bytes.saturating_sub(gone.bytes);
            }
        }
        Ok(totals)
    }

    /// The number of a group's listing, which goes on from stage to stage: nothing is counted twice.
    fn group(&mut self, group: &Group) -> usize {
        let position = self.groups.iter().position(|candidates| candidates.group == *group);
        position.unwrap_or_else(|| {
            self.groups.push(Candidates::of(group.clone(), PAGE));
            self.groups.len().saturating_sub(1)
        })
    }

    fn end_stage(&mut self) {
        self.stages.pop_front();
        self.freed_here = 0;
        self.seen = None;
    }

    /// Evicts what came too long ago: a page in the order of the hashes.
    fn step_by_arrival(&mut self, stage: &Stage, created: Timestamp) -> Result<Step> {
        let store = Arc::clone(&self.retention.store);
        let page = store.arrived_before(&stage.group, created, self.seen, self.terms)?;
        let Some(last) = page.last() else {
            self.end_stage();
            return Ok(Step::Nothing);
        };
        self.seen = Some(last.sha256);
        self.take(&stage.group, stage.reason, page)?;
        Ok(Step::Took)
    }

    /// Evicts a batch, or counts it.
    fn take(&mut self, group: &Group, reason: Reason, batch: Vec<Candidate>) -> Result<()> {
        let kind = match group {
            Group::Thumbnails => "thumbnail",
            Group::Local => "local",
            Group::Anonymous | Group::Remote | Group::Server(_) => "remote",
        };
        let mut size = 0_u64;
        let mut seen = HashSet::new();
        for candidate in &batch {
            if seen.insert(candidate.sha256) {
                size = size.saturating_add(candidate.size);
                self.report.add(reason, kind, candidate, self.terms.now);
            }
        }
        let freed = match self.mode {
            Mode::DryRun => size,
            Mode::Evict => {
                let blobs = batch.into_iter().map(|candidate| candidate.sha256).collect();
                self.retention.store.evict(group, blobs, self.terms)?
            }
        };
        // What counts for a server is what its rows refer to.
        let freed = if matches!(group, Group::Server(_)) { size } else { freed };
        self.freed_here = self.freed_here.saturating_add(freed);
        if matches!(reason, Reason::MaxStore | Reason::KeepFree) {
            self.freed_for_bounds = self.freed_for_bounds.saturating_add(freed);
        }
        Ok(())
    }

    /// Evicts previews for `needed` bytes.
    fn take_previews(&mut self, reason: Reason, needed: u64) -> Result<()> {
        let freed = match self.mode {
            Mode::DryRun => self.held()?.preview.bytes.min(needed),
            Mode::Evict => self.retention.free_previews(needed)?,
        };
        if freed > 0 {
            let count = Count { files: 0, bytes: freed };
            self.report.by_kind.entry("preview".to_owned()).or_default().add(count);
            self.report.by_reason.entry(reason).or_default().add(count);
            self.report.total.add(count);
            self.freed_for_bounds = self.freed_for_bounds.saturating_add(freed);
        }
        Ok(())
    }
}
