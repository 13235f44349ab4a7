//! Happy Eyeballs: connecting to the first of several addresses that accepts, with a new attempt every 250 ms.
//! [RFC 8305](https://www.rfc-editor.org/rfc/rfc8305).
//!
//! Owns the order of addresses and the record of slow ones. The guard checks each address just before it is connected to. All
//! attempts run on the calling thread. Refuses to know names and TLS.

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
use crate::sync::admission::Work;

/// How long one attempt runs before the next one starts beside it (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How often the wait for the last attempt looks whether anybody still wants the connection.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How long an address that lost to a later attempt is sorted behind others.
const SLOW_PERIOD: Duration = Duration::from_mins(10);

/// Most slow addresses recorded; about 60 bytes each.
const MAX_SLOW: usize = 1024;

/// Which addresses were slow to connect.
pub(super) struct AddressHistory {
    /// Addresses that lost to a later attempt, and until when they are sorted last.
    slow: Cache<SocketAddr, Instant>,
    /// Until when IPv4 is tried first for every host. An IPv6 address that lost usually means that this machine has no working
    /// IPv6.
    ipv4_first: Mutex<Option<Instant>>,
}

impl AddressHistory {
    pub(super) fn new() -> Self {
        Self { slow: Cache::new(MAX_SLOW), ipv4_first: Mutex::default() }
    }

    /// The order in which to try the addresses of several hosts, at most `most` in all and an equal share for each host: host
    /// by host, IPv6 and IPv4 alternating within a host, slow addresses last.
    pub(super) fn order(&self, hosts: &[Vec<SocketAddr>], most: usize) -> Vec<SocketAddr> {
        // Else a host with many addresses would crowd out the next one.
        let each = most.checked_div(hosts.len()).unwrap_or(most).max(1);
        let turns = hosts.iter().flat_map(|host| self.interleave(host).into_iter().take(each));
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

    /// Alternates address families, beginning with that of the first address: the system's resolver sorts by RFC 6724.
    fn interleave(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
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

    /// Records that `winner` connected before the attempts in `tried` that had started earlier.
    fn record_winner(&self, winner: SocketAddr, tried: &[SocketAddr]) {
        // An address that wins is not slow any more, whatever it was before.
        self.slow.remove(&winner);
        let slower: Vec<_> = tried.iter().take_while(|address| **address != winner).collect();
        let until = Instant::now().checked_add(SLOW_PERIOD);
        for address in &slower {
            if let Some(until) = until {
                self.slow.insert(**address, until);
            }
        }
        let is_ipv6_slower = winner.is_ipv4() && slower.iter().any(|address| address.is_ipv6());
        // An IPv4 address that wins alone says nothing about IPv6.
        if winner.is_ipv6() || is_ipv6_slower {
            let until = until.filter(|_| is_ipv6_slower);
            *self.ipv4_first.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
    }
}

/// Connects to the first of `addresses` that accepts before `deadline`. Addresses that `guard` does not permit are skipped.
///
/// # Errors
/// `TimedOut` when none accepts in time; when all have failed, the error of the last one.
pub(super) fn connect_first(
    addresses: &[SocketAddr],
    guard: &Guard,
    history: &AddressHistory,
    deadline: Option<Instant>,
) -> io::Result<TcpStream> {
    // Checked here and not only when names are resolved, so that no path to a connection avoids it.
    let mut waiting = addresses.iter().copied().filter(|address| guard.permits(address.ip())).peekable();
    let mut attempts = Attempts::default();
    loop {
        if let Some(address) = waiting.next() {
            attempts.start(address);
        } else if attempts.pending.is_empty() {
            let none = || io::Error::new(io::ErrorKind::ConnectionRefused, "no address to connect to");
            return Err(attempts.last_error.unwrap_or_else(none));
        }
        let delay = if waiting.peek().is_some() { ATTEMPT_DELAY } else { LOOK_EVERY };
        let next = Instant::now().checked_add(delay);
        if let Some((address, stream)) = attempts.wait([next, deadline].into_iter().flatten().min())? {
            history.record_winner(address, &attempts.tried);
            stream.set_nonblocking(false)?;
            // Requests are small and written at once.
            stream.set_nodelay(true)?;
            return Ok(stream);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if Work::current_should_end() {
            return Err(io::Error::other("nobody waits for it any more"));
        }
    }
}

/// The attempts to connect that one connection makes.
#[derive(Default)]
struct Attempts {
    pending: Vec<(SocketAddr, TcpStream)>,
    /// All that were started, in order.
    tried: Vec<SocketAddr>,
    last_error: Option<io::Error>,
}

impl Attempts {
    /// Starts to connect to `address`, without blocking.
    fn start(&mut self, address: SocketAddr) {
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

    /// Waits for a connection. `None` at `deadline`, or earlier when an attempt failed and the next may start.
    fn wait(&mut self, deadline: Option<Instant>) -> io::Result<Option<(SocketAddr, TcpStream)>> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
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
            // A failed attempt is ready for writing too; the socket has the error.
            match socket.take_error() {
                Ok(None) if connected.is_none() => connected = Some((address, socket)),
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => self.last_error = Some(error),
            }
        }
        Ok(connected)
    }
}

impl fmt::Debug for AddressHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressHistory").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A listener that drops new connections, because its queue is full.
    struct FullListener {
        address: SocketAddr,
        _listener: rustix::fd::OwnedFd,
        _queued: TcpStream,
    }

    impl FullListener {
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
    fn an_address_that_does_not_answer_is_tried_last_from_then_on() {
        let (silent, silent6, (_listener, open)) =
            (FullListener::at("127.0.0.1"), FullListener::at("[::1]"), open());
        let (guard, history) = (Guard::permit_all(), AddressHistory::new());
        let host = vec![silent6.address, silent.address, closed(), open];
        let order = history.order(std::slice::from_ref(&host), 16);
        assert_eq!(order[..2], [silent6.address, silent.address]);
        let stream = connect_first(&order, &guard, &history, later()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open);
        assert_eq!(history.order(&[host], 16)[0], open);
        // For other hosts IPv4 is tried first as well.
        let other: Vec<SocketAddr> =
            ["[2001:db8::1]:1", "192.0.2.1:1"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(history.order(std::slice::from_ref(&other), 16)[0], other[1]);
    }

    #[test]
    fn it_ends_in_time_when_none_answers_and_at_once_when_all_refuse() {
        let silent = [FullListener::at("127.0.0.1"), FullListener::at("127.0.0.2")]
            .map(|silent| (silent.address, silent));
        let addresses: Vec<_> = silent.iter().map(|(address, _)| *address).collect();
        let (guard, history) = (Guard::permit_all(), AddressHistory::new());
        let soon = Instant::now().checked_add(Duration::from_millis(20));
        let error = connect_first(&addresses, &guard, &history, soon).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let error = connect_first(&[closed(), closed()], &guard, &history, later()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_forbidden_address_is_never_connected_to() {
        let ((forbidden, address), (_listener, open)) = (open(), open());
        let other = TcpListener::bind("127.0.0.2:0").unwrap();
        let guard = Guard::new(&["127.0.0.1/32".parse().unwrap()], &[]);
        let history = AddressHistory::new();
        assert!(connect_first(&[address, open], &guard, &history, later()).is_err());
        let addresses = [address, other.local_addr().unwrap()];
        let stream = connect_first(&addresses, &guard, &history, later()).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), addresses[1]);
        forbidden.set_nonblocking(true).unwrap();
        assert_eq!(forbidden.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn families_alternate_and_every_host_has_its_share() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let many: Vec<_> = (1..=20).map(|number| address(&format!("192.0.2.{number}:1"))).collect();
        let mixed =
            ["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:2", "192.0.2.2:2"].map(address).to_vec();
        let order = AddressHistory::new().order(&[mixed.clone(), many.clone()], 16);
        assert_eq!(order[..4], [mixed[0], mixed[2], mixed[1], mixed[3]]);
        assert_eq!((order.len(), order[4]), (12, many[0]));
        assert_eq!(AddressHistory::new().order(&[many], 16).len(), 16);
    }
}
