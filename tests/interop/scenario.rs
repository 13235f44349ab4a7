//! Two homeservers that exchange media: A, a Synapse without media and a sidecar with its key; B, a Synapse with its own.

use std::time::Instant;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::client::Answer;
use crate::process::Process;
use crate::world::{MAX_UPLOAD, Media, Sidecar, Synapse, World};

/// A file name that does not fit ASCII.
const NAME: &str = "Ünïcödé 写真.png";

/// A picture that Synapse can make smaller.
const PICTURE: &[u8] = include_bytes!("../../assets/demo.png");

/// What a user uploads.
pub struct Upload<'a> {
    pub name: &'a str,
    pub content_type: &'a str,
    pub bytes: &'a [u8],
}

/// What is uploaded in most steps.
const NAMED_PICTURE: Upload<'_> = Upload { name: NAME, content_type: "image/png", bytes: PICTURE };

/// Everything that runs. Dropped in this order.
pub struct Scenario {
    front_a: Option<Process>,
    front_b: Option<Process>,
    pub sidecar_a: Sidecar,
    sidecar_b: Option<Sidecar>,
    pub a: Synapse,
    pub b: Synapse,
    alice: String,
    bob: String,
    pub world: World,
    started: Instant,
}

impl Scenario {
    pub fn start() -> Self {
        let started = Instant::now();
        let world = World::new();
        println!("== two homeservers and a sidecar start");
        let mut a = Synapse::start(&world, "a", "127.0.0.1", Media::Sidecar);
        let mut b = Synapse::start(&world, "b", "localhost", Media::Synapse);
        a.wait();
        b.wait();
        let sidecar_a = Sidecar::start(&world, "a", &a);
        let front_a =
            world.start_proxy("nginx-a", "nginx", &world.proxy_config(&sidecar_a.folder, "nginx"), &a.name);
        let front_b = world.start_proxy("nginx-b", "nginx", &front_without_sidecar(&world, &b), &b.name);
        let alice = a.register(&world, "alice");
        let bob = b.register(&world, "bob");
        Self {
            front_a: Some(front_a),
            front_b: Some(front_b),
            sidecar_a,
            sidecar_b: None,
            a,
            b,
            alice,
            bob,
            world,
            started,
        }
    }

    /// Begins a step, after telling what the servers logged in the one before.
    pub fn step(&mut self, what: &str) {
        self.tell_logs();
        println!("\n== {:.1} s: {what}", self.started.elapsed().as_secs_f32());
    }

    fn tell_logs(&mut self) {
        let sidecar_b = self.sidecar_b.as_mut().map(|sidecar| ("sidecar B", &mut sidecar.process.log));
        let logs = [
            ("sidecar A", &mut self.sidecar_a.process.log),
            ("Synapse A", &mut self.a.process.log),
            ("Synapse B", &mut self.b.process.log),
        ];
        for (name, log) in logs.into_iter().chain(sidecar_b) {
            for line in log.news().iter().filter_map(|line| shortened(line)) {
                println!("     {name}: {line}");
            }
        }
    }

    /// The proxy shows the homeserver with the sidecar's additions, and nothing of the sidecar's inside.
    pub fn front_is_the_homeserver_with_media(&self) {
        let (a, client) = (&self.a, &self.world.client);
        let versions = client.get(&a.name, "/_matrix/client/versions").send().expect(200).json();
        assert_eq!(versions["unstable_features"]["org.matrix.msc3916.stable"], true);
        assert!(versions["versions"].as_array().unwrap().iter().any(|version| version == "v1.11"));
        let keys = client.get(&a.name, "/_matrix/key/v2/server").send().expect(200).json();
        assert!(keys["verify_keys"][a.key.key_id()].is_object(), "{keys}");
        let whoami = client.get(&a.name, "/_matrix/client/v3/account/whoami").token(&self.alice).send();
        assert_eq!(whoami.expect(200).json()["user_id"], format!("@alice:{}", a.name));
        let config = client.get(&a.name, "/_matrix/client/v1/media/config").token(&self.alice).send();
        assert_eq!(config.expect(200).json()["m.upload.size"], MAX_UPLOAD);
        client.get(&a.name, "/_sidecar/health").send().expect(404);
    }

    /// A user of A uploads; gives `server_name/media_id`.
    pub fn alice_uploads(&self, upload: &Upload<'_>) -> String {
        self.upload(&self.a, &self.alice, upload)
    }

    /// A user of B uploads.
    pub fn bob_uploads(&self, upload: &Upload<'_>) -> String {
        self.upload(&self.b, &self.bob, upload)
    }

    fn upload(&self, at: &Synapse, token: &str, upload: &Upload<'_>) -> String {
        let name = utf8_percent_encode(upload.name, NON_ALPHANUMERIC);
        let target = format!("/_matrix/media/v3/upload?filename={name}");
        let ask = self.world.client.post(&at.name, &target).token(token);
        let uploaded = ask.body(upload.content_type, upload.bytes).send().expect(200).json();
        let path = uploaded["content_uri"].as_str().unwrap().strip_prefix("mxc://").unwrap().to_owned();
        println!("     mxc://{path}");
        assert!(path.starts_with(&format!("{}/", at.name)), "{path}");
        path
    }

    pub fn alice_gets(&self, target: &str) -> Answer {
        self.world.client.get(&self.a.name, target).token(&self.alice).send()
    }

    pub fn bob_gets(&self, target: &str) -> Answer {
        self.world.client.get(&self.b.name, target).token(&self.bob).send()
    }

    /// B's user downloads what A's uploaded, and the other way round, each through their own server.
    pub fn media_crosses_both_ways(&mut self) {
        self.step("alice uploads at A, through the proxy to the sidecar");
        let picture = self.alice_uploads(&NAMED_PICTURE);
        self.step("bob downloads it at B: Synapse B fetches it from A, signed");
        is_the_picture(&self.bob_gets(&download(&picture)));
        self.sidecar_a.process.log.wait_for(&[
            "/_matrix/federation/v1/media/download/{m}",
            "status=200",
            &self.b.name,
        ]);

        self.step("alice downloads it at A, with a token and in the old way without");
        is_the_picture(&self.alice_gets(&download(&picture)));
        let legacy = format!("/_matrix/media/v3/download/{picture}");
        is_the_picture(&self.world.client.get(&self.a.name, &legacy).send());
        let client = &self.world.client;
        client.get(&self.a.name, &download(&picture)).send().fails(401, "M_MISSING_TOKEN");

        self.step(
            "bob uploads at B, to Synapse; alice downloads it at A: Synapse B checks the sidecar's signature",
        );
        let picture = self.bob_uploads(&NAMED_PICTURE);
        is_the_picture(&self.alice_gets(&download(&picture)));
        let id = picture.split_once('/').unwrap().1;
        let asked = format!("\"GET /_matrix/federation/v1/media/download/{id}");
        self.b.process.log.wait_for(&[&asked, " 200 "]);

        self.step("8 MB cross each way");
        let bytes: Vec<u8> =
            (0..2_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let large = self.alice_uploads(&large_file(&bytes));
        assert!(self.bob_gets(&download(&large)).expect(200).body == bytes);
        let bytes: Vec<u8> = bytes.into_iter().rev().collect();
        let large = self.bob_uploads(&large_file(&bytes));
        assert!(self.alice_gets(&download(&large)).expect(200).body == bytes);
    }

    /// What each server says when it must refuse.
    pub fn refusals_are_understood(&mut self) {
        self.step("servers that do not sign, or sign for another request, get nothing from A");
        let picture = self.alice_uploads(&NAMED_PICTURE);
        let id = picture.split_once('/').unwrap().1;
        let (client, a) = (&self.world.client, &self.a);
        for path in [
            format!("/_matrix/federation/v1/media/download/{id}"),
            format!("/_matrix/federation/v1/remote_media/download/{picture}"),
        ] {
            client.get(&a.name, &path).send().fails(401, "M_UNAUTHORIZED");
            client.get(&a.name, &path).signed(&self.b.key, &a.name).send().expect(200);
            client
                .get(&a.name, &path)
                .signed(&self.b.key, "elsewhere.test")
                .send()
                .fails(401, "M_UNAUTHORIZED");
        }

        self.step("uploads a byte too large, and far too large: the proxy leaves the refusal to the sidecar");
        for excess in [1, 4 << 20] {
            let (client, a, too_large) = (&self.world.client, &self.a, vec![0; MAX_UPLOAD + excess]);
            let upload = client.post(&a.name, "/_matrix/media/v3/upload").token(&self.alice);
            let refused = upload.body("image/png", &too_large).send();
            assert_eq!(refused.header("access-control-allow-origin"), Some("*"), "{:?}", refused.headers);
            refused.fails(413, "M_TOO_LARGE");
        }

        self.step("media that does not exist: both sides say so");
        self.bob_gets(&download(&format!("{}/missing", self.a.name))).fails(404, "M_NOT_FOUND");
        self.alice_gets(&download(&format!("{}/missing", self.b.name))).fails(404, "M_NOT_FOUND");

        self.step(
            "Synapse does not know MSC1902's route between servers, and says it as the sidecar expects",
        );
        let path = format!("/_matrix/federation/v1/remote_media/download/{}/missing", self.b.name);
        let client = &self.world.client;
        client.get(&self.b.name, &path).signed(&self.a.key, &self.b.name).send().fails(404, "M_UNRECOGNIZED");
        let path = "/_matrix/federation/v1/media/download/missing";
        client.get(&self.b.name, path).send().fails(401, "M_UNAUTHORIZED");
    }

    /// A signature covers the target as it was sent: it holds only if the proxy of A changes no byte.
    pub fn targets_arrive_byte_for_byte(&mut self, proxy: &str) {
        self.step(&format!("{proxy} passes odd targets on byte for byte: a signature over them holds"));
        let picture = self.alice_uploads(&NAMED_PICTURE);
        let (name, id) = picture.split_once('/').unwrap();
        let (client, a) = (&self.world.client, &self.a);
        let (first, rest) = id.split_at(1);
        let escaped = format!("%{:02x}{rest}", first.as_bytes()[0]);
        let colon = name.replace(':', "%3a");
        for target in [
            format!("/_matrix/federation/v1/remote_media/download/{colon}/{id}?allow_remote=false"),
            format!(
                "/_matrix/federation/v1/remote_media/download/{name}/{escaped}?x=%7e%2F%2f//../;a=b&&+%20~"
            ),
            format!("/_matrix/federation/v1/media/download/{escaped}?timeout_ms=20000&"),
            format!(
                "/_matrix/federation/unstable/org.matrix.msc1902/remote_media/download/{colon}/{escaped}?"
            ),
        ] {
            let signed = client.get(&a.name, &target).signed(&self.b.key, &a.name).send().expect(200);
            assert!(signed.body.windows(PICTURE.len()).any(|window| window == PICTURE));
        }
        for file_name in ["a b%2F…?.png", "100%.png", "x/../../y.png", "sl//ash\\.png", "%C3%28"] {
            let encoded = utf8_percent_encode(file_name, NON_ALPHANUMERIC).to_string();
            for encoded in [encoded.clone(), encoded.to_lowercase().replace("%2e", ".")] {
                let target = format!("/_matrix/client/v1/media/download/{colon}/{escaped}/{encoded}");
                let named = self.alice_gets(&target).expect(200);
                assert_eq!(named.file_name().to_lowercase(), file_name.to_lowercase());
                assert!(named.body == PICTURE);
            }
        }
    }

    /// `check` finds nothing wrong with A.
    pub fn check_is_content(&mut self, proxy: &str) {
        self.step(&format!("`media-sidecar check` looks at A through {proxy}"));
        is_content(&self.sidecar_a);
    }

    /// What nginx does unless it is told otherwise is told by `check`, each cause once.
    pub fn nginx_without_the_two_lines_that_matter_fails(&mut self) {
        self.step("nginx without client_max_body_size and proxy_http_version: `check` says both");
        self.front_a = None;
        let configuration = self.world.proxy_config(&self.sidecar_a.folder, "nginx");
        let careless = configuration
            .replace("client_max_body_size 0;", "")
            .replace("proxy_http_version 1.1;", "")
            .replace("proxy_request_buffering off;", "");
        assert_ne!(careless, configuration);
        let front = self.world.start_proxy("nginx-a", "nginx", &careless, &self.a.name);
        let (is_content, report) = self.sidecar_a.check();
        print!("{report}");
        assert!(!is_content);
        let failures: Vec<_> = report.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert_eq!(failures.len(), 2, "{report}");
        assert!(failures[0].contains("reaches media-sidecar as HTTP/1.0"), "{report}");
        assert!(failures[1].contains("too large for the proxy (status 413)"), "{report}");
        drop(front);
        self.front_a = Some(self.world.start_proxy("nginx-a", "nginx", &configuration, &self.a.name));
    }

    /// Caddy takes nginx's place before A.
    pub fn caddy_takes_over(&mut self) {
        self.step("Caddy takes nginx's place, with what proxy-config prints for it");
        self.front_a = None;
        let configuration = self.world.proxy_config(&self.sidecar_a.folder, "caddy");
        self.front_a = Some(self.world.start_proxy("caddy-a", "caddy", &configuration, &self.a.name));
    }

    /// A sidecar takes the media of B over, and the two sidecars meet.
    pub fn two_sidecars_meet(&mut self) {
        self.step("bob's picture from before, at B's Synapse, which has its media still");
        let old = self.bob_uploads(&NAMED_PICTURE);
        is_the_picture(&self.bob_gets(&download(&old)));

        self.step("a sidecar with Synapse B's key takes B's media over, behind nginx");
        self.front_b = None;
        let sidecar_b = Sidecar::start(&self.world, "b", &self.b);
        let configuration = self.world.proxy_config_with(&sidecar_b.folder, "nginx", &["--fallback"]);
        self.front_b = Some(self.world.start_proxy("nginx-b", "nginx", &configuration, &self.b.name));
        is_content(&sidecar_b);
        self.sidecar_b = Some(sidecar_b);

        self.step("with --fallback the picture from before is there, for clients and for servers, and only to whom it may be shown");
        is_the_picture(&self.bob_gets(&download(&old)));
        let (client, b, id) = (&self.world.client, &self.b, old.split_once('/').unwrap().1);
        let thumbnail = format!("/_matrix/client/v1/media/thumbnail/{old}?width=96&height=96&method=crop");
        assert_eq!(self.bob_gets(&thumbnail).expect(200).header("content-type"), Some("image/png"));
        client.get(&b.name, &download(&old)).send().fails(401, "M_MISSING_TOKEN");
        let signed = format!("/_matrix/federation/v1/media/download/{id}");
        let answer = client.get(&b.name, &signed).signed(&self.a.key, &b.name).send().expect(200);
        assert!(answer.body.windows(PICTURE.len()).any(|window| window == PICTURE));
        client.get(&b.name, &signed).send().fails(401, "M_UNAUTHORIZED");
        is_the_picture(&self.alice_gets(&download(&old)));
        self.bob_gets(&download(&format!("{}/missing", self.b.name))).fails(404, "M_NOT_FOUND");

        self.step("alice uploads at A, bob downloads at B: the sidecars use MSC1902's remote_media");
        let picture = self.alice_uploads(&NAMED_PICTURE);
        is_the_picture(&self.bob_gets(&download(&picture)));
        let route = "/_matrix/federation/v1/remote_media/download/{o}/{m}";
        let caller = self.b.name.clone();
        self.sidecar_a.process.log.wait_for(&[route, "status=200", &format!("caller=\"{caller}\"")]);

        self.step("bob uploads at B, alice downloads at A");
        let picture = self.bob_uploads(&NAMED_PICTURE);
        is_the_picture(&self.alice_gets(&download(&picture)));
        let log = &self.sidecar_b.as_ref().unwrap().process.log;
        log.wait_for(&["media/download/", "status=200", &format!("caller=\"{}\"", self.a.name)]);
    }
}

/// Fails unless `check` finds nothing wrong.
fn is_content(sidecar: &Sidecar) {
    let (is_content, report) = sidecar.check();
    print!("{report}");
    assert!(is_content && !report.contains("FAIL"), "{report}");
}

/// Bytes of no type.
fn large_file(bytes: &[u8]) -> Upload<'_> {
    Upload { name: "large", content_type: "application/octet-stream", bytes }
}

/// The released route for clients.
fn download(path: &str) -> String {
    format!("/_matrix/client/v1/media/download/{path}")
}

/// Fails unless bytes, type and name are the uploaded ones.
fn is_the_picture(answer: &Answer) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.body == PICTURE, "other bytes");
    assert_eq!(answer.header("content-type"), Some("image/png"));
    assert_eq!(answer.file_name(), NAME);
}

/// What stands before a Synapse that has its media itself.
fn front_without_sidecar(world: &World, synapse: &Synapse) -> String {
    let port = synapse.name.rsplit_once(':').unwrap().1;
    let (cert, key) = (world.path("cert.pem"), world.path("key.pem"));
    format!(
        "events {{}}
        http {{
            access_log off;
            server {{
                listen {port} ssl;
                listen [::]:{port} ssl;
                ssl_certificate {};
                ssl_certificate_key {};
                client_max_body_size 50m;
                # Its files would lie in a folder that the last nginx to start gave to its own user.
                proxy_request_buffering off;
                proxy_max_temp_file_size 0;
                location / {{
                    proxy_pass {};
                    proxy_set_header Host $http_host;
                    proxy_set_header X-Forwarded-For $remote_addr;
                    proxy_set_header X-Forwarded-Proto https;
                }}
            }}
        }}",
        cert.display(),
        key.display(),
        synapse.url()
    )
}

/// An access line without what does not matter here; other lines only when something is wrong.
fn shortened(line: &str) -> Option<String> {
    if let Some((before, rest)) = line.split_once(" Processed request: ") {
        let caller = before.rsplit(' ').next()?.trim_matches(['{', '}']);
        let (measured, request) = rest.split_once('"')?;
        let status = measured.trim_end().rsplit(' ').next()?;
        let request = request.split('"').next()?;
        return Some(format!("{status} {request} by {caller}"));
    }
    match line.split_once("INFO ") {
        Some((_, access)) if access.contains("status=") => Some(access.to_owned()),
        Some(_) => None,
        None => Some(line.to_owned()),
    }
}
