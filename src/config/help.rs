//! The text of `--help`.

/// The output of `--help`.
pub const HELP: &str = "\
Lets Postfix (socketmap) and Dovecot (dict) look things up in an HTTP service.

  podop --socket PATH [--mode MODE] --name NAME --type TYPE --param PARAM ... [options]
  podop query [--mode postfix|dovecot] [--user USER] SOCKET TABLE KEY
                         (--user asks as Dovecot does, for a key of that user)
  podop help [CHAPTER]   the manual

Listeners:
  --socket PATH          unix socket to listen on, or inet:HOST:PORT; repeatable
  --mode MODE            postfix, dovecot or auto (default): once for all, or once per socket
  --socket-mode 0660     permissions of the unix sockets
  --socket-owner USER    their owner, by name or number
  --socket-group GROUP   their group, by name or number

Tables, one per triple:
  --name NAME            name that the mail server asks for
  --type TYPE            url or file
  --param PARAM          http[s]://HOST/PATH/§ where § or {} is the key (several URLs are replicas),
                         or the path of a JSON file
  --option NAME:KEY=VALUE
                         setting of one table, or of all with the name *

Other:
  --timeout SECONDS      total time limit per request, default 20
  --slow SECONDS         warn of requests that take longer, default 1
  --cache-size 64M       memory limit of the answer cache (--option NAME:cache=SECONDS)
  --metrics PATH         figures for Prometheus, and health; also inet:HOST:PORT
  -v, -vv, --verbose     log more
  --check                check everything, report, exit
  @FILE                  further arguments from a file, one per line
  --version, --help
";
