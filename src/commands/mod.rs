//! What the command line does, apart from parsing it.

mod key;
mod serve;

use std::path::{Path, PathBuf};

use crate::config::{self, Config, Loaded, Problems};

pub use self::key::{generate, import, show};
pub(crate) use self::serve::runtime;
pub use self::serve::{LogFormat, serve};

/// Why a command failed, in one line (several for a wrong configuration) that says what to do.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The configuration of `--config`, or of the default places, with the environment over it.
pub fn load_config(given: Option<&Path>) -> Result<Loaded, Problems> {
    config::load(config::find(given).as_deref(), std::env::vars())
}

/// Where the signing key is: the credential `signing.key` that systemd handed over, else `homeserver.signing_key`.
fn signing_key_path(config: &Config) -> PathBuf {
    let credential =
        std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join("signing.key"));
    credential.filter(|path| path.exists()).unwrap_or_else(|| config.homeserver.signing_key.clone())
}
