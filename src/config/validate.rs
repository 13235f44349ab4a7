//! Validation of a configuration whose types are right.
//!
//! Owns the rules that serde cannot know: values that exclude each other, and values that can never work.

use super::load::Sources;
use super::print::redacted;
use super::{
    Config, Family, HomeserverUrl, Limits, ListenAddr, OembedProvider, OpsListen, Places, Previews, Quotas,
    Size, UserPlaces, accept_language, host_glob,
};

/// Most places of a class for a kind of work.
const MAX_PLACES: u32 = 4096;

impl Sources<'_> {
    /// Reports every value that has the right type and cannot work.
    pub(super) fn validate(&mut self, config: &Config) {
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
        // Port 0 means a different free port each time.
        if let Some(OpsListen::At(address)) = &config.ops.listen
            && config.listen.addresses.contains(address)
            && !matches!(address, ListenAddr::Tcp(address) if address.port() == 0)
        {
            self.complain("ops.listen", format!("`{address}` is in `listen` too; use another address"));
        }
        self.validate_quotas(&config.quotas);
        if config.retention.every.0 < std::time::Duration::from_mins(1) {
            self.complain("retention.every", "must be at least 1m");
        }
        let families = &config.federation.families;
        let twice = |family: &Family| families.iter().filter(|other| *other == family).count() > 1;
        if families.is_empty() || families.iter().any(twice) {
            self.complain(
                "federation.families",
                "list each of msc1902, msc3916, legacy at most once, and at least one",
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
        self.validate_limits(&config.limits);
        if !is_log_directives(&config.log) {
            self.complain(
                "log",
                format!("`{}` is not a log level or list of directives (like info)", config.log),
            );
        }
    }

    /// Reports numbers of places that can never work. 0 shuts servers or strangers out; users cannot be shut out.
    fn validate_limits(&mut self, limits: &Limits) {
        let Limits { anonymous_fetch, stills, .. } = limits;
        let Limits { fetches, transfers, key_lookups, dns_lookups, homeserver_requests, .. } = limits;
        let Limits { header_reads, animations, previews, page_fetches, pending_waits, uploads, .. } = limits;
        let is_too_much = |count: u32| count > MAX_PLACES;
        for (key, least, Places { users, servers, unknown }) in [
            ("limits.fetches", 1, fetches),
            ("limits.transfers", 1, transfers),
            ("limits.key_lookups", 0, key_lookups),
            ("limits.dns_lookups", 1, dns_lookups),
            ("limits.homeserver_requests", 1, homeserver_requests),
            ("limits.header_reads", 1, header_reads),
            ("limits.animations", 1, animations),
            ("limits.pending_waits", 1, pending_waits),
        ] {
            if *users < least || [*users, *servers, *unknown].into_iter().any(is_too_much) {
                self.complain(
                    key,
                    format!("users must be {least} to {MAX_PLACES}, servers and unknown 0 to {MAX_PLACES}"),
                );
            }
        }
        for (key, UserPlaces { users }) in [
            ("limits.previews", previews),
            ("limits.page_fetches", page_fetches),
            ("limits.uploads", uploads),
        ] {
            if *users == 0 || is_too_much(*users) {
                self.complain(key, format!("users must be 1 to {MAX_PLACES}"));
            }
        }
        if is_too_much(stills.servers) || is_too_much(stills.unknown) {
            self.complain("limits.stills", format!("servers and unknown must be 0 to {MAX_PLACES}"));
        }
        let largest = Size(u64::from(u32::MAX >> 3));
        if anonymous_fetch.burst.0 == 0 || anonymous_fetch.burst > largest {
            self.complain("limits.anonymous_fetch.burst", "must be 1 to 511MiB");
        }
        if anonymous_fetch.rate.0 == 0 || anonymous_fetch.rate.0 > largest.0 {
            self.complain("limits.anonymous_fetch.rate", "must be 1/s to 511MiB/s");
        }
    }

    /// Reports entries of host lists that can never match.
    /// Reports quotas that match nobody, and a page that is none.
    fn validate_quotas(&mut self, quotas: &Quotas) {
        for quota in &quotas.users {
            if !quota.pattern.starts_with(['@', '*', '?']) {
                let why =
                    format!("`{}` matches no user ID (write it like \"@*:example.org\")", quota.pattern);
                self.complain("quotas.users", why);
            }
        }
        for quota in &quotas.servers {
            if quota.pattern.is_empty() {
                self.complain("quotas.servers", "`match` is missing (write it like \"*.example.org\")");
            }
        }
        let is_page =
            |text: &str| url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if let Some(page) = quotas.info_url.as_ref().filter(|page| !is_page(page)) {
            self.complain("quotas.info_url", format!("`{page}` is not an http or https URL"));
        }
    }

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

    /// Reports values that can never be sent or connected to.
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

    /// Reports oEmbed providers that can never be used.
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
}

/// Whether `text` is a valid `RUST_LOG`: a level, or `target=level` pairs. A single word that is not a level would be taken for a target and
/// silence everything else.
pub(crate) fn is_log_directives(text: &str) -> bool {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    let sensible = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    text.split(',').all(|part| sensible(part.trim())) && text.parse::<Targets>().is_ok()
}
