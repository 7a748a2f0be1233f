//! The program with real servers from Debian's packages, which `tests/run` installs.

/// nginx, gunicorn and Python's http.server as backends.
mod backends;
/// Dovecot: doveadm, IMAP and LMTP.
mod dovecot;
/// What the README shows.
mod manual;
/// Postfix: postmap and SMTP.
mod postfix;
/// promtool on the metrics and on the README's alert rules.
mod prometheus;
/// Socket activation, notifications, and the README's units.
mod systemd;
/// nginx and gunicorn behind TLS.
#[cfg(feature = "tls")]
mod tls;
/// The services that the README works out.
mod uses;

#[path = "../support"]
mod support {
    pub mod dovecot;
    #[allow(dead_code)] // shared with `tests/program`
    pub mod http;
    #[allow(dead_code)] // shared with `tests/program`
    pub mod podop;
    pub mod port;
    pub mod postfix;
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub mod server;
    #[cfg(feature = "tls")]
    #[allow(dead_code)] // shared with `tests/program`
    pub mod tls;
}
