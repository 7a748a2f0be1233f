//! Networks in the notation of RFC 4632: an address and the length of its prefix.

use std::net::IpAddr;

/// A network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Net {
    address: IpAddr,
    prefix: u32,
}

impl Net {
    /// An address alone, or `ADDRESS/PREFIX`, with IPv6 addresses also in brackets as Postfix writes them. Bits behind
    /// the prefix are an error, which is mostly a misspelling.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr =
            address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address).parse().ok()?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= bits && digits.bytes().all(|byte| byte.is_ascii_digit()))?,
        };
        let net = Self { address, prefix };
        (net.masked(address) == net.value(address)).then_some(net)
    }

    /// Whether an address is in the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == self.masked(self.address)
    }

    /// The bits of an address, the first one highest.
    fn value(&self, address: IpAddr) -> u128 {
        match address {
            IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
            IpAddr::V6(address) => address.into(),
        }
    }

    fn masked(&self, address: IpAddr) -> u128 {
        self.value(address) & u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_networks_or_not() {
        for (net, inside, outside) in [
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("192.0.2.128/25", "192.0.2.129", "192.0.2.127"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("[2001:db8::1]/128", "2001:db8::1", "2001:db8::2"),
            ("::/0", "::1", "1.2.3.4"),
        ] {
            let net = Net::parse(net).unwrap();
            assert!(net.contains(inside.parse().unwrap()) && !net.contains(outside.parse().unwrap()), "{net:?}");
        }
        for text in ["", "x", "192.0.2.1/24", "192.0.2.0/33", "::/129", "192.0.2.0/+24", "192.0.2.0/", "192.0.2/24"] {
            assert_eq!(Net::parse(text), None, "{text}");
        }
    }
}
