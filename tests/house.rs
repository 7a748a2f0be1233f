//! The house: imports point strictly down from file to file, a type's methods stand in the file of the type, files and
//! functions are short, outside packages are used in few places, and each thing has one word.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The layer of each module below `src`, which may import modules of lower layers. Files of a folder may import each other
/// in any order without a circle.
const LAYERS: &[(&str, u32)] = &[
    ("main", 80),
    ("commands", 70),
    ("lib", 66),
    ("reactor", 61),
    ("listen", 60),
    ("engine", 50),
    ("job", 44),
    ("client", 43),
    ("table", 42),
    ("dns", 41),
    ("program", 41),
    ("backend", 40),
    ("cache", 39),
    ("query", 31),
    ("config", 30),
    ("value", 20),
    ("wire", 10),
    ("notify", 2),
    ("io", 1),
    ("log", 1),
    ("manual", 0),
    ("arena", 0),
    ("buffer", 1),
    ("secret", 0),
    ("metrics", 0),
    ("status", 0),
    ("timers", 0),
    ("system", 0),
];

/// The longest file without its tests, and the longest function.
const MAX_FILE: usize = 400; // lines
const MAX_FUNCTION: usize = 60; // lines

/// Where each outside package is used; the last two only with the feature `tls`.
const PACKAGES: &[(&str, &[&str])] = &[
    ("httparse", &["wire/http/head"]),
    ("libc", &["system"]),
    ("mio", &["reactor", "reactor/accept", "reactor/peers", "reactor/processes", "reactor/resolve", "reactor/socket"]),
    ("pico_args", &["config/args"]),
    ("serde_json", &["value"]),
    ("socket2", &["listen"]),
    ("rustls", &["backend/tls/credentials", "backend/tls/session"]),
    ("rustls_native_certs", &["table/tls_options"]),
];

/// Words and phrases that were given up for the terms of the field, and what to write instead. Only those whose spelling
/// alone distinguishes them from everyday senses: `proxy`, for one, is also what Dovecot calls a dict.
const GIVEN_UP: &[(&str, &str)] = &[
    // Types and methods.
    ("Proxy", "Engine"),
    ("Place", "AddressState"),
    ("Door", "Listener"),
    ("door", "listener"),
    ("doors", "listeners"),
    ("hears_writable", "write_interest"),
    ("starved", "accept_paused"),
    ("set aside", "down, ejected"),
    ("set_aside", "down, ejected"),
    ("Admission", "Permit"),
    ("judge", "record_status"),
    ("blame", "record_failure"),
    ("evacuate", "drain"),
    ("give_up", "exclude_route"),
    ("give_up_route", "exclude_route"),
    ("surprise", "unsolicited"),
    ("use_idle", "dispatch_idle"),
    ("ask_at_once", "dispatch"),
    ("ask_all", "resolve_all"),
    ("doubt", "expire"),
    ("doubtful", "outdated"),
    ("doubt_pipeline", "pipelining_failed"),
    ("trust_pipeline", "pipelining_ok"),
    ("distrust", "mark_unsolicited"),
    ("Keeping", "CacheControl"),
    ("keeping", "cache_control"),
    ("Kept", "Answer"),
    ("flights", "in_flight"),
    ("Impatient", "ServeStale"),
    ("impatient", "long_waiting"),
    ("grow_impatient", "serve_stale"),
    ("patience", "deadline, wait"),
    ("PATIENCE", "MAX_WAIT"),
    ("last_orders", "Shutdown"),
    ("astray", "unknown_table"),
    ("Astray", "RedirectError"),
    ("is_unsettled", "has_pending"),
    ("call_slow", "set_slow_threshold"),
    ("limit_cache", "set_cache_limit"),
    ("Opening", "TableSpec"),
    ("Mistake", "ConfigError, ProtocolError"),
    ("Complaint", "ResponseError"),
    ("Unusable", "TlsConfigError"),
    ("Rights", "Permissions"),
    ("Monitor", "Admin"),
    ("figures", "metrics"),
    ("is_worn", "key_limit_reached"),
    ("is_cut", "is_truncated"),
    ("is_hopeless", "is_too_late"),
    ("bends", "has_ambiguous_path"),
    // Log lines and reasons.
    ("set-aside", "backend-down"),
    ("client-stuck", "client-timeout"),
    ("no-pipelining", "pipelining-disabled"),
    ("origin=", "backend="),
    ("nonsense", "an invalid response"),
    ("wants", "expects, needs"),
    // Prose.
    ("told", "logged, reported, returned"),
    ("nobody", "no client, no server"),
    ("somebody", "a client, a server"),
    ("anybody", "any client, any party"),
    ("anew", "again"),
    ("in vain", "without effect"),
    ("for ever", "forever"),
    ("for so long", "a quantity with its unit"),
    ("after so long", "a quantity with its unit"),
    ("speaks of", "is about"),
    ("speaks against", "is evidence against"),
    ("last hope", "the last one"),
    ("hopeless", "too late"),
];

#[test]
fn imports_point_strictly_down() {
    let layers: BTreeMap<&str, u32> = LAYERS.iter().copied().collect();
    let layer = |file: &str| *layers.get(folder(file)).unwrap_or_else(|| panic!("{file} has no layer"));
    for (file, used) in imports() {
        for used in used {
            let same = folder(&used) == folder(&file);
            assert!(same || layer(&used) < layer(&file), "{file} imports {used}");
        }
    }
    let folders: BTreeSet<String> = sources().keys().map(|file| folder(file).to_owned()).collect();
    assert_eq!(folders.len(), LAYERS.len(), "a layer without a module");
}

/// Also within folders: a file that is taken out when all that it imports was taken out before is on no circle.
#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut left = imports();
    loop {
        let free: Vec<String> = left
            .iter()
            .filter(|(_, used)| !used.iter().any(|one| left.contains_key(one)))
            .map(|(file, _)| file.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|file| drop(left.remove(file)));
    }
    let within =
        |used: &BTreeSet<String>| used.iter().filter(|one| left.contains_key(*one)).cloned().collect::<Vec<_>>();
    let circles: Vec<String> = left.iter().map(|(file, used)| format!("{file} imports {:?}", within(used))).collect();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

/// Private fields are private to a file then, and not to a folder.
#[test]
fn the_methods_of_a_type_stand_in_its_file() {
    for (file, text) in sources() {
        for line in text.lines().filter(|line| line.starts_with("impl") && !line.contains(" for ")) {
            let rest = line.trim_start_matches("impl");
            let rest = if rest.starts_with('<') { rest.split_once('>').unwrap().1 } else { rest };
            let name: String = rest.trim().chars().take_while(|c| c.is_alphanumeric()).collect();
            let defined = ["struct", "enum", "trait"].iter().any(|kind| text.contains(&format!("{kind} {name}")));
            assert!(defined, "{file}: impl {name}");
        }
    }
}

#[test]
fn files_and_functions_are_short() {
    for (file, text) in whole_sources() {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() <= MAX_FILE, "{file} has {} lines", lines.len());
        for (at, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let words = ["fn ", "pub fn ", "pub(super) fn ", "pub(crate) fn "];
            if !words.iter().any(|word| code.starts_with(word)) || code.ends_with(';') || code.ends_with('}') {
                continue;
            }
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            let length = lines[at..].iter().position(|line| *line == end).unwrap_or(0) + 1;
            assert!(length <= MAX_FUNCTION, "{file}:{} has {length} lines", at + 1);
        }
    }
}

#[test]
fn each_outside_package_is_used_in_one_file() {
    let manifest = fs::read_to_string("Cargo.toml").unwrap();
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    let named: BTreeSet<String> = dependencies
        .lines()
        .filter_map(|line| line.split_once('=').map(|(name, _)| name.trim().replace('-', "_")))
        .collect();
    assert_eq!(named, PACKAGES.iter().map(|(name, _)| (*name).to_owned()).collect());
    for (package, files) in PACKAGES {
        let uses = |text: &String| text.contains(&format!("{package}::"));
        let users: Vec<String> = sources().into_iter().filter(|(_, text)| uses(text)).map(|(file, _)| file).collect();
        assert_eq!(users, *files, "{package}");
    }
}

/// As many as CONTRIBUTING.md says; what TLS needs is not among them.
#[test]
fn the_build_without_tls_uses_eleven_packages() {
    let tree = ["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}"];
    let output = std::process::Command::new(env!("CARGO")).args(tree).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let used: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    let expected = [
        "httparse",
        "itoa",
        "libc",
        "log",
        "memchr",
        "mio",
        "pico-args",
        "podop",
        "serde_core",
        "serde_json",
        "socket2",
        "zmij",
    ];
    assert_eq!(used, expected.into_iter().collect(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The two builds differ in what TLS has to do, and nowhere else.
#[test]
fn only_tls_knows_of_its_feature() {
    let files: Vec<String> =
        sources().into_iter().filter(|(_, text)| text.contains("feature = ")).map(|(file, _)| file).collect();
    assert_eq!(files, ["backend/tls", "table/tls_options"]);
}

#[test]
fn no_word_that_was_given_up_comes_back() {
    let mut texts = BTreeMap::from([("README.md".to_owned(), fs::read_to_string("README.md").unwrap())]);
    read_texts(Path::new("src"), &mut texts);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (file, text) in &texts {
        // Its table has the old names, for programs that search for them in the log and in metrics.
        let is_renaming = |line: &&str| file == "manual/migrating.md" && line.starts_with('|');
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !is_renaming(line)) {
            for (word, now) in GIVEN_UP {
                let found = line.match_indices(word).any(|(at, _)| {
                    let after = &line[at + word.len()..];
                    !line[..at].ends_with(is_word) && (word.ends_with('=') || !after.starts_with(is_word))
                });
                assert!(!found, "{file}:{}: '{word}' is now {now}: {line}", number + 1);
            }
        }
    }
}

#[test]
fn only_system_is_unsafe() {
    for (file, text) in sources() {
        assert!(file == "system" || !text.contains("unsafe "), "{file}");
    }
}

/// The files that each file imports. A file is named by its path without `.rs`, and `mod.rs` by its folder.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources();
    let used = |file: &String, text: &String| {
        let paths = paths(text).into_iter().filter_map(|path| resolve(file, &path, &sources));
        paths.filter(|used| used != file).collect()
    };
    sources.iter().map(|(file, text)| (file.clone(), used(file, text))).collect()
}

/// The file that a path of `file` leads to, if it is one of ours.
fn resolve(file: &str, path: &str, sources: &BTreeMap<String, String>) -> Option<String> {
    let mut words = path.split("::").peekable();
    let mut module: Vec<&str> = if file == "lib" || file == "main" { Vec::new() } else { file.split('/').collect() };
    match words.next()? {
        "crate" | "podop" => module.clear(),
        "super" => {
            module.pop();
            while words.next_if_eq(&"super").is_some() {
                module.pop();
            }
        }
        "self" => {}
        child => {
            module.push(child);
            if !sources.contains_key(&module.join("/")) {
                return None; // of the standard library, or of another package
            }
        }
    }
    for word in words {
        module.push(word);
        if !sources.contains_key(&module.join("/")) {
            module.pop();
            break;
        }
    }
    Some(if module.is_empty() { "lib".to_owned() } else { module.join("/") })
}

/// The paths that a text names: in `use`, with braces taken apart, and in the code.
fn paths(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for statement in text.split(';').map(str::trim_start) {
        let code =
            statement.lines().skip_while(|line| line.trim_start().starts_with("#[")).collect::<Vec<_>>().join(" ");
        let code = code.trim_start().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        if let Some(tree) = code.strip_prefix("use ") {
            expand("", tree, &mut paths);
        }
    }
    for start in ["crate::", "super::", "podop::"] {
        let whole = |at: &usize| !text[..*at].ends_with("::"); // and not the second of two `super`
        for at in text.match_indices(start).map(|(at, _)| at).filter(whole) {
            let path: String = text[at..].chars().take_while(|c| c.is_alphanumeric() || "_:".contains(*c)).collect();
            paths.push(path);
        }
    }
    paths
}

/// Takes `a::{b, c::{d, e}}` apart.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap().trim();
        return paths.push(format!("{prefix}{}", path.trim_end_matches("::self")));
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut start) = (0, 0);
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let branch = inner[start..at].trim();
                if branch == "self" {
                    paths.push(format!("{prefix}{}", head.trim().trim_end_matches("::")));
                } else if !branch.is_empty() {
                    expand(&format!("{prefix}{}", head.trim()), branch, paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// The folder of a file, or the file if it is in none.
fn folder(file: &str) -> &str {
    file.split('/').next().unwrap()
}

/// Every Rust file below `src`, without tests and comments: tests may import what they like.
fn sources() -> BTreeMap<String, String> {
    let code =
        |text: String| text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    whole_sources().into_iter().map(|(file, text)| (file, code(text))).collect()
}

/// The same with comments.
fn whole_sources() -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    collect(Path::new("src"), &mut files);
    files
}

/// The texts below a folder of `src` in Rust and Markdown, with comments and tests, by their paths below `src`.
fn read_texts(dir: &Path, texts: &mut BTreeMap<String, String>) {
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            read_texts(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
            let name = path.strip_prefix("src").unwrap().to_str().unwrap().to_owned();
            texts.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

fn collect(dir: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
            let name = path.strip_prefix("src").unwrap().with_extension("");
            files.insert(name.to_str().unwrap().trim_end_matches("/mod").to_owned(), text);
        }
    }
}
