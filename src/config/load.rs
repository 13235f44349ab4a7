//! From files and environment to a [`Config`], or to a list of everything that is wrong.

use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use saphyr::{Yaml, YamlEmitter};

use super::yaml::YamlFile;
use super::{Config, Family, OembedProvider, Previews, accept_language, host_glob};
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

/// Everything wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

/// Prefix of environment variables that set keys.
const PREFIX: &str = "SIDECAR_";

/// The configuration file to use: `given`, else `./sidecar.yaml`, else `/etc/media-sidecar/sidecar.yaml`.
/// `None` when neither default exists: the environment may say everything.
pub fn find(given: Option<&Path>) -> Option<PathBuf> {
    let defaults = [Path::new("sidecar.yaml"), Path::new("/etc/media-sidecar/sidecar.yaml")];
    given.or_else(|| defaults.into_iter().find(|path| path.is_file())).map(Path::to_owned)
}

/// Reads `path` and the variables of `env`, and judges the result. Relative paths in the configuration are
/// relative to the folder of the file.
pub fn load(
    path: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Problems> {
    let file = match path {
        Some(path) => Some(read(path).map_err(|message| unreadable(path, message))?),
        None => None,
    };
    judge(path, file, env)
}

/// [`load`] of `text`, the contents of `path`, for the fuzz targets.
#[cfg(any(fuzzing, test))]
pub(crate) fn load_text(path: &Path, text: &str) -> Result<Loaded, Problems> {
    let file = YamlFile::parse(path, text).map_err(|message| unreadable(path, message))?;
    judge(Some(path), Some(file), [])
}

/// The one problem of a file that cannot be read.
fn unreadable(path: &Path, message: String) -> Problems {
    Problems(vec![Problem { place: path.display().to_string(), key: String::new(), message }])
}

/// Judges the file and the variables.
fn judge(
    path: Option<&Path>,
    file: Option<YamlFile>,
    env: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, Problems> {
    let mut sources = Sources { path, file, env: BTreeMap::new(), problems: Vec::new() };
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
    match config {
        Some(config) if sources.problems.is_empty() => Ok(Loaded { config, warnings }),
        _ => Err(Problems(sources.problems)),
    }
}

impl Config {
    /// The configuration as YAML, credentials in URLs redacted.
    pub fn to_yaml(&self) -> String {
        let mut shown = self.clone();
        shown.homeserver.url = redacted(&shown.homeserver.url);
        let mut text = String::new();
        let tree = serde_json::to_value(&shown).unwrap_or_default();
        if YamlEmitter::new(&mut text).dump(&to_saphyr(&tree)).is_err() {
            text.clear();
        }
        format!("{}\n", text.trim_start_matches("---\n"))
    }
}

/// A URL, or what was meant for one, as it may be shown: without its credentials.
pub(crate) fn redacted(url: &str) -> String {
    let (scheme, rest) = url.find("://").map_or(("", url), |at| url.split_at(at.saturating_add(3)));
    rest.rsplit_once('@').map_or_else(|| url.to_owned(), |(_, host)| format!("{scheme}[redacted]@{host}"))
}

/// Where values come from, and what was wrong with them so far.
struct Sources<'a> {
    /// The file's path, if there is one.
    path: Option<&'a Path>,
    /// The file, parsed.
    file: Option<YamlFile>,
    /// Dotted key → value from the environment.
    env: BTreeMap<String, Value>,
    /// Findings.
    problems: Vec<Problem>,
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
            } else {
                let Ok(value) = text.parse::<Value>();
                self.env.insert(key, value);
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
        for (key, value) in &self.env {
            figment = figment.merge((key.as_str(), value));
        }
        for _attempt in 0..64 {
            let error = match figment.extract::<Config>() {
                Ok(config) => return Some(config),
                Err(error) => error,
            };
            let key = error.path.join(".");
            if let figment::error::Kind::MissingField(field) = &error.kind {
                self.complain(
                    field,
                    "missing; set it to the name in your users' IDs (`server_name: example.org`)",
                );
                figment = figment.merge((field.as_ref(), "missing.invalid"));
            } else {
                let (known, default) = nearest_key(defaults, &key)?;
                self.complain(known, error.kind.to_string());
                figment = figment.merge((known, default));
            }
        }
        None
    }

    /// What serde cannot see.
    fn validate(&mut self, config: &Config) {
        let url = &config.homeserver.url;
        let uri = url.parse::<hyper::Uri>().ok();
        let scheme = uri.as_ref().and_then(hyper::Uri::scheme_str);
        if !matches!(scheme, Some("http" | "https")) {
            let shown = redacted(url);
            self.complain("homeserver.url", format!("`{shown}` is not a URL (like http://127.0.0.1:6167)"));
        }
        if config.listen.is_empty() {
            self.complain("listen", "give at least one address (like 127.0.0.1:8090)");
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
            self.complain("previews.accept_language", why);
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
        let from_env = self.env.keys().find(|name| key.starts_with(name.as_str()));
        let file = self.path.map(|path| path.display().to_string());
        let line = self.file.as_ref().and_then(|file| file.line(key));
        let place = match (from_env, file, line) {
            (Some(name), ..) => format!("{PREFIX}{}", name.to_ascii_uppercase().replace('.', "__")),
            (None, Some(file), Some(line)) => format!("{file}:{line}"),
            (None, Some(file), None) => file,
            (None, None, _) => "environment".to_owned(),
        };
        self.problems.push(Problem { place, key: key.to_owned(), message: message.into() });
    }
}

/// Whether `text` is what `RUST_LOG` takes: a level, or `target=level` pairs. A lone word that is no level would be
/// taken for a target and silence everything else.
pub(crate) fn is_log_directives(text: &str) -> bool {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    let sensible = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    text.split(',').all(|part| sensible(part.trim())) && text.parse::<Targets>().is_ok()
}

/// Reads and parses one file; the error says what to do.
fn read(path: &Path) -> Result<YamlFile, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|why| format!("cannot read the configuration: {why}; name another file with --config"))?;
    YamlFile::parse(path, &text)
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
                unknown.push((path, known.keys().map(String::as_str).collect::<Vec<_>>().join(", ")));
            }
            (Some(Value::Dict(_, known)), Value::Dict(_, dict)) => {
                collect_unknown(dict, known, &path, unknown);
            }
            (Some(_), _) => {}
        }
    }
}

/// JSON's values as saphyr's, for printing.
fn to_saphyr(value: &serde_json::Value) -> Yaml<'_> {
    use serde_json::Value as Json;
    match value {
        Json::Null => Yaml::value_from_str("null"),
        Json::Bool(flag) => Yaml::value_from_str(if *flag { "true" } else { "false" }),
        Json::Number(number) => Yaml::Value(saphyr::Scalar::Integer(number.as_i64().unwrap_or(i64::MAX))),
        Json::String(text) => Yaml::Value(saphyr::Scalar::String(text.into())),
        Json::Array(items) => Yaml::Sequence(items.iter().map(to_saphyr).collect()),
        Json::Object(entries) => Yaml::Mapping(
            entries
                .iter()
                .map(|(key, value)| (Yaml::Value(saphyr::Scalar::String(key.into())), to_saphyr(value)))
                .collect(),
        ),
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
    use crate::config::ListenAddr;

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
        assert_eq!(config.listen.len(), 2);
        let printed = config.to_yaml();
        assert!(!printed.contains("secret"), "{printed}");
        let again = load_file(&printed, &[]).unwrap().config;
        assert_eq!(again.to_yaml(), printed);
        assert_eq!(again.listen, config.listen);
        assert!(matches!(again.listen[1], ListenAddr::Unix(_)));
    }
}
