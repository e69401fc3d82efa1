//! CIDR allowlists of the peers that may connect.

use crate::error::ConfigErrorKind;
use ipnet::IpNet;
use std::{fmt, net::IpAddr, str::FromStr};

/// CIDR blocks of the peers that an endpoint admits, written with semicolons between them:
/// `203.3.3.3/28;198.51.100.7;2001:db8::/32`.
///
/// Host bits are masked, a bare address is one host, and IPv4-mapped IPv6 peers match IPv4 blocks. White space and a
/// trailing semicolon are accepted. The empty list admits everyone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowlist(Vec<IpNet>);

impl Allowlist {
    /// Maximum number of blocks in one list. Every new peer is compared with all of them.
    pub const MAX_BLOCKS: usize = 1024;

    /// Returns the list that admits everyone.
    pub const fn everyone() -> Self {
        Self(Vec::new())
    }

    /// Returns whether a peer with this address is admitted.
    pub fn admits(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.is_empty() || self.0.iter().any(|block| block.contains(&peer))
    }

    /// Returns whether the list is empty, which admits everyone.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromStr for Allowlist {
    type Err = ConfigErrorKind;

    fn from_str(s: &str) -> Result<Self, ConfigErrorKind> {
        let blocks: Vec<&str> = s.split(';').map(str::trim).collect();
        let mut list = Vec::new();
        for (i, block) in blocks.iter().enumerate() {
            if block.is_empty() && i + 1 == blocks.len() {
                break; // the empty list, or a trailing semicolon
            }
            if list.len() == Self::MAX_BLOCKS {
                return Err(ConfigErrorKind::out_of_range("more blocks", format!("1 to {} blocks", Self::MAX_BLOCKS)));
            }
            list.push(parse_block(block).ok_or_else(|| {
                ConfigErrorKind::malformed(block, format!("an address or CIDR block (block {} of the list)", i + 1))
            })?);
        }
        list = IpNet::aggregate(&list); // sorted, without blocks that another block covers
        Ok(Self(list))
    }
}

fn parse_block(text: &str) -> Option<IpNet> {
    let net = match text.split_once('/') {
        None => IpNet::from(text.parse::<IpAddr>().ok()?),
        Some(_) => text.parse::<IpNet>().ok()?,
    };
    // `::ffff:203.3.3.0/124` is the IPv4 block 203.3.3.0/28.
    let net = match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => IpNet::new(IpAddr::V4(v4), v6.prefix_len() - 96).ok()?,
            None => net,
        },
        other => other,
    };
    Some(net.trunc())
}

impl fmt::Display for Allowlist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, block) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(";")?;
            }
            write!(f, "{block}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(s: &str) -> Allowlist {
        s.parse().unwrap()
    }

    #[test]
    fn allowlist_admits_covered_addresses() {
        let allow = list(" 203.3.3.3/28 ; 198.51.100.7;2001:db8::/32; ");
        for ok in ["203.3.3.0", "203.3.3.15", "198.51.100.7", "2001:db8::1", "::ffff:203.3.3.9"] {
            assert!(allow.admits(ok.parse().unwrap()), "{ok}");
        }
        for no in ["203.3.3.16", "198.51.100.8", "2001:db9::1", "::1", "::ffff:9.9.9.9"] {
            assert!(!allow.admits(no.parse().unwrap()), "{no}");
        }
        assert_eq!(list("::ffff:203.3.3.3/124"), list("203.3.3.0/28"));
        assert_eq!(list(&allow.to_string()), allow);
    }

    #[test]
    fn allowlist_empty_admits_everyone() {
        for empty in ["", "  ", ";"] {
            let parsed = empty.parse::<Allowlist>();
            assert_eq!(parsed.is_ok(), empty != ";", "{empty:?}");
        }
        assert!(Allowlist::everyone().admits("::1".parse().unwrap()));
    }

    #[test]
    fn allowlist_error_names_block_and_position() {
        let error = "10.0.0.0/8;10.0.0.0/33".parse::<Allowlist>().unwrap_err().to_string();
        assert!(error.contains("10.0.0.0/33") && error.contains("block 2"), "{error}");
        for bad in ["x", "1.2.3", "10.0.0.0/", "1.2.3.4;;5.6.7.8", "/8", "::1/129"] {
            assert!(bad.parse::<Allowlist>().is_err(), "{bad}");
        }
    }
}
