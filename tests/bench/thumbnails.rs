//! What a thumbnail costs beside `vipsthumbnail`: `cargo bench --bench thumbnails -- [--size 800x600-scale] FILE…`.
//!
//! Each picture is rendered in a process of its own, so that CPU time and peak memory are the whole cost; both sides
//! take their turns and the least of five runs counts. `--render OUT SIZE FILE` is such a process; its results can be
//! looked at.

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
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use config::{ThumbnailMethod, ThumbnailSize};
use thumbnail::{Limits, Motion, Plan, Wanted, estimate, probe, render};

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
        ["--idle"] => report(idle()?, 0),
        ["--render", out, size, file] => one(out, size.parse()?, file),
        ["--size", size, files @ ..] => compare(size, files),
        files => compare("800x600-scale", files),
    }
}

/// Renders one file and prints what it took.
fn one(out: &str, size: ThumbnailSize, file: &str) -> Outcome<()> {
    let idle = idle()?;
    let motion = if out.ends_with(".webp") { Motion::Animated } else { Motion::Still };
    let wanted = Wanted { width: size.width, height: size.height, method: size.method, motion };
    let mut input = BufReader::new(File::open(file)?);
    let header = probe(&mut input)?;
    let Plan::Render(job) = Plan::new(header.source(), wanted, &[]) else {
        println!("original");
        return Ok(());
    };
    let limits = Limits { max_pixels: 100_000_000, memory: 1 << 30, deadline: None };
    let rendered = render(&mut input, &header, &[job], &limits)?.remove(0);
    std::fs::write(out, rendered.bytes)?;
    report(idle, estimate(&header, &[job]))
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

/// Ours beside vipsthumbnail, file by file.
fn compare(size: &str, files: &[&str]) -> Outcome<()> {
    let own = std::env::current_exe()?;
    let parsed: ThumbnailSize = size.parse()?;
    let (box_width, box_height) = (parsed.width, parsed.height);
    // vipsthumbnail fits into its box where scale covers it: `<` aside, the covering size is asked for.
    println!("file, ms CPU ours/vips (ratio), ms wall ours/vips, MiB above idle (estimated), MiB vips");
    for file in files {
        let out = std::env::temp_dir().join("thumbnail-bench.out");
        let out = out.to_str().ok_or("no UTF-8")?;
        let theirs = std::env::temp_dir().join("thumbnail-bench.jpg");
        let geometry = geometry(file, (box_width, box_height), parsed.method)?;
        let (mut ours, mut vips) = (Cost::MOST, Cost::MOST);
        let mut printed = String::new();
        for _ in 0..5 {
            let (cost, text) = run(Command::new(&own).args(["--render", out, size, file]))?;
            ours = ours.least(cost);
            printed = text;
            let mut command = Command::new("vipsthumbnail");
            command.args([file, "--size", &geometry, "-o"]).arg(format!("{}[Q=80]", theirs.display()));
            vips = vips.least(run(&mut command)?.0);
        }
        let figures: Vec<f64> = printed.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [above, estimated] = figures.as_slice() else { return Err(printed.into()) };
        println!(
            "{file}: {:.0}/{:.0} ({:.2}), {:.0}/{:.0}, {:.1} ({:.1}), {:.1}",
            ours.cpu.as_secs_f64() * 1e3,
            vips.cpu.as_secs_f64() * 1e3,
            ours.cpu.as_secs_f64() / vips.cpu.as_secs_f64(),
            ours.wall.as_secs_f64() * 1e3,
            vips.wall.as_secs_f64() * 1e3,
            above / 1024.0,
            estimated / 1024.0,
            vips.peak_kib / 1024.0,
        );
    }
    Ok(())
}

/// The size that ours will have, in vipsthumbnail's words.
fn geometry(file: &str, (width, height): (u32, u32), method: ThumbnailMethod) -> Outcome<String> {
    let header = probe(&mut BufReader::new(File::open(file)?))?;
    let wanted = Wanted { width, height, method, motion: Motion::Still };
    match Plan::new(header.source(), wanted, &[]) {
        Plan::Render(job) => Ok(format!("{}x{}", job.width, job.height)),
        Plan::Original => Err(format!("{file} is smaller than asked").into()),
    }
}

/// What a process took.
#[derive(Clone, Copy)]
struct Cost {
    /// User and system.
    cpu: Duration,
    /// From start to end.
    wall: Duration,
    /// Resident at most, everything counted.
    peak_kib: f64,
}

impl Cost {
    /// More than anything takes.
    const MOST: Self = Self { cpu: Duration::MAX, wall: Duration::MAX, peak_kib: f64::MAX };

    /// The better of each.
    fn least(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.min(other.cpu),
            wall: self.wall.min(other.wall),
            peak_kib: self.peak_kib.min(other.peak_kib),
        }
    }
}

/// Runs a command under [`WITNESS`]: CPU and peak as the kernel counts them for that process alone.
fn run(command: &mut Command) -> Outcome<(Cost, String)> {
    let program = command.get_program().to_owned();
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let started = Instant::now();
    let output = Command::new("python3")
        .args(["-c", WITNESS])
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    let wall_limit = started.elapsed();
    let text = String::from_utf8(output.stdout)?;
    let (figures, printed) =
        text.split_once('\n').ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let figures: Vec<f64> = figures.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [cpu, wall, peak_kib] = figures.as_slice() else { return Err(printed.into()) };
    let wall = Duration::from_secs_f64(*wall).min(wall_limit);
    Ok((Cost { cpu: Duration::from_secs_f64(*cpu), wall, peak_kib: *peak_kib }, printed.to_owned()))
}

/// Runs its arguments and prints the CPU seconds, wall seconds and peak KiB of that process, then what it printed.
const WITNESS: &str = "
import os, subprocess, sys, time
start = time.monotonic()
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)
printed = child.stdout.read().decode()
_, status, use = os.wait4(child.pid, 0)
print(use.ru_utime + use.ru_stime, time.monotonic() - start, use.ru_maxrss)
print(printed, end='')
sys.exit(1 if status else 0)
";
