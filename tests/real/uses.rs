//! The backends of the manual's recipes, each with what it needs: two gunicorns, PostgreSQL.

use crate::support;

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::manual::sample;
use support::podop::{Podop, run, wait_until};
use support::port;

#[test]
#[ignore = "needs Debian's python3-flask and gunicorn; tests/run installs them"]
fn two_services_on_one_database_survive_the_loss_of_one() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mail.py"), sample("mail.py")).unwrap();
    let schema = "CREATE TABLE domain (name); CREATE TABLE user (address, password, quota); CREATE TABLE alias (address, \
        target); INSERT INTO domain VALUES ('example.org'); INSERT INTO user VALUES ('alice@example.org', '{PLAIN}x', 1000); \
        INSERT INTO alias VALUES ('info@example.org', 'bob@example.net'), ('info@example.org', 'alice@example.org')";
    let fill = format!("import sqlite3; sqlite3.connect('mail.db').executescript({schema:?})");
    let filled = Command::new("/usr/bin/python3").args(["-c", &fill]).current_dir(dir.path()).status();
    assert!(filled.is_ok_and(|status| status.success()));
    let mut services: Vec<(Running, u16)> = (0..2)
        .map(|_| {
            let port = port::free();
            let mut gunicorn = Command::new("/usr/bin/gunicorn");
            gunicorn.args([
                "-b",
                &format!("127.0.0.1:{port}"),
                "--worker-class",
                "gthread",
                "--threads",
                "4",
                "mail:app",
            ]);
            (Running(quiet(gunicorn.current_dir(dir.path()))), port)
        })
        .collect();
    services.iter().for_each(|(_, port)| wait_until(|| TcpStream::connect(("127.0.0.1", *port)).is_ok()));
    let ports: Vec<u16> = services.iter().map(|(_, port)| *port).collect();
    let tables = ["domain", "mailbox", "alias", "passdb", "userdb"];
    let args: Vec<String> = tables.iter().flat_map(|name| table(name, &ports, &["cache=60"])).collect();
    let podop = Podop::start(&args);
    let for_dovecot = |table: &str, key: &str| {
        let socket = podop.socket().to_str().unwrap();
        String::from_utf8(run(&["query", "--mode", "dovecot", socket, table, key]).stdout).unwrap()
    };
    let check = || {
        assert_eq!(podop.lookup("domain", "example.org"), "OK example.org");
        assert_eq!(podop.lookup("mailbox", "alice@example.org"), "OK alice@example.org");
        assert_eq!(podop.lookup("mailbox", "nobody@example.org"), "NOTFOUND ");
        assert_eq!(podop.lookup("alias", "info@example.org"), "OK alice@example.org,bob@example.net");
        assert_eq!(for_dovecot("passdb", "alice@example.org"), "{\"password\":\"{PLAIN}x\"}\n");
        assert_eq!(for_dovecot("userdb", "alice@example.org"), "{\"quota_rule\":\"*:bytes=1000\"}\n");
        assert_eq!(for_dovecot("passdb", "nobody@example.org"), "");
    };
    check();
    services.remove(0);
    for at in 0..20 {
        check();
        assert_eq!(podop.lookup("mailbox", &format!("{at}@example.org")), "NOTFOUND ");
    }
}

#[test]
#[ignore = "needs Debian's postgresql and python3-psycopg2; tests/run installs them"]
fn a_postgresql_database_is_asked_and_may_be_restarted() {
    let database = Database::create();
    let server = database.start();
    let service = python(database.dir.path(), "addresses.py", &[], &[("DSN", &database.dsn())]);
    let podop = Podop::start(&table("mailbox", &[service.1], &[]));
    let check = || {
        assert_eq!(podop.lookup("mailbox", "Alice@example.org"), "OK a/lice");
        assert_eq!(podop.lookup("mailbox", "old@example.org"), "NOTFOUND ");
        assert_eq!(podop.lookup("mailbox", "'; DROP TABLE mailbox; --"), "NOTFOUND ");
        assert!(podop.lookup("mailbox", "a\0b").starts_with("TEMP "), "a NUL cannot be in a text");
    };
    database.fill();
    check();
    server.signal(libc::SIGINT); // fast shutdown
    drop(server);
    assert!(podop.lookup("mailbox", "alice@example.org").starts_with("TEMP mailbox: "));
    let _server = database.start();
    check();
}

#[test]
#[ignore = "needs Debian's postgresql and python3-psycopg2; tests/run installs them"]
fn the_programs_of_the_manual_have_aliases_and_mailboxes() {
    let database = Database::create();
    let server = database.start();
    database.fill();
    let path = |name: &str| database.dir.path().join(name).to_str().unwrap().to_owned();
    ["aliases.py", "mailboxes.py"].iter().for_each(|name| fs::write(path(name), sample(name)).unwrap());
    let dsn = database.dsn();
    // As in the manual, but for paths, the system's Python, and the environment.
    let command = sample("program.sh")
        .replace("/etc/podop/aliases.py", &path("aliases.py"))
        .replace("/etc/podop/mailboxes.py", &path("mailboxes.py"))
        .replace("'python3 ", &format!("'env \"DSN={dsn}\" /usr/bin/python3 "));
    let split = "import shlex, sys; print('\\n'.join(shlex.split(sys.argv[1])))";
    let words = Command::new("/usr/bin/python3").args(["-c", split, &command]).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    let args: Vec<&str> = words.lines().skip_while(|word| *word != "--name").filter(|word| !word.is_empty()).collect();
    let podop = Podop::start(&args);
    let check = || {
        assert_eq!(podop.lookup("alias", "Info@example.org"), "OK alice@example.org,bob@example.net");
        assert_eq!(podop.lookup("alias", "none@example.org"), "NOTFOUND ");
        assert_eq!(podop.lookup("mailbox", "Alice@example.org"), "OK a/lice");
        assert_eq!(podop.lookup("mailbox", "old@example.org"), "NOTFOUND ");
        assert_eq!(podop.lookup("mailbox", "'; DROP TABLE mailbox; --"), "NOTFOUND ");
        assert_eq!(podop.lookup("mailbox", "a\0b"), "NOTFOUND ");
    };
    check();
    server.signal(libc::SIGINT); // fast shutdown
    drop(server);
    let reply = podop.lookup("mailbox", "new@example.org");
    assert!(reply.starts_with("TEMP mailbox: program:mailbox reported an error: "), "{reply}");
    assert_eq!(podop.lookup("mailbox", "Alice@example.org"), "OK a/lice", "it is cached");
    let _server = database.start();
    assert_eq!(podop.lookup("mailbox", "bob@example.org"), "OK b");
    check();
    assert!(sample("aliases.py").lines().count() <= 20 && sample("mailboxes.py").lines().count() <= 40);
}

/// A database in a folder of its own.
struct Database {
    dir: tempfile::TempDir,
    programs: PathBuf,
}

impl Database {
    fn create() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let programs = fs::read_dir("/usr/lib/postgresql").unwrap().flatten().next().unwrap().path().join("bin");
        let database = Self { dir, programs };
        let mut initdb = database.tool("initdb");
        initdb.args(["-D", &database.data(), "-U", "mail", "-A", "trust", "-N"]).stdout(Stdio::null());
        assert!(initdb.status().is_ok_and(|status| status.success()));
        database
    }

    fn folder(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    fn data(&self) -> String {
        format!("{}/data", self.folder())
    }

    fn dsn(&self) -> String {
        format!("host={} dbname=postgres user=mail", self.folder())
    }

    /// The server refuses to run as root.
    fn tool(&self, name: &str) -> Command {
        let path = self.programs.join(name);
        if !support::postfix::is_root() {
            return Command::new(path);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path);
        command
    }

    /// Starts the server, and waits until it answers.
    fn start(&self) -> Running {
        let mut server = self.tool("postgres");
        server.args(["-D", &self.data(), "-k", self.folder(), "-h", "", "-F"]);
        let running = Running(quiet(&mut server));
        wait_until(|| self.query("SELECT 1"));
        running
    }

    fn query(&self, sql: &str) -> bool {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-q", "-h", self.folder(), "-U", "mail", "-d", "postgres", "-c", sql]);
        psql.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Three mailboxes, of which one is not active.
    fn fill(&self) {
        assert!(self.query("CREATE TABLE mailbox (address text PRIMARY KEY, maildir text, active boolean)"));
        let rows =
            "('alice@example.org', 'a/lice', true), ('bob@example.org', 'b', true), ('old@example.org', 'o', false)";
        assert!(self.query(&format!("INSERT INTO mailbox VALUES {rows}")));
    }
}

/// One table with these services as replicas.
fn table(name: &str, ports: &[u16], settings: &[&str]) -> Vec<String> {
    let urls: Vec<String> = ports.iter().map(|port| format!("http://127.0.0.1:{port}/{name}/§")).collect();
    let mut args = ["--name", name, "--type", "url", "--param", &urls.join(" ")].map(str::to_owned).to_vec();
    settings.iter().for_each(|setting| args.extend(["--option".to_owned(), format!("{name}:{setting}")]));
    args
}

/// Runs one on a free port.
fn python(dir: &Path, name: &str, args: &[&str], variables: &[(&str, &str)]) -> (Running, u16) {
    let (path, port): (PathBuf, u16) = (dir.join(name), port::free());
    fs::write(&path, sample(name)).unwrap();
    let mut command = Command::new("/usr/bin/python3");
    command.arg(path).arg(port.to_string()).args(args).envs(variables.iter().copied());
    let running = Running(quiet(&mut command));
    wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
    (running, port)
}

fn quiet(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a program that starts")
}

/// A child; it is ended when this is dropped, gracefully if it can.
struct Running(Child);

impl Running {
    fn signal(&self, number: i32) {
        support::podop::signal(&self.0, number);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(libc::SIGTERM); // gunicorn takes its workers along, PostgreSQL its processes
        for _ in 0..200 {
            if self.0.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
