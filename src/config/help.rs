//! The text of `--help`.

/// The output of `--help`.
pub const HELP: &str = "\
Answers lookups of Postfix (socketmap) and Dovecot (dict) with requests to an HTTP backend.

  podop --socket PATH [--mode MODE] --name NAME --type TYPE --param PARAM ... [options]
  podop query [-v] [--mode postfix|dovecot] [--user USER] SOCKET TABLE KEY|-
                         look up one key, or keys from stdin; with --user, as Dovecot does for that
                         user; with -v, show which keys were asked for
  podop query --mode policy SOCKET NAME=VALUE ...
                         ask for a decision, as Postfix does
  podop query --mode sasl SOCKET USER
                         log in, as Postfix does; the password is read from stdin
  podop status [ADDRESS] print the state of a running Podop, whose metrics are served at this
                         address; by default inet:127.0.0.1:9779
  podop help [CHAPTER]   list the chapters of the manual, or print one

Listeners:
  --socket PATH          unix socket to listen on, or inet:HOST:PORT; repeatable
  --mode MODE            postfix, dovecot, auto (default), policy=TABLE or sasl=TABLE; once for all, or
                         once per socket
  --socket-mode MODE     permissions of the unix sockets, default 0660
  --socket-owner USER    their owner, by name or number
  --socket-group GROUP   their group, by name or number

Tables; each has a name, a type and a parameter:
  --name NAME            name by which the mail server refers to the table
  --type TYPE            url, file, mx or program
  --param PARAM          url: http[s]://HOST/PATH/§, with § or {} in place of the key (several URLs
                         are replicas); file: the path of a JSON file; mx: names of hosts that MX
                         records of accepted domains name
  --option NAME:KEY=VALUE
                         setting of one table, or of all tables if NAME is *

Other:
  --timeout SECONDS      total time limit per request, default 20
  --slow SECONDS         log a warning for backend requests that take longer, default 1
  --cache-size SIZE      memory limit of the cache (--option NAME:cache=SECONDS), default 64M
  --metrics PATH         serve metrics (Prometheus), health pages and a status page; also
                         inet:HOST:PORT
  -v, -vv, --verbose     log more
  --check, --check=KEY   check tables, sockets and backends, look up KEY in each table, report the
                         results, exit
  @FILE                  further arguments from a file, one per line
  --version, --help
";
