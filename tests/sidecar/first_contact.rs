//! What somebody reads who has just begun: no file, the wrong file, a file full of typing errors.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;

use crate::binary::{Folder, command, text};

/// What the program says of a configuration file with these bytes: standard error of `config`.
fn complaint(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("sidecar.yaml"), bytes).unwrap();
    let output = command(folder.path()).arg("config").output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    text(&output.stderr)
}

#[test]
fn without_a_file_it_says_where_it_looked_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().canonicalize().unwrap().join("sidecar.yaml");
    for arguments in [&["serve"][..], &["config"], &["check"], &["key", "show"], &["proxy-config", "nginx"]] {
        let output = command(folder.path()).args(arguments).output().unwrap();
        let told = text(&output.stderr) + &text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{told}");
        for words in [
            "no configuration file: looked for ",
            here.to_str().unwrap(),
            "/etc/media-sidecar/sidecar.yaml",
            "copy the shipped sidecar.yaml",
            "--config",
        ] {
            assert!(told.contains(words), "{arguments:?}: {words} is not in {told}");
        }
        assert_eq!(told.lines().count(), 1, "{told}");
    }
    // The environment may say everything.
    let output =
        command(folder.path()).arg("config").env("SIDECAR_SERVER_NAME", "example.org").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_file_that_is_none_is_told_as_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("d")).unwrap();
    let private = folder.path().join("private.yaml");
    std::fs::write(&private, "server_name: example.org\n").unwrap();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    for (file, told) in [
        ("nope.yaml", "media-sidecar: nope.yaml: there is no such file; name another with --config\n"),
        ("d", "media-sidecar: d: it is a folder; name the file in it (like --config d/sidecar.yaml)\n"),
        (
            "/dev/zero",
            "media-sidecar: /dev/zero: it is too large for a configuration; name another file with --config\n",
        ),
    ] {
        let output = command(folder.path()).args(["config", "--config", file]).output().unwrap();
        assert_eq!(text(&output.stderr), told);
    }
    let mut unprivileged = command(folder.path());
    unprivileged.args(["config", "--config", "private.yaml"]);
    if rustix::process::geteuid().is_root() {
        unprivileged.uid(65534).gid(65534);
        let told = text(&unprivileged.output().unwrap().stderr);
        assert!(told.starts_with("media-sidecar: private.yaml: this user may not read it; "), "{told}");
    }
}

#[test]
fn broken_files_are_told_once_with_line_and_column() {
    for (bytes, told) in [
        (
            &b""[..],
            "sidecar.yaml: `server_name`: missing; set it to the name in your users' IDs (`server_name: example.org`)",
        ),
        (
            b"# nothing\n",
            "sidecar.yaml: `server_name`: missing; set it to the name in your users' IDs (`server_name: example.org`)",
        ),
        (b"server_name: a\nlog: \xff\n", "sidecar.yaml:2: it is not UTF-8 text; save the file as UTF-8"),
        (b"\xff\xfes\0e\0", "sidecar.yaml:1: it is not UTF-8 text; save the file as UTF-8"),
        (b"uploads:\n\tmax_size: 3\n", "sidecar.yaml:2: a tab; YAML is indented with spaces (column 1)"),
        (b"log: info\nlog: warn\n", "sidecar.yaml:2: `log` is in the same group twice; keep one (column 1)"),
        (
            "# ü\nlog: ü: a\n".as_bytes(),
            "sidecar.yaml:2: the indentation differs from the lines above, or a value that contains `: ` needs quotes (column 7)",
        ),
        (
            b"server_name example.org\n",
            "sidecar.yaml:1: expected lines like `server_name: example.org`, with a colon and a space",
        ),
    ] {
        let complaint = complaint(bytes);
        assert_eq!(complaint, format!("media-sidecar: {told}\n"));
    }
}

#[test]
fn no_complaint_has_words_of_the_code() {
    for (yaml, told) in [
        ("homeserver: {guests: true}", "`homeserver.guests`: `true` is not spec or allow"),
        ("homeserver: {guests: [allow]}", "`homeserver.guests`: it is a list; give spec or allow"),
        ("unauthenticated_media: true", "`unauthenticated_media`: `true` is not open, frozen or closed"),
        ("federation: {families: [true]}", "entry 1: `true` is not msc1902, msc3916 or legacy"),
        ("data_dir: ''", "`data_dir`: must not be empty"),
    ] {
        let said = complaint(format!("server_name: example.org\n{yaml}\n").as_bytes());
        assert!(said.contains(told), "{said}");
        assert!(!said.contains("enum") && !said.contains("expected"), "{said}");
    }
}

#[test]
fn a_homeserver_url_that_leads_to_the_sidecar_itself_is_refused() {
    let folder = Folder::new("");
    for (url, listen) in
        [("http://localhost:8090", "127.0.0.1:8090"), ("unix:/run/x.sock", "unix:/run/x.sock")]
    {
        let output = command(folder.folder.path())
            .arg("serve")
            .env("SIDECAR_HOMESERVER__URL", url)
            .env("SIDECAR_LISTEN", listen)
            .output()
            .unwrap();
        let told = text(&output.stderr);
        let words = format!("`{url}` is where media-sidecar itself listens");
        assert!(output.status.code() == Some(1) && told.contains(&words), "{told}");
    }
}

#[test]
fn a_proxys_configuration_follows_a_public_host_and_offers_a_fallback() {
    let folder = Folder::new("");
    let print = |options: &[&str]| {
        let mut command = command(folder.folder.path());
        command.args(["proxy-config", "nginx"]).args(options);
        command.env("SIDECAR_SERVER_NAME", "example.org").env("SIDECAR_LISTEN", "127.0.0.1:8090");
        command.output().unwrap()
    };
    let output = print(&["--public-host", "matrix.example.org", "--fallback"]);
    let printed = text(&output.stdout);
    for part in [
        "server_name matrix.example.org;",
        r#"return 200 '{"m.server":"matrix.example.org:443"}';"#,
        r#"return 200 '{"m.homeserver":{"base_url":"https://matrix.example.org"}}';"#,
        "error_page 404 = @homeserver;",
        "client_max_body_size 0;",
    ] {
        assert!(printed.contains(part), "{part} is not in\n{printed}{}", text(&output.stderr));
    }
    let refused = print(&["--public-host", "https://matrix.example.org"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
}

#[test]
fn an_address_that_is_taken_is_reported_with_its_fix() {
    let folder = Folder::new("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (listen, words) in [
        (address.as_str(), "Address already in use; stop the program that listens there, or set `listen`"),
        ("unix:/nope/x.sock", "No such file or directory; create its folder, or set `listen`"),
    ] {
        let output =
            command(folder.folder.path()).arg("serve").env("SIDECAR_LISTEN", listen).output().unwrap();
        assert_eq!(
            text(&output.stderr).lines().last(),
            Some(&*format!("media-sidecar: cannot listen on {listen}: {words}"))
        );
    }
}
