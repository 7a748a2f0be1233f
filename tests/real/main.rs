//! The program with real servers from Debian's packages, which `tests/run` installs.
#![allow(unsafe_code, unreachable_pub, clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

/// Makes two tests of each case: with the servers of this machine, and with those of Debian trixie.
macro_rules! on_each_release {
    ($needs:literal: $($case:ident)*) => {$(
        mod $case {
            use crate::support::roots::Release;

            #[test]
            #[ignore = $needs]
            fn bookworm() {
                super::$case(Release::Bookworm);
            }

            #[test]
            #[ignore = $needs]
            fn trixie() {
                if Release::Trixie.is_here() {
                    super::$case(Release::Trixie);
                }
            }
        }
    )*};
}

/// nginx, gunicorn and Python's http.server as backends.
mod backends;
/// The image of the package's Containerfile.
mod container;
/// Prometheus on the queries of the package's dashboard and alert rules.
#[cfg(feature = "tls")]
mod dashboard;
/// Dovecot: doveadm, IMAP and LMTP.
mod dovecot;
/// Logins with Dovecot: by dicts, by Lua and by oauth2.
mod logins;
/// The README and the manual, and the files that they show.
mod manual;
/// Moving from maps of Postfix.
mod moving;
/// The table type mx: dnsmasq, unbound, Postfix.
mod mx;
/// The packages, in Debian systems that are booted.
mod package;
/// Postfix with check_policy_service.
mod policy;
/// Postfix: postmap and SMTP.
mod postfix;
/// promtool on the metrics and on the package's alert rules.
mod prometheus;
/// Postfix with smtpd_sasl_type = dovecot.
mod sasl;
/// nginx as a shared cache, and HAProxy in front of two services.
mod shared;
/// The status page in Chromium, and `podop status`.
mod status;
/// Socket activation, notifications, and the package's units.
mod systemd;
/// nginx and gunicorn behind TLS.
#[cfg(feature = "tls")]
mod tls;
/// The backends of the manual's recipes.
mod uses;

#[path = "../support"]
mod support {
    #[allow(dead_code)] // shared with `tests/engine`
    pub mod dns;
    pub mod dovecot;
    #[allow(dead_code)] // shared with `tests/program`
    pub mod http;
    pub mod machine;
    pub mod manual;
    #[allow(dead_code)] // shared with `tests/program`
    pub mod podop;
    pub mod port;
    pub mod postfix;
    pub mod roots;
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub mod server;
    #[cfg(feature = "tls")]
    #[allow(dead_code)] // shared with `tests/program`
    pub mod tls;
}
