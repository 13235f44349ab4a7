//! Messages about invalid configurations, and the values of valid ones.

use super::*;
use crate::config::{ListenAddr, Ports, redacted};
use crate::matrix::ServerName;

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
        ("homeserver: http://a", "1: `homeserver`: `http://a` is not a group of keys (lines like `url: http"),
        ("homeserver: [a]", "1: `homeserver`: it is a list; give a group of keys"),
        ("homeserver: [3]", "1: `homeserver`: it is a list; give a group of keys"),
        ("homeserver: {url: 'http://a:66167'}", "`http://a:66167` has an invalid port (use 1 to 65535)"),
        ("homeserver: {url: 7}", "1: `homeserver.url`: `7` is not text; put it in quotes"),
        ("homeserver: {url: 'http://localhost:8090'}", "is where media-sidecar itself listens (`listen`)"),
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
        ("federation: {deny: [a, 2]}", "1: `federation.deny`: entry 2: `2` is not text; put it in quotes"),
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
        ("listen: {addresses: 8090}", "1: `listen.addresses`: `8090` is not an address or a list of them"),
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
        ("ops: {listen: 127.0.0.1:8090}", "1: `ops.listen`: `127.0.0.1:8090` is in `listen` too"),
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
    let (list, trusted) = ("[127.0.0.1:1, 'unix:/run/x']", "trust_forwarded: [10.0.0.0/8, '2001:db8::1']");
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
    let text =
        "log: 7\nfederation:\n  ip_deny:\n  - a\n  - 10.0.0.0/8\n  - b\n  - c\nserver_name: example.org\n";
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
        let problems =
            load_file(&format!("server_name: a.example\nhomeserver: {{url: '{url}'}}\n"), &[]).unwrap_err();
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
