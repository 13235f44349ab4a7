//! How much of what happens is written down: of any one kind of line so many a minute, and the rest is counted.
//!
//! Owns the count. Strangers cause lines: a request that is badly signed, a server that does not answer, a homeserver that is down. None
//! of them may fill the card that the log lies on, or bury what somebody has to read. Access lines are apart: they are one a request.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// Where access lines are written to: they are not counted.
pub(crate) const ACCESS: &str = "media_sidecar::access";

/// Where counts are written to.
const COUNTS: &str = "media_sidecar::log";

/// Lines of one kind that are written in a minute.
const LINES: u32 = 20;

/// How often what was left out is told, and lines are written again.
pub(crate) const WINDOW: Duration = Duration::from_mins(1);

/// Lets through so many lines of a kind between two calls of [`tell`](Self::tell).
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounded(Arc<Mutex<HashMap<Like, Count>>>);

/// A kind of line: where the code writes it, and its field `kind`, if it has one.
type Like = (tracing::callsite::Identifier, Option<String>);

/// What was written and not written of a kind.
#[derive(Debug)]
struct Count {
    /// The place in the code.
    metadata: &'static Metadata<'static>,
    /// Lines written.
    written: u32,
    /// Lines left out.
    left_out: u64,
}

/// The field that tells lines of one place apart.
#[derive(Default)]
struct KindOf(Option<String>);

impl Bounded {
    /// Tells what was left out since the last call, and lets lines through again.
    pub(crate) fn tell(&self) {
        // Written without the lock: the lines come by here.
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

    /// Counts a line; says whether it is to be written.
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

    /// The counts. A panic elsewhere cannot leave them half-changed.
    fn counts(&self) -> MutexGuard<'_, HashMap<Like, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Filter<S> for Bounded {
    fn enabled(&self, _metadata: &Metadata<'_>, _context: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _context: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // Whoever asks for debug lines wants all of them.
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
        let (written, bounded) = (Written::default(), Bounded::default());
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(lines.with_filter(bounded.clone()));
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
            let limit = usize::try_from(LINES).unwrap();
            let all = usize::try_from(many).unwrap();
            for (part, count) in [
                ("Remote", limit),
                ("Disk", limit),
                ("breaks", limit),
                ("passes", limit),
                ("whispers", all),
                ("asked", all),
                ("happens once", 1),
            ] {
                assert_eq!(written.lines(part), count, "{part}");
            }
            bounded.tell();
            assert_eq!(written.lines("left_out=480"), 4);
            assert_eq!((written.lines("left_out=480 kind=\"Remote\""), written.lines("left_out")), (1, 4));
            assert_eq!(written.lines("WARN media_sidecar::log: further"), 2);
            // From now on they are written again, and nothing is told twice.
            tracing::warn!(kind = "Remote", "fails");
            bounded.tell();
            assert_eq!((written.lines("Remote"), written.lines("left_out")), (limit.saturating_add(2), 4));
        });
    }
}
