//! Log lines: the request they belong to, and a limit of 20 lines a minute for each kind. Lines over the limit are counted.
//!
//! Owns request IDs and the limit. Strangers cause log lines with badly signed requests or servers that do not respond. They must not be
//! able to fill the disk with the log or bury what the operator has to read. Access lines have no limit: there is one for each request.

use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Span, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// The target of access lines, which have no limit.
pub(crate) const ACCESS: &str = "media_sidecar::access";

/// The target of the lines that report counts.
const COUNTS: &str = "media_sidecar::log";

/// Most lines of one kind in a minute.
const LINES: u32 = 20;

/// How often the counts are written and the limit starts again.
pub(crate) const WINDOW: Duration = Duration::from_mins(1);

/// Longest request ID taken from a proxy, bytes.
const MAX_REQUEST_ID: usize = 128;

/// The ID that the log lines of one request have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    /// Parses the ID that a proxy sent: 1 to 128 letters, digits and `-._~`. `None` for anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let is_good = (1..=MAX_REQUEST_ID).contains(&text.len()) && text.bytes().all(is_sane);
        is_good.then(|| Self(text.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Generates request IDs: 16 hex digits, never the same twice in one run. Equal IDs in two runs are as unlikely as with random numbers.
#[derive(Debug)]
pub(crate) struct RequestIds {
    next: AtomicU64,
}

impl RequestIds {
    /// `seed` is random.
    pub(crate) fn new(seed: [u8; 8]) -> Self {
        Self { next: AtomicU64::new(u64::from_le_bytes(seed)) }
    }

    /// The next ID. Uses `SplitMix64`, which maps different counts to different numbers; a system call for random bytes would cost more than
    /// the rest of the work for a cached download's log line.
    pub(crate) fn next(&self) -> RequestId {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.next.fetch_add(STEP, Ordering::Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let mut digits = [0; 16];
        HEXLOWER.encode_mut(&mixed.to_be_bytes(), &mut digits);
        RequestId(std::str::from_utf8(&digits).unwrap_or_default().into())
    }
}

tokio::task_local! {
    /// The request that this task serves.
    static REQUEST: Arc<Request>;
}

/// A request's ID, and its span after the first use.
#[derive(Debug)]
struct Request {
    id: RequestId,
    span: OnceLock<Span>,
}

impl Request {
    /// At the highest level, so that the span is enabled whenever any line is.
    fn span(&self) -> &Span {
        self.span.get_or_init(|| tracing::error_span!("request", request_id = %self.id))
    }
}

/// Runs `work` for a request. Inside, [`request_span`] returns the request's span. The span is created by its first use, because it costs a
/// tenth of a response from memory, which needs none. With debug lines enabled it is created at once, so that all lines carry the ID.
pub(crate) async fn in_request<F: Future>(id: RequestId, work: F) -> F::Output {
    let request = Arc::new(Request { id, span: OnceLock::new() });
    if tracing::enabled!(Level::DEBUG) {
        request.span();
    }
    let mut work = pin!(work);
    let polled = Arc::clone(&request);
    let entered = poll_fn(move |context| {
        let _entered = polled.span.get().map(Span::enter);
        work.as_mut().poll(context)
    });
    REQUEST.scope(request, entered).await
}

/// The span of the current request; disabled outside of requests. Work for the request in other threads and tasks must enter it.
pub(crate) fn request_span() -> Span {
    let current = Span::current();
    if current.is_none() {
        REQUEST.try_with(|request| request.span().clone()).unwrap_or(current)
    } else {
        current
    }
}

/// A filter that passes [`LINES`] lines of each kind between two calls of [`report`](Self::report).
#[derive(Clone, Debug, Default)]
pub(crate) struct LineLimit(Arc<Mutex<HashMap<LineKind, Count>>>);

/// A kind of line: the place in the code that writes it, and its field `kind`, if it has one.
type LineKind = (tracing::callsite::Identifier, Option<String>);

/// How many lines of a kind were written and how many were not.
#[derive(Debug)]
struct Count {
    /// The place in the code.
    metadata: &'static Metadata<'static>,
    written: u32,
    left_out: u64,
}

/// The field that distinguishes lines from the same place.
#[derive(Default)]
struct KindOf(Option<String>);

impl LineLimit {
    /// Writes how many lines were left out since the last call, and starts the limit again.
    pub(crate) fn report(&self) {
        // Written without holding the lock, because these lines pass through this filter, too.
        for ((_, kind), count) in std::mem::take(&mut *self.counts()) {
            let Count { metadata, left_out, .. } = count;
            if left_out == 0 {
                continue;
            }
            let (kind, place) = (kind.as_deref(), metadata.name());
            let words = "further lines of this kind were left out";
            match *metadata.level() {
                Level::ERROR => tracing::error!(target: COUNTS, left_out, kind, place, "{words}"),
                Level::WARN => tracing::warn!(target: COUNTS, left_out, kind, place, "{words}"),
                _ => tracing::info!(target: COUNTS, left_out, kind, place, "{words}"),
            }
        }
    }

    /// Counts a line. Returns whether to write it.
    fn count(&self, event: &Event<'_>) -> bool {
        let mut kind = KindOf::default();
        event.record(&mut kind);
        let metadata = event.metadata();
        let mut counts = self.counts();
        let new = || Count { metadata, written: 0, left_out: 0 };
        let count = counts.entry((metadata.callsite(), kind.0)).or_insert_with(new);
        if count.written < LINES {
            count.written = count.written.saturating_add(1);
            true
        } else {
            count.left_out = count.left_out.saturating_add(1);
            false
        }
    }

    // They are never left half-changed, so a poisoned lock can be used.
    fn counts(&self) -> MutexGuard<'_, HashMap<LineKind, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Filter<S> for LineLimit {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // An operator who enables debug lines wants all of them.
        let is_free = *metadata.level() > Level::INFO || matches!(metadata.target(), ACCESS | COUNTS);
        is_free || self.count(event)
    }
}

impl Visit for KindOf {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "kind" {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

    use super::*;

    /// What was written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        /// How many lines have `part` in them.
        fn lines(&self, part: &str) -> usize {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().filter(|line| line.contains(part)).count()
        }
    }

    #[test]
    fn so_many_lines_of_a_kind_are_written_and_the_rest_is_counted() {
        let (written, limit) = (Written::default(), LineLimit::default());
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(limit.clone()));
        tracing::subscriber::with_default(subscriber, || {
            let many = LINES + 480;
            for number in 0..many {
                for kind in ["Remote", "Disk"] {
                    tracing::warn!(kind, number, "fails");
                }
                tracing::error!("breaks");
                tracing::info!("passes");
                tracing::debug!("whispers");
                tracing::info!(target: ACCESS, "asked");
            }
            tracing::warn!("happens once");
            let most = usize::try_from(LINES).unwrap();
            let all = usize::try_from(many).unwrap();
            for (part, count) in [
                ("Remote", most),
                ("Disk", most),
                ("breaks", most),
                ("passes", most),
                ("whispers", all),
                ("asked", all),
                ("happens once", 1),
            ] {
                assert_eq!(written.lines(part), count, "{part}");
            }
            limit.report();
            assert_eq!(written.lines("left_out=480"), 4);
            assert_eq!((written.lines("left_out=480 kind=\"Remote\""), written.lines("left_out")), (1, 4));
            assert_eq!(written.lines("WARN media_sidecar::log: further"), 2);
            // From here on they are written again, and nothing is reported twice.
            tracing::warn!(kind = "Remote", "fails");
            limit.report();
            assert_eq!((written.lines("Remote"), written.lines("left_out")), (most.saturating_add(2), 4));
        });
    }

    #[test]
    fn ids_of_a_proxy_are_taken_when_they_are_short_and_plain_and_made_ones_differ() {
        for good in ["a", "0123456789abcdef", "6f1c-4b.7~_X", &"x".repeat(128)] {
            assert_eq!(RequestId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\"b", "a\nb", "a=b", "a/b", "\u{e9}", &"x".repeat(129)] {
            assert_eq!(RequestId::parse(bad), None, "{bad:?}");
        }
        let ids = RequestIds::new([7; 8]);
        let made: std::collections::HashSet<String> =
            (0..1000).map(|_| ids.next().as_str().to_owned()).collect();
        assert_eq!(made.len(), 1000);
        assert!(made.iter().all(|id| id.len() == 16 && RequestId::parse(id).is_some()));
    }

    #[test]
    fn lines_carry_the_id_wherever_the_work_goes_and_no_span_is_made_for_nothing() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let id = || RequestId::parse("abc").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        tracing::subscriber::with_default(subscriber, || {
            runtime.block_on(async {
                in_request(id(), async { tracing::warn!("before") }).await;
                in_request(id(), async {
                    let span = request_span();
                    let dispatch = tracing::dispatcher::get_default(Clone::clone);
                    let work = move || {
                        tracing::dispatcher::with_default(&dispatch, || {
                            span.in_scope(|| tracing::warn!("elsewhere"));
                        });
                    };
                    std::thread::spawn(work).join().unwrap();
                    tokio::task::yield_now().await;
                    tracing::warn!("after");
                })
                .await;
                tracing::warn!("outside");
                assert!(request_span().is_none());
            });
        });
        for (part, count) in [("before", 0), ("elsewhere", 1), ("after", 1), ("outside", 0)] {
            assert_eq!(
                written.lines(&format!("request{{request_id=abc}}: media_sidecar::log::tests: {part}")),
                count
            );
            assert_eq!(written.lines(part), 1);
        }
    }
}
