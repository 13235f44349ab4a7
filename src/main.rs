//! The command line of media-sidecar.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use media_sidecar::cli::demo;
use media_sidecar::cli::{self, Failure, Fallback, KeySource, LogFormat, ProxyOptions, TlsFiles};
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
