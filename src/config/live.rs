//! Configuration that a reload can replace while the service runs.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Config, Homeserver, Ops, Thumbnails};

/// A value that is replaced as a whole. Readers keep the value that they got.
#[derive(Debug)]
pub(crate) struct Live<T>(RwLock<Arc<T>>);

impl<T> Live<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The current value. The lock is held only while it is copied.
    pub(crate) fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl Config {
    /// Sets all keys that need a restart back to their values in `running`, and returns those that differed.
    pub(crate) fn keep_fixed(&mut self, running: &Self) -> Vec<&'static str> {
        /// Copies a value and returns whether it differed.
        fn keep<T: Clone + PartialEq>(mine: &mut T, theirs: &T) -> bool {
            let differs = mine != theirs;
            mine.clone_from(theirs);
            differs
        }
        // Every key is listed here, so that a new one cannot be forgotten: it is either copied below, or its user reads it again after a
        // reload.
        let Self {
            server_name,
            listen,
            ops: Ops { listen: ops_listen },
            data_dir,
            homeserver: Homeserver { url, signing_key, token_cache: _, guests: _ },
            uploads: _,
            unauthenticated_media: _,
            federation: _,
            thumbnails: Thumbnails { sizes: _, max_pixels: _, memory, workers, pregenerate },
            previews: _,
            retention: _,
            quotas: _,
            limits,
            log: _,
        } = running;
        [
            ("server_name", keep(&mut self.server_name, server_name)),
            ("listen", keep(&mut self.listen, listen)),
            ("ops.listen", keep(&mut self.ops.listen, ops_listen)),
            ("data_dir", keep(&mut self.data_dir, data_dir)),
            ("homeserver.url", keep(&mut self.homeserver.url, url)),
            ("homeserver.signing_key", keep(&mut self.homeserver.signing_key, signing_key)),
            ("thumbnails.memory", keep(&mut self.thumbnails.memory, memory)),
            ("thumbnails.workers", keep(&mut self.thumbnails.workers, workers)),
            ("thumbnails.pregenerate", keep(&mut self.thumbnails.pregenerate, pregenerate)),
            ("limits", keep(&mut self.limits, limits)),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::OpsListen;
    use crate::matrix::ServerName;

    #[test]
    fn what_needs_a_restart_is_named_and_stays_and_the_rest_is_new() {
        let defaults = || Config::defaults(ServerName::parse("example.org").unwrap());
        let (running, mut new) = (defaults(), defaults());
        assert!(new.keep_fixed(&running).is_empty());
        new.listen.addresses = vec![];
        new.ops.listen = Some(OpsListen::Off);
        new.thumbnails.workers = 7;
        new.uploads.max_size.0 = 7;
        assert_eq!(new.keep_fixed(&running), ["listen", "ops.listen", "thumbnails.workers"]);
        assert_eq!((&new.listen, new.thumbnails.workers, new.uploads.max_size.0), (&running.listen, 1, 7));
    }
}
