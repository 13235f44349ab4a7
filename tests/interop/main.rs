//! The sidecar among real neighbours: Synapse, nginx, Caddy, over TLS on loopback. `tests/interop/install.sh` installs them;
//! `.ci/run` does that and runs these tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::arithmetic_side_effects,
    clippy::missing_docs_in_private_items,
    clippy::format_push_string,
    clippy::print_stdout,
    unreachable_pub,
    reason = "tests"
)]

mod client;
mod process;
mod scenario;
mod thumbnails;
mod world;

use scenario::Scenario;
use serde_json::json;
use world::{Synapse, World, proxy_program};

#[test]
#[ignore = "needs Synapse, nginx and Caddy: .ci/run installs and runs them"]
fn synapse_and_sidecars_exchange_media_through_nginx_and_caddy() {
    let mut scenario = Scenario::start();
    scenario.step("A is a homeserver with media, behind what proxy-config nginx prints");
    scenario.front_is_the_homeserver_with_media();
    scenario.media_crosses_both_ways();
    scenario.thumbnails_are_shown_by_both();
    scenario.refusals_are_understood();
    scenario.targets_arrive_byte_for_byte("nginx");
    scenario.check_is_content("nginx");
    scenario.nginx_without_the_two_lines_that_matter_fails();
    scenario.caddy_takes_over();
    scenario.front_is_the_homeserver_with_media();
    scenario.media_crosses_both_ways();
    scenario.refusals_are_understood();
    scenario.targets_arrive_byte_for_byte("Caddy");
    scenario.check_is_content("Caddy");
    scenario.two_sidecars_meet();
    scenario.sidecars_show_thumbnails_of_each_other();
}

#[test]
#[ignore = "needs Synapse, nginx and Caddy: .ci/run installs and runs them"]
fn nginx_and_caddy_take_every_configuration() {
    for command in [
        Synapse::command("python").args(["-c", "import synapse; print('Synapse', synapse.__version__)"]),
        proxy_program("nginx").arg("-v"),
        proxy_program("caddy").arg("version"),
    ] {
        let output = process::run(command);
        print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    let world = World::new();
    for config in [
        json!({"server_name": "example.org"}),
        json!({"server_name": "example.org:28448", "uploads": {"max_size": "5GiB"}}),
        json!({"server_name": "127.0.0.1", "listen": "unix:/run/media-sidecar.sock"}),
        json!({"server_name": "[::1]:28448", "listen": "[::]:8090", "homeserver": {"url": "http://[::1]:8008"}}),
        json!({"server_name": "example.org", "homeserver": {"url": "https://localhost"}}),
        json!({"server_name": "example.org", "homeserver": {"url": "unix:/run/conduwuit/conduwuit.sock"}}),
    ] {
        println!("{config}");
        std::fs::write(world.path("sidecar.yaml"), config.to_string()).unwrap();
        // A name that might be looked up is not: these tests stay on this machine.
        let name = config["server_name"].as_str().unwrap();
        let is_bare = name == "example.org";
        for (proxy, options) in [
            ("nginx", &["--public-host", name][..]),
            ("caddy", &["--public-host", name]),
            ("nginx", &["--public-host", name, "--fallback"]),
            ("nginx", &["--public-host", "matrix.example.org"]),
            ("caddy", &["--public-host", "matrix.example.org:8443"]),
        ] {
            if is_bare || options[1] == name {
                let configuration = world.proxy_config_with(&world.path(""), proxy, options);
                world.check(proxy, &configuration);
            }
        }
    }
}
