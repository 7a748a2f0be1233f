//! The program: parses the arguments and runs a command.

use podop::backend::tls;
use podop::commands::{self, print};
use podop::config::{self, Command};
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let code = match config::parse(std::env::args_os().skip(1)) {
        Ok(Command::Run(config)) => commands::serve(config),
        Ok(Command::Check(config)) => commands::check(&config),
        Ok(Command::Ask(ask)) => Ok(commands::ask(&ask)),
        Ok(Command::LogIn(login)) => Ok(commands::log_in(&login)),
        Ok(Command::Query(query)) => Ok(commands::query(&query)),
        Ok(Command::Status(endpoint)) => Ok(commands::status(&endpoint)),
        Ok(Command::Manual(chapter)) => commands::manual(chapter.as_deref()),
        Ok(Command::Help) => Ok(print(config::HELP.as_bytes())),
        Ok(Command::Version) => {
            let tls = if tls::SUPPORTED { " (with TLS)" } else { "" };
            Ok(print(format!("podop {}{tls}\n", env!("CARGO_PKG_VERSION")).as_bytes()))
        }
        Err(error) => Err(error),
    };
    ExitCode::from(code.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "podop: {error}"); // nothing is left to report a failure to
        error.code
    }))
}
