//! From addresses to a connection: the next one is tried soon, not when the one before it has given up.
//! [RFC 8305](https://www.rfc-editor.org/rfc/rfc8305).
//!
//! Owns the order of addresses and the memory of those that were slow. Each is checked by the guard just before it is connected
//! to. One thread tries them all.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};

use super::guard::Guard;

/// How long an address is alone before the next one is tried too (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How long an address that was overtaken comes after others.
const SLOW_KEPT: Duration = Duration::from_mins(10);

/// Such addresses remembered; about 60 bytes each.
const MAX_SLOW: usize = 1024;

/// Which addresses were slow.
pub(super) struct Memory {
    /// Overtaken by others, and until when they come after them.
    slow: Cache<SocketAddr, Instant>,
    /// Until when IPv4 comes first, everywhere: IPv6 was overtaken, which is this machine's fault as a rule.
    ipv4_first: Mutex<Option<Instant>>,
}

impl Memory {
    /// Knowing nothing.
    pub(super) fn new() -> Self {
        Self { slow: Cache::new(MAX_SLOW), ipv4_first: Mutex::default() }
    }

    /// The order in which to try the addresses of several hosts, at most `most` of them: host by host, within one by turns of
    /// IPv6 and IPv4, and those that were slow at the end.
    pub(super) fn order(&self, hosts: &[Vec<SocketAddr>], most: usize) -> Vec<SocketAddr> {
        let each = most.checked_div(hosts.len()).unwrap_or(most).max(1);
        let turns = hosts.iter().flat_map(|host| self.by_turns(host).into_iter().take(each));
        let mut ordered: Vec<SocketAddr> = Vec::new();
        for address in turns {
            if !ordered.contains(&address) {
                ordered.push(address);
            }
        }
        let now = Instant::now();
        ordered.sort_by_key(|address| self.slow.get(address).is_some_and(|until| now < until));
        ordered.truncate(most);
        ordered
    }

    /// Families by turns, beginning as the system's resolver does, whose order is that of RFC 6724.
    fn by_turns(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let until = *self.ipv4_first.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ipv4_first = until.is_some_and(|until| Instant::now() < until);
        let starts_with_ipv4 = is_ipv4_first || addresses.first().is_some_and(SocketAddr::is_ipv4);
        let (first, second): (Vec<_>, Vec<_>) =
            addresses.iter().copied().partition(|address: &SocketAddr| address.is_ipv4() == starts_with_ipv4);
        let (mut first, mut second) = (first.into_iter(), second.into_iter());
        let mut turns = Vec::with_capacity(addresses.len());
        while turns.len() < addresses.len() {
            turns.extend(first.next());
            turns.extend(second.next());
        }
        turns
    }

    /// Notes that `winner` connected before those of `tried` that were tried earlier.
    fn won(&self, winner: SocketAddr, tried: &[SocketAddr]) {
        self.slow.remove(&winner);
        let overtaken: Vec<_> = tried.iter().take_while(|address| **address != winner).collect();
        let until = Instant::now().checked_add(SLOW_KEPT);
        for address in &overtaken {
            if let Some(until) = until {
                self.slow.insert(**address, until);
            }
        }
        let is_ipv6_overtaken = winner.is_ipv4() && overtaken.iter().any(|address| address.is_ipv6());
        if winner.is_ipv6() || is_ipv6_overtaken {
            let until = until.filter(|_| is_ipv6_overtaken);
            *self.ipv4_first.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
    }
}

/// Connects to the first of `addresses` that answers until then; addresses that `guard` does not permit are passed over.
///
/// # Errors
/// `TimedOut` when none answers in time, else that of the last one.
pub(super) fn connect_first(
    addresses: &[SocketAddr],
    guard: &Guard,
    memory: &Memory,
    until: Option<Instant>,
) -> io::Result<TcpStream> {
    let mut waiting = addresses.iter().copied().filter(|address| guard.permits(address.ip())).peekable();
    let mut race = Race::default();
    loop {
        if let Some(address) = waiting.next() {
            race.enter(address);
        } else if race.pending.is_empty() {
            let none = || io::Error::new(io::ErrorKind::ConnectionRefused, "no address to connect to");
            return Err(race.last_error.unwrap_or_else(none));
        }
        let next = waiting.peek().and_then(|_| Instant::now().checked_add(ATTEMPT_DELAY));
        if let Some((address, stream)) = race.wait([next, until].into_iter().flatten().min())? {
            memory.won(address, &race.tried);
            stream.set_nonblocking(false)?;
            stream.set_nodelay(true)?;
            return Ok(stream);
        }
        if until.is_some_and(|until| until <= Instant::now()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Attempts to connect.
#[derive(Default)]
struct Race {
    /// Under way.
    pending: Vec<(SocketAddr, TcpStream)>,
    /// All so far, in order.
    tried: Vec<SocketAddr>,
    /// The latest failure.
    last_error: Option<io::Error>,
}

impl Race {
    /// Begins to connect.
    fn enter(&mut self, address: SocketAddr) {
        self.tried.push(address);
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let begin = || {
            let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
            match connect(&socket, &address) {
                Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
                Err(error) => Err(error),
            }
        };
        match begin() {
            Ok(socket) => self.pending.push((address, socket.into())),
            Err(error) => self.last_error = Some(error.into()),
        }
    }

    /// Waits until one is connected; in vain when it is `until`, or one failed and the next may be tried.
    fn wait(&mut self, until: Option<Instant>) -> io::Result<Option<(SocketAddr, TcpStream)>> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        let mut ready: Vec<_> =
            self.pending.iter().map(|(_, socket)| PollFd::new(socket, PollFlags::OUT)).collect();
        match poll(&mut ready, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = ready.iter().map(|socket| !socket.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        let done = self.pending.extract_if(.., |_| ready.next().unwrap_or(false));
        let mut connected = None;
        for (address, socket) in done {
            match socket.take_error() {
                Ok(None) if connected.is_none() => connected = Some((address, socket)),
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => self.last_error = Some(error),
            }
        }
        Ok(connected)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// An address that swallows what is sent to it: the queue of its listener is full.
    struct Silent {
        address: SocketAddr,
        _listener: rustix::fd::OwnedFd,
        _queued: TcpStream,
    }

    impl Silent {
        fn at(host: &str) -> Self {
            let bound: SocketAddr = format!("{host}:0").parse().unwrap();
            let family = if bound.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            let listener = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
            rustix::net::bind(&listener, &bound).unwrap();
            rustix::net::listen(&listener, 0).unwrap();
            let address = SocketAddr::try_from(rustix::net::getsockname(&listener).unwrap()).unwrap();
            let queued = TcpStream::connect(address).unwrap();
            Self { address, _listener: listener, _queued: queued }
        }
    }

    fn open() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn closed() -> SocketAddr {
        open().1
    }

    fn later() -> Option<Instant> {
        Instant::now().checked_add(Duration::from_mins(1))
    }

    #[test]
    fn an_address_that_swallows_packets_is_overtaken_and_comes_last_from_then_on() {
        let (silent, silent6, (_listener, open)) = (Silent::at("127.0.0.1"), Silent::at("[::1]"), open());
        let (guard, memory) = (Guard::permit_all(), Memory::new());
        let host = vec![silent6.address, silent.address, closed(), open];
        let order = memory.order(std::slice::from_ref(&host), 16);
        assert_eq!(order[..2], [silent6.address, silent.address]);
        let stream = connect_first(&order, &guard, &memory, later()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        assert_eq!(memory.order(&[host], 16)[0], open);
        // And another host's IPv4 comes before its IPv6.
        let other: Vec<SocketAddr> =
            ["[2001:db8::1]:1", "192.0.2.1:1"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(memory.order(std::slice::from_ref(&other), 16)[0], other[1]);
    }

    #[test]
    fn when_all_are_silent_it_ends_in_time_and_when_all_refuse_it_says_so() {
        let silent =
            [Silent::at("127.0.0.1"), Silent::at("127.0.0.2")].map(|silent| (silent.address, silent));
        let addresses: Vec<_> = silent.iter().map(|(address, _)| *address).collect();
        let (guard, memory) = (Guard::permit_all(), Memory::new());
        let soon = Instant::now().checked_add(Duration::from_millis(20));
        let error = connect_first(&addresses, &guard, &memory, soon).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = connect_first(&[closed(), closed()], &guard, &memory, later()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn what_the_guard_forbids_is_never_connected_to() {
        let ((forbidden, address), (_listener, open)) = (open(), open());
        let other = TcpListener::bind("127.0.0.2:0").unwrap();
        let guard = Guard::new(&["127.0.0.1/32".parse().unwrap()], &[]);
        let memory = Memory::new();
        assert!(connect_first(&[address, open], &guard, &memory, later()).is_err());
        let addresses = [address, other.local_addr().unwrap()];
        let stream = connect_first(&addresses, &guard, &memory, later()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
        forbidden.set_nonblocking(true).unwrap();
        assert_eq!(forbidden.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn families_take_turns_and_every_host_of_a_list_has_its_share() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let many: Vec<_> = (1..=20).map(|number| address(&format!("192.0.2.{number}:1"))).collect();
        let mixed =
            ["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:2", "192.0.2.2:2"].map(address).to_vec();
        let order = Memory::new().order(&[mixed.clone(), many.clone()], 16);
        assert_eq!(order[..4], [mixed[0], mixed[2], mixed[1], mixed[3]]);
        assert_eq!((order.len(), order[4]), (12, many[0]));
        assert_eq!(Memory::new().order(&[many], 16).len(), 16);
    }
}
