//! The command line of media-sidecar.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use media_sidecar::cli::demo;
use media_sidecar::cli::{
    self, BlockAct, Failure, Fallback, KeySource, LogFormat, MediaAct, ProxyOptions, RetentionOptions,
    Target, TlsFiles, UsageOf,
};
use media_sidecar::config::{Rate, Size, Span};
use media_sidecar::federation::Overwrite;
use media_sidecar::matrix::ServerName;

/// The media repository of a small Matrix homeserver: client and server routes apart (MSC1902, MSC3916).
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = "Example: media-sidecar demo")]
struct Cli {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    #[command(after_help = "Example: media-sidecar serve --config /etc/media-sidecar/sidecar.yaml")]
    Serve {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// Format of log lines
        #[arg(long, value_enum, default_value_t = LogFormatArg::Text)]
        log_format: LogFormatArg,
    },
    /// Show two complete servers on loopback that exchange media
    #[command(after_help = "Example: media-sidecar demo --once")]
    Demo {
        /// End after the tour, with exit status 0 if every step succeeded, else 1
        #[arg(long)]
        once: bool,
    },
    /// Check this deployment: one line for each finding, and how to fix it
    #[command(after_help = "Example: media-sidecar check --config /etc/media-sidecar/sidecar.yaml")]
    Check {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Print the effective configuration, secrets redacted
    #[command(after_help = "Example: SIDECAR_LOG=debug media-sidecar config")]
    Config {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Show, import or generate the signing key, which is the homeserver's
    #[command(
        subcommand,
        after_help = "Example: media-sidecar key import /var/lib/synapse/homeserver.signing.key"
    )]
    Key(Key),
    /// Show who and what takes the room in the store
    #[command(after_help = "Example: media-sidecar usage --by server --top 10")]
    Usage {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// What the rows are
        #[arg(long, value_enum, default_value_t = UsageArg::Kind)]
        by: UsageArg,
        /// Number of rows; the rest is summed up
        #[arg(long, default_value_t = 20)]
        top: usize,
        /// Print JSON, sizes in bytes
        #[arg(long)]
        json: bool,
    },
    /// Evict now what is over the bounds of `retention`, or say what would go
    #[command(after_help = "Example: media-sidecar retention --dry-run --keep-free 5GiB")]
    Retention {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
        /// Instead of `retention.keep_free`
        #[arg(long, value_name = "SIZE")]
        keep_free: Option<Size>,
        /// Instead of `retention.max_store`
        #[arg(long, value_name = "SIZE")]
        max_store: Option<Size>,
        /// Instead of `retention.remote.unused`, like 90days; also in the first day after a start
        #[arg(long, value_name = "DURATION")]
        unused: Option<Span>,
        /// Print JSON, sizes in bytes
        #[arg(long)]
        json: bool,
    },
    /// Show, delete, quarantine or protect media
    #[command(subcommand, after_help = "Example: media-sidecar media show mxc://example.org/abc")]
    Media(Media),
    /// Read all files and compare them with their hashes: damaged copies of other servers' media are dropped, others are named
    #[command(after_help = "Example: media-sidecar scrub --rate 20MiB/s")]
    Scrub {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// How much is read in a second
        #[arg(long, default_value = "5MiB/s")]
        rate: Rate,
    },
    /// Content that is never served, by its hash
    #[command(subcommand, after_help = "Example: media-sidecar block export")]
    Block(Block),
    /// Print a reverse proxy's whole configuration: TLS, media to the sidecar, everything else to the homeserver
    #[command(
        after_help = "Example: media-sidecar proxy-config nginx --tls-cert /etc/ssl/example.org.pem --tls-key /etc/ssl/private/example.org.key > /etc/nginx/nginx.conf"
    )]
    ProxyConfig {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// Which proxy
        #[arg(value_enum)]
        proxy: ProxyArg,
        /// Certificate with its chain, PEM [default: /etc/letsencrypt/live/HOST/fullchain.pem]
        #[arg(long, value_name = "FILE")]
        tls_cert: Option<PathBuf>,
        /// Its private key, PEM [default: /etc/letsencrypt/live/HOST/privkey.pem]
        #[arg(long, value_name = "FILE")]
        tls_key: Option<PathBuf>,
        /// Host that the server name delegates to, like matrix.example.org [default: looked up]
        #[arg(long, value_name = "HOST[:PORT]")]
        public_host: Option<ServerName>,
        /// Pass requests for media that the sidecar does not have to the homeserver (nginx only)
        #[arg(long)]
        fallback: bool,
    },
}

/// What can be done with media.
#[derive(Debug, Subcommand)]
enum Media {
    /// Print what is known: uploader, type, size, hash, quarantine, protection
    #[command(after_help = "Example: media-sidecar media show mxc://example.org/abc")]
    Show(MediaArgs),
    /// Delete for good: the addresses are never served or fetched again
    #[command(after_help = "Example: media-sidecar media delete --server spam.example")]
    Delete(DeleteArgs),
    /// Stop serving the content, under every address, and whatever is stored with it later
    #[command(
        after_help = "Example: media-sidecar media quarantine mxc://example.org/abc --reason \"report 17\""
    )]
    Quarantine(ReasonedArgs),
    /// Serve the content again
    #[command(after_help = "Example: media-sidecar media unquarantine mxc://example.org/abc")]
    Unquarantine(MediaArgs),
    /// Keep from quarantine and from eviction
    #[command(after_help = "Example: media-sidecar media protect mxc://example.org/abc")]
    Protect(MediaArgs),
    /// End the protection
    #[command(after_help = "Example: media-sidecar media unprotect mxc://example.org/abc")]
    Unprotect(MediaArgs),
}

/// MXC URIs.
#[derive(Debug, Args)]
struct MediaArgs {
    /// Which configuration.
    #[command(flatten)]
    config: ConfigArg,
    /// MXC URIs
    #[arg(required = true, value_name = "MXC")]
    media: Vec<String>,
}

/// MXC URIs and a reason.
#[derive(Debug, Args)]
struct ReasonedArgs {
    /// Which media.
    #[command(flatten)]
    media: MediaArgs,
    /// Kept with the block
    #[arg(long)]
    reason: Option<String>,
}

/// What to delete.
#[derive(Debug, Args)]
struct DeleteArgs {
    /// Which configuration.
    #[command(flatten)]
    config: ConfigArg,
    /// MXC URIs
    #[arg(required_unless_present_any = ["server", "user"], conflicts_with_all = ["server", "user"], value_name = "MXC")]
    media: Vec<String>,
    /// All media of another server
    #[arg(long, value_name = "NAME", conflicts_with = "user")]
    server: Option<String>,
    /// All media that a user uploaded
    #[arg(long, value_name = "USER_ID")]
    user: Option<String>,
}

/// What can be done with the list of blocked content.
#[derive(Debug, Subcommand)]
enum Block {
    /// Block content by its SHA-256: it is not served, whoever uploads it or wherever it comes from
    #[command(
        after_help = "Example: media-sidecar block add 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    )]
    Add {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// SHA-256 in hex
        #[arg(required = true)]
        sha256: Vec<String>,
        /// Kept with the block
        #[arg(long)]
        reason: Option<String>,
    },
    /// Unblock content
    #[command(
        after_help = "Example: media-sidecar block remove 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    )]
    Remove {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// SHA-256 in hex
        #[arg(required = true)]
        sha256: Vec<String>,
    },
    /// Block the hashes of a file: one a line, # begins a comment
    #[command(after_help = "Example: media-sidecar block import hashes.txt --reason \"shared list\"")]
    Import {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// The file; - is standard input
        file: PathBuf,
        /// Kept with each block
        #[arg(long)]
        reason: Option<String>,
    },
    /// Print all blocked hashes, one a line
    #[command(after_help = "Example: media-sidecar block export > hashes.txt")]
    Export {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
    },
}

/// What `usage` lists.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum UsageArg {
    /// Local, remote, previews, thumbnails
    Kind,
    /// Other servers
    Server,
    /// Uploaders
    User,
    /// Content types
    Type,
    /// Time since last access
    Age,
}

/// The supported proxies.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProxyArg {
    /// nginx 1.22 or later
    Nginx,
    /// Caddy 2.6 or later
    Caddy,
    /// Traefik 3.6.7 or later
    Traefik,
}

/// What can be done with the signing key.
#[derive(Debug, Subcommand)]
enum Key {
    /// Print the key ID and the public key, never the secret one
    #[command(after_help = "Example: media-sidecar key show")]
    Show {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Copy the homeserver's key into the file that `homeserver.signing_key` names
    #[command(
        after_help = "Example: media-sidecar key import --conduit-db /var/lib/matrix-conduit",
        override_usage = "media-sidecar key import [OPTIONS] FILE\n       media-sidecar key import [OPTIONS] --conduit-db DIR"
    )]
    Import {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// Key file: Synapse's, Dendrite's, or the `keypair` record of Conduit's family, raw or in hex
        #[arg(required_unless_present = "conduit_db", conflicts_with = "conduit_db")]
        file: Option<PathBuf>,
        /// The folder with conduit.db, which Conduit calls `database_path`; Conduit may be running
        #[arg(long, value_name = "DIR")]
        conduit_db: Option<PathBuf>,
        /// Replace an existing key
        #[arg(long)]
        force: bool,
    },
    /// Generate a new key, for a homeserver that will use it
    #[command(after_help = "Example: media-sidecar key generate")]
    Generate {
        /// Which configuration.
        #[command(flatten)]
        config: ConfigArg,
        /// Replace an existing key
        #[arg(long)]
        force: bool,
    },
}

/// `--config`
#[derive(Debug, Args)]
struct ConfigArg {
    /// Configuration file [default: ./sidecar.yaml, then /etc/media-sidecar/sidecar.yaml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// `--log-format`
#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormatArg {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(status) => status,
        Err(failure) => {
            // If standard error is closed, there is nowhere to report the error.
            drop(writeln!(std::io::stderr(), "media-sidecar: {failure}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs one command.
fn run(command: Command) -> Result<ExitCode, Failure> {
    let mut out = std::io::stdout();
    let overwrite = |force| if force { Overwrite::Replace } else { Overwrite::Never };
    match command {
        Command::Serve { config, log_format } => {
            let format = match log_format {
                LogFormatArg::Text => LogFormat::Text,
                LogFormatArg::Json => LogFormat::Json,
            };
            cli::serve(config.config.as_deref(), format)?;
        }
        Command::Demo { once } => {
            return demo::run(if once { demo::Stay::Leave } else { demo::Stay::Serve }, &mut out);
        }
        Command::Check { config } => {
            let is_well = cli::check(config.config.as_deref(), &mut out)?;
            return Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Config { config } => {
            write!(out, "{}", cli::load_config_quietly(config.config.as_deref())?.to_yaml())?;
        }
        Command::Key(Key::Show { config }) => cli::show(config.config.as_deref(), &mut out)?,
        Command::Key(Key::Import { config, file, conduit_db, force }) => {
            let source = file.map(KeySource::File).or(conduit_db.map(KeySource::ConduitDb));
            let source = source.ok_or("name a key file or --conduit-db")?;
            cli::import(config.config.as_deref(), &source, overwrite(force), &mut out)?;
        }
        Command::Key(Key::Generate { config, force }) => {
            cli::generate(config.config.as_deref(), overwrite(force), &mut out)?;
        }
        Command::Usage { config, by, top, json } => {
            let of = match by {
                UsageArg::Kind => UsageOf::Kind,
                UsageArg::Server => UsageOf::Server,
                UsageArg::User => UsageOf::User,
                UsageArg::Type => UsageOf::Type,
                UsageArg::Age => UsageOf::Age,
            };
            cli::usage(config.config.as_deref(), of, top, json, &mut out)?;
        }
        Command::Retention { config, dry_run, keep_free, max_store, unused, json } => {
            let options = RetentionOptions { dry_run, keep_free, max_store, unused };
            cli::retention(config.config.as_deref(), &options, json, &mut out)?;
        }
        Command::Scrub { config, rate } => {
            let is_well = cli::scrub(config.config.as_deref(), rate, &mut out)?;
            return Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Media(act) => return run_media(act, &mut out),
        Command::Block(act) => run_block(act, &mut out)?,
        Command::ProxyConfig { config, proxy, tls_cert, tls_key, public_host, fallback } => {
            let proxy = match proxy {
                ProxyArg::Nginx => cli::Proxy::Nginx,
                ProxyArg::Caddy => cli::Proxy::Caddy,
                ProxyArg::Traefik => cli::Proxy::Traefik,
            };
            let options = ProxyOptions {
                tls: TlsFiles { cert: tls_cert, key: tls_key },
                public_host,
                fallback: if fallback { Fallback::Homeserver } else { Fallback::Off },
            };
            cli::proxy_config(config.config.as_deref(), proxy, &options, &mut out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `media …`. The exit status is 1 when an address is unknown.
fn run_media(act: Media, out: &mut std::io::Stdout) -> Result<ExitCode, Failure> {
    let listed = |MediaArgs { config, media }| (config, Target::Listed(media), None);
    let (act, (config, target, reason)) = match act {
        Media::Show(args) => (MediaAct::Show, listed(args)),
        Media::Delete(DeleteArgs { config, media, server, user }) => {
            let target = match (server, user) {
                (Some(server), _) => Target::Server(server),
                (None, Some(user)) => Target::User(user),
                (None, None) => Target::Listed(media),
            };
            (MediaAct::Delete, (config, target, None))
        }
        Media::Quarantine(ReasonedArgs { media: MediaArgs { config, media }, reason }) => {
            (MediaAct::Quarantine, (config, Target::Listed(media), reason))
        }
        Media::Unquarantine(args) => (MediaAct::Unquarantine, listed(args)),
        Media::Protect(args) => (MediaAct::Protect, listed(args)),
        Media::Unprotect(args) => (MediaAct::Unprotect, listed(args)),
    };
    let is_known = cli::media(config.config.as_deref(), act, target, reason.as_deref(), out)?;
    Ok(if is_known { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs `block …`.
fn run_block(act: Block, out: &mut std::io::Stdout) -> Result<(), Failure> {
    let (config, act, reason) = match act {
        Block::Add { config, sha256, reason } => (config, BlockAct::Add(sha256), reason),
        Block::Remove { config, sha256 } => (config, BlockAct::Remove(sha256), None),
        Block::Import { config, file, reason } => (config, BlockAct::Import(file), reason),
        Block::Export { config } => (config, BlockAct::Export, None),
    };
    cli::block(config.config.as_deref(), act, reason.as_deref(), out)
}
