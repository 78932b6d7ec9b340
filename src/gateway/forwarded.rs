//! Whose request it is behind proxies that we trust.

use std::net::IpAddr;
use std::str::FromStr;

use super::request::Head;

/// An address block in CIDR notation; a bare address is a block of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                let shift = 32 - u32::from(self.prefix);
                (ours.to_bits() ^ theirs.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                let shift = 128 - u32::from(self.prefix);
                (ours.to_bits() ^ theirs.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || format!("\"{text}\" is neither an address nor a network such as 10.0.0.0/8");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address = address.parse::<IpAddr>().map_err(|_| bad())?.to_canonical();
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), |prefix| prefix.parse::<u8>().map_err(|_| bad()))?;
        if prefix > longest { Err(bad()) } else { Ok(Self { address, prefix }) }
    }
}

/// The proxies whose `X-Forwarded-For` is believed.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    /// # Errors
    /// When an entry is neither an address nor a network.
    pub fn new(entries: &[String]) -> Result<Self, String> {
        entries.iter().map(|entry| entry.parse()).collect::<Result<_, _>>().map(Self)
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// The client's address: the nearest one that is not a trusted proxy. What a client claims for itself counts for
    /// nothing, because only entries written by trusted proxies are passed over.
    #[must_use]
    pub fn client(&self, head: &Head) -> IpAddr {
        let mut client = head.peer;
        if !self.trusts(client) {
            return client;
        }
        let values = head.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = values.flat_map(|value| value.split(',')).map(str::trim).collect();
        for hop in hops.into_iter().rev() {
            let Ok(address) = hop.parse::<IpAddr>() else { break };
            client = address;
            if !self.trusts(client) {
                break;
            }
        }
        client
    }

    /// Whether the client came over TLS, as far as is known.
    #[must_use]
    pub fn is_secure(&self, head: &Head) -> bool {
        head.secure || (self.trusts(head.peer) && head.header("x-forwarded-proto") == Some("https"))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted = TrustedProxies::new(&["10.0.0.0/8".into(), "::1".into()]).expect("networks");
        let client = |peer: &str, forwarded: &str| {
            let mut head = Head::new(Method::GET, "/");
            head.peer = peer.parse().expect("an address");
            head.headers.insert("x-forwarded-for", forwarded.parse().expect("a value"));
            trusted.client(&head).to_string()
        };
        assert_eq!(client("192.0.2.1", "198.51.100.7"), "192.0.2.1");
        assert_eq!(client("10.1.2.3", "198.51.100.7"), "198.51.100.7");
        assert_eq!(client("10.1.2.3", "1.1.1.1, 198.51.100.7, 10.9.9.9"), "198.51.100.7");
        assert_eq!(client("::1", "nonsense"), "::1");
        assert_eq!(client("::ffff:10.0.0.1", "198.51.100.7"), "198.51.100.7");
    }

    #[test]
    fn networks_are_read_and_wrong_ones_refused() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().expect("a network").contains(address.parse().expect("an address"))
        };
        assert!(contains("0.0.0.0/0", "8.8.8.8") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("2001:db8::/32", "2001:db8:1::") && !contains("2001:db8::/32", "2001:db9::"));
        assert!(contains("192.0.2.1", "192.0.2.1") && !contains("192.0.2.1", "192.0.2.0"));
        for bad in ["", "10.0.0.0/33", "::/129", "host", "10.0.0.0/x"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
