//! The mx table: a domain is its own value if its MX records name one of these hosts.

use super::interface::{OnFault, Plan, Question, ResponseError, ResponseOf, Table, TableEntry};
use super::keys::KeyRules;
use super::settings::{Caching, SettingError, Settings};
use super::setup::{Setup, TableSpec};
use super::stamp::{CHECK_INTERVAL, Stamp};
use crate::backend::{DnsQuery, Method, Request, Route};
use crate::log;
use crate::query::{Answer, Failure, Tokens};
use crate::value::Value;
use crate::wire::dns::Name;
use crate::wire::http::Response;
use crate::wire::net::Net;
use crate::wire::resolv_conf::{PORT, ResolvConf};
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Where the system names its name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The lifetime of cached records that have none.
// Those of the DNS always have one.
const FRESH: Duration = Duration::from_secs(5);

/// Opens an mx table; `--param` are the names of hosts.
pub(super) fn open(spec: TableSpec<'_>, _: &mut Setup<'_>) -> Result<TableEntry, SettingError> {
    let name = |text: &str| Name::parse(text).map_err(|_| SettingError::param(format!("'{text}' is no host name")));
    let hosts: Vec<Name> =
        spec.param.split([' ', ',']).filter(|text| !text.is_empty()).map(name).collect::<Result<_, _>>()?;
    if hosts.is_empty() {
        return Err(SettingError::param("expects the names of hosts, as MX records have them".to_owned()));
    }
    let mut settings = spec.settings;
    let MxOptions { timeout, stale, servers, primary } =
        MxOptions::take(&mut settings).map_err(SettingError::option)?;
    settings.finish().map_err(SettingError::option)?;
    let name = spec.name.to_owned();
    let (file, conf) = match servers.is_empty() {
        true => {
            let (file, conf) = ResolvConfFile::open(RESOLV_CONF.into());
            (Some(file), conf)
        }
        false => (None, ResolvConf::new(servers)),
    };
    let query = Rc::new(DnsQuery { conf, hosts: hosts.into(), networks: primary.into() });
    let table = Mx { name: name.clone(), file, routes: Rc::new([Route::to_dns(query.clone())]), query };
    Ok(TableEntry {
        name,
        timeout,
        caching: Some(Caching { fresh: FRESH, stale }),
        keys: KeyRules::default(),
        on_fault: OnFault::default(),
        tokens: Tokens::default(),
        decides: false,
        table: Box::new(table),
    })
}

/// The settings of one table.
struct MxOptions {
    timeout: Option<Duration>,
    stale: Duration,
    servers: Vec<SocketAddr>,
    primary: Vec<Net>,
}

impl MxOptions {
    fn take(settings: &mut Settings<'_>) -> Result<Self, String> {
        let words =
            |text: &str| text.split([' ', ',']).filter(|word| !word.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let resolvers = settings.all("resolver");
        let resolver: Vec<String> = resolvers.iter().copied().flat_map(words).collect();
        if resolver.is_empty() && !resolvers.is_empty() {
            return Err("resolver= expects IP or IP:PORT".to_owned());
        }
        let primary: Vec<String> = settings.all("primary").into_iter().flat_map(words).collect();
        let server = |text: &String| server(text).ok_or_else(|| format!("resolver={text}: expects IP or IP:PORT"));
        let net = |text: &String| {
            Net::parse(text).ok_or_else(|| format!("primary={text}: expects a network like 192.0.2.0/24"))
        };
        Ok(Self {
            timeout: settings.seconds("timeout")?,
            stale: settings.seconds("stale")?.unwrap_or_default(),
            servers: resolver.iter().map(server).collect::<Result<_, _>>()?,
            primary: primary.iter().map(net).collect::<Result<_, _>>()?,
        })
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| Some(SocketAddr::new(text.trim_matches(['[', ']']).parse::<IpAddr>().ok()?, PORT)))
}

struct Mx {
    name: String,
    /// What an MX record has to name, and where each of the hosts with the lowest preference must have an address, if
    /// there are networks.
    query: Rc<DnsQuery>,
    /// The file with the name servers; `None` if they are settings.
    file: Option<ResolvConfFile>,
    routes: Rc<[Route]>,
}

/// The file that names the name servers.
struct ResolvConfFile {
    path: PathBuf,
    stamp: Option<Stamp>,
    /// When it is looked at again.
    next_check: Option<Instant>,
}

impl ResolvConfFile {
    /// The file with its content; without a file, the name server is that of this machine.
    fn open(path: PathBuf) -> (Self, ResolvConf) {
        let stamp = Stamp::of(&path);
        let conf = ResolvConf::parse(&std::fs::read_to_string(&path).unwrap_or_default()).or_local();
        (Self { path, stamp, next_check: None }, conf)
    }

    /// The content, if it has changed since it was read. Looks at most once per second, and not without questions: a
    /// program without work does nothing.
    fn changed(&mut self, now: Instant) -> Option<ResolvConf> {
        if self.next_check.is_some_and(|at| now < at) {
            return None;
        }
        self.next_check = Some(now + CHECK_INTERVAL);
        let stamp = Stamp::of(&self.path).filter(|stamp| self.stamp.as_ref() != Some(stamp))?;
        let text = std::fs::read_to_string(&self.path).ok()?;
        self.stamp = Some(stamp);
        // One that is about to be written may be empty.
        Some(ResolvConf::parse(&text)).filter(|conf| !conf.servers.is_empty())
    }
}

impl Table for Mx {
    fn plan(&mut self, question: Question<'_>, now: Instant) -> Plan<'_> {
        let Question::Get(_) = question else {
            let why = format_args!("{}: an mx table only has single domains", self.name);
            return Plan::Answer(Answer::Failed(Failure::temporary(why)));
        };
        if let Some(conf) = self.file.as_mut().and_then(|file| file.changed(now)) {
            log::info(format_args!("resolv-conf-read table={} servers={:?}", self.name, conf.servers));
            let DnsQuery { hosts, networks, .. } = &*self.query;
            self.query = Rc::new(DnsQuery { conf, hosts: hosts.clone(), networks: networks.clone() });
            self.routes = Rc::new([Route::to_dns(self.query.clone())]);
        }
        Plan::Request(Request { method: Method::Get, routes: self.routes.clone(), body: None })
    }

    fn parse_value<'a>(&self, _: ResponseOf, response: Response<'a>) -> Result<Answer<'a>, ResponseError> {
        let text = str::from_utf8(&response.body).unwrap_or_default(); // it always is
        let domain = self.accepted(text).map(|domain| domain.as_bytes().to_vec());
        Ok(domain.map_or(Answer::Miss, |domain| Answer::Found(Value::Text(Cow::Owned(domain)))))
    }

    fn reload(&mut self, _: &mut Setup<'_>) {
        self.file.iter_mut().for_each(|file| file.next_check = None);
    }
}

impl Mx {
    /// The domain of these records, if it is one that the hosts receive mail for.
    fn accepted<'a>(&self, records: &'a str) -> Option<&'a str> {
        let (domain, rest) = records.split_once('\n')?;
        if self.query.networks.is_empty() {
            return Some(domain);
        }
        // As permit_mx_backup_networks of Postfix: each of the best hosts, each with any of its addresses.
        let is_near = |host: &str| {
            let addresses = rest.lines().filter_map(|line| line.strip_prefix(host)?.strip_prefix(" A ")?.parse().ok());
            addresses.into_iter().any(|address| self.query.is_near(address))
        };
        let mut best = rest.lines().filter_map(|line| line.strip_suffix(" MX"));
        best.all(is_near).then_some(domain)
    }
}

#[cfg(test)]
mod tests {
    use super::super::alone::open_alone;
    use super::*;

    fn open_with(param: &str, settings: &[(&str, &str)]) -> Result<TableEntry, SettingError> {
        open_alone(open, param, settings)
    }

    fn table(primary: &str) -> Mx {
        let networks = primary.split_ascii_whitespace().map(|net| Net::parse(net).unwrap()).collect();
        let hosts = ["mx1.example.net", "mx2.example.net"].map(|name| Name::parse(name).unwrap()).into();
        let query = Rc::new(DnsQuery { conf: ResolvConf::new(Vec::new()), hosts, networks });
        Mx { name: "t".into(), query, file: None, routes: Rc::new([]) }
    }

    #[test]
    fn a_domain_is_accepted_if_a_record_names_a_host() {
        assert_eq!(table("").accepted("d.example\n"), Some("d.example"));
        assert_eq!(table("").accepted(""), None);
        assert_eq!(table("192.0.2.0/24").accepted(""), None);
    }

    #[test]
    fn the_best_hosts_need_an_address_in_the_networks() {
        for (records, accepted) in [
            ("d\na.b MX\na.b A 192.0.2.1\n", true),
            ("d\na.b MX\na.b A 198.51.100.1\na.b A 192.0.2.1\n", true),
            ("d\na.b MX\na.b A 198.51.100.1\n", false),
            ("d\na.b MX\n", false),
            ("d\na.b MX\na.b A 2001:db8::7\n", true),
            ("d\na.b MX\nc.d MX\na.b A 192.0.2.1\nc.d A 192.0.2.2\n", true),
            ("d\na.b MX\nc.d MX\na.b A 192.0.2.1\n", false),
            ("d\na.b MX\nxa.b A 192.0.2.1\n", false),
        ] {
            assert_eq!(table("192.0.2.0/24 2001:db8::/32").accepted(records).is_some(), accepted, "{records}");
        }
    }

    #[test]
    fn settings_are_checked() {
        let error = |param, settings| open_with(param, settings).err().map(|error| error.why).unwrap_or_default();
        assert_eq!(error("mx.example.net, mx2.example.net", &[("resolver", "::1"), ("resolver", "[::1]:5353")]), "");
        assert!(error(" ", &[]).contains("expects the names of hosts"));
        assert!(error("192.0.2.1", &[]).contains("'192.0.2.1' is no host name"));
        assert!(error("mx", &[("resolver", "")]).contains("expects IP"));
        assert!(error("mx", &[("resolver", "dns.example")]).contains("expects IP"));
        assert!(error("mx", &[("primary", "192.0.2.1/24")]).contains("expects a network"));
        assert!(error("mx", &[("cache", "60")]).contains("one of: primary, resolver, stale, timeout"));
    }

    #[test]
    fn a_changed_file_is_read_within_a_second() {
        let dir = tempfile::tempdir().unwrap();
        let (path, now) = (dir.path().join("resolv.conf"), Instant::now());
        let (mut file, conf) = ResolvConfFile::open(path.clone());
        assert_eq!(conf.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(file.changed(now), None);
        std::fs::write(&path, "nameserver 192.0.2.7\n").unwrap();
        assert_eq!(file.changed(now), None);
        let conf = file.changed(now + CHECK_INTERVAL).unwrap();
        assert_eq!(conf.servers, ["192.0.2.7:53".parse().unwrap()]);
        std::fs::write(&path, "").unwrap();
        assert_eq!(file.changed(now + 2 * CHECK_INTERVAL), None, "it is about to be written");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.changed(now + 3 * CHECK_INTERVAL), None);
    }
}
