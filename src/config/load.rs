//! From files and environment to a [`Config`], or to a list of everything that is wrong.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::path::Path;

use figment::Figment;
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use serde::Deserialize as _;

use super::complaints;
use super::file::{no_file, read, unreadable};
use super::print::redacted;
use super::yaml::{YamlFile, is_nested_deep};
use super::{
    Config, Family, HomeserverUrl, ListenAddr, OembedProvider, OpsListen, Previews, accept_language,
    host_glob,
};
use crate::matrix::ServerName;

/// A configuration and what was odd about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// For the log: what was ignored.
    pub warnings: Vec<String>,
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `sidecar.yaml:12`, `SIDECAR_LOG`, or the file alone.
    pub place: String,
    /// The dotted key; empty when the file cannot be read at all.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Problem {
    /// The line it names, to tell problems in the order of the file; those without come last.
    fn line(&self) -> usize {
        self.place.rsplit_once(':').and_then(|(_, line)| line.parse().ok()).unwrap_or(usize::MAX)
    }
}

/// Everything wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// Values complained about in one reading.
const MAX_PROBLEMS: usize = 256;

/// The group whose one key may be given alone, and that key: `listen: ADDRESS` is short for `listen: {addresses: ADDRESS}`.
const SHORT_GROUP: (&str, &str) = ("listen", "addresses");

/// Prefix of environment variables that set keys.
const PREFIX: &str = "SIDECAR_";

/// Reads `path` and the variables of `env`, and judges the result. Relative paths in the configuration are
/// relative to the folder of the file.
pub fn load(
    path: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Problems> {
    let file = match path {
        Some(path) => Some(read(path).map_err(|broken| unreadable(path, broken))?),
        None => None,
    };
    judge(path, file, env)
}

/// [`load`] of `text`, the contents of `path`, for the fuzz targets.
#[cfg(any(fuzzing, test))]
pub(crate) fn load_text(path: &Path, text: &str) -> Result<Loaded, Problems> {
    let file = YamlFile::parse(path, text).map_err(|broken| unreadable(path, broken))?;
    judge(Some(path), Some(file), [])
}

/// Judges the file and the variables.
fn judge(
    path: Option<&Path>,
    file: Option<YamlFile>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Problems> {
    let mut file = file;
    let is_short = file.as_mut().is_some_and(|file| file.expand(SHORT_GROUP.0, SHORT_GROUP.1));
    let mut sources =
        Sources { path, file, is_short, env: BTreeMap::new(), problems: Vec::new(), broken: Vec::new() };
    let defaults = default_dict();
    let warnings = sources.take_env(env, &defaults);
    sources.reject_unknown_keys(&defaults);

    let mut config = sources.extract(&defaults);
    if let Some(config) = &config {
        sources.validate(config);
    }
    if let (Some(config), Some(folder)) = (&mut config, path.and_then(Path::parent)) {
        config.data_dir = folder.join(&config.data_dir);
        config.homeserver.signing_key = folder.join(&config.homeserver.signing_key);
        for ca_file in [&mut config.federation.ca_file, &mut config.previews.ca_file] {
            *ca_file = ca_file.as_ref().map(|file| folder.join(file));
        }
    }
    sources.problems.sort_by_key(Problem::line);
    match config {
        Some(config) if sources.problems.is_empty() => Ok(Loaded { config, warnings }),
        _ => Err(Problems(sources.problems)),
    }
}

/// Where values come from, and what was wrong with them so far.
struct Sources<'a> {
    /// The file's path, if there is one.
    path: Option<&'a Path>,
    /// The file, parsed.
    file: Option<YamlFile>,
    /// Whether [`SHORT_GROUP`] was last set in its short form.
    is_short: bool,
    /// Dotted key → the variable that sets it, and its value.
    env: BTreeMap<String, Variable>,
    /// Findings.
    problems: Vec<Problem>,
    /// Keys that were complained about and have their defaults for now: nothing more is said of them.
    broken: Vec<String>,
}

/// An environment variable that sets a key.
struct Variable {
    name: String,
    value: Value,
}

impl Sources<'_> {
    /// Keeps the variables that name keys. Returns a warning for each that does not.
    fn take_env(&mut self, env: impl IntoIterator<Item = (String, String)>, defaults: &Dict) -> Vec<String> {
        let mut warnings = Vec::new();
        for (name, text) in env {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            let key = key.to_ascii_lowercase().replace("__", ".");
            if find_key(defaults, &key).is_none() {
                warnings
                    .push(format!("environment variable {name} names no configuration key and is ignored"));
            } else if is_nested_deep(&text) {
                self.problems.push(Problem {
                    place: name,
                    key,
                    message: "this is nested too deep".to_owned(),
                });
            } else {
                let Ok(value) = text.parse::<Value>();
                let (group, inner) = SHORT_GROUP;
                let (long, is_short) =
                    (format!("{group}.{inner}"), key == group && value.as_dict().is_none());
                let key = if is_short { long.clone() } else { key };
                if key == long {
                    self.is_short = is_short;
                }
                self.env.insert(key, Variable { name, value });
            }
        }
        warnings
    }

    /// Complains about keys of the file that have no default, that is, do not exist.
    fn reject_unknown_keys(&mut self, defaults: &Dict) {
        let Some(file) = &self.file else { return };
        let mut unknown = Vec::new();
        collect_unknown(file.dict(), defaults, "", &mut unknown);
        for (key, known) in unknown {
            self.complain(&key, format!("unknown key; known here: {known}"));
        }
    }

    /// Builds the configuration. Each value that does not fit is noted and replaced by its default, so that one
    /// reading finds them all; `None` when nothing sensible is left.
    fn extract(&mut self, defaults: &Dict) -> Option<Config> {
        let mut figment = Figment::from(Serialized::defaults(defaults));
        if let Some(file) = &self.file {
            figment = figment.merge(file);
        }
        for (key, variable) in &self.env {
            figment = figment.merge((key.as_str(), &variable.value));
        }
        // Entries taken out of each list so far.
        let mut removed: BTreeMap<String, usize> = BTreeMap::new();
        for _attempt in 0..MAX_PROBLEMS {
            // By way of figment's merged value: `Figment::extract` compiles every group six times.
            let error = match figment.find_value("") {
                Ok(merged) => match Config::deserialize(&merged) {
                    Ok(config) => return Some(config),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            let path = error.path.join(".");
            if let figment::error::Kind::MissingField(field) = &error.kind {
                if self.path.is_none() {
                    self.problems.push(no_file());
                } else {
                    let mend = "missing; set it to the name in your users' IDs (`server_name: example.org`)";
                    self.complain(field, mend);
                }
                figment = figment.merge((field.as_ref(), "missing.invalid"));
                continue;
            }
            let (key, default) = nearest_key(defaults, &path)?;
            let rest: Vec<&str> = path.get(key.len()..)?.split('.').filter(|part| !part.is_empty()).collect();
            let value = figment.find_value(key).ok();
            let at = value.as_ref().and_then(|value| value_at(value, &rest));
            let index = rest.first().and_then(|index| index.parse::<usize>().ok());
            match (index, value.clone().and_then(Value::into_array)) {
                // serde takes a list for a group in the order of its keys.
                (_, Some(_)) if matches!(default, Value::Dict(..)) => {
                    self.complain(key, complaints::not_a_group(key));
                    figment = figment.merge((key, default));
                }
                (Some(index), Some(mut entries)) if index < entries.len() => {
                    let gone = removed.entry(key.to_owned()).or_default();
                    let written = index.saturating_add(*gone);
                    *gone = gone.saturating_add(1);
                    let inner = rest.get(1..).unwrap_or_default();
                    let within =
                        if inner.is_empty() { key.to_owned() } else { format!("{key}.{}", inner.join(".")) };
                    let told = complaints::misfit(&within, &error.kind, at);
                    let inner = inner.first().map_or_else(String::new, |name| format!("`{name}`: "));
                    let told = format!("entry {}: {inner}{told}", written.saturating_add(1));
                    self.complain_at(key, &format!("{key}.{written}"), told);
                    entries.remove(index);
                    figment = figment.merge((key, entries));
                }
                _ => {
                    self.complain(key, complaints::misfit(key, &error.kind, at));
                    figment = figment.merge((key, default));
                }
            }
        }
        None
    }

    /// What serde cannot see.
    fn validate(&mut self, config: &Config) {
        self.broken = self.problems.iter().map(|problem| problem.key.clone()).collect();
        let url = &config.homeserver.url;
        let shown = redacted(url);
        match HomeserverUrl::parse(url) {
            Err(why) => self.complain("homeserver.url", format!("`{shown}` {why}")),
            Ok(url) if url.is_ours(&config.listen.addresses) => self.complain(
                "homeserver.url",
                format!("`{shown}` is where media-sidecar itself listens (`listen`); name the homeserver's own address"),
            ),
            Ok(_) => {}
        }
        if config.data_dir.as_os_str().is_empty() {
            self.complain("data_dir", "must not be empty (like /var/lib/media-sidecar)");
        }
        if config.listen.addresses.is_empty() {
            self.complain("listen.addresses", "give at least one address (like 127.0.0.1:8090)");
        }
        // Port 0 is another free port each time.
        if let Some(OpsListen::At(address)) = &config.ops.listen
            && config.listen.addresses.contains(address)
            && !matches!(address, ListenAddr::Tcp(address) if address.port() == 0)
        {
            self.complain("ops.listen", format!("`{address}` stands in `listen` too; give another address"));
        }
        let families = &config.federation.families;
        let twice = |family: &Family| families.iter().filter(|other| *other == family).count() > 1;
        if families.is_empty() || families.iter().any(twice) {
            self.complain(
                "federation.families",
                "name each of msc1902, msc3916, legacy at most once, and one at least",
            );
        }
        for (key, bytes) in [
            ("uploads.max_size", config.uploads.max_size),
            ("federation.max_size", config.federation.max_size),
            ("thumbnails.max_pixels", config.thumbnails.max_pixels),
            ("thumbnails.memory", config.thumbnails.memory),
            ("previews.max_page", config.previews.max_page),
            ("previews.max_image", config.previews.max_image),
            ("previews.max_stored", config.previews.max_stored),
        ] {
            if bytes.0 == 0 {
                self.complain(key, "must be more than 0");
            }
        }
        for (key, span) in [
            ("federation.timeout", config.federation.timeout),
            ("previews.timeout", config.previews.timeout),
            ("uploads.pending_lifetime", config.uploads.pending_lifetime),
        ] {
            if span.0.is_zero() {
                self.complain(key, "must be longer than 0");
            }
        }
        self.validate_hosts(config);
        self.validate_previews(&config.previews);
        if config.thumbnails.workers == 0 || config.thumbnails.workers > 64 {
            self.complain("thumbnails.workers", "must be 1 to 64");
        }
        if !is_log_directives(&config.log) {
            self.complain(
                "log",
                format!("`{}` is not a log level or list of directives (like info)", config.log),
            );
        }
    }

    /// Complains about entries of host lists that would never match.
    fn validate_hosts(&mut self, config: &Config) {
        for (key, entries) in [
            ("federation.allow", &config.federation.allow),
            ("federation.deny", &config.federation.deny),
            ("previews.allow_hosts", &config.previews.allow_hosts),
            ("previews.deny_hosts", &config.previews.deny_hosts),
        ] {
            for entry in entries {
                if let Err(why) = host_glob(entry) {
                    self.complain(key, format!("`{entry}` {why}"));
                }
            }
        }
    }

    /// Complains about what could never be sent or connected to.
    fn validate_previews(&mut self, previews: &Previews) {
        let is_text = |text: &str| text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if !is_text(&previews.user_agent) {
            self.complain("previews.user_agent", "only printable ASCII can be sent");
        }
        if let Err(why) = accept_language(&previews.accept_language) {
            self.complain("previews.accept_language", why.to_string());
        }
        if previews.ports.is_senseless() {
            self.complain("previews.ports", "name at least one port, 1 to 65535, or write any");
        }
        self.validate_oembed(&previews.oembed);
    }

    /// Complains about oEmbed providers that could never be asked.
    fn validate_oembed(&mut self, providers: &[OembedProvider]) {
        let is_http = |text: &str| {
            url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        };
        for provider in providers {
            if !is_http(&provider.endpoint) {
                self.complain(
                    "previews.oembed",
                    format!(
                        "`{}` is not an http or https URL (like https://example.org/oembed)",
                        provider.endpoint
                    ),
                );
            }
            if provider.urls.is_empty() {
                self.complain(
                    "previews.oembed",
                    format!("`{}` has no urls (like \"https://example.org/video/*\")", provider.endpoint),
                );
            }
            for glob in provider.urls.iter().filter(|glob| !glob.contains("://")) {
                self.complain(
                    "previews.oembed",
                    format!("`{glob}` matches no URL (write it like https://example.org/video/*)"),
                );
            }
        }
    }

    /// Notes a problem with `key`, with the place that last set it.
    fn complain(&mut self, key: &str, message: impl Into<String>) {
        self.complain_at(key, key, message);
    }

    /// The same, with the place of what lies `at` this path, as an entry of a list.
    fn complain_at(&mut self, key: &str, at: &str, message: impl Into<String>) {
        let from_env = self.env.iter().find(|(set, _)| key.starts_with(set.as_str()));
        let (key, at) = (self.as_written(key), self.as_written(at));
        if self.broken.contains(&key) {
            return;
        }
        let file = self.path.map(|path| path.display().to_string());
        let line = self.file.as_ref().and_then(|file| file.line(&at));
        let place = match (from_env, file, line) {
            (Some((_, variable)), ..) => variable.name.clone(),
            (None, Some(file), Some(line)) => format!("{file}:{line}"),
            (None, Some(file), None) => file,
            (None, None, _) => "environment".to_owned(),
        };
        self.problems.push(Problem { place, key, message: message.into() });
    }

    /// A dotted key as the operator wrote it.
    fn as_written(&self, key: &str) -> String {
        let (group, inner) = SHORT_GROUP;
        let long = format!("{group}.{inner}");
        match key.strip_prefix(&long) {
            Some(rest) if self.is_short => format!("{group}{rest}"),
            _ => key.to_owned(),
        }
    }
}

/// Whether `text` is what `RUST_LOG` takes: a level, or `target=level` pairs. A lone word that is no level would be
/// taken for a target and silence everything else.
pub(crate) fn is_log_directives(text: &str) -> bool {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    let sensible = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    text.split(',').all(|part| sensible(part.trim())) && text.parse::<Targets>().is_ok()
}

/// What lies below `value` at a path of keys and indices.
fn value_at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, part| match value {
        Value::Dict(_, dict) => dict.get(*part),
        Value::Array(_, entries) => entries.get(part.parse::<usize>().ok()?),
        Value::String(..) | Value::Char(..) | Value::Bool(..) | Value::Num(..) | Value::Empty(..) => None,
    })
}

/// The defaults as figment's values, `server_name` present only as a known key.
fn default_dict() -> Dict {
    let nameless = ServerName::parse("missing.invalid").map(Config::defaults);
    let value = nameless.ok().and_then(|config| Value::serialize(config).ok());
    let mut dict = value.and_then(Value::into_dict).unwrap_or_default();
    dict.remove("server_name");
    dict
}

/// The value at a dotted key. `server_name` has no default but is a key.
fn find_key<'a>(dict: &'a Dict, key: &str) -> Option<&'a Value> {
    /// Stands for the one key without a default.
    static SERVER_NAME: std::sync::LazyLock<Value> =
        std::sync::LazyLock::new(|| Value::from("missing.invalid"));
    if key == "server_name" {
        return Some(&SERVER_NAME);
    }
    let (head, rest) = key.split_once('.').map_or((key, None), |(head, rest)| (head, Some(rest)));
    let value = dict.get(head)?;
    match rest {
        None => Some(value),
        Some(rest) => find_key(value.as_dict()?, rest),
    }
}

/// The longest beginning of a dotted path that is a key, and its default: a path may end in a list's index.
fn nearest_key<'a, 'b>(dict: &'a Dict, path: &'b str) -> Option<(&'b str, &'a Value)> {
    match find_key(dict, path) {
        Some(value) => Some((path, value)),
        None => nearest_key(dict, path.rsplit_once('.')?.0),
    }
}

/// Collects the dotted keys of `dict` that `known` lacks, each with the keys it might have meant.
fn collect_unknown(dict: &Dict, known: &Dict, at: &str, unknown: &mut Vec<(String, String)>) {
    for (name, value) in dict {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        match (known.get(name), value) {
            (None, _) if path == "server_name" => {}
            (None, _) => {
                let nameless = Some("server_name").filter(|_| at.is_empty());
                let known: Vec<_> = nameless.into_iter().chain(known.keys().map(String::as_str)).collect();
                unknown.push((path, known.join(", ")));
            }
            (Some(Value::Dict(_, known)), Value::Dict(_, dict)) => {
                collect_unknown(dict, known, &path, unknown);
            }
            (Some(_), _) => {}
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.place, self.message),
            key => write!(f, "{}: `{key}`: {}", self.place, self.message),
        }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl StdError for Problems {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Ports;

    /// Loads `text` as a file in a folder of its own, with `env`.
    fn load_file(text: &str, env: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidecar.yaml");
        std::fs::write(&path, text).unwrap();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let place = format!("{}/", folder.path().display());
        load(Some(&path), env).map_err(|problems| {
            problems.0.iter().map(|problem| problem.to_string().replace(&place, "")).collect()
        })
    }

    #[test]
    fn the_shipped_file_lists_every_key_with_its_default() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("sidecar.yaml");
        let file = read(&shipped).unwrap();
        let mut missing = Vec::new();
        collect_unknown(&default_dict(), file.dict(), "", &mut missing);
        assert_eq!(missing, []);
        let config = load_file(&std::fs::read_to_string(shipped).unwrap(), &[]).unwrap().config;
        let folder = config.data_dir.parent().unwrap().display().to_string() + "/";
        let defaults = Config::defaults(ServerName::parse("example.org").unwrap());
        let bare = |yaml: String| yaml.replace(&folder, "").replace('"', "");
        assert_eq!(bare(config.to_yaml()), bare(defaults.to_yaml()));
    }

    #[test]
    fn a_minimal_file_gets_the_defaults_relative_to_its_folder() {
        let config = load_file("server_name: example.org\nuploads:\n  max_size: 1GiB\n", &[]).unwrap().config;
        assert_eq!(config.uploads.max_size.0, 1 << 30);
        assert_eq!(config.uploads.pending_per_user, 5);
        assert!(config.data_dir.is_absolute() && config.data_dir.ends_with("data"));
        assert_eq!(config.federation.ip_deny.len(), super::super::NOT_PUBLIC.len());
    }

    #[test]
    fn all_problems_are_reported_at_once_with_key_file_and_line() {
        let text = "listen: here\nuploads:\n  max_size: lots\n  max_sise: 3\nfederation:\n  families: [msc1, legacy]\n  \
                    max_size: 0\ncolour: red\nlog: inof\n";
        let problems = load_file(text, &[("SIDECAR_HOMESERVER__TOKEN_CACHE", "soon")]).unwrap_err();
        for (start, word) in [
            ("sidecar.yaml:1: `listen`", "127.0.0.1:8090"),
            ("sidecar.yaml:3: `uploads.max_size`", "50MiB"),
            ("sidecar.yaml:4: `uploads.max_sise`", "unknown key; known here: max_size"),
            ("sidecar.yaml:6: `federation.families", "msc1902"),
            ("sidecar.yaml:7: `federation.max_size`", "more than 0"),
            ("sidecar.yaml:8: `colour`", "unknown key"),
            ("sidecar.yaml:9: `log`", "like info"),
            ("SIDECAR_HOMESERVER__TOKEN_CACHE: `homeserver.token_cache`", "2m"),
            ("sidecar.yaml: `server_name`", "missing"),
        ] {
            let found = problems.iter().any(|problem| problem.starts_with(start) && problem.contains(word));
            assert!(found, "{start} … {word} is not in {problems:#?}");
        }
        assert_eq!(problems.len(), 9, "{problems:#?}");
    }

    #[test]
    fn values_that_do_not_fit_are_told_in_the_operators_words() {
        for (yaml, told) in [
            ("data_dir: [x]", "1: `data_dir`: it is a list; give a path"),
            ("data_dir: 3", "1: `data_dir`: `3` is not a path; put it in quotes"),
            ("listen: 8090", "1: `listen`: `8090` is not an address or a list of them (like 127.0.0.1:8090)"),
            (
                "listen: [127.0.0.1:1, here]",
                "1: `listen`: entry 2: `here` is not an address (like 127.0.0.1:8090 or",
            ),
            ("listen: 127.0.0.1:80900", "1: `listen`: `127.0.0.1:80900` is not an address (like"),
            (
                "homeserver: http://a",
                "1: `homeserver`: `http://a` is not a group of keys (lines like `url: http",
            ),
            ("homeserver: [a]", "1: `homeserver`: it is a list; give a group of keys"),
            ("homeserver: [3]", "1: `homeserver`: it is a list; give a group of keys"),
            (
                "homeserver: {url: 'http://a:66167'}",
                "`http://a:66167` has a port that cannot be (1 to 65535)",
            ),
            ("homeserver: {url: 7}", "1: `homeserver.url`: `7` is not text; put it in quotes"),
            (
                "homeserver: {url: 'http://localhost:8090'}",
                "is where media-sidecar itself listens (`listen`)",
            ),
            (
                "homeserver: {signing_key: {a: b}}",
                "1: `homeserver.signing_key`: it is a group of keys; give a path",
            ),
            ("uploads: {max_size: -1}", "1: `uploads.max_size`: `-1` is not a size (like 50MiB"),
            ("uploads: {max_size: 1.5}", "1: `uploads.max_size`: `1.5` is not a size (like 50MiB"),
            ("uploads: {max_size: }", "1: `uploads.max_size`: it is empty; give a size (like 50MiB"),
            ("uploads: {max_size: true}", "1: `uploads.max_size`: `true` is not a size (like 50MiB"),
            ("uploads: {max_size: [1]}", "1: `uploads.max_size`: it is a list; give a size (like 50MiB"),
            ("uploads: {pending_per_user: -3}", "`-3` is not a whole number (0 to 4294967295)"),
            ("uploads: {pending_per_user: lots}", "`lots` is not a whole number (0 to 4294967295)"),
            ("uploads: {pending_lifetime: 30}", "`30` is not a duration (like 500ms, 2m, 24h or 7days)"),
            ("unauthenticated_media: opne", "`opne` is none of open, frozen, closed"),
            ("unauthenticated_media: 1", "`1` is not"),
            ("federation: {allow: example.org}", "`example.org` is not a list; write [example.org]"),
            (
                "federation: {deny: [a, 2]}",
                "1: `federation.deny`: entry 2: `2` is not text; put it in quotes",
            ),
            ("federation: {notaries: [a, 'b c']}", "entry 2: `b c` is not a Matrix server name"),
            (
                "federation: {ip_deny: [10.0.0.0/8, 10.0.0.1]}",
                "entry 2: `10.0.0.1` is not a range of addresses (like",
            ),
            (
                "federation:\n  ip_deny:\n  - 10.0.0.0/8\n  - 10.0.0.0/33",
                "4: `federation.ip_deny`: entry 2: `10.0.0.0/33`",
            ),
            ("federation: {ip_allow: [3]}", "entry 1: `3` is not a range of addresses"),
            ("federation: {ip_allow: {a: b}}", "it is a group of keys; give a list"),
            ("thumbnails: {sizes: [32x32-crop, 96x96]}", "entry 2: `96x96` is not a thumbnail size (like"),
            ("thumbnails: {pregenerate: yes}", "`yes`: write true or false, without quotes"),
            ("thumbnails: {workers: 1.5}", "`1.5` is not a whole number"),
            ("previews: {ports: [80, 99999]}", "entry 2: `99999` is not a port (1 to 65535)"),
            ("previews: {ports: [-1]}", "entry 1: `-1` is not a port (1 to 65535)"),
            ("previews: {ports: [http]}", "entry 1: `http` is not a port (1 to 65535)"),
            (
                "previews: {oembed: [{endpoint: 'https://a.example/', urls: x}]}",
                "entry 1: `urls`: `x` is not a list",
            ),
            ("previews: {oembed: [3]}", "entry 1: `3` is not a group of keys"),
            ("log: [info]", "1: `log`: it is a list; give text"),
            ("1: x", "1: `1`: unknown key; known here: server_name, data_dir,"),
            ("[a]: x", "1: `[…]`: unknown key"),
        ] {
            assert_told(yaml, told);
        }
    }

    /// Of `yaml` one thing is said, in plain words.
    fn assert_told(yaml: &str, told: &str) {
        let problems = load_file(&format!("{yaml}\nserver_name: example.org\n"), &[]).unwrap_err();
        assert!(problems[0].contains(told), "{told} is not in {problems:#?}");
        assert_eq!(problems.len(), 1, "one fault, one complaint: {problems:#?}");
        for word in ["u16", "u32", "unit", "sequence", "signed int", "string", "struct ", "map", "Value("] {
            assert!(!problems[0].contains(word), "{word}: {problems:?}");
        }
    }

    #[test]
    fn addresses_that_do_not_fit_are_told_in_the_operators_words() {
        for (yaml, told) in [
            ("listen: ", "1: `listen`: it is empty; give an address or a list of them (like 127.0.0.1:8090)"),
            ("listen: []", "1: `listen`: give at least one address (like 127.0.0.1:8090)"),
            (
                "listen: {addresses: 8090}",
                "1: `listen.addresses`: `8090` is not an address or a list of them",
            ),
            (
                "listen: {adresses: 8090}",
                "1: `listen.adresses`: unknown key; known here: addresses, trust_forwarded",
            ),
            (
                "listen: {trust_forwarded: [unix, 10.0.0.0]}\nops: {listen: 10.0.0.1}",
                "2: `ops.listen`: `10.0.0.1` is not an address (like",
            ),
            (
                "listen: {trust_forwarded: [unix, tcp]}",
                "1: `listen.trust_forwarded`: entry 2: `tcp` is not a proxy's address (like 127.0.0.0/8",
            ),
            ("ops: {listen: 127.0.0.1:8090}", "1: `ops.listen`: `127.0.0.1:8090` stands in `listen` too"),
            ("ops: {listen: true}", "1: `ops.listen`: `true` is not an address (like unix:/run"),
            ("ops: off", "1: `ops`: `off` is not a group of keys (lines like `listen: off`"),
        ] {
            assert_told(yaml, told);
        }
    }

    #[test]
    fn listen_is_an_address_a_list_or_a_group_and_its_parts_are_set_one_by_one() {
        let load = |yaml: &str, env: &[(&str, &str)]| {
            let listen = load_file(&format!("server_name: example.org\n{yaml}"), env).unwrap().config.listen;
            let texts = |list: Vec<String>| list.join(" ");
            (
                texts(listen.addresses.iter().map(ToString::to_string).collect()),
                texts(listen.trust_forwarded.iter().map(ToString::to_string).collect()),
            )
        };
        let (one, two, usual) = ("127.0.0.1:1", "127.0.0.1:1 unix:/run/x", "127.0.0.0/8 ::1 unix");
        let (list, trusted) =
            ("[127.0.0.1:1, 'unix:/run/x']", "trust_forwarded: [10.0.0.0/8, '2001:db8::1']");
        let given = "10.0.0.0/8 2001:db8::1";
        let proxy = ("SIDECAR_LISTEN__TRUST_FORWARDED", "[10.0.0.0/8, \"2001:db8::1\"]");
        for (yaml, env, addresses, trust) in [
            ("", &[][..], "127.0.0.1:8090", usual),
            ("listen: 127.0.0.1:1", &[], one, usual),
            (&format!("listen: {list}"), &[], two, usual),
            ("listen: {addresses: 127.0.0.1:1}", &[], one, usual),
            (&format!("listen: {{{trusted}}}"), &[], "127.0.0.1:8090", given),
            (&format!("listen: {{addresses: {list}, {trusted}}}"), &[], two, given),
            ("", &[("SIDECAR_LISTEN", "127.0.0.1:1")], one, usual),
            (&format!("listen: {{{trusted}}}"), &[("SIDECAR_LISTEN", "127.0.0.1:1")], one, given),
            ("listen: 127.0.0.1:1", &[proxy], one, given),
            ("", &[proxy, ("SIDECAR_LISTEN__ADDRESSES", "127.0.0.1:1")], one, given),
        ] {
            assert_eq!(load(yaml, env), (addresses.to_owned(), trust.to_owned()), "{yaml} {env:?}");
        }
    }

    #[test]
    fn the_ops_socket_is_in_the_data_directory_unless_it_is_elsewhere_or_off() {
        let load = |listen: &str| {
            let text = format!("server_name: example.org\ndata_dir: /d\nops: {{listen: {listen}}}\n");
            load_file(&text, &[]).unwrap().config.ops_address().map(|address| address.to_string())
        };
        assert_eq!(load("null").as_deref(), Some("unix:/d/ops.sock"));
        assert_eq!(load("unix:/run/ops").as_deref(), Some("unix:/run/ops"));
        assert_eq!(load("127.0.0.1:1").as_deref(), Some("127.0.0.1:1"));
        assert_eq!(load("off"), None);
    }

    #[test]
    fn every_wrong_entry_of_a_list_is_named_in_the_order_of_the_file() {
        let text = "log: 7\nfederation:\n  ip_deny:\n  - a\n  - 10.0.0.0/8\n  - b\n  - c\nserver_name: example.org\n";
        let problems = load_file(text, &[]).unwrap_err();
        let starts = ["sidecar.yaml:1: `log`", "sidecar.yaml:4: ", "sidecar.yaml:6: ", "sidecar.yaml:7: "];
        assert_eq!(problems.len(), starts.len(), "{problems:#?}");
        for (problem, start) in problems.iter().zip(starts) {
            assert!(problem.starts_with(start), "{start}: {problems:#?}");
        }
        assert!(problems[3].contains("entry 4: `c`"), "{problems:#?}");
    }

    #[test]
    fn a_variable_that_does_not_fit_is_told_in_the_same_words() {
        let problems = load_file(
            "server_name: example.org\n",
            &[("SIDECAR_PREVIEWS__PORTS", "[80, 99999]"), ("SIDECAR_UPLOADS", "3"), ("SIDECAR_LISTEN", "5")],
        )
        .unwrap_err();
        for words in [
            "SIDECAR_PREVIEWS__PORTS: `previews.ports`: entry 2: `99999` is not a port",
            "SIDECAR_UPLOADS: `uploads`: `3` is not a group of keys",
            "SIDECAR_LISTEN: `listen`: `5` is not an address",
        ] {
            assert!(problems.iter().any(|problem| problem.starts_with(words)), "{words}: {problems:#?}");
        }
    }

    #[test]
    fn oembed_sites_that_could_never_be_asked_are_refused() {
        let start = "server_name: example.org\npreviews:\n  oembed:\n";
        let good = "    - {endpoint: 'https://a.example/oembed', urls: ['https://a.example/v/*']}\n";
        let config = load_file(&format!("{start}{good}"), &[]).unwrap().config;
        assert_eq!(config.previews.oembed[0].urls, ["https://a.example/v/*"]);
        for (entry, word) in [
            ("{endpoint: 'ftp://a.example', urls: ['https://a.example/*']}", "not an http or https URL"),
            ("{endpoint: 'https://a.example/o', urls: []}", "has no urls"),
            ("{endpoint: 'https://a.example/o', urls: ['a.example/*']}", "matches no URL"),
            ("{endpoint: 'https://a.example/o', url: 'x', urls: []}", "unknown field"),
            ("{urls: ['https://a.example/*']}", "not an http or https URL"),
            ("{endpoint: 'https://a.example/o'}", "has no urls"),
        ] {
            let problems = load_file(&format!("{start}    - {entry}\n"), &[]).unwrap_err();
            let found = problems.iter().any(|problem| problem.contains("oembed") && problem.contains(word));
            assert!(found, "{entry}: {problems:#?}");
        }
    }

    /// `bücher.example`, `localhost.` and the like never matched.
    #[test]
    fn a_list_entry_that_would_never_match_is_a_problem_that_names_it() {
        let text = "server_name: example.org\nfederation:\n  allow: ['https://a.example']\n  deny: ['evil.example:8448']\n\
                    previews:\n  allow_hosts: ['a b']\n  deny_hosts: ['fine.example', 'b\u{fc}*.example']\n";
        let problems = load_file(text, &[]).unwrap_err();
        for (line, key, entry) in [
            (3, "federation.allow", "`https://a.example`"),
            (4, "federation.deny", "`evil.example:8448`"),
            (6, "previews.allow_hosts", "`a b`"),
            (7, "previews.deny_hosts", "`b\u{fc}*.example`"),
        ] {
            let start = format!("sidecar.yaml:{line}: `{key}`");
            let found = problems.iter().any(|problem| problem.starts_with(&start) && problem.contains(entry));
            assert!(found, "{start} {entry}: {problems:#?}");
        }
        assert_eq!(problems.len(), 4, "{problems:#?}");
    }

    #[test]
    fn ports_of_links_are_any_one_or_a_list() {
        let load = |ports: &str| {
            let text = format!("server_name: example.org\npreviews:\n  ports: {ports}\n");
            load_file(&text, &[]).map(|loaded| loaded.config.previews.ports)
        };
        assert_eq!(load("any").unwrap(), Ports::Any);
        assert_eq!(load("443").unwrap(), Ports::Listed(vec![443]));
        assert_eq!(load("[80, 443]").unwrap(), Ports::Listed(vec![80, 443]));
        for (ports, word) in [("all", "`any`"), ("70000", "`any`"), ("-1", "`any`"), ("[]", "at least one")] {
            let problems = load(ports).unwrap_err();
            assert!(
                problems.len() == 1 && problems[0].starts_with("sidecar.yaml:3: `previews.ports`"),
                "{problems:?}"
            );
            assert!(problems[0].contains(word), "{problems:?}");
        }
        for (ports, expected) in
            [("any", Ports::Any), ("443", vec![443].into()), ("[80, 443]", vec![80, 443].into())]
        {
            let env = [("SIDECAR_SERVER_NAME", "example.org"), ("SIDECAR_PREVIEWS__PORTS", ports)];
            assert_eq!(load_file("", &env).unwrap().config.previews.ports, expected, "{ports}");
        }
    }

    #[test]
    fn what_a_preview_could_never_send_or_connect_to_is_a_problem() {
        let text = "server_name: example.org\npreviews:\n  user_agent: \"a\\nb\"\n  accept_language: [\"\"]\n  ports: [0]\n";
        let problems = load_file(text, &[]).unwrap_err();
        for (line, key) in [(3, "user_agent"), (4, "accept_language"), (5, "ports")] {
            let start = format!("sidecar.yaml:{line}: `previews.{key}`");
            assert!(problems.iter().any(|problem| problem.starts_with(&start)), "{start}: {problems:#?}");
        }
        assert_eq!(problems.len(), 3);
    }

    #[test]
    fn the_environment_wins_and_its_unknown_variables_are_warnings() {
        let env = [
            ("SIDECAR_SERVER_NAME", "env.example:8448"),
            ("SIDECAR_UPLOADS__MAX_SIZE", "1MiB"),
            ("SIDECAR_FEDERATION__ALLOW", "[\"*.example\", \"b.org\"]"),
            ("SIDECAR_COLOUR", "red"),
            ("PATH", "/bin"),
        ];
        let loaded = load_file("server_name: file.example\nuploads: {max_size: 2MiB}\n", &env).unwrap();
        assert_eq!(loaded.config.server_name.as_str(), "env.example:8448");
        assert_eq!(loaded.config.uploads.max_size.0, 1 << 20);
        assert_eq!(loaded.config.federation.allow, ["*.example", "b.org"]);
        assert_eq!(loaded.warnings.len(), 1);
        assert!(loaded.warnings[0].contains("SIDECAR_COLOUR"));
    }

    #[test]
    fn no_complaint_about_a_url_shows_its_password() {
        for url in
            ["ftp://user:secret@host", "user:secret@host", "http://user:secret@ho st", "htp://a:secret@b@c"]
        {
            let problems = load_file(&format!("server_name: a.example\nhomeserver: {{url: '{url}'}}\n"), &[])
                .unwrap_err();
            assert!(problems[0].contains("[redacted]@") && !problems[0].contains("secret"), "{problems:?}");
        }
        assert_eq!(redacted("http://127.0.0.1:6167"), "http://127.0.0.1:6167");
    }

    #[test]
    fn printing_round_trips_and_redacts() {
        let text = "server_name: example.org\nlisten: [127.0.0.1:1, 'unix:/run/x']\nhomeserver:\n  \
                    url: http://user:secret@127.0.0.1:6167\n";
        let config = load_file(text, &[]).unwrap().config;
        assert_eq!(config.listen.addresses.len(), 2);
        let printed = config.to_yaml();
        assert!(!printed.contains("secret"), "{printed}");
        let again = load_file(&printed, &[]).unwrap().config;
        assert_eq!(again.to_yaml(), printed);
        assert_eq!(again.listen, config.listen);
        assert!(matches!(again.listen.addresses[1], ListenAddr::Unix(_)));
    }
}
