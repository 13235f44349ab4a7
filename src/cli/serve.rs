//! `media-sidecar serve`: the service as systemd runs it: signals, sockets, readiness, watchdog, logging.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use listenfd::ListenFd;
use rustix::process::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Registry, reload};

use super::{Failure, load_config, load_signing_key};
use crate::app::{App, Environment};
use crate::config::{Config, is_log_directives};
use crate::log::{LineLimit, WINDOW};
use crate::server::{self, Listener};
use crate::sync::pools::MAX_BLOCKING_THREADS;

/// How long an idle blocking thread is kept.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Changes the log level while the service runs.
type LogHandle = reload::Handle<Targets, Registry>;

/// Runs the service until SIGTERM or SIGINT. SIGHUP reloads the configuration.
pub fn serve(path: Option<&Path>, format: LogFormat) -> Result<(), Failure> {
    let loaded = load_config(path)?;
    let config = loaded.config;
    let (log, limit) = start_logging(&config, format)?;
    for warning in loaded.warnings {
        tracing::warn!("{warning}");
    }
    let key = load_signing_key(&config)?;
    if let Some(warning) = key.warning {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    let runtime = runtime()?;
    let app = App::open(&config, key.key, Environment::system()).map_err(|error| {
        format!("cannot start in data_dir {}: {}", config.data_dir.display(), error.causes())
    })?;
    runtime.block_on(async {
        // Before readiness is reported: a signal after that must not kill without a drain.
        let stop = stop_signal()?;
        let reloading = tokio::spawn(reload_at_signal(Arc::clone(&app), path.map(Path::to_owned), log)?);
        let listeners = listeners(&config)?;
        let ops = server::bind_ops(&config)?;
        for listener in &listeners {
            tracing::info!(server_name = %config.server_name, "listening on {listener}");
        }
        if let Some(listener) = &ops {
            tracing::info!("operator's routes at {listener}");
        }
        notify(&[NotifyState::Ready]);
        tokio::spawn(report_left_out(limit.clone()));
        let watchdog = sd_notify::watchdog_enabled().map(|period| tokio::spawn(feed_watchdog(period)));
        server::run(Arc::clone(&app), listeners, ops, stop).await;
        reloading.abort();
        if let Some(watchdog) = watchdog {
            watchdog.abort();
        }
        Ok::<_, Failure>(())
    })?;
    limit.report();
    // The catalog closes, checkpointed, when the last part is gone.
    runtime.shutdown_timeout(Duration::from_secs(5));
    drop(app);
    Ok(())
}

/// The runtime of the service and of the demo.
pub(crate) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_keep_alive(THREAD_KEEP_ALIVE)
        .enable_all()
        .build()
}

/// Sends log lines to standard error, rate-limited by kind.
fn start_logging(config: &Config, format: LogFormat) -> Result<(LogHandle, LineLimit), Failure> {
    let (targets, handle) = reload::Layer::new(targets(config)?);
    let registry = tracing_subscriber::registry().with(targets);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let limit = LineLimit::default();
    match format {
        LogFormat::Text => {
            use std::io::IsTerminal as _;
            let lines = lines.with_ansi(io::stderr().is_terminal());
            registry.with(lines.with_filter(limit.clone())).try_init()?;
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true);
            registry.with(lines.with_filter(limit.clone())).try_init()?;
        }
    }
    Ok((handle, limit))
}

/// The log directives in force. `RUST_LOG` wins over `log:`.
fn targets(config: &Config) -> Result<Targets, Failure> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_unset| config.log.clone());
    if !is_log_directives(&directives) {
        return Err(
            format!("RUST_LOG: `{directives}` is not a log level or list of directives (like info)").into()
        );
    }
    Ok(directives.parse()?)
}

/// Reloads the configuration at each SIGHUP.
fn reload_at_signal(
    app: Arc<App>,
    path: Option<PathBuf>,
    log: LogHandle,
) -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            let mut states = vec![NotifyState::Reloading];
            states.extend(NotifyState::monotonic_usec_now().ok());
            notify(&states);
            let (app, path, log) = (Arc::clone(&app), path.clone(), log.clone());
            let reload = tokio::task::spawn_blocking(move || reload(&app, path.as_deref(), &log));
            match reload.await {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => {
                    let why = failure.to_string().replace('\n', "; ");
                    tracing::error!("the configuration cannot be reloaded, nothing was changed: {why}");
                }
                Err(error) => tracing::error!(%error, "reloading failed"),
            }
            notify(&[NotifyState::Ready]);
        }
    })
}

fn reload(app: &App, path: Option<&Path>, log: &LogHandle) -> Result<(), Failure> {
    let loaded = load_config(path)?;
    let targets = targets(&loaded.config)?;
    let fixed = app.reload(&loaded.config).map_err(|error| error.causes())?;
    log.reload(targets)?;
    for warning in loaded.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!("the configuration was reloaded");
    if !fixed.is_empty() {
        tracing::warn!("changed, but effective only after a restart: {}", fixed.join(", "));
    }
    Ok(())
}

/// Reports each minute how many log lines were left out.
async fn report_left_out(limit: LineLimit) {
    loop {
        tokio::time::sleep(WINDOW).await;
        limit.report();
    }
}

/// The sockets that systemd passed, else those of `listen`.
fn listeners(config: &Config) -> Result<Vec<Listener>, Failure> {
    let mut inherited = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..inherited.len() {
        if let Ok(Some(listener)) = inherited.take_unix_listener(index) {
            listener.set_nonblocking(true)?;
            listeners.push(Listener::Unix(UnixListener::from_std(listener)?));
        } else if let Some(listener) = inherited.take_tcp_listener(index)? {
            listener.set_nonblocking(true)?;
            listeners.push(Listener::Tcp(TcpListener::from_std(listener)?));
        }
    }
    if listeners.is_empty() { Ok(server::bind(config)?) } else { Ok(listeners) }
}

fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        notify(&[NotifyState::Stopping]);
    })
}

/// Tells systemd's watchdog, twice in each period, that the runtime is alive.
async fn feed_watchdog(period: Duration) {
    let mut ticks = tokio::time::interval(period.div_f32(2.0));
    loop {
        ticks.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Raises the limit of open files to the hard limit: each connection and each blob being read needs one.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
