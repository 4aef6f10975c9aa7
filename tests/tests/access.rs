//! Signed addresses from the command line to the visitor: the key stays sealed on its way to the edges.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nearside_tests::fleet::{Fleet, POPS};

#[test]
fn what_the_command_line_signs_every_pop_serves_and_nothing_else() {
    let fleet = Fleet::governed_after(|fleet| {
        let made = fleet.nearside(&["sign", "--new-key", "k1"]);
        assert_eq!(made.code, Some(0), "{made:?}");
        fs::write(fleet.path("urls.keys"), made.stdout).expect("a file");
        let gate = "[site.www.gates.signed]\nkeys = \"urls.keys\"\npaths = [\"/private/\"]\n";
        let text = fs::read_to_string(fleet.fleet_file()).expect("a file");
        fs::write(fleet.fleet_file(), text + "\n" + gate).expect("a file");
    });
    let sign = |arguments: &[&str]| {
        let signed = fleet.nearside(&[&["sign", "http://www.cdn.test:8080/private/a"], arguments].concat());
        (signed.code, signed.stdout.trim().to_owned(), signed.stderr)
    };
    let (code, url, told) = sign(&["--expires", "10m"]);
    assert_eq!(code, Some(0), "{told}");
    let target = url.strip_prefix("http://www.cdn.test:8080").expect("the same address");
    for (pop, _) in POPS {
        assert_eq!(fleet.http(pop, target).send().status, 200, "{pop}");
        assert_eq!(fleet.http(pop, "/private/a").send().status, 403, "{pop}");
        assert_eq!(fleet.http(pop, &target.replace("/private/a", "/private/b")).send().status, 403, "{pop}");
        assert_eq!(fleet.http(pop, "/hello").send().status, 200, "{pop}");
    }
    assert_eq!(sign(&["--expires", "30d"]).0, Some(1), "longer than the site takes");
    assert_eq!(sign(&["--key", "k2"]).0, Some(1));
    assert_eq!(sign(&["--cookie"]).0, Some(1), "a path that is no directory");
    let keys = fs::read_to_string(fleet.path("urls.keys")).expect("a file");
    let secret = keys.split(' ').nth(1).expect("a secret").trim();
    // What home publishes is in `files`; nothing there may be opened by anybody but the edge it is for.
    let (count, found) = holders(&fleet.state_dir("home").join("files"), secret);
    assert!(count > 3, "{count} files");
    assert_eq!(found, Vec::<PathBuf>::new());
}

/// How many files there are below a directory, and those that hold a text.
fn holders(dir: &Path, text: &str) -> (usize, Vec<PathBuf>) {
    let (mut count, mut found, mut open) = (0, Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                count += 1;
                if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                    found.push(path);
                }
            }
        }
    }
    (count, found)
}
