//! Sends one query to the system's DNS servers: over UDP, repeated and to the next server as time passes, and over TCP if the response is
//! too long for UDP.
//!
//! Owns the sockets and the settings in `/etc/resolv.conf` (`nameserver`, and the options `timeout`, `attempts`, `rotate`, `edns0` and
//! `use-vc`). Refuses to know what a response means. Blocks until a deadline.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use resolv_conf::{Config, ScopedIp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::message::{Reply, SrvQuery, SrvResponse};

/// Port of DNS.
const PORT: u16 = 53;

/// Most DNS servers used, as in the system's resolver.
const MAX_SERVERS: usize = 3;

/// Most queries to each server.
const MAX_ATTEMPTS: usize = 5;

/// The UDP payload size that is offered with the option `edns0`: packets of this size are not fragmented.
const UDP_SIZE: u16 = 1232;

/// Longest UDP response that is read.
const BUFFER: usize = 4096;

/// The DNS servers of the system and how to query them.
pub(super) struct Servers {
    /// Their addresses, the preferred one first.
    addresses: Vec<SocketAddr>,
    /// Longest wait for the response to one query.
    pub(super) timeout: Duration,
    /// How often each server is queried in that time.
    attempts: usize,
    /// The transport of the first query.
    transport: Transport,
    /// The UDP payload size offered with EDNS; `None`: no EDNS.
    udp_size: Option<u16>,
    /// Which server is queried first.
    first: First,
}

/// The transport of queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    /// UDP, and TCP for responses that are too long for UDP.
    Udp,
    /// TCP only.
    Tcp,
}

/// Which server is queried first.
enum First {
    /// The first one in `resolv.conf`.
    Preferred,
    /// The next one each time; counts the queries.
    Rotating(AtomicUsize),
}

impl Servers {
    /// The servers in a `resolv.conf`; if it has none, one on this machine, as in the system's resolver. `longest` is the upper bound of its
    /// `timeout`.
    pub(super) fn from_config(text: &[u8], longest: Duration) -> Self {
        let (config, errors) = Config::parse_with_errors(text);
        for error in errors {
            tracing::debug!(%error, "ignoring a line of resolv.conf");
        }
        let at = |server: &ScopedIp| socket_address(server);
        let mut addresses: Vec<_> = config.nameservers.iter().take(MAX_SERVERS).map(at).collect();
        if addresses.is_empty() {
            addresses.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        let attempts = usize::try_from(config.attempts).unwrap_or(MAX_ATTEMPTS);
        Self {
            addresses,
            timeout: Duration::from_secs(config.timeout.max(1).into()).min(longest),
            attempts: attempts.clamp(1, MAX_ATTEMPTS),
            transport: if config.use_vc { Transport::Tcp } else { Transport::Udp },
            udp_size: config.edns0.then_some(UDP_SIZE),
            first: if config.rotate { First::Rotating(AtomicUsize::new(0)) } else { First::Preferred },
        }
    }

    /// Servers at these addresses, each queried twice over UDP.
    #[cfg(test)]
    pub(super) fn at(addresses: Vec<SocketAddr>, timeout: Duration) -> Self {
        Self { addresses, timeout, ..Self::from_config(b"", timeout) }
    }

    /// Queries the SRV records of `name`, a complete name, until `until` at most.
    ///
    /// # Errors
    /// `TimedOut` when a server did not respond; other errors when all servers failed.
    pub(super) fn ask(&self, name: &str, until: Instant) -> io::Result<SrvResponse> {
        let mut id = [0; 2];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        let query = SrvQuery::new(u16::from_be_bytes(id), name, self.udp_size)
            .map_err(|error| io::Error::new(ErrorKind::InvalidInput, error.to_string()))?;
        let until = Instant::now().checked_add(self.timeout).map_or(until, |end| end.min(until));
        match self.transport {
            Transport::Udp => Round { query: &query, until, peers: self.peers() }.ask(self.attempts),
            Transport::Tcp => ask_by_tcp(&self.peers(), &query, until),
        }
    }

    /// The servers in the order in which to query them.
    fn peers(&self) -> Vec<Peer> {
        let turn = match &self.first {
            First::Preferred => 0,
            First::Rotating(count) => count.fetch_add(1, Ordering::Relaxed),
        };
        let first = turn.checked_rem(self.addresses.len()).unwrap_or_default();
        let (before, from) = self.addresses.split_at(first);
        from.iter().chain(before).map(|address| Peer { address: *address, state: State::Unasked }).collect()
    }
}

/// A query in progress, sent to several servers.
struct Round<'a> {
    query: &'a SrvQuery,
    /// The deadline.
    until: Instant,
    /// The servers and their state.
    peers: Vec<Peer>,
}

/// A server during one query.
struct Peer {
    address: SocketAddr,
    state: State,
}

enum State {
    /// Not queried yet.
    Unasked,
    /// Queried, no response so far.
    Asked(UdpSocket),
    /// Failed, and why.
    Failed(io::Error),
}

impl Round<'_> {
    /// Queries the servers one after the other, `attempts` times each, evenly over the time until the deadline. Accepts a response from any
    /// of them.
    fn ask(mut self, attempts: usize) -> io::Result<SrvResponse> {
        let count = self.peers.len();
        let turns = count.saturating_mul(attempts);
        let left = self.until.saturating_duration_since(Instant::now());
        let pause = left.checked_div(u32::try_from(turns).unwrap_or(u32::MAX)).unwrap_or(left);
        for turn in 0..turns {
            let peer = turn.checked_rem(count).and_then(|index| self.peers.get_mut(index));
            if peer.is_some_and(|peer| peer.send(self.query)) {
                let next = Instant::now().checked_add(pause).map_or(self.until, |next| next.min(self.until));
                if let Some(answer) = self.listen(next) {
                    return Ok(answer);
                }
            }
        }
        while Instant::now() < self.until && self.peers.iter().any(Peer::is_asked) {
            if let Some(answer) = self.listen(self.until) {
                return Ok(answer);
            }
        }
        Err(outcome(self.peers))
    }

    /// Waits for a response until `until`, or until a server fails.
    fn listen(&mut self, until: Instant) -> Option<SrvResponse> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let sockets: Vec<&UdpSocket> = self.peers.iter().filter_map(Peer::socket).collect();
            if left.is_zero() || sockets.is_empty() {
                return None;
            }
            let mut waiting: Vec<_> =
                sockets.into_iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
            let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
            // The result of `poll` is not needed: the sockets do not block, so reading tells which are ready.
            let _ready = poll(&mut waiting, Some(&left));
            for peer in &mut self.peers {
                match peer.receive(self.query, self.until) {
                    Some(Ok(answer)) => return Some(answer),
                    Some(Err(why)) => {
                        peer.state = State::Failed(why);
                        return None;
                    }
                    None => {}
                }
            }
        }
    }
}

impl Peer {
    /// Sends the query. Returns whether a response can be expected.
    fn send(&mut self, query: &SrvQuery) -> bool {
        if let State::Unasked = self.state {
            self.state = connect(self.address).map_or_else(State::Failed, State::Asked);
        }
        if let State::Asked(socket) = &self.state
            && let Err(why) = socket.send(query.bytes())
        {
            self.state = State::Failed(why);
        }
        self.is_asked()
    }

    /// Whether it may still respond.
    fn is_asked(&self) -> bool {
        self.socket().is_some()
    }

    /// The socket on which its response arrives.
    fn socket(&self) -> Option<&UdpSocket> {
        match &self.state {
            State::Asked(socket) => Some(socket),
            State::Unasked | State::Failed(_) => None,
        }
    }

    /// Its response, or why there will be none; `None` while it has not responded. If the response is truncated, queries again over TCP.
    fn receive(&self, query: &SrvQuery, until: Instant) -> Option<io::Result<SrvResponse>> {
        let mut message = [0; BUFFER];
        loop {
            let count = match self.socket()?.recv(&mut message) {
                Ok(count) => count,
                Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    return None;
                }
                Err(why) => return Some(Err(why)),
            };
            match query.read(message.get(..count).unwrap_or_default()) {
                Reply::Unrelated => {}
                Reply::Truncated => return Some(by_tcp(self.address, query, until)),
                Reply::Failed(words) => return Some(Err(io::Error::other(words))),
                Reply::Answer(answer) => return Some(Ok(answer)),
            }
        }
    }
}

/// A socket connected to one server, so that packets from other addresses are dropped, with a new port that the system chooses: a forged
/// response must guess both port and ID.
fn connect(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Queries one server after the other over TCP; each gets its share of the time left.
fn ask_by_tcp(peers: &[Peer], query: &SrvQuery, until: Instant) -> io::Result<SrvResponse> {
    let mut failure = silence();
    for (index, peer) in peers.iter().enumerate() {
        let others = u32::try_from(peers.len().saturating_sub(index)).unwrap_or(u32::MAX);
        let left = until.saturating_duration_since(Instant::now());
        let share = left.checked_div(others).and_then(|share| Instant::now().checked_add(share));
        match by_tcp(peer.address, query, share.unwrap_or(until)) {
            Ok(answer) => return Ok(answer),
            Err(why) => failure = why,
        }
    }
    Err(failure)
}

/// Queries one server over TCP ([RFC 7766](https://www.rfc-editor.org/rfc/rfc7766)).
fn by_tcp(server: SocketAddr, query: &SrvQuery, until: Instant) -> io::Result<SrvResponse> {
    let mut stream = TcpStream::connect_timeout(&server, time_left(until)?)?;
    let length = u16::try_from(query.bytes().len()).map_err(io::Error::other)?;
    let message = [&length.to_be_bytes(), query.bytes()].concat();
    stream.set_write_timeout(Some(time_left(until)?))?;
    stream.write_all(&message).map_err(as_silence)?;
    let mut length = [0; 2];
    read_exact(&mut stream, &mut length, until)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    read_exact(&mut stream, &mut message, until)?;
    match query.read(&message) {
        Reply::Answer(answer) => Ok(answer),
        Reply::Failed(words) => Err(io::Error::other(words)),
        Reply::Truncated | Reply::Unrelated => Err(io::Error::other("its response over TCP is invalid")),
    }
}

/// Fills `buffer` until `until` at most, however slowly the bytes arrive.
fn read_exact(stream: &mut TcpStream, buffer: &mut [u8], until: Instant) -> io::Result<()> {
    let mut filled = 0_usize;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        stream.set_read_timeout(Some(time_left(until)?))?;
        match stream.read(rest) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled = filled.saturating_add(count),
            Err(why) if why.kind() == ErrorKind::Interrupted => {}
            Err(why) => return Err(as_silence(why)),
        }
    }
    Ok(())
}

/// The time until `until`, as a socket's timeout.
fn time_left(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(silence()) } else { Ok(left) }
}

/// Maps both error kinds of a socket's timeout to `TimedOut`.
fn as_silence(why: io::Error) -> io::Error {
    if why.kind() == ErrorKind::WouldBlock { silence() } else { why }
}

/// The error when no server gave a usable response: `TimedOut` if one of them did not respond.
fn outcome(peers: Vec<Peer>) -> io::Error {
    let mut failure = None;
    for peer in peers {
        match peer.state {
            State::Failed(why) => failure = Some((peer.address, why)),
            State::Unasked | State::Asked(_) => return silence(),
        }
    }
    let Some((server, why)) = failure else { return silence() };
    if why.kind() == ErrorKind::TimedOut {
        return silence();
    }
    io::Error::new(why.kind(), format!("DNS server {}: {why}", server.ip()))
}

/// The error when there is no response in time.
fn silence() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no DNS server responded in time")
}

/// The address of a server. A numeric zone is kept (`fe80::1%2`).
fn socket_address(server: &ScopedIp) -> SocketAddr {
    match server {
        ScopedIp::V4(ip) => (*ip, PORT).into(),
        ScopedIp::V6(ip, scope) => {
            let scope = scope.as_ref().and_then(|scope| scope.parse().ok()).unwrap_or_default();
            SocketAddrV6::new(*ip, PORT, 0, scope).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use simple_dns::rdata::{RData, SRV};
    use simple_dns::{CLASS, Name, Packet, PacketFlag, RCODE, ResourceRecord};

    use super::super::message::Data;
    use super::*;

    /// Long enough for any machine.
    const LONG: Duration = Duration::from_secs(20);

    /// A DNS server on loopback that sends, for each question, the messages that `script` makes of it.
    fn server(script: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
        serve(UdpSocket::bind("127.0.0.1:0").unwrap(), script)
    }

    fn serve(socket: UdpSocket, script: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut packet = [0; 1500];
            while let Ok((count, from)) = socket.recv_from(&mut packet) {
                for message in script(&packet[..count]) {
                    socket.send_to(&message, from).unwrap();
                }
            }
        });
        address
    }

    /// An answer to a question, as `change` has it.
    fn reply(question: &[u8], change: impl FnOnce(&mut Packet<'_>)) -> Vec<u8> {
        let mut packet = Packet::parse(question).unwrap().into_reply();
        change(&mut packet);
        packet.build_bytes_vec().unwrap()
    }

    /// One SRV record that leads to `host`.
    fn leads_to(question: &[u8], host: &'static str) -> Vec<u8> {
        reply(question, |packet| {
            let srv = SRV { priority: 1, weight: 1, port: 1, target: Name::new_unchecked(host) };
            let name = packet.questions[0].qname.clone();
            packet.answers.push(ResourceRecord::new(name, CLASS::IN, 60, RData::SRV(srv)));
        })
    }

    fn closed() -> SocketAddr {
        UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn ask(servers: &[SocketAddr], timeout: Duration) -> io::Result<String> {
        let until = Instant::now().checked_add(LONG).unwrap();
        let answer = Servers::at(servers.to_vec(), timeout).ask("_a._tcp.x.test", until)?;
        let host = answer.records.into_iter().find_map(|record| match record.data {
            Data::Service(service) => Some(service.host),
            Data::Alias(_) => None,
        });
        Ok(host.unwrap_or_default())
    }

    #[test]
    fn an_answer_too_long_for_udp_is_asked_for_over_tcp() {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
                break (listener, socket);
            }
        };
        let address = serve(socket, |question| {
            vec![reply(question, |packet| packet.set_flags(PacketFlag::TRUNCATION))]
        });
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question).unwrap();
            let answer = leads_to(&question, "long.test");
            // In pieces, as a network may deliver it.
            let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
            for piece in [&length[..1], &length[1..], &answer[..20], &answer[20..]] {
                stream.write_all(piece).unwrap();
                stream.flush().unwrap();
            }
        });
        assert_eq!(ask(&[address], LONG).unwrap(), "long.test");
    }

    #[test]
    fn the_next_server_is_asked_when_one_is_silent_or_refuses() {
        let good = server(|question| vec![leads_to(question, "good.test")]);
        let silent = server(|_| vec![]);
        let failing =
            server(|question| vec![reply(question, |packet| *packet.rcode_mut() = RCODE::ServerFailure)]);
        let noise = server(|question| vec![vec![question[0], question[1], 0x80, 0, 9]]);
        for servers in [[closed(), good], [failing, good], [noise, good]] {
            assert_eq!(ask(&servers, LONG).unwrap(), "good.test");
        }
        assert_eq!(ask(&[silent, good], Duration::from_secs(2)).unwrap(), "good.test");
    }

    #[test]
    fn an_answer_to_another_question_is_passed_over() {
        let server = server(|question| {
            let mut forged = leads_to(question, "forged.test");
            forged[1] ^= 1;
            vec![forged, leads_to(question, "good.test")]
        });
        assert_eq!(ask(&[server], LONG).unwrap(), "good.test");
    }

    #[test]
    fn silence_is_told_from_failure() {
        let silent = server(|_| vec![]);
        let failing = server(|question| vec![reply(question, |packet| *packet.rcode_mut() = RCODE::Refused)]);
        let short = Duration::from_millis(100);
        assert_eq!(ask(&[silent], short).unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(ask(&[failing, silent], short).unwrap_err().kind(), ErrorKind::TimedOut);
        assert_eq!(ask(&[closed()], LONG).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let error = ask(&[failing], LONG).unwrap_err();
        assert_eq!(error.to_string(), "DNS server 127.0.0.1: it answers Refused");
    }

    #[test]
    fn the_systems_configuration_says_who_is_asked_and_how() {
        let text = b"nameserver 192.0.2.1\nnameserver fe80::1%7\nsearch example.org\n\
                     options timeout:1 attempts:3 edns0 use-vc rotate\n";
        let servers = Servers::from_config(text, LONG);
        let addresses: Vec<_> = servers.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.1:53", "[fe80::1%7]:53"]);
        assert_eq!((servers.timeout, servers.attempts), (Duration::from_secs(1), 3));
        assert_eq!((servers.transport, servers.udp_size), (Transport::Tcp, Some(UDP_SIZE)));
        let first = || servers.peers()[0].address;
        assert_ne!(first(), first(), "rotate");

        let servers = Servers::from_config(b"", Duration::from_secs(2));
        assert_eq!(servers.addresses, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!((servers.timeout, servers.attempts), (Duration::from_secs(2), 2));
        assert_eq!((servers.transport, servers.udp_size), (Transport::Udp, None));
    }
}
