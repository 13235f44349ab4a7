//! `media-sidecar key …`: shows, imports and generates the signing key.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Failure, load_config_quietly, load_signing_key};
use crate::app::Environment;
use crate::federation::{Overwrite, SigningKey};

/// `key show`: prints the key ID and the public key, never the seed.
pub fn show(config: Option<&Path>, out: &mut impl Write) -> Result<(), Failure> {
    let config = load_config_quietly(config)?;
    let key = load_signing_key(&config)?.key;
    Ok(tell(&key, out)?)
}

/// Where a key is imported from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A key file: Synapse's, Dendrite's, or a Conduit `keypair` record.
    File(PathBuf),
    /// The folder that Conduit calls `database_path`.
    ConduitDb(PathBuf),
}

/// `key import`: copies the homeserver's key to the file that `homeserver.signing_key` names.
pub fn import(
    config: Option<&Path>,
    source: &KeySource,
    overwrite: Overwrite,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let config = load_config_quietly(config)?;
    let key = match source {
        KeySource::File(file) => SigningKey::read(file)?,
        KeySource::ConduitDb(folder) => SigningKey::read_conduit_db(folder)?,
    };
    save(&key, &config.homeserver.signing_key, overwrite, out)
}

/// `key generate`: writes a new key to the file that `homeserver.signing_key` names.
pub fn generate(config: Option<&Path>, overwrite: Overwrite, out: &mut impl Write) -> Result<(), Failure> {
    let config = load_config_quietly(config)?;
    let random = Environment::system().random;
    let key = SigningKey::generate(|bytes| random(bytes));
    save(&key, &config.homeserver.signing_key, overwrite, out)?;
    writeln!(out, "The homeserver must publish and use this key: other servers trust what it publishes.")?;
    Ok(())
}

fn save(key: &SigningKey, path: &Path, overwrite: Overwrite, out: &mut impl Write) -> Result<(), Failure> {
    key.save(path, overwrite)?;
    writeln!(out, "wrote {}", path.display())?;
    Ok(tell(key, out)?)
}

/// Prints the public parts of a key.
fn tell(key: &SigningKey, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "key ID      {}", key.key_id())?;
    writeln!(out, "public key  {}", key.public_key())
}
