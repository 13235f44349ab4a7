//! The commands of the command line, one file each; `main.rs` parses the arguments.
//!
//! Owns what a command prints and its exit status. Refuses to know HTTP.

mod check;
mod delegation;
pub mod demo;
mod key;
mod operator;
mod proxy_config;
mod public;
mod serve;
mod service;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;

use crate::config::{self, Config, Loaded, Problems};
use crate::federation::{KeyError, KeyFile, LoadedKey};
pub use crate::media::{Act as MediaAct, By as UsageOf};

pub use self::check::check;
pub use self::key::{KeySource, generate, import, show};
pub use self::operator::{BlockAct, RetentionOptions, Target, block, media, retention, scrub, usage};
pub use self::proxy_config::{Fallback, Proxy, ProxyOptions, TlsFiles, proxy_config};
pub(crate) use self::serve::runtime;
pub use self::serve::{LogFormat, serve};

/// Why a command failed, for standard error: one line that says what to do, or one for each mistake in the configuration.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Loads the configuration of `--config`, or of the default paths; environment variables win over the file.
pub fn load_config(given: Option<&Path>) -> Result<Loaded, Problems> {
    // A variable that is not Unicode cannot be one of ours.
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    config::load(config::find(given).as_deref(), std::env::vars_os().filter_map(text))
}

/// Loads the configuration for a command without a log: warnings go to standard error.
pub fn load_config_quietly(given: Option<&Path>) -> Result<Config, Failure> {
    let loaded = load_config(given)?;
    for warning in loaded.warnings {
        writeln!(std::io::stderr(), "media-sidecar: {warning}")?;
    }
    Ok(loaded.config)
}

/// Loads the signing key: systemd's credential `signing.key`, else the file that `homeserver.signing_key` names.
fn load_signing_key(config: &Config) -> Result<LoadedKey, KeyError> {
    KeyFile::locate(&config.homeserver.signing_key).load()
}
