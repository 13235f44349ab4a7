//! Admission: who may begin work that costs something, and when.
//!
//! Every kind of work has places, and each class of callers has its own of them ([`Class`]): the worst that callers without rights can do
//! is to wait for each other. Owns the policy ([`Work`], [`WorkKind`]), the queues and their counters. Refuses to know what the work is.

mod caller;
mod fair_semaphore;
mod work;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

pub(crate) use self::caller::{Caller, Class, Share};
pub(crate) use self::fair_semaphore::{Ask, Counts};
use self::fair_semaphore::{FairLimits, FairPermit, FairSemaphore, Order, Refusal};
pub(crate) use self::work::{Waiter, Work};
use super::RETRY;
use super::pools::run_on_thread;
use crate::error::{Error, Kind, Result};

/// Connections of clients and servers at the same time; further ones wait in the kernel's queue.
pub(crate) const MAX_CONNECTIONS: u16 = 4096;

/// The longest wait in a queue: well below the 60 s after which reverse proxies give up.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The longest wait of a fetch that has begun for its turn at its server.
const LONGEST_TURN: Duration = Duration::from_mins(1);

/// The longest wait of a picture for a worker.
const LONGEST_RENDERING: Duration = Duration::from_secs(30);

/// How long another server that was asked may be silent before the next request may be sent to it: it waits for somebody's upload then, or
/// cannot be reached.
const SILENCE: Duration = Duration::from_secs(2);

/// A kind of work that costs something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WorkKind {
    /// A connection that comes through no trusted proxy: nobody is known on it yet.
    Connection,
    /// Fetching a file of another server: connecting, and waiting for its answer. Holds a thread that sleeps.
    Fetch,
    /// Asking another server for something. Held until it answers, or has been silent for a moment.
    Asking,
    /// Receiving a file's bytes from another server. Holds buffers, the disk and the network.
    Transfer,
    /// Fetching another server's keys. Holds a thread that sleeps.
    KeyLookup,
    /// A DNS lookup. Holds a thread that sleeps.
    DnsLookup,
    /// A request to the homeserver, for example to check a token.
    HomeserverRequest,
    /// Reading a picture's header.
    HeaderRead,
    /// Decoding a still picture. Holds a processor and memory.
    Still,
    /// Decoding an animation, which takes much longer.
    Animation,
    /// Making a preview.
    Preview,
    /// Fetching a linked page or picture for a preview. Holds a thread that sleeps.
    PageFetch,
    /// Waiting for a pending upload.
    PendingWait,
    /// Receiving an upload.
    Upload,
}

/// Places of each class for one kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClassPlaces {
    pub(crate) users: usize,
    pub(crate) servers: usize,
    pub(crate) unknown: usize,
}

/// The rules for one kind of work besides the number of places.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// What users read when there is no place.
    refusal: &'static str,
    /// Most places of one caller, beyond the fair share.
    per_caller: usize,
    /// Places for one other server or site.
    per_destination: ClassPlaces,
    /// Callers of each class that may wait for a place.
    queue: usize,
    /// The same of one caller.
    queue_per_caller: usize,
    longest_wait: Duration,
    order: Order,
}

/// Rules without limits besides the places.
const RULES: Rules = Rules {
    refusal: "",
    per_caller: usize::MAX,
    per_destination: ClassPlaces { users: usize::MAX, servers: usize::MAX, unknown: usize::MAX },
    queue: 256,
    queue_per_caller: usize::MAX,
    longest_wait: LONGEST_WAIT,
    order: Order::OldestFirst,
};

impl WorkKind {
    /// All kinds.
    pub(crate) const ALL: [Self; 14] = [
        Self::Connection,
        Self::Fetch,
        Self::Asking,
        Self::Transfer,
        Self::KeyLookup,
        Self::DnsLookup,
        Self::HomeserverRequest,
        Self::HeaderRead,
        Self::Still,
        Self::Animation,
        Self::Preview,
        Self::PageFetch,
        Self::PendingWait,
        Self::Upload,
    ];

    /// The name in counters, and below `limits` in the configuration.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Connection => "connections",
            Self::Fetch => "fetches",
            Self::Asking => "asking",
            Self::Transfer => "transfers",
            Self::KeyLookup => "key_lookups",
            Self::DnsLookup => "dns_lookups",
            Self::HomeserverRequest => "homeserver_requests",
            Self::HeaderRead => "header_reads",
            Self::Still => "stills",
            Self::Animation => "animations",
            Self::Preview => "previews",
            Self::PageFetch => "page_fetches",
            Self::PendingWait => "pending_waits",
            Self::Upload => "uploads",
        }
    }

    /// The policy.
    fn rules(self) -> Rules {
        let to_each = |users, unknown| ClassPlaces { users, servers: users, unknown };
        match self {
            Self::Fetch => Rules {
                refusal: "too many remote files are being fetched",
                // A room full of pictures is opened at once, and many of them are of one server.
                per_destination: to_each(64, 16),
                ..RULES
            },
            Self::Asking => Rules {
                refusal: "too many requests to this server are in progress, try again",
                per_destination: to_each(8, 4),
                longest_wait: LONGEST_TURN,
                ..RULES
            },
            Self::Transfer => Rules {
                refusal: "too many remote files are arriving, try again",
                per_destination: to_each(8, 4),
                longest_wait: LONGEST_TURN,
                ..RULES
            },
            Self::KeyLookup => Rules {
                refusal: "too many servers' keys are being fetched, try again",
                per_destination: to_each(16, 96),
                order: Order::NewestFirst,
                ..RULES
            },
            Self::Connection => Rules { refusal: "too many connections", queue: 0, ..RULES },
            Self::DnsLookup => Rules { refusal: "too many DNS lookups are in progress", queue: 0, ..RULES },
            Self::HomeserverRequest => Rules {
                refusal: "too many token checks are in progress, try again",
                // Whose token is good is not known before, so nobody is refused because many others wait.
                queue: MAX_CONNECTIONS.into(),
                order: Order::NewestFirst,
                ..RULES
            },
            Self::HeaderRead | Self::Still | Self::Animation => Rules {
                refusal: "too many pictures are being rendered, try again",
                // A client that opens a room asks for all its pictures at once.
                queue: 320,
                longest_wait: LONGEST_RENDERING,
                ..RULES
            },
            Self::Preview => {
                Rules { refusal: "too many previews are in progress, try again", queue: 64, ..RULES }
            }
            Self::PageFetch => Rules {
                refusal: "too many linked pages are being fetched, try again",
                // To be polite to it.
                per_destination: to_each(4, 4),
                ..RULES
            },
            // MSC2246 names the threat: someone creates many IDs, never uploads to them, and lets clients wait.
            Self::PendingWait => Rules { refusal: "the media is not yet uploaded", queue: 0, ..RULES },
            Self::Upload => Rules {
                refusal: "too many of your uploads are in progress",
                // A client sends a handful at once, a bridge a hundred.
                per_caller: 32,
                queue: MAX_CONNECTIONS.into(),
                queue_per_caller: 256,
                ..RULES
            },
        }
    }
}

/// The one point where work is admitted.
#[derive(Debug)]
pub(crate) struct Admission(HashMap<WorkKind, Arc<FairSemaphore>>);

/// A place for a step of a work on a thread, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    permit: FairPermit,
    work: Work,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    _permit: FairPermit,
}

impl Ask {
    /// Work that burdens another server or site.
    pub(crate) fn to(destination: Share) -> Self {
        Self { cost: 0, destination: Some(destination) }
    }

    /// Work that so many later ones may overtake.
    pub(crate) fn costing(cost: u64) -> Self {
        Self { cost, destination: None }
    }
}

impl Admission {
    /// With so many places for each kind of work.
    pub(crate) fn new(places: impl Fn(WorkKind) -> ClassPlaces) -> Self {
        let semaphore = |kind: WorkKind| {
            let Rules { per_caller, per_destination, queue, queue_per_caller, longest_wait, order, .. } =
                kind.rules();
            let limits = FairLimits {
                permits: places(kind).by_class(),
                per_caller,
                per_destination: per_destination.by_class(),
                queue,
                queue_per_caller,
                longest_wait,
                order,
            };
            (kind, FairSemaphore::new(limits))
        };
        Self(WorkKind::ALL.into_iter().map(semaphore).collect())
    }

    /// Waits for a place, in the standing that the work has by then.
    ///
    /// # Errors
    /// `LimitExceeded` when too many wait, or after 10 s.
    pub(crate) async fn enter(&self, kind: WorkKind, work: &Work, ask: Ask) -> Result<Place> {
        let refused = |refusal| {
            let class = work.caller().class.name();
            tracing::debug!(kind = kind.name(), class, ?refusal, "refused");
            Error::new(Kind::LimitExceeded, kind.rules().refusal).retry_after(RETRY)
        };
        let permit = self.semaphore(kind)?.acquire(work, ask).await.map_err(refused)?;
        Ok(Place { permit, work: work.clone() })
    }

    /// The same for what needs no thread.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub(crate) async fn take(&self, kind: WorkKind, work: &Work, ask: Ask) -> Result<Taken> {
        let Place { permit, .. } = self.enter(kind, work, ask).await?;
        Ok(Taken { _permit: permit })
    }

    /// The same from a blocking thread of the runtime.
    ///
    /// # Errors
    /// As [`Self::enter`], and when nobody waits for the work any more.
    pub(crate) fn take_blocking(&self, kind: WorkKind, work: &Work, ask: Ask) -> Result<Taken> {
        Handle::current().block_on(async {
            tokio::select! {
                biased;
                taken = self.take(kind, work, ask) => taken,
                () = work.abandoned() => Err(Error::new(Kind::Internal, "nobody waits for it any more")),
            }
        })
    }

    /// Takes a place if there is one right now.
    pub(crate) fn try_enter(&self, kind: WorkKind, caller: Caller) -> Option<Taken> {
        let semaphore = self.semaphore(kind).ok()?;
        let permit = semaphore.try_acquire(caller, Ask::default());
        // A thread that waits for DNS asks again and again.
        if permit.is_none() && kind != WorkKind::DnsLookup {
            semaphore.count_refusal(caller.class, Refusal::Full);
        }
        Some(Taken { _permit: permit? })
    }

    /// Whether others of the same class wait for such a place.
    pub(crate) fn is_contended(&self, kind: WorkKind, class: Class) -> bool {
        self.semaphore(kind).is_ok_and(|semaphore| semaphore.is_contended(class))
    }

    /// Runs a blocking step when there is a place for it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        kind: WorkKind,
        work: &Work,
        ask: Ask,
        step: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.enter(kind, work, ask).await?.run(step).await
    }

    /// What happened so far: for each kind of work and class of callers.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (WorkKind, Class, Counts)> {
        let of_kind = |kind| self.semaphore(kind).ok().map(|semaphore| (kind, semaphore));
        WorkKind::ALL.into_iter().filter_map(of_kind).flat_map(|(kind, semaphore)| {
            Class::ALL.into_iter().map(move |class| (kind, class, semaphore.counts(class)))
        })
    }

    fn semaphore(&self, kind: WorkKind) -> Result<&Arc<FairSemaphore>> {
        let missing = || Error::new(Kind::Internal, "internal error");
        self.0.get(&kind).ok_or_else(missing)
    }
}

impl Place {
    /// The same place for another work, which took over what the place was for.
    pub(crate) fn in_work(self, work: Work) -> Self {
        Self { work, ..self }
    }

    /// Runs a blocking step of the work on a thread. The place is held until the step ends, even if the caller stops waiting.
    pub(crate) async fn run<T: Send + 'static>(
        self,
        step: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run_on_thread(move || {
            let Self { permit: _permit, work } = self;
            work.on_this_thread(step)
        })
        .await
    }
}

#[cfg(test)]
impl WorkKind {
    /// What README says of the kind: places, places for one destination, callers that may wait, of each class and of one caller, and how long.
    pub(crate) fn readme_cells(self, places: ClassPlaces) -> String {
        let Rules { per_caller, per_destination, queue, queue_per_caller, longest_wait, .. } = self.rules();
        let number = |count: usize| match count {
            0 => "–".to_owned(),
            count if count >= u32::MAX.try_into().unwrap_or(usize::MAX) => "any".to_owned(),
            count => count.to_string(),
        };
        let classes = |places: ClassPlaces| {
            let [users, servers, unknown] = places.by_class().map(number);
            if users == servers && servers == unknown {
                users
            } else {
                format!("{users}, {servers}, {unknown}")
            }
        };
        let of_one = if per_caller < usize::MAX { format!("; one user {per_caller}") } else { String::new() };
        let one_waits = if queue_per_caller < usize::MAX {
            format!("; one user {queue_per_caller}")
        } else {
            String::new()
        };
        let wait = if queue == 0 { "–".to_owned() } else { format!("{} s", longest_wait.as_secs()) };
        let (places, destination) = (classes(places), classes(per_destination));
        format!("| {places}{of_one} | {destination} | {}{one_waits} | {wait} |", number(queue))
    }
}

impl Taken {
    /// Holds the place until another server has `answered`, or has been silent for a moment; `step` asks it and goes on after that.
    pub(crate) async fn until_answered<T>(
        self,
        step: impl Future<Output = T>,
        answered: impl Future<Output = ()>,
    ) -> T {
        let mut step = pin!(step);
        tokio::select! {
            biased;
            outcome = &mut step => return outcome,
            () = answered => {}
            () = tokio::time::sleep(SILENCE) => {}
        }
        drop(self);
        step.await
    }
}

impl ClassPlaces {
    /// In the order of [`Class::ALL`].
    fn by_class(self) -> [usize; 3] {
        [self.users, self.servers, self.unknown]
    }
}
