//! Which servers may exchange media with us: `federation.allow` and `federation.deny`.

use crate::config::host_list::HostList;
use crate::error::{Error, Kind, Result};
use crate::matrix::ServerName;

/// Host lists over server names without their port.
#[derive(Debug)]
pub(super) struct Policy(HostList);

impl Policy {
    pub(super) fn new(allow: &[String], deny: &[String]) -> Self {
        Self(HostList::new(allow, deny))
    }

    /// # Errors
    /// `Forbidden` for a server that is excluded.
    pub(super) fn check(&self, server_name: &ServerName) -> Result<()> {
        // DNS takes a name with a dot at its end for the same name.
        if self.0.permit(server_name.host_str().trim_end_matches('.')) {
            return Ok(());
        }
        Err(Error::new(Kind::Forbidden, "this server does not exchange media with that server"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_at_the_end_plays_no_part() {
        let policy = Policy::new(&["*".to_owned()], &["evil.org".to_owned(), "*.evil.org".to_owned()]);
        for name in ["evil.org.", "evil.org.:8448", "a.evil.org."] {
            assert!(policy.check(&ServerName::parse(name).unwrap()).is_err(), "{name}");
        }
    }

    #[test]
    fn the_port_plays_no_part() {
        let policy = Policy::new(&["*.example.org".to_owned()], &["evil.*".to_owned()]);
        let allows = |name: &str| policy.check(&ServerName::parse(name).unwrap()).is_ok();
        assert!(allows("a.example.org:8448") && !allows("evil.example.org:1"));
    }
}
