//! SRV records from the system's DNS servers ([RFC 2782](https://www.rfc-editor.org/rfc/rfc2782)).
//!
//! Owns following aliases, and the cache, in which responses stay for their time to live. Refuses to know how queries are sent.

use std::io;
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;

use super::Service;
use super::exchange::Servers;
use super::message::{Data, Record};

/// Most responses cached.
const CACHED_ANSWERS: usize = 512;

/// Longest wait for the response to one query, which is repeated in that time because UDP may lose it. Most servers have no SRV record, so a
/// DNS server that drops such queries delays every first contact by this time.
pub(super) const QUESTION_TIME: Duration = Duration::from_secs(2);

/// The same for all queries along a chain of aliases, as a multiple of one.
const QUESTIONS_AT_LENGTH: u32 = 2;

/// Names that DNS must not be asked about (RFC 6761, RFC 7686).
const NOT_IN_DNS: [&str; 3] = ["invalid", "localhost", "onion"];

/// Most aliases followed.
const MAX_ALIASES: usize = 8;

/// Longest time a response is cached, whatever its time to live.
const MAX_LIFETIME: Duration = Duration::from_hours(24);

/// How long an expired response is used while no DNS server responds, before the next query.
const SILENCE_BRIDGED: Duration = Duration::from_mins(1);

/// How long it is cached that there is no record, if the response does not say so, and at most.
const NONE_LIFETIME: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// Resolves SRV records. Blocks.
pub(super) struct Srv {
    servers: Servers,
    /// Cached responses and their expiry.
    answers: Cache<String, (Vec<Service>, Instant)>,
}

impl Srv {
    /// A resolver that queries these servers.
    pub(super) fn new(servers: Servers) -> Self {
        Self { servers, answers: Cache::new(CACHED_ANSWERS) }
    }

    /// The SRV records of `name`, or of the name that it is an alias of.
    ///
    /// # Errors
    /// `TimedOut` when no DNS server responds.
    pub(super) fn services(&self, name: &str) -> io::Result<Vec<Service>> {
        let is_under =
            |top: &&str| name.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case(top));
        if NOT_IN_DNS.iter().any(is_under) {
            return Ok(Vec::new());
        }
        let now = Instant::now();
        let known = self.answers.get(name);
        if let Some((services, _)) = known.as_ref().filter(|(_, until)| now < *until) {
            return Ok(services.clone());
        }
        let (services, lifetime) = match (self.ask(name), known) {
            (Ok(found), _) => found,
            // An expired record is more likely right than none.
            (Err(error), Some((old, _))) if error.kind() == io::ErrorKind::TimedOut && !old.is_empty() => {
                (old, SILENCE_BRIDGED)
            }
            (Err(error), _) => return Err(error),
        };
        if let Some(until) = now.checked_add(lifetime) {
            self.answers.insert(name.to_owned(), (services.clone(), until));
        }
        Ok(services)
    }

    /// Queries, following aliases; those in a response need no further query. Returns the records and their time to live.
    fn ask(&self, name: &str) -> io::Result<(Vec<Service>, Duration)> {
        let time = self.servers.timeout.saturating_mul(QUESTIONS_AT_LENGTH);
        let until = Instant::now().checked_add(time).ok_or(io::ErrorKind::InvalidInput)?;
        let mut name = name.trim_end_matches('.').to_ascii_lowercase();
        let (mut aliases, mut lifetime) = (0_usize, MAX_LIFETIME);
        loop {
            let answer = self.servers.ask(&name, until)?;
            let asked = name.clone();
            while let Some((target, time)) = alias(&answer.records, &name).filter(|_| aliases < MAX_ALIASES) {
                lifetime = lifetime.min(time);
                name = target;
                aliases = aliases.saturating_add(1);
            }
            let ours = || answer.records.iter().filter(|record| record.name == name);
            let found: Vec<_> = ours().filter_map(service).collect();
            if !found.is_empty() {
                return Ok((found, ours().map(|record| record.lifetime).fold(lifetime, Duration::min)));
            }
            if name == asked {
                let (unsaid, longest) = NONE_LIFETIME;
                return Ok((found, answer.none_lifetime.unwrap_or(unsaid).min(longest).min(lifetime)));
            }
        }
    }
}

/// The name that `name` is an alias of according to these records, and the time to live.
fn alias(records: &[Record], name: &str) -> Option<(String, Duration)> {
    records.iter().filter(|record| record.name == name).find_map(|record| match &record.data {
        Data::Alias(target) => Some((target.clone(), record.lifetime)),
        Data::Service(_) => None,
    })
}

/// The target that a record contains.
fn service(record: &Record) -> Option<Service> {
    match &record.data {
        Data::Service(service) => Some(service.clone()),
        Data::Alias(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use simple_dns::rdata::{CNAME, RData, SRV};
    use simple_dns::{CLASS, Name, Packet, PacketFlag, RCODE, ResourceRecord};

    use super::*;

    type Rr = ResourceRecord<'static>;

    /// A DNS server on loopback that answers as `script` says, or not at all, and remembers what it was asked.
    struct Server {
        address: SocketAddr,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Server {
        fn start(script: impl Fn(&str) -> Option<Vec<Rr>> + Send + 'static) -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            let asked = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&asked);
            std::thread::spawn(move || {
                let mut packet = [0; 1500];
                while let Ok((count, from)) = socket.recv_from(&mut packet) {
                    let question = Packet::parse(&packet[..count]).unwrap();
                    let name = question.questions[0].qname.to_string();
                    seen.lock().unwrap().push(name.clone());
                    let Some(records) = script(&name) else { continue };
                    let mut answer = question.clone().into_reply();
                    answer.set_flags(PacketFlag::RECURSION_AVAILABLE);
                    if records.is_empty() {
                        *answer.rcode_mut() = RCODE::NameError;
                    }
                    answer.answers = records;
                    socket.send_to(&answer.build_bytes_vec().unwrap(), from).unwrap();
                }
            });
            Self { address, asked }
        }

        fn ask(&self, timeout: Duration) -> Srv {
            Srv::new(Servers::at(vec![self.address], timeout))
        }

        fn asked(&self) -> Vec<String> {
            let mut asked = self.asked.lock().unwrap().clone();
            asked.dedup();
            asked
        }
    }

    fn name(text: &str) -> Name<'static> {
        Name::new(text).unwrap().into_owned()
    }

    fn cname(of: &str, target: &str) -> Rr {
        ResourceRecord::new(name(of), CLASS::IN, 300, RData::CNAME(CNAME(name(target))))
    }

    fn srv(of: &str, priority: u16, target: &str) -> Rr {
        let srv = SRV { priority, weight: 5, port: 443, target: name(target) };
        ResourceRecord::new(name(of), CLASS::IN, 300, RData::SRV(srv))
    }

    fn hosts(services: &[Service]) -> Vec<&str> {
        services.iter().map(|service| service.host.as_str()).collect()
    }

    /// Long enough for any machine.
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn records_behind_aliases_count_whether_the_answer_holds_them_or_not() {
        let server = Server::start(|name| {
            Some(match name {
                "_a._tcp.plain.test" => vec![srv(name, 10, "m.test"), srv(name, 20, "n.test")],
                // What a resolver answers: the whole chain.
                "_a._tcp.el.test" => vec![
                    cname(name, "_a._tcp.hosting.test"),
                    cname("_A._tcp.Hosting.test", "_a._tcp.pool.test"),
                    srv("_a._tcp.pool.test", 10, "m.test"),
                    srv("_a._tcp.other.test", 10, "wrong.test"),
                ],
                // The alias alone.
                "_a._tcp.bare.test" => vec![cname(name, "_a._tcp.plain.test")],
                "_a._tcp.void.test" => vec![cname(name, "_a._tcp.nowhere.test")],
                "_a._tcp.circle.test" => vec![cname(name, "_a._tcp.elcric.test")],
                "_a._tcp.elcric.test" => vec![cname(name, "_a._tcp.circle.test")],
                "_a._tcp.self.test" => vec![cname(name, name)],
                _ => vec![],
            })
        });
        let ask = server.ask(LONG);
        for (name, expected) in [
            ("_a._tcp.plain.test", &["m.test", "n.test"][..]),
            ("_a._tcp.el.test", &["m.test"]),
            ("_a._tcp.bare.test", &["m.test", "n.test"]),
            ("_a._tcp.void.test", &[]),
            ("_a._tcp.circle.test", &[]),
            ("_a._tcp.self.test", &[]),
            ("_a._tcp.none.test", &[]),
        ] {
            assert_eq!(hosts(&ask.services(name).unwrap()), expected, "{name}");
        }
        assert!(server.asked().len() < 30, "{:?}", server.asked());
    }

    #[test]
    fn answers_are_remembered_and_so_is_that_there_is_none() {
        let server =
            Server::start(|name| Some(if name == "a.test" { vec![srv(name, 1, "m.test")] } else { vec![] }));
        let ask = server.ask(LONG);
        for _ in 0..3 {
            assert_eq!(hosts(&ask.services("a.test").unwrap()), ["m.test"]);
            assert!(ask.services("b.test").unwrap().is_empty());
        }
        assert_eq!(server.asked(), ["a.test", "b.test"]);
    }

    #[test]
    fn while_nobody_answers_the_old_records_go_on() {
        let is_well = Arc::new(AtomicBool::new(true));
        let answers = Arc::clone(&is_well);
        let server = Server::start(move |name| {
            let mut record = srv(name, 1, "m.test");
            record.ttl = 0;
            answers.load(Ordering::SeqCst).then(|| vec![record])
        });
        let ask = server.ask(Duration::from_millis(200));
        // Over UDP on a busy machine the first answer may come too late.
        while ask.services("a.test").is_err() {}
        is_well.store(false, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(hosts(&ask.services("a.test").unwrap()), ["m.test"]);
        }
        assert_eq!(ask.services("b.test").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn names_that_are_not_in_dns_are_not_asked_about() {
        let server = Server::start(|name| Some(vec![srv(name, 1, "m.test")]));
        let ask = server.ask(LONG);
        for name in ["_a._tcp.x.invalid", "_a._tcp.LOCALHOST", "_a._tcp.x.onion"] {
            assert!(ask.services(name).unwrap().is_empty(), "{name}");
        }
        assert!(server.asked().is_empty());
        assert_eq!(hosts(&ask.services("_a._tcp.onion.test").unwrap()), ["m.test"]);
    }

    #[test]
    fn a_server_that_drops_questions_is_silence_and_not_absence() {
        let server = Server::start(|_| None);
        let error = server.ask(Duration::from_millis(50)).services("a.test").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(server.asked(), ["a.test"]);
    }
}
