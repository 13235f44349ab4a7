//! SRV records, asked of the system's DNS servers ([RFC 2782](https://www.rfc-editor.org/rfc/rfc2782)).
//!
//! Owns the walk along aliases: hickory's own takes the records behind a CNAME for answers to another question and finds
//! nothing. Remembers answers as long as they say.

use std::io;
use std::time::{Duration, Instant};

use hickory_resolver::config::{NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::{DnsHandle as _, FirstAnswer as _};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::{DnsRequestOptions, Query};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{NameServerPool, PoolContext, TlsConfig, system_conf};
use quick_cache::sync::Cache;

use super::Service;

/// Answers remembered.
const CACHED_ANSWERS: usize = 512;

/// Longest wait for the answer to one question, repeated meanwhile as UDP needs it. Most servers have no SRV record, so whoever
/// drops such questions delays every first contact by this.
const QUESTION_TIME: Duration = Duration::from_secs(2);

/// The same for all questions along a chain of aliases, as multiples of one.
const QUESTIONS_AT_LENGTH: u32 = 2;

/// Names that DNS must not be asked about (RFC 6761, RFC 7686).
const NOT_IN_DNS: [&str; 3] = ["invalid", "localhost", "onion"];

/// Aliases followed.
const MAX_ALIASES: usize = 8;

/// Longest time an answer is remembered, whatever it says.
const MAX_LIFETIME: Duration = Duration::from_hours(24);

/// How long an old answer goes on while nobody gives a new one, before it is asked for again.
const SILENCE_BRIDGED: Duration = Duration::from_mins(1);

/// How long it is remembered that there is no record, if the answer does not say; and longest whatever it says.
const NONE_LIFETIME: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(1));

/// Asks for SRV records.
pub(super) struct Srv {
    /// The DNS servers.
    servers: NameServerPool<TokioRuntimeProvider>,
    /// Longest wait for one answer.
    patience: Duration,
    /// What they said, and until when it is good.
    answers: Cache<String, (Vec<Service>, Instant)>,
}

impl Srv {
    /// Of the servers that the system names.
    pub(super) fn of_the_system() -> Result<Self, NetError> {
        let (config, options) = system_conf::read_system_conf()?;
        let patience = options.timeout.min(QUESTION_TIME);
        Self::new(config.name_servers().to_vec(), options, patience)
    }

    /// Of `servers`, each waited for as long as `patience`.
    fn new(
        servers: Vec<NameServerConfig>,
        mut options: ResolverOpts,
        patience: Duration,
    ) -> Result<Self, NetError> {
        options.timeout = patience;
        let context = PoolContext::new(options, TlsConfig::new()?);
        let servers = NameServerPool::from_config(servers, context.into(), TokioRuntimeProvider::default());
        Ok(Self { servers, patience, answers: Cache::new(CACHED_ANSWERS) })
    }

    /// The SRV records of `name` or of what it is an alias of.
    ///
    /// # Errors
    /// `TimedOut` when nobody answers.
    pub(super) async fn services(&self, name: &str) -> io::Result<Vec<Service>> {
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
        let patience = self.patience.saturating_mul(QUESTIONS_AT_LENGTH);
        let asked = tokio::time::timeout(patience, self.ask(name)).await.unwrap_or(Err(NetError::Timeout));
        let (services, lifetime) = match (asked, known) {
            (Ok(found), _) => found,
            // Of a server that was found by its record the old one is more likely right than none.
            (Err(NetError::Timeout), Some((old, _))) if !old.is_empty() => (old, SILENCE_BRIDGED),
            (Err(error), _) => {
                let is_silence = matches!(error, NetError::Timeout);
                let kind = if is_silence { io::ErrorKind::TimedOut } else { io::ErrorKind::Other };
                return Err(io::Error::new(kind, error));
            }
        };
        if let Some(until) = now.checked_add(lifetime) {
            self.answers.insert(name.to_owned(), (services.clone(), until));
        }
        Ok(services)
    }

    /// Asks, along aliases, those in an answer first. Gives the records and how long they are good.
    async fn ask(&self, name: &str) -> Result<(Vec<Service>, Duration), NetError> {
        // With a trailing dot the name is complete: no search domain is tried.
        let mut name = Name::from_ascii(format!("{name}."))?;
        let (mut aliases, mut lifetime) = (0_usize, MAX_LIFETIME);
        loop {
            let query = Query::query(name.clone(), RecordType::SRV);
            let answer = self.servers.lookup(query, DnsRequestOptions::default()).first_answer().await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                    let said = none.negative_ttl.map(|ttl| Duration::from_secs(ttl.into()));
                    let (unsaid, longest) = NONE_LIFETIME;
                    return Ok((Vec::new(), said.unwrap_or(unsaid).min(longest).min(lifetime)));
                }
                Err(error) => return Err(error),
            };
            let records = &answer.answers;
            let asked = name.clone();
            while let Some((record, target)) = alias(records, &name).filter(|_| aliases < MAX_ALIASES) {
                lifetime = lifetime.min(time_of(record));
                name = target.clone();
                aliases = aliases.saturating_add(1);
            }
            let found: Vec<_> = records.iter().filter_map(|record| service(record, &name)).collect();
            if !found.is_empty() || name == asked {
                let lifetime = records
                    .iter()
                    .filter(|record| record.name == name)
                    .map(time_of)
                    .fold(lifetime, Duration::min);
                let lifetime = if found.is_empty() { lifetime.min(NONE_LIFETIME.0) } else { lifetime };
                return Ok((found, lifetime));
            }
        }
    }
}

/// What `name` is an alias of, by one of these records.
fn alias<'a>(records: &'a [Record], name: &Name) -> Option<(&'a Record, &'a Name)> {
    records.iter().filter(|record| record.name == *name).find_map(|record| {
        let RData::CNAME(target) = &record.data else { return None };
        Some((record, &target.0))
    })
}

/// The SRV record that this is, if it is one of `name`.
fn service(record: &Record, name: &Name) -> Option<Service> {
    let RData::SRV(srv) = &record.data else { return None };
    let host = srv.target.to_utf8().trim_end_matches('.').to_owned();
    (record.name == *name).then_some(Service {
        priority: srv.priority,
        weight: srv.weight,
        host,
        port: srv.port,
    })
}

/// How long a record is good.
fn time_of(record: &Record) -> Duration {
    Duration::from_secs(record.ttl.into())
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use hickory_resolver::config::{ConnectionConfig, ProtocolConfig};
    use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
    use hickory_resolver::proto::rr::rdata::{CNAME, SRV};

    use super::*;

    /// A DNS server on loopback that answers as `script` says, or not at all, and remembers what it was asked.
    struct Server {
        address: SocketAddr,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Server {
        fn start(script: impl Fn(&str) -> Option<Vec<Record>> + Send + 'static) -> Self {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let address = socket.local_addr().unwrap();
            let asked = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&asked);
            std::thread::spawn(move || {
                let mut packet = [0; 1500];
                while let Ok((count, from)) = socket.recv_from(&mut packet) {
                    let question = Message::from_vec(&packet[..count]).unwrap();
                    let name = question.queries[0].name().to_ascii();
                    seen.lock().unwrap().push(name.clone());
                    let Some(records) = script(&name) else { continue };
                    let mut answer = Message::new(question.id, MessageType::Response, OpCode::Query);
                    answer.add_query(question.queries[0].clone());
                    answer.metadata.recursion_available = true;
                    if records.is_empty() {
                        answer.metadata.response_code = ResponseCode::NXDomain;
                    }
                    answer.add_answers(records);
                    socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
                }
            });
            Self { address, asked }
        }

        fn ask(&self, patience: Duration) -> Srv {
            let mut connection = ConnectionConfig::new(ProtocolConfig::Udp);
            connection.port = self.address.port();
            let server = NameServerConfig::new(self.address.ip(), true, vec![connection]);
            Srv::new(vec![server], ResolverOpts::default(), patience).unwrap()
        }

        fn asked(&self) -> Vec<String> {
            let mut asked = self.asked.lock().unwrap().clone();
            asked.dedup();
            asked
        }
    }

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn cname(of: &str, target: &str) -> Record {
        Record::from_rdata(name(of), 300, RData::CNAME(CNAME(name(target))))
    }

    fn srv(of: &str, priority: u16, target: &str) -> Record {
        Record::from_rdata(name(of), 300, RData::SRV(SRV::new(priority, 5, 443, name(target))))
    }

    fn hosts(services: &[Service]) -> Vec<&str> {
        services.iter().map(|service| service.host.as_str()).collect()
    }

    /// Long enough for any machine.
    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn records_behind_aliases_count_whether_the_answer_holds_them_or_not() {
        let server = Server::start(|name| {
            Some(match name {
                "_a._tcp.plain.test." => vec![srv(name, 10, "m.test."), srv(name, 20, "n.test.")],
                // What a resolver answers: the whole chain.
                "_a._tcp.el.test." => vec![
                    cname(name, "_a._tcp.hosting.test."),
                    cname("_A._tcp.Hosting.test.", "_a._tcp.pool.test."),
                    srv("_a._tcp.pool.test.", 10, "m.test."),
                    srv("_a._tcp.other.test.", 10, "wrong.test."),
                ],
                // The alias alone.
                "_a._tcp.bare.test." => vec![cname(name, "_a._tcp.plain.test.")],
                "_a._tcp.void.test." => vec![cname(name, "_a._tcp.nowhere.test.")],
                "_a._tcp.circle.test." => vec![cname(name, "_a._tcp.elcric.test.")],
                "_a._tcp.elcric.test." => vec![cname(name, "_a._tcp.circle.test.")],
                "_a._tcp.self.test." => vec![cname(name, name)],
                _ => vec![],
            })
        });
        let ask = server.ask(PATIENCE);
        for (name, expected) in [
            ("_a._tcp.plain.test", &["m.test", "n.test"][..]),
            ("_a._tcp.el.test", &["m.test"]),
            ("_a._tcp.bare.test", &["m.test", "n.test"]),
            ("_a._tcp.void.test", &[]),
            ("_a._tcp.circle.test", &[]),
            ("_a._tcp.self.test", &[]),
            ("_a._tcp.none.test", &[]),
        ] {
            assert_eq!(hosts(&ask.services(name).await.unwrap()), expected, "{name}");
        }
        assert!(server.asked().len() < 30, "{:?}", server.asked());
    }

    #[tokio::test]
    async fn answers_are_remembered_and_so_is_that_there_is_none() {
        let server = Server::start(|name| {
            Some(if name == "a.test." { vec![srv(name, 1, "m.test.")] } else { vec![] })
        });
        let ask = server.ask(PATIENCE);
        for _ in 0..3 {
            assert_eq!(hosts(&ask.services("a.test").await.unwrap()), ["m.test"]);
            assert!(ask.services("b.test").await.unwrap().is_empty());
        }
        assert_eq!(server.asked(), ["a.test.", "b.test."]);
    }

    #[tokio::test]
    async fn while_nobody_answers_the_old_records_go_on() {
        let is_well = Arc::new(AtomicBool::new(true));
        let answers = Arc::clone(&is_well);
        let server = Server::start(move |name| {
            let mut record = srv(name, 1, "m.test.");
            record.ttl = 0;
            answers.load(Ordering::SeqCst).then(|| vec![record])
        });
        let ask = server.ask(Duration::from_millis(200));
        // Over UDP on a busy machine the first answer may come too late.
        while ask.services("a.test").await.is_err() {}
        is_well.store(false, Ordering::SeqCst);
        for _ in 0..3 {
            assert_eq!(hosts(&ask.services("a.test").await.unwrap()), ["m.test"]);
        }
        assert_eq!(ask.services("b.test").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn names_that_are_not_in_dns_are_not_asked_about() {
        let server = Server::start(|name| Some(vec![srv(name, 1, "m.test.")]));
        let ask = server.ask(PATIENCE);
        for name in ["_a._tcp.x.invalid", "_a._tcp.LOCALHOST", "_a._tcp.x.onion"] {
            assert!(ask.services(name).await.unwrap().is_empty(), "{name}");
        }
        assert!(server.asked().is_empty());
        assert_eq!(hosts(&ask.services("_a._tcp.onion.test").await.unwrap()), ["m.test"]);
    }

    #[tokio::test]
    async fn a_server_that_drops_questions_is_silence_and_not_absence() {
        let server = Server::start(|_| None);
        let error = server.ask(Duration::from_millis(50)).services("a.test").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(server.asked(), ["a.test."]);
    }
}
