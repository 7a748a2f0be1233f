//! The manual: one chapter per file, for `podop help`, docs.rs and the repository's web pages.
//!
//! Every named sample in a chapter is a file too, in `src/manual/files` or `src/package`; `tests/real/manual.rs`
//! compares them. Chapters link to each other by reference, `[Caching][availability#caching]`. Each chapter ends with
//! definitions of its references as paths of files. `links.txt` defines them as modules; it precedes the chapters in
//! the crate's documentation, where the first definition counts.

/// One chapter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chapter {
    /// The name of its file, without `.md`.
    pub name: &'static str,
    /// Its subject, in one line.
    pub summary: &'static str,
    /// Markdown.
    pub text: &'static str,
}

macro_rules! chapters {
    ($($name:ident $summary:literal)*) => {
        /// All chapters, in the order in which they are listed.
        pub const CHAPTERS: &[Chapter] = &[$(Chapter {
            name: stringify!($name),
            summary: $summary,
            text: include_str!(concat!(stringify!($name), ".md")),
        }),*];

        $(
            #[doc = include_str!("links.txt")]
            #[doc = include_str!(concat!(stringify!($name), ".md"))]
            pub mod $name {}
        )*
    };
}

chapters! {
    postfix "setup, the keys that Postfix sends, the chroot, failures in the mail log"
    policy "decisions for check_policy_service: greylisting, rate limits, lists"
    sasl "logins for Postfix without Dovecot: SMTP AUTH, submission"
    dovecot "dicts for quota, ACL, METADATA, Sieve and last login, with 2.3 and 2.4"
    logins "passdb and userdb of Dovecot by dicts, Lua and OAuth2; SMTP AUTH; outages"
    backend "what a backend has to do: requests, statuses, values; a complete one in Python"
    program "tables that are answered by processes: lines of JSON, without a web server"
    options "flags, tables and their settings, signals, exit codes, limits"
    availability "replicas, slow backends, caching, pipelining"
    tls "backends behind https://, client certificates, renewal"
    deployment "installing, systemd, containers, Kubernetes, Mailu, several MX hosts"
    operation "metrics, a status page, health, alert rules, a dashboard, the log, security"
    recipes "a backup MX; complete backends: Flask with SQLite, PostgreSQL"
    migrating "moving from mysql maps and from the Python program; the changelog"
}
