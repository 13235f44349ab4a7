//! One thumbnail in a process of its own, so that CPU time and peak memory are the whole cost: `--render OUT SIZE FILE`
//! makes it and prints KiB above idle and KiB estimated; `--plan SIZE FILE` prints the size it will have.
//!
//! `tests/bench/pictures.py` runs it beside others, and lays its results out to be looked at.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::exit, reason = "a command line of its own")]
#![allow(
    missing_docs,
    clippy::missing_docs_in_private_items,
    clippy::case_sensitive_file_extension_comparisons,
    reason = "the module's tests come along; file names are this file's own"
)]

use std::error::Error;
use std::fs::File;
use std::io::BufReader;

use config::ThumbnailSize;
use thumbnail::{Limits, Motion, Plan, ThumbnailRequest, estimate, probe, render};

/// What the module under measurement imports from the library.
mod config {
    pub(crate) use media_sidecar::config::{ThumbnailMethod, ThumbnailSize};
}

/// The library keeps the module to itself, so it is compiled in here.
#[allow(dead_code, unused_imports, reason = "only a part is measured")]
#[path = "../../src/thumbnail/mod.rs"]
mod thumbnail;

/// Whatever goes wrong.
type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--plan", size, file] => plan(size.parse()?, file),
        ["--render", out, size, file] => one(out, size.parse()?, file),
        _ => {
            println!("tests/bench/pictures.py compares");
            Ok(())
        }
    }
}

/// Renders one file and prints what it took.
fn one(out: &str, size: ThumbnailSize, file: &str) -> Outcome<()> {
    let idle = idle()?;
    let motion = if out.ends_with(".webp") { Motion::Animated } else { Motion::Still };
    let wanted = ThumbnailRequest { width: size.width, height: size.height, method: size.method, motion };
    let mut input = BufReader::new(File::open(file)?);
    let header = probe(&mut input)?;
    let Plan::Render(spec) = Plan::new(header.source(), wanted, &[]) else {
        println!("original");
        return Ok(());
    };
    let limits =
        Limits { max_pixels: 100_000_000, memory: 1 << 30, deadline: None, animation_deadline: None };
    let rendered = render(&mut input, &header, &[spec], &limits)?.remove(0);
    std::fs::write(out, rendered.bytes)?;
    report(idle, estimate(&header, &[spec]))
}

/// Prints KiB above idle and KiB estimated.
fn report(idle: u64, estimated: u64) -> Outcome<()> {
    println!("{} {}", status("VmHWM")?.saturating_sub(idle), estimated.div_euclid(1024));
    Ok(())
}

/// KiB of this process before it does anything.
fn idle() -> Outcome<u64> {
    std::fs::write("/proc/self/clear_refs", "5")?;
    status("VmHWM")
}

/// A figure of this process, in KiB.
fn status(key: &str) -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with(key)).ok_or("no such figure")?;
    Ok(line.split_whitespace().nth(1).ok_or("no value")?.parse()?)
}

/// Prints the size that a thumbnail will have, for others to make the same.
fn plan(size: ThumbnailSize, file: &str) -> Outcome<()> {
    let wanted = ThumbnailRequest {
        width: size.width,
        height: size.height,
        method: size.method,
        motion: Motion::Still,
    };
    let header = probe(&mut BufReader::new(File::open(file)?))?;
    match Plan::new(header.source(), wanted, &[]) {
        Plan::Render(spec) => println!("{} {}", spec.width, spec.height),
        Plan::Original => return Err(format!("{file} is smaller than asked").into()),
    }
    Ok(())
}
