//! The format of `/etc/resolv.conf` (resolv.conf(5) of glibc), as far as it says which name servers to ask and how.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Which name servers to ask, and how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ResolvConf {
    pub servers: Vec<SocketAddr>,
    /// The time for one attempt with all servers.
    pub timeout: Duration,
    pub attempts: u32,
    /// The first server to ask is another one with each question.
    pub rotate: bool,
}

/// The port of name servers.
pub const PORT: u16 = 53;

impl ResolvConf {
    /// One with these servers, and the defaults of glibc.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, timeout: Duration::from_secs(5), attempts: 2, rotate: false }
    }

    /// Parses the text of the file, which may name no usable server.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::new(Vec::new());
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(server)),
                Some("options") => words.for_each(|option| conf.set(option)),
                _ => {}
            }
        }
        conf
    }

    /// With the server of this machine if there is none.
    pub fn or_local(mut self) -> Self {
        if self.servers.is_empty() {
            self.servers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        self
    }

    fn set(&mut self, option: &str) {
        let number = |text: &str, most: u32| text.parse::<u32>().ok().map(|number| number.clamp(1, most));
        // The maxima are those of glibc (RES_MAXRETRANS and RES_MAXRETRY).
        match option.split_once(':') {
            Some(("timeout", text)) => {
                number(text, 30).into_iter().for_each(|seconds| self.timeout = Duration::from_secs(seconds.into()));
            }
            Some(("attempts", text)) => number(text, 5).into_iter().for_each(|attempts| self.attempts = attempts),
            Some(_) => {}
            None => self.rotate |= option == "rotate",
        }
    }
}

/// A server by its address; one with the name of an interface (`fe80::1%eth0`) is skipped.
fn server(text: &str) -> Option<SocketAddr> {
    text.parse::<IpAddr>().ok().map(|address| (address, PORT).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_options_are_read() {
        let text = "# nameserver 1.1.1.1\n;nameserver 2.2.2.2\nsearch example.org\nnameserver 192.0.2.1 # one\n\
                    nameserver\t2001:db8::1\nnameserver fe80::1%eth0\nnameserver x\noptions rotate timeout:3 edns0\n\
                    options attempts:9 timeout:x\nsortlist 1.2.3.4\n";
        let conf = ResolvConf::parse(text);
        assert_eq!(conf.servers, ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
        assert_eq!((conf.timeout, conf.attempts, conf.rotate), (Duration::from_secs(3), 5, true));
    }

    #[test]
    fn without_servers_it_is_this_machine() {
        let conf = ResolvConf::parse("").or_local();
        assert_eq!(conf, ResolvConf::new(vec!["127.0.0.1:53".parse().unwrap()]));
        let low = ResolvConf::parse("options timeout:0 attempts:0\n");
        assert_eq!((low.timeout, low.attempts), (Duration::from_secs(1), 1));
    }
}
