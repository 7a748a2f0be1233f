//! The command line parser. Every error is one line that names the flag and the expected value.

use super::command::{
    AskCommand, Command, Config, ConfigError, Endpoint, LogInCommand, Mode, Permissions, QueryCommand, Setting, Spec,
    invalid, seconds, usage,
};
use super::expand::expand;
use crate::system;
use pico_args::Arguments;
use std::ffi::OsString;
use std::time::Duration;

/// The metrics listener that `status` reads without an address: that of the examples in the manual.
const METRICS: &str = "inet:127.0.0.1:9779";

/// Parses the arguments that follow the name of the program.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, ConfigError> {
    let mut args = expand(args)?;
    let check_key = check_key(&mut args)?;
    let mut args = Arguments::from_vec(args);
    // Before the other flags are checked, so that it works in a command line with errors.
    if args.contains("--help") {
        return Ok(Command::Help);
    }
    if args.contains("--version") {
        return Ok(Command::Version);
    }
    let mut verbosity = 0;
    while args.contains(["-v", "--verbose"]) {
        verbosity += 1;
    }
    if is_command(&args, "help") {
        return manual(args);
    }
    if is_command(&args, "status") {
        return status(args);
    }
    let modes = all(&mut args, "--mode")?;
    if is_command(&args, "query") {
        return match &modes[..] {
            [mode] if mode == "policy" => ask(args),
            [mode] if mode == "sasl" => log_in(args),
            _ => query(args, &parse_modes(&modes)?, verbosity > 0),
        };
    }
    daemon(args, check_key, &parse_modes(&modes)?, verbosity)
}

/// Parses what is left for the daemon, or for `--check`.
fn daemon(
    mut args: Arguments,
    check_key: Option<String>,
    modes: &[Mode],
    verbosity: usize,
) -> Result<Command, ConfigError> {
    let check = args.contains("--check") || check_key.is_some();
    let endpoints: Vec<Endpoint> =
        all(&mut args, "--socket")?.iter().map(|text| endpoint("--socket", text)).collect::<Result<_, _>>()?;
    let metrics = all(&mut args, "--metrics")?;
    // Several modes belong to the --socket flags in their order; none of them applies to inherited sockets.
    let inherited = if let [only] = *modes { only } else { Mode::Auto };
    let mut config = Config {
        listeners: Vec::new(),
        inherited,
        permissions: permissions(&mut args)?,
        tables: tables(&mut args)?,
        // Below the time limits of the clients: Dovecot 2.3 waits 30 s for a reply (dict-client.c), Postfix 100 s.
        timeout: time(&mut args, "--timeout", 20)?,
        slow: time(&mut args, "--slow", 1)?,
        cache_size: size(&mut args, "--cache-size", 64 << 20)?,
        check_key,
        verbosity,
    };
    // An unknown argument is reported before a missing one, as it is mostly a misspelling of the latter.
    finish(args)?;
    // A check needs no listener, so that tables can be tried before the sockets are chosen.
    if check && endpoints.is_empty() && config.tables.is_empty() {
        return Err(usage("--check expects tables or sockets, or @FILE for arguments from a file"));
    }
    if endpoints.is_empty() && !check && system::inherited() == 0 {
        return Err(usage("--socket is required: where to listen"));
    }
    for mode in modes {
        config.set_decides(*mode)?;
    }
    config.listeners = pair(endpoints, modes)?;
    for text in metrics {
        listen_once(&mut config.listeners, "--metrics", endpoint("--metrics", &text)?, Mode::Admin)?;
    }
    Ok(if check { Command::Check(config) } else { Command::Run(config) })
}

/// Takes out `--check=KEY`.
// The parser knows flags with a value or without, but none that may have one.
fn check_key(args: &mut Vec<OsString>) -> Result<Option<String>, ConfigError> {
    let value = |arg: &OsString| arg.to_str()?.strip_prefix("--check=").map(str::to_owned);
    let Some((at, key)) = args.iter().enumerate().find_map(|(at, arg)| Some((at, value(arg)?))) else {
        return Ok(None);
    };
    args.remove(at);
    if key.is_empty() { Err(usage("--check= expects a key")) } else { Ok(Some(key)) }
}

/// Whether the first argument that is not a flag is this command.
fn is_command(args: &Arguments, name: &str) -> bool {
    // On a copy, as subcommand() removes the argument.
    args.clone().subcommand().is_ok_and(|command| command.as_deref() == Some(name))
}

/// Parses `help [CHAPTER]`.
fn manual(mut args: Arguments) -> Result<Command, ConfigError> {
    let _ = args.subcommand();
    let chapter = args.opt_free_from_str().map_err(|_| usage("help expects the name of a chapter"))?;
    finish(args)?;
    Ok(Command::Manual(chapter))
}

/// Parses `status [PATH|inet:HOST:PORT]`.
fn status(mut args: Arguments) -> Result<Command, ConfigError> {
    let _ = args.subcommand();
    let address: Option<String> =
        args.opt_free_from_str().map_err(|_| usage("status expects the address of a metrics listener"))?;
    finish(args)?;
    Ok(Command::Status(endpoint("status", address.as_deref().unwrap_or(METRICS))?))
}

/// Parses `query SOCKET TABLE KEY|-`.
fn query(mut args: Arguments, modes: &[Mode], verbose: bool) -> Result<Command, ConfigError> {
    let user = one(&mut args, "--user")?;
    let _ = args.subcommand();
    let mut words = Vec::new();
    while let Ok(word) = args.free_from_str::<String>() {
        words.push(word);
    }
    finish(args)?;
    let [socket, table, key] = <[String; 3]>::try_from(words)
        .map_err(|words| usage(format!("query expects SOCKET TABLE KEY, not {} words", words.len())))?;
    let dovecot = match modes {
        // Only Dovecot's requests have a user.
        [] | [Mode::Postfix] => user.is_some(),
        [Mode::Dovecot] => true,
        _ => return Err(usage("query expects one --mode: postfix, dovecot, policy or sasl")),
    };
    Ok(Command::Query(QueryCommand { socket: endpoint("SOCKET", &socket)?, dovecot, verbose, user, table, key }))
}

/// Parses `query --mode policy SOCKET NAME=VALUE …`.
fn ask(mut args: Arguments) -> Result<Command, ConfigError> {
    let _ = args.subcommand();
    let mut words = Vec::new();
    while let Ok(word) = args.free_from_str::<String>() {
        words.push(word);
    }
    finish(args)?;
    let is_attribute = |word: &String| word.find('=').is_some_and(|at| at > 0) && !word.contains('\n');
    match words.split_first() {
        Some((socket, attributes)) if !attributes.is_empty() && attributes.iter().all(is_attribute) => {
            let (socket, attributes) = (endpoint("SOCKET", socket)?, attributes.to_vec());
            Ok(Command::Ask(AskCommand { socket, attributes }))
        }
        _ => Err(usage("query --mode policy expects SOCKET NAME=VALUE …")),
    }
}

/// Parses `query --mode sasl SOCKET USER`.
fn log_in(mut args: Arguments) -> Result<Command, ConfigError> {
    let _ = args.subcommand();
    let mut word = || args.free_from_str::<String>().map_err(|_| usage("query --mode sasl expects SOCKET USER"));
    let (socket, user) = (endpoint("SOCKET", &word()?)?, word()?);
    finish(args)?;
    Ok(Command::LogIn(LogInCommand { socket, user }))
}

/// Reports the first argument that was not used.
fn finish(args: Arguments) -> Result<(), ConfigError> {
    match args.finish().first() {
        Some(arg) => Err(usage(format!("unknown argument '{}', see --help", arg.to_string_lossy()))),
        None => Ok(()),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the other errors cannot occur here")]
fn all(args: &mut Arguments, flag: &'static str) -> Result<Vec<String>, ConfigError> {
    args.values_from_str(flag).map_err(|error| match error {
        pico_args::Error::NonUtf8Argument => usage(format!("{flag} expects UTF-8")),
        _ => usage(format!("{flag} expects a value")),
    })
}

/// The value of a flag that may be given once.
fn one(args: &mut Arguments, flag: &'static str) -> Result<Option<String>, ConfigError> {
    let mut values = all(args, flag)?;
    match values.len() {
        0 | 1 => Ok(values.pop()),
        _ => Err(usage(format!("{flag} is given more than once"))),
    }
}

fn parse_modes(modes: &[String]) -> Result<Vec<Mode>, ConfigError> {
    modes.iter().map(|mode| parse_mode(mode)).collect()
}

fn parse_mode(text: &str) -> Result<Mode, ConfigError> {
    // Metrics have a flag of their own.
    Mode::of_name(text).filter(|mode| *mode != Mode::Admin).ok_or_else(|| {
        usage(format!("--mode expects postfix, dovecot, auto, policy=TABLE or sasl=TABLE, not '{text}'"))
    })
}

/// The value of a flag in seconds.
fn time(args: &mut Arguments, flag: &'static str, default: u64) -> Result<Duration, ConfigError> {
    match one(args, flag)? {
        None => Ok(Duration::from_secs(default)),
        Some(text) => {
            seconds(&text).ok_or_else(|| usage(format!("{flag} expects seconds, at least 0.001, not '{text}'")))
        }
    }
}

/// The value of a flag in bytes; the suffixes `K`, `M` and `G` are powers of 1024.
fn size(args: &mut Arguments, flag: &'static str, default: usize) -> Result<usize, ConfigError> {
    let Some(text) = one(args, flag)? else { return Ok(default) };
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (&text[..], 0),
    };
    // Rust's parser also accepts a sign.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = digits.parse().ok().filter(|_| plain).and_then(|number: usize| number.checked_mul(1 << shift));
    bytes
        .filter(|bytes| (1 << 16..=1 << 40).contains(&(*bytes as u64)))
        .ok_or_else(|| usage(format!("{flag} expects 64K or more, with K, M or G, not '{text}'")))
}

/// Parses `inet:HOST:PORT`, or a path.
fn endpoint(flag: &str, text: &str) -> Result<Endpoint, ConfigError> {
    let Some(address) = text.strip_prefix("inet:") else {
        // Postfix writes the same address with `unix:` (`socketmap:unix:/path:name`).
        let path = text.strip_prefix("unix:").unwrap_or(text);
        return match path {
            "" => Err(usage(format!("{flag} expects a path or inet:HOST:PORT"))),
            // A bare port would otherwise become a socket file with that name.
            port if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Err(usage(format!("{flag} expects a path or inet:HOST:PORT, not '{port}'")))
            }
            // So would an address whose prefix was forgotten.
            address
                if !address.contains('/')
                    && address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) =>
            {
                Err(usage(format!("{flag} expects a path or inet:HOST:PORT, not '{address}'")))
            }
            path => Ok(Endpoint::Unix(path.into())),
        };
    };
    // At the last colon, as an IPv6 address has several.
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Endpoint::Inet(address.to_owned())),
        _ => Err(usage(format!("{flag} expects inet:HOST:PORT, not '{text}'"))),
    }
}

/// Assigns modes to endpoints: none, one for all, or one each.
fn pair(endpoints: Vec<Endpoint>, modes: &[Mode]) -> Result<Vec<(Endpoint, Mode)>, ConfigError> {
    let mode = |at: usize| match modes {
        [] => Ok(Mode::Auto),
        [only] => Ok(*only),
        modes => Ok(modes[at]),
    };
    if modes.len() > 1 && modes.len() != endpoints.len() {
        return Err(usage("--mode is given once for all, or once per --socket"));
    }
    let modes = (0..endpoints.len()).map(mode).collect::<Result<Vec<_>, _>>()?;
    let mut listeners = Vec::new();
    for (endpoint, mode) in endpoints.into_iter().zip(modes) {
        listen_once(&mut listeners, "--socket", endpoint, mode)?;
    }
    Ok(listeners)
}

/// Adds a listener, unless its endpoint is already in use.
fn listen_once(
    listeners: &mut Vec<(Endpoint, Mode)>,
    flag: &str,
    endpoint: Endpoint,
    mode: Mode,
) -> Result<(), ConfigError> {
    // Binding it twice would fail with an error about another process.
    if listeners.iter().any(|(other, _)| *other == endpoint) {
        return Err(invalid(format!("{flag} {endpoint} is given twice")));
    }
    listeners.push((endpoint, mode));
    Ok(())
}

fn permissions(args: &mut Arguments) -> Result<Permissions, ConfigError> {
    let mode = one(args, "--socket-mode")?;
    let mode = match mode.as_deref() {
        None => 0o660,
        Some(text) => u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o777 && !text.starts_with('+'))
            .ok_or_else(|| usage(format!("--socket-mode expects an octal number up to 0777, not '{text}'")))?,
    };
    let owner = number(one(args, "--socket-owner")?, "--socket-owner", system::user_id)?;
    let group = number(one(args, "--socket-group")?, "--socket-group", system::group_id)?;
    Ok(Permissions { mode, owner, group })
}

fn number(name: Option<String>, flag: &str, find: fn(&str) -> Option<u32>) -> Result<Option<u32>, ConfigError> {
    let Some(name) = name else { return Ok(None) };
    find(&name).map(Some).ok_or_else(|| invalid(format!("{flag}: there is no '{name}'")))
}

fn tables(args: &mut Arguments) -> Result<Vec<Spec>, ConfigError> {
    let (names, kinds, params) = (all(args, "--name")?, all(args, "--type")?, all(args, "--param")?);
    let counts = [names.len(), kinds.len(), params.len()];
    if counts.iter().any(|count| *count != counts[0]) {
        let [names, kinds, params] = counts;
        return Err(usage(format!(
            "--name, --type and --param belong together: there are {names} names, {kinds} types, {params} params"
        )));
    }
    // In a socketmap request the name of the table ends at the first space.
    if let Some(name) = names.iter().find(|name| name.is_empty() || name.contains(char::is_whitespace)) {
        return Err(invalid(format!("--name '{name}': a name must not be empty or contain spaces")));
    }
    let mut specs: Vec<Spec> = Vec::new();
    for ((name, kind), param) in names.into_iter().zip(kinds).zip(params) {
        if specs.iter().any(|spec| spec.name == name) {
            return Err(invalid(format!("--name '{name}' is given twice")));
        }
        specs.push(Spec { name, kind, param, settings: Vec::new(), decides: false });
    }
    // After all tables, as a setting may precede its table on the command line.
    for option in all(args, "--option")? {
        add_setting(&option, &mut specs)?;
    }
    Ok(specs)
}

/// Adds a setting to the tables that it names.
fn add_setting(option: &str, specs: &mut [Spec]) -> Result<(), ConfigError> {
    // Errors do not quote the value, which may be a secret.
    // The last colon before the value, as the names of tables may have some and those of settings have none.
    let parts =
        option.split_once('=').and_then(|(of, value)| of.rsplit_once(':').map(|(name, key)| (name, key, value)));
    let (name, key, value) = parts.ok_or_else(|| usage("--option expects NAME:KEY=VALUE"))?;
    let general = name == "*";
    let mut found = general;
    for spec in specs.iter_mut().filter(|spec| general || spec.name == name) {
        spec.settings.push(Setting { key: key.to_owned(), value: value.to_owned(), general });
        found = true;
    }
    if found { Ok(()) } else { Err(invalid(format!("--option {name}:{key}: there is no table '{name}'"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Config {
        match parse(args.iter().map(OsString::from)) {
            Ok(Command::Run(config)) => config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_line_of_the_python_original_works() {
        let config = run(&[
            "--socket",
            "/run/podop.socket",
            "--mode",
            "dovecot",
            "--name",
            "quota",
            "--type",
            "url",
            "--param",
            "http://admin/quota/§",
            "--name",
            "auth",
            "--type",
            "url",
            "--param",
            "http://admin/auth/§",
        ]);
        assert_eq!(config.listeners, [(Endpoint::Unix("/run/podop.socket".into()), Mode::Dovecot)]);
        let tables: Vec<_> = config.tables.iter().map(|spec| (&spec.name[..], &spec.param[..])).collect();
        assert_eq!(tables, [("quota", "http://admin/quota/§"), ("auth", "http://admin/auth/§")]);
        assert_eq!(config.timeout, Duration::from_secs(20));
    }

    #[test]
    fn flags_may_be_abbreviated_and_combined_with_their_values() {
        let config = run(&["--sock=/s", "--na=a", "--ty", "file", "--par=/a=b", "-vv", "--verb", "--timeout=0.5"]);
        assert_eq!((config.verbosity, config.timeout), (3, Duration::from_millis(500)));
        assert_eq!(config.listeners[0].0, Endpoint::Unix("/s".into()));
        assert_eq!(config.tables[0].param, "/a=b");
    }

    #[test]
    fn modes_are_given_once_or_once_per_socket() {
        let modes = |args: &[&str]| run(args).listeners.iter().map(|(_, mode)| *mode).collect::<Vec<_>>();
        assert_eq!(modes(&["--socket", "/a", "--socket", "inet:[::1]:99"]), [Mode::Auto; 2]);
        assert_eq!(modes(&["--socket", "/a", "--socket", "/b", "--mode", "postfix"]), [Mode::Postfix; 2]);
        let both = ["--mode", "postfix", "--socket", "/a", "--mode", "dovecot", "--socket", "/b"];
        assert_eq!(modes(&both), [Mode::Postfix, Mode::Dovecot]);
    }

    #[test]
    fn settings_go_to_their_tables() {
        let mut args = vec!["--socket", "/s"];
        for name in ["a", "b", "c:d"] {
            args.extend(["--name", name, "--type", "url", "--param", "http://h/§"]);
        }
        args.extend(["--option", "a:header=X: y=z:1", "--option", "*:timeout=3", "--option", "c:d:cache=1"]);
        let config = run(&args);
        let setting = |key: &str, value: &str, general| Setting { key: key.into(), value: value.into(), general };
        assert_eq!(config.tables[0].settings, [setting("header", "X: y=z:1", false), setting("timeout", "3", true)]);
        assert_eq!(config.tables[1].settings, [setting("timeout", "3", true)]);
        assert_eq!(config.tables[2].settings, [setting("timeout", "3", true), setting("cache", "1", false)]);
    }

    #[test]
    fn further_arguments_come_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("args");
        std::fs::write(&path, "# tables\n--name\nalias\n\n  --type=url\n--param\n@http://h/§ http://i/§\n--sock\n")
            .unwrap();
        let config = run(&[&format!("@{}", path.display()), "@/s"]);
        assert_eq!(config.tables[0].param, "@http://h/§ http://i/§");
        assert_eq!(config.listeners[0].0, Endpoint::Unix("@/s".into()));
    }

    #[test]
    fn a_query_has_three_words() {
        let parsed = |args: &[&str]| match parse(args.iter().map(OsString::from)) {
            Ok(Command::Query(query)) => (query.socket.to_string(), query.dovecot, query.user, query.table, query.key),
            other => panic!("{other:?}"),
        };
        let expected =
            |dovecot, user: Option<&str>| ("/s".into(), dovecot, user.map(str::to_owned), "t".into(), "k k".into());
        assert_eq!(parsed(&["query", "/s", "t", "k k"]), expected(false, None));
        assert_eq!(parsed(&["query", "--mode", "dovecot", "--user", "u", "/s", "t", "k k"]), expected(true, Some("u")));
        assert_eq!(parsed(&["query", "/s", "t", "k k", "--user=u"]), expected(true, Some("u")));
        // The key of a catch-all is no file.
        assert_eq!(parsed(&["query", "/s", "t", "@example.org"]).4, "@example.org");
        assert_eq!(parsed(&["-v", "query", "/s", "t", "@example.org"]).4, "@example.org");
    }

    #[test]
    fn seconds_are_positive_and_finite() {
        assert_eq!(seconds("0.25"), Some(Duration::from_millis(250)));
        assert_eq!(seconds("0.001"), Some(Duration::from_millis(1)));
        for invalid in ["", "0", "0.0000000001", "0.0009", "-1", "nan", "inf", "1e3", "+1", "1s", "86401", "."] {
            assert_eq!(seconds(invalid), None, "{invalid}");
        }
    }

    #[test]
    fn every_error_has_one_line_and_the_right_code() {
        let table = ["--socket", "/s", "--name", "a", "--type", "url", "--param", "http://h/§"];
        let with = |more: &[&'static str]| [&table[..], more].concat();
        let cases: &[(Vec<&str>, u8, &str)] = &[
            (vec![], 64, "--socket is required"),
            (vec!["--socket"], 64, "--socket expects a value"),
            (vec!["--socket", ""], 64, "--socket expects a path"),
            (vec!["--socket", "inet:localhost"], 64, "--socket expects inet:HOST:PORT"),
            (vec!["--socket", "127.0.0.1:99"], 64, "--socket expects a path or inet:HOST:PORT, not '127.0.0.1:99'"),
            (vec!["--socket", "inet::99"], 64, "--socket expects inet:HOST:PORT"),
            (vec!["--socket", "inet:h:99999"], 64, "--socket expects inet:HOST:PORT"),
            (vec!["--socket", "/s", "--socket", "/s"], 78, "--socket /s is given twice"),
            (
                with(&["--mode", "exim"]),
                64,
                "--mode expects postfix, dovecot, auto, policy=TABLE or sasl=TABLE, not 'exim'",
            ),
            (with(&["--mode", "policy="]), 64, "--mode expects postfix, dovecot, auto, policy=TABLE or sasl=TABLE"),
            (with(&["--mode", "policy=b"]), 78, "--mode policy=b: there is no table 'b'"),
            (
                vec!["--socket", "/s", "--name", "f", "--type", "file", "--param", "/f", "--mode", "policy=f"],
                78,
                "--mode policy=f: only a table of type url can do this, not file",
            ),
            (vec!["query", "--mode", "sasl", "/s"], 64, "query --mode sasl expects SOCKET USER"),
            (vec!["query", "--mode", "policy", "/s"], 64, "query --mode policy expects SOCKET NAME=VALUE"),
            (vec!["query", "--mode", "policy", "/s", "sender"], 64, "query --mode policy expects SOCKET NAME=VALUE"),
            (with(&["--mode", "auto", "--mode", "auto"]), 64, "--mode is given once for all, or once per --socket"),
            (with(&["--name", "b"]), 64, "there are 2 names, 1 types, 1 params"),
            (with(&["--name", "a", "--type", "url", "--param", "x"]), 78, "--name 'a' is given twice"),
            (with(&["--name", "b c", "--type", "url", "--param", "x"]), 78, "--name 'b c': a name must not be empty"),
            (with(&["--timeout", "soon"]), 64, "--timeout expects seconds, at least 0.001, not 'soon'"),
            (with(&["--timeout", "0"]), 64, "--timeout expects seconds, at least 0.001, not '0'"),
            (with(&["--slow", "0.0000000001"]), 64, "--slow expects seconds, at least 0.001, not '0.0000000001'"),
            (with(&["--timeout", "1", "--timeout", "2"]), 64, "--timeout is given more than once"),
            (with(&["--socket-mode", "0888"]), 64, "--socket-mode expects an octal number"),
            (with(&["--socket-mode", "1777"]), 64, "--socket-mode expects an octal number"),
            (with(&["--socket-owner", "no such user"]), 78, "--socket-owner: there is no 'no such user'"),
            (with(&["--socket-group", "no such group"]), 78, "--socket-group: there is no 'no such group'"),
            (with(&["--socket-owner", "4294967295"]), 78, "--socket-owner: there is no '4294967295'"),
            (with(&["--option", "timeout=3"]), 64, "--option expects NAME:KEY=VALUE"),
            (with(&["--option", "a:timeout"]), 64, "--option expects NAME:KEY=VALUE"),
            (with(&["--option", "b:timeout=3"]), 78, "--option b:timeout: there is no table 'b'"),
            (with(&["--socket-", "x"]), 64, "unknown argument '--socket-'"),
            (with(&["--bogus"]), 64, "unknown argument '--bogus'"),
            (with(&["stray"]), 64, "unknown argument 'stray'"),
            (vec!["@/no/such/file"], 78, "@/no/such/file: No such file"),
            (vec!["query", "/s", "t"], 64, "query expects SOCKET TABLE KEY, not 2 words"),
            (vec!["query", "/s", "t", "k", "x"], 64, "query expects SOCKET TABLE KEY, not 4 words"),
            (
                vec!["query", "--mode", "auto", "/s", "t", "k"],
                64,
                "query expects one --mode: postfix, dovecot, policy or sasl",
            ),
        ];
        for (args, code, line) in cases {
            let error = parse(args.iter().map(OsString::from)).unwrap_err();
            assert!(error.code == *code && error.line.contains(line), "{args:?}: {error:?}");
            assert!(!error.line.contains('\n'), "{args:?}: {error:?}");
        }
    }
}
