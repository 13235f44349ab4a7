//! DNS messages: a query for SRV records, and the response.
//!
//! Owns the simple-dns crate. Refuses to know how messages are sent. Responses are untrusted: a malformed one is an error.

use std::time::Duration;

use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, ResourceRecord, SimpleDnsError, TYPE};

use super::Service;

/// Bytes of a message's header.
const HEADER: usize = 12;

/// Bytes of the shortest record: a name of one byte, type, class, lifetime and length.
const SHORTEST_RECORD: usize = 11;

/// A query for the SRV records of a name.
pub(super) struct SrvQuery {
    /// Random; the response must repeat it.
    id: u16,
    /// The name, in lower case, without a trailing dot.
    name: String,
    bytes: Vec<u8>,
}

/// What a message from a DNS server is.
pub(super) enum Reply {
    /// Not the response to this query, but a late or forged one.
    Unrelated,
    /// Truncated, because it is too long for UDP. TCP gives all of it.
    Truncated,
    /// The server failed or refused, with the reason for the log.
    Failed(String),
    Answer(SrvResponse),
}

/// The content of a response.
#[derive(Debug)]
pub(super) struct SrvResponse {
    /// SRV records and aliases of any name; may be empty.
    pub(super) records: Vec<Record>,
    /// How long it may be cached that there are none, if the server says so
    /// ([RFC 2308](https://www.rfc-editor.org/rfc/rfc2308)).
    pub(super) none_lifetime: Option<Duration>,
}

/// One record.
#[derive(Debug)]
pub(super) struct Record {
    /// The name it belongs to, in lower case, without a trailing dot.
    pub(super) name: String,
    /// Its time to live.
    pub(super) lifetime: Duration,
    pub(super) data: Data,
}

/// The data of a record.
#[derive(Debug)]
pub(super) enum Data {
    /// The name is an alias (CNAME) of this one, in lower case.
    Alias(String),
    /// A target of the service.
    Service(Service),
}

impl SrvQuery {
    /// A query. `udp_size`: the UDP payload size offered with EDNS; `None`: no EDNS, which means 512.
    ///
    /// # Errors
    /// When the name is not valid: a label is longer than 63 bytes, or the name is longer than 255.
    pub(super) fn new(id: u16, name: &str, udp_size: Option<u16>) -> Result<Self, SimpleDnsError> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let mut packet = Packet::new_query(id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        packet.questions.push(Question::new(Name::new(&name)?, TYPE::SRV.into(), CLASS::IN.into(), false));
        *packet.opt_mut() =
            udp_size.map(|udp_packet_size| OPT { opt_codes: Vec::new(), udp_packet_size, version: 0 });
        let bytes = packet.build_bytes_vec()?;
        Ok(Self { id, name, bytes })
    }

    /// The message to send.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Parses a message as the response to this query.
    pub(super) fn read(&self, message: &[u8]) -> Reply {
        if message.get(..2) != Some(&self.id.to_be_bytes()) {
            return Reply::Unrelated;
        }
        if has_too_many_records(message) {
            return Reply::Failed("its response is malformed".to_owned());
        }
        let packet = match Packet::parse(message) {
            Ok(packet) => packet,
            Err(error) => return Reply::Failed(format!("its response is malformed: {error}")),
        };
        let is_ours = |question: &Question<'_>| {
            question.qtype == TYPE::SRV.into() && text(&question.qname) == self.name
        };
        // Some servers do not repeat the question when they refuse it.
        if !packet.has_flags(PacketFlag::RESPONSE) || !packet.questions.iter().all(is_ours) {
            return Reply::Unrelated;
        }
        if packet.has_flags(PacketFlag::TRUNCATION) {
            return Reply::Truncated;
        }
        // That a name does not exist is a valid response, too.
        if !matches!(packet.rcode(), RCODE::NoError | RCODE::NameError) {
            return Reply::Failed(format!("it answers {:?}", packet.rcode()));
        }
        Reply::Answer(SrvResponse {
            records: packet.answers.iter().filter_map(record).collect(),
            none_lifetime: packet.name_servers.iter().find_map(none_lifetime),
        })
    }
}

/// Whether a message claims more records than can fit into it: the parser would reserve memory for all of them.
fn has_too_many_records(message: &[u8]) -> bool {
    let header = message.get(..HEADER).unwrap_or_default();
    let counts =
        header.as_chunks::<2>().0.iter().skip(3).map(|count| usize::from(u16::from_be_bytes(*count)));
    counts.sum::<usize>().saturating_mul(SHORTEST_RECORD) > message.len()
}

/// A record of a type that is used here; other types are ignored.
fn record(record: &ResourceRecord<'_>) -> Option<Record> {
    let data = if let RData::CNAME(target) = &record.rdata {
        Data::Alias(text(&target.0))
    } else if let RData::SRV(srv) = &record.rdata {
        let host = srv.target.to_string();
        Data::Service(Service { priority: srv.priority, weight: srv.weight, host, port: srv.port })
    } else {
        return None;
    };
    Some(Record { name: text(&record.name), lifetime: seconds(record.ttl), data })
}

/// How long it may be cached that there is no record, according to the zone.
fn none_lifetime(record: &ResourceRecord<'_>) -> Option<Duration> {
    let RData::SOA(zone) = &record.rdata else { return None };
    Some(seconds(record.ttl.min(zone.minimum)))
}

/// A name in lower case; the root is empty.
fn text(name: &Name<'_>) -> String {
    name.to_string().to_ascii_lowercase()
}

/// A duration from a number of seconds.
fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::rdata::{CNAME, SOA, SRV};

    use super::*;

    /// An answer of two records and a zone.
    fn answer(id: u16) -> Vec<u8> {
        let name = |text| Name::new_unchecked(text);
        let rr = |of, data| ResourceRecord::new(name(of), CLASS::IN, 300, data);
        let mut packet = Packet::new_reply(id);
        packet.questions.push(Question::new(
            name("_a._tcp.x.test"),
            TYPE::SRV.into(),
            CLASS::IN.into(),
            false,
        ));
        packet.answers.push(rr("_a._tcp.X.test", RData::CNAME(CNAME(name("Pool.test")))));
        let srv = SRV { priority: 1, weight: 2, port: 443, target: name("M.test") };
        packet.answers.push(rr("pool.test", RData::SRV(srv)));
        let soa = SOA {
            mname: name("ns.test"),
            rname: name("admin.test"),
            serial: 1,
            refresh: 1,
            retry: 1,
            expire: 1,
            minimum: 60,
        };
        packet.name_servers.push(rr("test", RData::SOA(soa)));
        packet.build_bytes_vec_compressed().unwrap()
    }

    #[test]
    fn an_answer_is_read_in_lower_case_with_its_lifetimes() {
        let query = SrvQuery::new(7, "_a._tcp.X.test.", Some(1232)).unwrap();
        let Reply::Answer(answer) = query.read(&answer(7)) else { panic!("no answer") };
        assert_eq!(answer.none_lifetime, Some(Duration::from_mins(1)));
        let [alias, service] = &answer.records[..] else { panic!("{answer:?}") };
        assert_eq!((alias.name.as_str(), alias.lifetime), ("_a._tcp.x.test", Duration::from_mins(5)));
        assert!(matches!(&alias.data, Data::Alias(target) if target == "pool.test"));
        assert!(
            matches!(&service.data, Data::Service(service) if service.host == "M.test" && service.port == 443)
        );
    }

    #[test]
    fn what_answers_another_question_is_passed_over() {
        let query = SrvQuery::new(7, "_a._tcp.x.test", None).unwrap();
        let other = SrvQuery::new(7, "_a._tcp.y.test", None).unwrap();
        assert!(matches!(query.read(&answer(8)), Reply::Unrelated));
        assert!(matches!(other.read(&answer(7)), Reply::Unrelated));
        assert!(matches!(query.read(query.bytes()), Reply::Unrelated), "a question");
        assert!(matches!(query.read(&[]), Reply::Unrelated));
        assert!(matches!(query.read(&[0, 7, 0x80]), Reply::Failed(_)));
    }

    #[test]
    fn names_that_cannot_be_asked_for_are_errors() {
        assert!(SrvQuery::new(1, &"x".repeat(64), None).is_err());
        assert!(SrvQuery::new(1, &"x.".repeat(200), None).is_err());
    }

    proptest! {
        #[test]
        fn no_message_makes_the_parser_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            changes in prop::collection::vec((0_usize..200, any::<u8>()), 0..8),
            length in 0_usize..200,
        ) {
            let query = SrvQuery::new(7, "_a._tcp.x.test", None).unwrap();
            let mut changed = answer(7);
            for (at, byte) in changes {
                if let Some(place) = changed.get_mut(at) {
                    *place = byte;
                }
            }
            changed.truncate(length);
            for message in [&bytes, &changed] {
                drop(query.read(message));
            }
            let mut ours = vec![0, 7, 0x80, 0];
            ours.extend(&bytes);
            drop(query.read(&ours));
        }
    }
}
