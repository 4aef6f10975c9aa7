//! The rules of the workspace's dependencies, held against the manifests: which of our crates may import
//! which, whose licences we accept, what must never be pulled in. Works offline, on the lock file.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde_json::Value;

/// Which of our crates a crate may import, for the program and for its build. Tests import all.
const IMPORTS: &[(&str, &[&str])] = &[
    ("nearside-geoip", &[]),
    ("nearside-zones", &[]),
    ("nearside-fleet", &["nearside-zones"]),
    ("nearside-node", &["nearside-fleet"]),
    ("nearside-dns", &["nearside-geoip", "nearside-zones", "nearside-fleet", "nearside-node"]),
    ("nearside-edge", &["nearside-geoip", "nearside-fleet", "nearside-node"]),
    ("nearside-controller", &["nearside-geoip", "nearside-zones", "nearside-fleet", "nearside-node"]),
    ("nearside-client", &[]),
    ("nearside-bench", &[]),
];

/// Licences that put no conditions on those who use Nearside beyond keeping the notice. A crate that offers
/// a choice needs one of them.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// A crate whose licence asks more of those who change *it*, taken knowingly.
const LICENCE_EXCEPTIONS: &[(&str, &str)] = &[];

/// One TLS stack and one provider: these would be a second.
const BANNED: &[&str] =
    &["ring", "openssl", "openssl-sys", "native-tls", "mio-aio", "boring", "rustls-pemfile"];

/// Crates that may occur in two versions: what we depend on has not agreed yet. Each is a cost in build time
/// and size only.
const DUPLICATES_MAX: usize = 24;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a member of the workspace")
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn packages(metadata: &Value) -> &[Value] {
    metadata["packages"].as_array().expect("packages")
}

/// A crate that is really compiled for Linux, tests included.
struct Built {
    name: String,
    version: String,
    licence: String,
}

/// What `cargo tree` says is built. `cargo metadata` would also list optional crates that nobody enables.
fn built() -> Vec<Built> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--edges",
            "normal,build,dev",
            "--prefix",
            "none",
            "--locked",
            "--offline",
        ])
        .args(["--target", "x86_64-unknown-linux-gnu", "--format", "{p}\t{l}"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let lines: BTreeSet<String> =
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let built = lines.iter().filter_map(|line| {
        let (package, licence) = line.split_once('\t')?;
        let mut words = package.split_whitespace();
        let (name, version) = (words.next()?.to_owned(), words.next()?.trim_start_matches('v').to_owned());
        // A crate printed before is marked so.
        Some(Built { name, version, licence: licence.trim_end_matches(" (*)").to_owned() })
    });
    let built: Vec<Built> = built.collect();
    assert!(built.len() > 100, "cargo tree said little: {}", built.len());
    built
}

#[test]
fn imports_run_one_way() {
    let metadata = metadata();
    let allowed: BTreeMap<&str, &[&str]> = IMPORTS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in packages(&metadata) {
        let name = text(package, "name");
        if !name.starts_with("nearside-") || name == "nearside-tests" {
            continue;
        }
        let allowed = allowed.get(name).unwrap_or_else(|| panic!("{name} is not in the import table"));
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let (import, dev) = (text(dependency, "name"), text(dependency, "kind") == "dev");
            if import.starts_with("nearside-") && !dev && !allowed.contains(&import) {
                wrong.push(format!("{name} imports {import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn dependencies_are_declared_once_in_the_workspace() {
    for (name, _) in IMPORTS {
        let dir = name.trim_start_matches("nearside-");
        let manifest = std::fs::read_to_string(root().join(dir).join("Cargo.toml")).expect("a manifest");
        let mut in_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies && line.contains('=') && !line.starts_with('#') {
                assert!(line.contains("workspace = true"), "{dir}/Cargo.toml: {line}");
            }
        }
    }
}

#[test]
fn every_licence_is_accepted() {
    let mut wrong = Vec::new();
    for Built { name, version, licence } in built() {
        let excepted = LICENCE_EXCEPTIONS.contains(&(name.as_str(), licence.as_str()));
        if !excepted && !accepted(&licence) {
            wrong.push(format!("{name} {version}: {licence:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Evaluates an SPDX expression of licences, `AND`, `OR`, parentheses; `/` is crates.io's old `OR`.
fn accepted(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let result = either(&tokens, &mut at);
    result && at == tokens.len()
}

fn either(tokens: &[&str], at: &mut usize) -> bool {
    let mut result = both(tokens, at);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        result |= both(tokens, at);
    }
    result
}

fn both(tokens: &[&str], at: &mut usize) -> bool {
    let mut result = one(tokens, at);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        result &= one(tokens, at);
    }
    result
}

fn one(tokens: &[&str], at: &mut usize) -> bool {
    let Some(token) = tokens.get(*at) else { return false };
    *at += 1;
    if *token == "(" {
        let result = either(tokens, at);
        *at += 1;
        return result;
    }
    // An exception (`WITH LLVM-exception`) only ever adds permissions.
    if tokens.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    LICENCES.contains(token)
}

#[test]
fn licence_expressions_are_understood() {
    assert!(accepted("MIT OR GPL-3.0"));
    assert!(accepted("MIT/Apache-2.0"));
    assert!(accepted("(MIT OR Apache-2.0) AND Unicode-3.0"));
    assert!(accepted("Apache-2.0 WITH LLVM-exception"));
    assert!(!accepted("MIT AND GPL-3.0"));
    assert!(!accepted(""));
}

#[test]
fn nothing_banned_is_pulled_in() {
    let built = built();
    let found: Vec<&str> =
        built.iter().map(|built| built.name.as_str()).filter(|name| BANNED.contains(name)).collect();
    assert!(found.is_empty(), "{found:?}: find who with `cargo tree -i NAME`");
}

#[test]
fn duplicates_stay_few() {
    let built = built();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for built in &built {
        versions.entry(&built.name).or_default().insert(&built.version);
    }
    let twice: Vec<_> = versions.iter().filter(|(_, versions)| versions.len() > 1).collect();
    assert!(twice.len() <= DUPLICATES_MAX, "{} crates occur twice: {twice:#?}", twice.len());
}
