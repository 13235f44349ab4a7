//! The sidecar as its neighbours see it: over real HTTP, with a stand-in homeserver and scripted remote servers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::wildcard_enum_match_arm,
    clippy::missing_docs_in_private_items,
    clippy::missing_panics_doc,
    clippy::let_underscore_must_use,
    let_underscore_drop,
    unreachable_pub,
    clippy::format_push_string,
    clippy::match_bool,
    clippy::match_same_arms,
    clippy::cast_precision_loss,
    clippy::needless_for_each,
    clippy::print_stdout,
    reason = "tests"
)]

mod accounts;
mod animated;
mod arriving;
mod async_uploads;
mod attacks;
mod attacks_in_full_size;
mod bad_pictures;
mod binary;
mod check;
mod clock;
mod crash;
mod damaged_blobs;
mod discovery;
mod downloads;
mod faults;
mod federation_inbound;
mod federation_outbound;
mod first_contact;
mod freeze;
mod harness;
mod housekeeping;
mod keys;
mod load;
mod moderation;
mod operations;
mod previews;
mod previews_fetch;
mod previews_guard;
mod previews_pages;
mod previews_pictures;
mod quotas;
mod reload;
mod remote_answers;
mod remotes;
mod routes;
mod slow_remotes;
mod soak;
mod systemd;
mod thumbnails;
mod unix_homeserver;
mod uploads;
