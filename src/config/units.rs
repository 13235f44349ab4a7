//! Values with units, as people write them: `50MiB`, `24h`, `unix:/run/x.sock`, `32x32-crop`.
//!
//! Owns parsing and printing them. Refuses to know which key a value belongs to. bytesize and humantime parse; their serde forms
//! are not used, because they print other texts than sidecar.yaml has (`50.0 MiB`, `1day`) and their errors give no example.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A count of bytes (or pixels): `50MiB` is 50 × 2^20, `100M` is 100 × 10^6, a bare number is itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A span of time: `2m`, `24h`, `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Bytes a second: `87KiB/s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddr {
    /// `127.0.0.1:8090`, `[::1]:8090`
    Tcp(SocketAddr),
    /// `unix:/run/media-sidecar/http.sock`
    Unix(PathBuf),
}

/// Trusted proxies: an entry of `listen.trust_forwarded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustedProxy {
    /// `unix`: every peer on a Unix socket.
    Unix,
    /// `127.0.0.0/8`, `::1`: peers with an address in this range.
    Range(IpNet),
}

/// A configured `ops.listen`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpsListen {
    /// `off`: no listener.
    Off,
    /// The address of the listener.
    At(ListenAddr),
}

/// A thumbnail size to round requests up to (spec, Thumbnails).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThumbnailSize {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    /// How the picture is fitted into the size.
    pub method: ThumbnailMethod,
}

/// `crop` fills the size, `scale` keeps the aspect ratio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ThumbnailMethod {
    /// Fill the size; cut off the rest.
    Crop,
    /// Show the whole picture within the size.
    Scale,
}

/// An invalid value. The message quotes it and gives an example.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a [`Size`].
    #[error("`{0}` is not a size (like 50MiB, 2GB or 1048576)")]
    Size(String),
    /// Not a [`Span`].
    #[error("`{0}` is not a duration (like 500ms, 2m, 24h or 7days)")]
    Span(String),
    /// Not a [`Rate`].
    #[error("`{0}` is not a rate (like 87KiB/s)")]
    Rate(String),
    /// Neither an IP address with a port nor a Unix socket.
    #[error("`{0}` is not an address (like 127.0.0.1:8090 or unix:/run/x.sock)")]
    Address(String),
    /// A Unix socket whose path depends on the working directory.
    #[error("`{0}` needs an absolute path (like unix:/run/media-sidecar/http.sock)")]
    RelativeSocket(String),
    /// Not a [`TrustedProxy`].
    #[error("`{0}` is not a proxy's address (like 127.0.0.0/8, ::1 or unix)")]
    Proxy(String),
    /// Not a [`ThumbnailSize`].
    #[error("`{0}` is not a thumbnail size (like 96x96-crop or 640x480-scale, 1 to 4096 pixels)")]
    ThumbnailSize(String),
}

/// The address at which a local peer reaches a listener: the loopback address if it listens on all addresses.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        text.parse::<bytesize::ByteSize>()
            .map(|size| Self(size.as_u64()))
            .map_err(|_why| UnitError::Size(text.to_owned()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 6] = [
            (1 << 30, "GiB"),
            (1_000_000_000, "G"),
            (1 << 20, "MiB"),
            (1_000_000, "M"),
            (1 << 10, "KiB"),
            (1000, "k"),
        ];
        let exact = UNITS.iter().find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit));
        match exact {
            Some((unit, name)) => write!(f, "{}{name}", self.0.checked_div(*unit).unwrap_or(0)),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        humantime::parse_duration(text).map(Self).map_err(|_why| UnitError::Span(text.to_owned()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_millis()) {
            (secs, 0) if secs > 0 && secs.is_multiple_of(3600) => write!(f, "{}h", secs.div_euclid(3600)),
            (secs, 0) if secs > 0 && secs.is_multiple_of(60) => write!(f, "{}m", secs.div_euclid(60)),
            (secs, 0) => write!(f, "{secs}s"),
            (..) => write!(f, "{}ms", self.0.as_millis()),
        }
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let size = text.strip_suffix("/s").and_then(|size| size.trim_end().parse::<Size>().ok());
        size.map(|size| Self(size.0)).ok_or_else(|| UnitError::Rate(text.to_owned()))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", Size(self.0))
    }
}

impl FromStr for ListenAddr {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(UnitError::RelativeSocket(text.to_owned())),
            None => text.parse().map(Self::Tcp).map_err(|_why| UnitError::Address(text.to_owned())),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for TrustedProxy {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "unix" {
            return Ok(Self::Unix);
        }
        let range = text.parse::<IpAddr>().map(IpNet::from).or_else(|_not_single| text.parse());
        range.map(Self::Range).map_err(|_why| UnitError::Proxy(text.to_owned()))
    }
}

impl fmt::Display for TrustedProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix => f.write_str("unix"),
            Self::Range(range) if range.prefix_len() == range.max_prefix_len() => range.addr().fmt(f),
            Self::Range(range) => range.fmt(f),
        }
    }
}

impl FromStr for OpsListen {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "off" { Ok(Self::Off) } else { text.parse().map(Self::At) }
    }
}

impl fmt::Display for OpsListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl FromStr for ThumbnailSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let parse = || {
            let (size, method) = text.split_once('-')?;
            let (width, height) = size.split_once('x')?;
            let method = match method {
                "crop" => ThumbnailMethod::Crop,
                "scale" => ThumbnailMethod::Scale,
                _ => return None,
            };
            let pixels = |digits: &str| digits.parse().ok().filter(|px| (1..=4096).contains(px));
            Some(Self { width: pixels(width)?, height: pixels(height)?, method })
        };
        parse().ok_or_else(|| UnitError::ThumbnailSize(text.to_owned()))
    }
}

impl fmt::Display for ThumbnailSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            ThumbnailMethod::Crop => "crop",
            ThumbnailMethod::Scale => "scale",
        };
        write!(f, "{}x{}-{method}", self.width, self.height)
    }
}

/// Implements serde with the text form, for the types above.
macro_rules! serde_as_text {
    ($($type:ty: $expected:literal),+) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Text($expected))?.parse().map_err(de::Error::custom)
            }
        }
    )+};
}
serde_as_text!(
    Size: "a size (like 50MiB, 2GB or 1048576)",
    Span: "a duration (like 500ms, 2m, 24h or 7days)",
    Rate: "a rate (like 87KiB/s)",
    ListenAddr: "an address (like 127.0.0.1:8090 or unix:/run/x.sock)",
    TrustedProxy: "a proxy's address (like 127.0.0.0/8, ::1 or unix)",
    OpsListen: "an address (like unix:/run/media-sidecar/ops.sock or 127.0.0.1:8091), or off",
    ThumbnailSize: "a thumbnail size (like 96x96-crop or 640x480-scale)"
);

/// Accepts a string, or a number as its text: YAML and environment variables turn `1048576` into a number.
struct Text(&'static str);

impl de::Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

/// One value or a list of them.
pub(super) mod one_or_many {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    use std::fmt;
    use std::marker::PhantomData;

    /// Writes a list of one as a single value.
    pub(in crate::config) fn serialize<T: Serialize, S: Serializer>(
        values: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match values {
            [one] => one.serialize(serializer),
            many => many.serialize(serializer),
        }
    }

    /// Reads a single value as a list of one.
    pub(in crate::config) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_any(OneOrMany(PhantomData))
    }

    /// The visitor behind [`deserialize`].
    struct OneOrMany<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an address or a list of them (like 127.0.0.1:8090)")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            T::deserialize(de::value::StrDeserializer::new(text)).map(|one| vec![one])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = list.next_element()? {
                values.push(value);
            }
            Ok(values)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_mean_what_they_say() {
        for (text, bytes) in
            [("50MiB", 50 << 20), ("100M", 100_000_000), ("2GB", 2_000_000_000), ("1 KiB", 1024), ("17", 17)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        assert!("fifty".parse::<Size>().is_err());
        assert!("-1".parse::<Size>().is_err());
        assert_eq!("24h".parse(), Ok(Span(Duration::from_hours(24))));
        assert!("soon".parse::<Span>().is_err());
        assert_eq!("87KiB/s".parse(), Ok(Rate(87 << 10)));
        assert!("87KiB".parse::<Rate>().is_err() && "fast/s".parse::<Rate>().is_err());
    }

    #[test]
    fn text_forms_round_trip() {
        for bytes in [0, 1, 1000, 1023, 1 << 20, 50 << 20, 100_000_000, 3 << 30, u64::MAX] {
            assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)), "{}", Size(bytes));
        }
        for text in ["24h", "2m", "90s", "0s", "1500ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!(Rate(87 << 10).to_string(), "87KiB/s");
        for text in ["127.0.0.1:8090", "[::1]:80", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
        for text in ["unix", "127.0.0.0/8", "192.0.2.7", "::1", "fd00::/8"] {
            assert_eq!(text.parse::<TrustedProxy>().unwrap().to_string(), text);
        }
        for text in ["off", "127.0.0.1:8091", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<OpsListen>().unwrap().to_string(), text);
        }
        for text in ["32x32-crop", "800x600-scale"] {
            assert_eq!(text.parse::<ThumbnailSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn senseless_values_are_refused_with_an_example() {
        assert!("localhost".parse::<ListenAddr>().unwrap_err().to_string().contains("127.0.0.1:8090"));
        assert!("unix:x".parse::<ListenAddr>().unwrap_err().to_string().contains("absolute"));
        for text in ["", "localhost", "10.0.0.0/33", "unix:/run/x.sock"] {
            assert!(text.parse::<TrustedProxy>().is_err(), "{text}");
        }
        for text in ["", "on", "localhost:1"] {
            assert!(text.parse::<OpsListen>().is_err(), "{text}");
        }
        for text in ["0x5-crop", "32x32", "32x32-fit", "99999x1-crop", "-crop"] {
            assert!(text.parse::<ThumbnailSize>().is_err(), "{text}");
        }
    }
}
