//! The house: imports point strictly down, and each outside package is used in one file.
#![allow(unsafe_code, unreachable_pub, clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Floor of each module; what is below may be imported. Within `client`, `backend`, `table` and `wire` a
/// module may import its own.
const FLOORS: &[(&str, u32)] = &[
    ("main", 80),
    ("lib", 66),
    ("reactor", 61),
    ("listen", 60),
    ("commands", 65),
    ("engine", 50),
    ("job", 44),
    ("client", 43),
    ("table", 42),
    ("backend", 41),
    ("io", 1),
    ("cache", 40),
    ("query", 31),
    ("config", 30),
    ("value", 20),
    ("wire", 10),
    ("notify", 2),
    ("log", 1),
    ("manual", 0),
    ("arena", 0),
    ("buffer", 0),
    ("metrics", 0),
    ("timers", 0),
    ("system", 0),
];

/// Where each outside package is used; the last two only with the feature `tls`.
const PACKAGES: &[(&str, &[&str])] = &[
    ("httparse", &["wire/http/head.rs"]),
    ("libc", &["system.rs"]),
    ("mio", &["reactor/accept.rs", "reactor/mod.rs", "reactor/resolve.rs", "reactor/socket.rs"]),
    ("pico_args", &["config/args.rs"]),
    ("serde_json", &["value.rs"]),
    ("socket2", &["listen.rs"]),
    ("rustls", &["backend/tls/credentials.rs", "backend/tls/session.rs"]),
    ("rustls_native_certs", &["table/tls_options.rs"]),
];

#[test]
fn imports_point_strictly_down() {
    let floors: BTreeMap<&str, u32> = FLOORS.iter().copied().collect();
    let mut seen = BTreeSet::new();
    for (file, text) in sources() {
        let module = file.split(['/', '.']).next().unwrap();
        let floor = *floors.get(module).unwrap_or_else(|| panic!("{file} has no floor"));
        seen.insert(module.to_owned());
        for used in imported(&text) {
            let below = *floors.get(&used[..]).unwrap_or_else(|| panic!("{file} imports {used}, which has no floor"));
            let same = used == module && file.contains('/');
            assert!(below < floor || same, "{file} (floor {floor}) imports {used} (floor {below})");
        }
    }
    assert_eq!(seen.len(), FLOORS.len(), "a floor without a module");
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
        let users: Vec<String> = sources()
            .into_iter()
            .filter(|(_, text)| text.contains(&format!("{package}::")))
            .map(|(file, _)| file)
            .collect();
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
    assert_eq!(files, ["backend/tls/mod.rs", "table/tls_options.rs"]);
}

#[test]
fn only_system_is_unsafe() {
    for (file, text) in sources() {
        assert!(file == "system.rs" || !text.contains("unsafe "), "{file}");
    }
}

/// Every Rust file below `src`, without its tests, which may import what they like.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(Path::new("src"), &mut files);
    files.sort();
    files
}

fn collect(dir: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap();
            let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            files.push((path.strip_prefix("src").unwrap().to_str().unwrap().to_owned(), code));
        }
    }
}

/// The modules of the crate that a text names, by `crate::` or, in `main.rs`, by `podop::`.
fn imported(text: &str) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    for prefix in ["crate::", "podop::"] {
        for rest in text.split(prefix).skip(1) {
            let names = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap().split(',').collect(),
                None => vec![rest],
            };
            for name in names {
                let word: String = name.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if !word.is_empty() && word != "open" {
                    used.insert(word);
                }
            }
        }
    }
    used
}
