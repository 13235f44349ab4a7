//! `previews.ports`: the ports of links that may be previewed.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Ports that may be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every port except those that browsers block, because other protocols than HTTP use them.
    Any,
    /// Only these.
    Listed(Vec<u16>),
}

/// How [`Ports::Any`] is written.
const ANY: &str = "any";

/// The ports that browsers block: the [bad ports](https://fetch.spec.whatwg.org/#port-blocking) of the WHATWG Fetch standard.
const BAD: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103,
    104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514,
    515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723,
    2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

impl Ports {
    /// Whether `port` may be connected to.
    pub fn permit(&self, port: u16) -> bool {
        match self {
            Self::Any => !BAD.contains(&port),
            Self::Listed(ports) => ports.contains(&port),
        }
    }

    /// Whether the list is empty or contains 0.
    pub(super) fn is_senseless(&self) -> bool {
        matches!(self, Self::Listed(ports) if ports.is_empty() || ports.contains(&0))
    }
}

impl From<Vec<u16>> for Ports {
    fn from(ports: Vec<u16>) -> Self {
        Self::Listed(ports)
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str(ANY),
            Self::Listed(ports) => ports.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortsVisitor)
    }
}

/// Takes `any`, a port, or a list of ports.
struct PortsVisitor;

impl<'de> de::Visitor<'de> for PortsVisitor {
    type Value = Ports;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`any`, or a list of ports (like [80, 443])")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
        if text == ANY { Ok(Ports::Any) } else { Err(E::invalid_value(de::Unexpected::Str(text), &self)) }
    }

    fn visit_u64<E: de::Error>(self, port: u64) -> Result<Ports, E> {
        let none = || E::invalid_value(de::Unexpected::Unsigned(port), &self);
        u16::try_from(port).map(|port| Ports::Listed(vec![port])).map_err(|_large| none())
    }

    fn visit_i64<E: de::Error>(self, port: i64) -> Result<Ports, E> {
        let none = || E::invalid_value(de::Unexpected::Signed(port), &self);
        u16::try_from(port).map(|port| Ports::Listed(vec![port])).map_err(|_no_port| none())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Ports, A::Error> {
        let mut ports = Vec::new();
        while let Some(port) = list.next_element()? {
            ports.push(port);
        }
        Ok(Ports::Listed(ports))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_is_every_port_but_those_that_browsers_refuse() {
        for port in [80, 443, 3000, 6167, 8008, 8443, 8448, 9200, 65535] {
            assert!(Ports::Any.permit(port), "{port}");
        }
        for port in [0, 22, 25, 110, 6000, 6667, 10080] {
            assert!(!Ports::Any.permit(port), "{port}");
        }
        assert!(BAD.is_sorted());
        let listed = Ports::from(vec![25, 443]);
        assert!(listed.permit(25) && listed.permit(443) && !listed.permit(80));
    }

    #[test]
    fn the_text_form_round_trips() {
        for (text, ports) in [
            ("\"any\"", Some(Ports::Any)),
            ("[80,443]", Some(Ports::Listed(vec![80, 443]))),
            ("\"all\"", None),
            ("[80,\"x\"]", None),
            ("[70000]", None),
        ] {
            let read = serde_json::from_str::<Ports>(text).ok();
            assert_eq!(read, ports, "{text}");
            assert!(read.is_none_or(|ports| serde_json::to_string(&ports).unwrap() == text));
        }
        assert_eq!(serde_json::from_str::<Ports>("443").unwrap(), Ports::Listed(vec![443]));
    }
}
