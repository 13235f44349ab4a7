//! Programs, their logs and their ports.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take to come about.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// How long a program may take to end when asked to.
const FAREWELL: Duration = Duration::from_secs(5);

/// A running program with its output in a file. Ended when dropped.
pub struct Process {
    child: Child,
    pub log: Log,
}

impl Process {
    /// Starts `command`, which `name` stands for, with its output in `folder`.
    pub fn start(name: &str, folder: &Path, command: &mut Command) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {name}: {error}; see tests/interop/install.sh"));
        Self { child, log: Log { name: name.to_owned(), path: log, told: 0 } }
    }

    /// Waits until `ready` holds; fails at once when the program ends.
    pub fn wait_until(&mut self, what: &str, mut ready: impl FnMut() -> bool) {
        eventually(what, || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{} ended: {ended:?}\n{}", self.log.name, self.log.text());
            ready()
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = self.log.text();
            let last: Vec<&str> = text.lines().rev().take(40).collect();
            println!("== the end of what {} wrote", self.log.name);
            last.iter().rev().for_each(|line| println!("{line}"));
        }
        // nginx ends its workers when asked to end, and only then.
        _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let deadline = Instant::now() + FAREWELL;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            pause();
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a program wrote.
pub struct Log {
    name: String,
    path: PathBuf,
    /// Bytes already given by `news`.
    told: usize,
}

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.path).unwrap()).into_owned()
    }

    /// Whole lines written since the last call.
    pub fn news(&mut self) -> Vec<String> {
        let text = self.text();
        let news = &text[self.told..text.rfind('\n').map_or(self.told, |end| end + 1)];
        self.told += news.len();
        news.lines().map(str::to_owned).collect()
    }

    /// Waits for a line with all of `parts`.
    pub fn wait_for(&self, parts: &[&str]) {
        eventually(&format!("{} writes a line with {parts:?}", self.name), || {
            self.text().lines().any(|line| parts.iter().all(|part| line.contains(part)))
        });
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Output {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}; see tests/interop/install.sh"));
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    output
}

/// Waits until `condition` holds; fails loudly if it never does.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONGEST_WAIT;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        pause();
    }
}

/// Between two looks: leaves the processor to those who are waited for.
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// A port that nobody listens on. Below those that the system gives to outgoing connections, so that none of these takes it
/// before its listener starts.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id() % 10_000;
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(20_000 + (start + step) % 10_000).unwrap();
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}
