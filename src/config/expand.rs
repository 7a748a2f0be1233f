//! Expansion of arguments: `@FILE` and abbreviated flags.

use super::command::{ConfigError, invalid, usage};
use std::ffi::OsString;

const FLAGS: &[&str] = &["--check", "--help", "--verbose", "--version"];
const VALUE_FLAGS: &[&str] = &[
    "--cache-size",
    "--metrics",
    "--mode",
    "--name",
    "--option",
    "--param",
    "--slow",
    "--socket",
    "--socket-group",
    "--socket-mode",
    "--socket-owner",
    "--timeout",
    "--type",
    "--user",
];

/// Flags of the Python original, whose abbreviations keep their meaning.
// argparse accepted unambiguous prefixes. A new flag, like --metrics, must not make one of the old ones ambiguous.
const ORIGINAL_FLAGS: &[&str] = &["--help", "--mode", "--name", "--param", "--socket", "--type", "--verbose"];

/// Replaces `@FILE` with the lines of the file, and abbreviated flags with the full ones.
// The Python original accepted abbreviations, and its command lines must keep working. A file may hold secrets, which
// arguments would show in the process list.
pub(super) fn expand(args: impl IntoIterator<Item = OsString>) -> Result<Vec<OsString>, ConfigError> {
    // `value` is set after a flag that takes one: a value may start with `@` or `--`.
    let (mut out, mut value, mut is_query) = (Vec::new(), false, false);
    for arg in args {
        // A key may start with `@`: that of a catch-all does.
        let is_flag = |one: &OsString| one.as_encoded_bytes().starts_with(b"-");
        is_query |= !value && arg == "query" && out.iter().all(is_flag);
        match arg.to_str().filter(|_| !value) {
            Some(text) if text.starts_with('@') && !is_query => {
                let path = &text[1..];
                let lines = std::fs::read_to_string(path).map_err(|error| invalid(format!("@{path}: {error}")))?;
                let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
                for line in lines {
                    // Lines are not split at spaces, which a value may contain, such as several URLs in --param.
                    if line.starts_with("--") && line.contains(' ') && !line.contains('=') {
                        return Err(usage(format!("@{path}: '{line}' is two arguments, which need a line each")));
                    }
                    let (line, takes) = if value { (line.to_owned(), false) } else { complete(line) };
                    value = takes;
                    out.push(line.into());
                }
            }
            Some(text) => {
                let (text, takes) = complete(text);
                value = takes;
                out.push(text.into());
            }
            None => {
                value = false;
                out.push(arg);
            }
        }
    }
    Ok(out)
}

/// The full flag, and whether the next argument is its value.
fn complete(arg: &str) -> (String, bool) {
    let (flag, value) = match arg.split_once('=') {
        Some((flag, value)) => (flag, Some(value)),
        None => (arg, None),
    };
    let only = |known: &mut dyn Iterator<Item = &&'static str>| {
        let mut known = known.filter(|known| flag.len() > 2 && known.starts_with(flag));
        known.next().copied().filter(|_| known.next().is_none())
    };
    let all = &mut FLAGS.iter().chain(VALUE_FLAGS);
    let exact = all.clone().find(|known| **known == flag).copied();
    // An exact flag, an abbreviation of an original flag, then one of any flag.
    let flag = exact.or_else(|| only(&mut ORIGINAL_FLAGS.iter())).or_else(|| only(all)).unwrap_or(flag);
    let takes = value.is_none() && VALUE_FLAGS.contains(&flag);
    (value.map_or(flag.to_owned(), |value| format!("{flag}={value}")), takes)
}
