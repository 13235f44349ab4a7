//! Lookups with a deadline.
//!
//! Owns the threads that wait for DNS. The system's resolver takes no deadline, so the caller stops waiting and the thread goes on. Equal
//! lookups at the same time share one thread. Refuses to know how DNS is queried.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::{Dns, Service, literal};
use crate::sync::Admission;
use crate::sync::admission::{Caller, ClassPlaces, Taken, Work, WorkKind};

/// Threads that wait for DNS at the same time, for callers that are not admitted otherwise: commands, and requests to the homeserver. glibc
/// waits 10 s for a server that drops queries, longer for several.
const OWN_THREADS: ClassPlaces = ClassPlaces { users: 64, servers: 64, unknown: 64 };

/// How often a caller that waits looks whether anybody still waits for its work.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Stack of such a thread, bytes: the system's resolver loads plug-ins that may need more than musl's 128 KiB.
const STACK: usize = 512 * 1024;

/// A failure that took at least this long counts as a timeout.
const SLOW: Duration = Duration::from_millis(1500);

/// How long a lookup that timed out is not repeated.
const SILENCE_KEPT: Duration = Duration::from_mins(1);

/// Most such lookups cached; about 100 bytes each.
const MAX_UNANSWERED: usize = 1024;

/// Longest wait for the other hosts of a list after the addresses of one are known.
const OTHERS_TIME: Duration = Duration::from_secs(1);

/// Looks names up in [`Dns`], and waits until the caller's deadline. Clones share the threads.
#[derive(Clone)]
pub(crate) struct Lookups(Arc<Shared>);

struct Shared {
    dns: Arc<dyn Dns>,
    /// Bounds the threads.
    admission: Arc<Admission>,
    /// Lookups in progress.
    in_progress: Mutex<HashMap<DnsQuestion, Slot>>,
    /// Notified when a thread ends.
    answered: Condvar,
    /// Lookups that timed out, and until when they are not repeated.
    unanswered: Cache<DnsQuestion, Instant>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum DnsQuestion {
    /// Addresses of a host, for a port.
    Addresses(String, u16),
    /// SRV records of a name.
    Services(String),
}

#[derive(Clone, Debug)]
enum LookupResult {
    Addresses(Vec<SocketAddr>),
    Services(Vec<Service>),
}

/// The slot for the result of a lookup. Errors are kept as kind and text, which can be copied to every caller.
type Slot = Arc<OnceLock<Result<LookupResult, (io::ErrorKind, String)>>>;

impl<N: Dns> From<Arc<N>> for Lookups {
    fn from(dns: Arc<N>) -> Self {
        let dns: Arc<dyn Dns> = dns;
        Self::from(dns)
    }
}

impl From<Arc<dyn Dns>> for Lookups {
    fn from(dns: Arc<dyn Dns>) -> Self {
        Self::new(dns, Arc::new(Admission::new(|_dns| OWN_THREADS)))
    }
}

impl Lookups {
    /// Lookups in threads that `admission` grants to the work of the calling thread.
    pub(crate) fn new(dns: Arc<dyn Dns>, admission: Arc<Admission>) -> Self {
        Self(Arc::new(Shared {
            dns,
            admission,
            in_progress: Mutex::default(),
            answered: Condvar::new(),
            unanswered: Cache::new(MAX_UNANSWERED),
        }))
    }

    /// The addresses of each of these hosts. Waits until `until` at most, and no longer than [`OTHERS_TIME`] once one host is known.
    ///
    /// # Errors
    /// One for each host: `TimedOut` when DNS does not respond.
    pub(crate) fn addresses(
        &self,
        hosts: &[(String, u16)],
        until: Instant,
    ) -> Vec<io::Result<Vec<SocketAddr>>> {
        let questions: Vec<_> =
            hosts.iter().map(|(host, port)| DnsQuestion::Addresses(host.clone(), *port)).collect();
        let addresses = |answer| match answer {
            LookupResult::Addresses(addresses) => addresses,
            LookupResult::Services(_) => Vec::new(),
        };
        self.ask(&questions, until).into_iter().map(|answer| answer.map(addresses)).collect()
    }

    /// The SRV records of `name`. Waits until `until` at most.
    ///
    /// # Errors
    /// `TimedOut` when DNS does not respond.
    pub(crate) fn services(&self, name: &str, until: Instant) -> io::Result<Vec<Service>> {
        let answer = self.ask(&[DnsQuestion::Services(name.to_owned())], until).pop();
        match answer.unwrap_or_else(|| Err(silence()))? {
            LookupResult::Services(services) => Ok(services),
            LookupResult::Addresses(_) => Ok(Vec::new()),
        }
    }

    /// The results of several lookups, which run at the same time.
    fn ask(&self, questions: &[DnsQuestion], until: Instant) -> Vec<io::Result<LookupResult>> {
        let started = Instant::now();
        let mut slots: Vec<Option<Slot>> = questions.iter().map(|question| self.at_once(question)).collect();
        let (mut until, mut is_one_known) = (until, false);
        let mut in_progress = self.in_progress();
        loop {
            for (question, slot) in questions.iter().zip(&mut slots) {
                if slot.is_none() {
                    *slot = self.begin(question, &mut in_progress);
                }
            }
            let answers = || slots.iter().map(|slot| slot.as_ref().and_then(|slot| slot.get()));
            if !is_one_known && answers().any(|answer| answer.is_some_and(Result::is_ok)) {
                is_one_known = true;
                until = Instant::now().checked_add(OTHERS_TIME).map_or(until, |soon| until.min(soon));
            }
            let left = until.saturating_duration_since(Instant::now());
            let is_over = left.is_zero() || Work::current_should_end();
            if is_over || answers().all(|answer| answer.is_some()) {
                let is_silent = |slot: &Option<Slot>| slot.as_ref().is_some_and(|slot| slot.get().is_none());
                let unanswered = questions.iter().zip(&slots).filter(|(_, slot)| is_silent(slot));
                // So that the next caller does not wait as long again. A lookup that got no thread has not timed out.
                if started.elapsed() >= SLOW {
                    unanswered.for_each(|(question, _)| self.0.note_unanswered(question));
                }
                return answers().map(|answer| outcome(answer.cloned())).collect();
            }
            let waited = self.0.answered.wait_timeout(in_progress, left.min(LOOK_EVERY));
            (in_progress, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Results that need no thread: IP literals, and lookups that timed out a moment ago.
    fn at_once(&self, question: &DnsQuestion) -> Option<Slot> {
        let answer = match question {
            DnsQuestion::Addresses(host, _) if literal(host).is_some() => self.0.answer(question),
            DnsQuestion::Addresses(..) | DnsQuestion::Services(_) => {
                self.0.unanswered.get(question).filter(|until| Instant::now() < *until)?;
                Err((io::ErrorKind::TimedOut, "DNS did not respond a moment ago".to_owned()))
            }
        };
        Some(Arc::new(OnceLock::from(answer)))
    }

    /// The slot for the result of `question`, for which a thread is started unless there is one. `None` while there is none for
    /// this caller.
    fn begin(&self, question: &DnsQuestion, in_progress: &mut HashMap<DnsQuestion, Slot>) -> Option<Slot> {
        if let Some(slot) = in_progress.get(question) {
            return Some(Arc::clone(slot));
        }
        let caller = Work::current().map_or_else(Caller::operator, |work| work.caller());
        let place = self.0.admission.try_enter(WorkKind::DnsLookup, caller)?;
        let slot = Slot::default();
        let (shared, asked, answer) = (Arc::clone(&self.0), question.clone(), Arc::clone(&slot));
        // Created in the thread: its drop locks the table, which is locked here already.
        let work = move || Asking { shared, question: asked, slot: answer, place: Some(place) }.ask();
        match thread::Builder::new().name("dns".to_owned()).stack_size(STACK).spawn(work) {
            Ok(_detached) => {
                in_progress.insert(question.clone(), Arc::clone(&slot));
                Some(slot)
            }
            Err(error) => Some(Arc::new(OnceLock::from(Err((error.kind(), error.to_string()))))),
        }
    }

    /// The lookups in progress.
    fn in_progress(&self) -> MutexGuard<'_, HashMap<DnsQuestion, Slot>> {
        self.0.in_progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Runs the lookup. Blocks for as long as it takes.
    fn answer(&self, question: &DnsQuestion) -> Result<LookupResult, (io::ErrorKind, String)> {
        let answer = match question {
            DnsQuestion::Addresses(host, port) => {
                self.dns.addresses(host, *port).map(LookupResult::Addresses)
            }
            DnsQuestion::Services(name) => self.dns.services(name).map(LookupResult::Services),
        };
        answer.map_err(|error| (error.kind(), error.to_string()))
    }

    /// Records that a lookup timed out and is not to be repeated for a while.
    fn note_unanswered(&self, question: &DnsQuestion) {
        if let Some(until) = Instant::now().checked_add(SILENCE_KEPT) {
            self.unanswered.insert(question.clone(), until);
        }
    }
}

/// A thread's work. When it is dropped, after a panic too, the slot is filled and every caller is woken.
struct Asking {
    shared: Arc<Shared>,
    question: DnsQuestion,
    slot: Slot,
    place: Option<Taken>,
}

impl Asking {
    /// Runs the lookup and records whether it timed out.
    fn ask(self) {
        let started = Instant::now();
        let answer = self.shared.answer(&self.question);
        let is_unanswered =
            |kind: io::ErrorKind| kind == io::ErrorKind::TimedOut || started.elapsed() >= SLOW;
        match &answer {
            Ok(_late) => drop(self.shared.unanswered.remove(&self.question)),
            Err((kind, _)) if is_unanswered(*kind) => self.shared.note_unanswered(&self.question),
            Err(_) => {}
        }
        self.slot.get_or_init(|| answer);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.slot.get_or_init(|| Err((io::ErrorKind::Other, "the lookup failed".to_owned())));
        self.shared.in_progress.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.question);
        // Before others are woken: one of them may want the place.
        drop(self.place.take());
        self.shared.answered.notify_all();
    }
}

/// A slot's content, for one caller.
fn outcome(answer: Option<Result<LookupResult, (io::ErrorKind, String)>>) -> io::Result<LookupResult> {
    match answer {
        Some(answer) => answer.map_err(|(kind, words)| io::Error::new(kind, words)),
        None => Err(silence()),
    }
}

/// The error when there is no result in time.
fn silence() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "DNS did not respond in time")
}

impl fmt::Debug for Lookups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lookups").field(&self.0.dns).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Answers `quick*` at once and `none*` that there is none; other names only when the gate is opened.
    #[derive(Debug, Default)]
    struct Slow {
        gate: Mutex<()>,
        asked: AtomicUsize,
    }

    impl Dns for Slow {
        fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
            if let Some(address) = literal(host) {
                return Ok(vec![SocketAddr::new(address, port)]);
            }
            self.asked.fetch_add(1, Ordering::SeqCst);
            if host.starts_with("none") {
                return Err(io::ErrorKind::NotFound.into());
            }
            if !host.starts_with("quick") {
                drop(self.gate.lock().unwrap());
            }
            Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))])
        }

        fn services(&self, name: &str) -> io::Result<Vec<Service>> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            assert_ne!(name, "panics");
            Err(io::ErrorKind::TimedOut.into())
        }
    }

    fn soon() -> Instant {
        Instant::now().checked_add(Duration::from_millis(20)).unwrap()
    }

    fn later() -> Instant {
        Instant::now().checked_add(Duration::from_secs(30)).unwrap()
    }

    fn hosts(names: &[&str]) -> Vec<(String, u16)> {
        names.iter().map(|name| ((*name).to_owned(), 1)).collect()
    }

    #[test]
    fn nobody_waits_past_the_deadline_and_one_question_takes_one_thread() {
        let names = Arc::new(Slow::default());
        let lookups = Lookups::from(Arc::clone(&names));
        let shut = names.gate.lock().unwrap();
        for _ in 0..3 {
            let found = lookups.addresses(&hosts(&["dropped"]), soon()).pop().unwrap();
            assert_eq!(found.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        assert_eq!(names.asked.load(Ordering::SeqCst), 1);
        drop(shut);
        assert!(lookups.addresses(&hosts(&["dropped"]), later()).pop().unwrap().is_ok());
    }

    #[test]
    fn literals_and_others_are_answered_while_one_name_is_silent() {
        let names = Arc::new(Slow::default());
        let lookups = Lookups::from(Arc::clone(&names));
        let _shut = names.gate.lock().unwrap();
        let found = lookups.addresses(&hosts(&["dropped", "quick", "none", "[::1]"]), later());
        let kinds: Vec<_> = found.iter().map(|found| found.as_ref().err().map(io::Error::kind)).collect();
        assert_eq!(kinds, [Some(io::ErrorKind::TimedOut), None, Some(io::ErrorKind::NotFound), None]);
    }

    #[test]
    fn with_all_threads_silent_further_questions_end_in_time_and_literals_go_on() {
        let names = Arc::new(Slow::default());
        let lookups = Lookups::from(Arc::clone(&names));
        let shut = names.gate.lock().unwrap();
        let silent: Vec<String> = (0..OWN_THREADS.users).map(|number| format!("dropped{number}")).collect();
        let silent: Vec<&str> = silent.iter().map(String::as_str).collect();
        assert!(lookups.addresses(&hosts(&silent), soon()).iter().all(Result::is_err));
        assert!(lookups.addresses(&hosts(&["quick"]), soon()).pop().unwrap().is_err());
        assert!(lookups.addresses(&hosts(&["127.0.0.1"]), soon()).pop().unwrap().is_ok());
        drop(shut);
        assert!(lookups.addresses(&hosts(&["quick"]), later()).pop().unwrap().is_ok());
    }

    #[test]
    fn what_note_unanswered_is_not_asked_again_at_once_and_what_is_absent_is() {
        let names = Arc::new(Slow::default());
        let lookups = Lookups::from(Arc::clone(&names));
        for _ in 0..3 {
            assert_eq!(lookups.services("silent", later()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
        assert_eq!(names.asked.load(Ordering::SeqCst), 1);
        // One that comes while the thread of the one before ends shares its answer.
        while names.asked.load(Ordering::SeqCst) < 3 {
            assert!(lookups.addresses(&hosts(&["none"]), later()).pop().unwrap().is_err());
        }
    }

    #[test]
    fn a_resolver_that_panics_leaves_nobody_waiting() {
        let lookups = Lookups::from(Arc::new(Slow::default()));
        assert_eq!(lookups.services("panics", later()).unwrap_err().kind(), io::ErrorKind::Other);
    }
}
