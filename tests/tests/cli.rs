//! The operator's command line by itself: exit codes, what it asks and writes, completions and manual pages.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use nearside_tests::process::{self, Finished};

fn nearside(dir: &Path, arguments: &[&str]) -> Finished {
    process::run(&mut command(dir, arguments))
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(process::binary("nearside"));
    command.args(arguments).current_dir(dir).arg("--state-dir").arg(dir.join("home"));
    command
}

/// Runs it with these answers on standard input.
fn answering(dir: &Path, arguments: &[&str], answers: &str) -> Finished {
    let mut child = command(dir, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // It may have had enough before it has read all.
    let _unread = child.stdin.take().expect("piped").write_all(answers.as_bytes());
    let output = child.wait_with_output().expect("it ends");
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn a_fleet_file_is_made_of_answers_and_is_good() {
    let temp = tempfile::tempdir().expect("a directory");
    let answers = "cdn.example.org\n\nfra\n198.51.100.10, 2001:db8::10\nFrankfurt\ny\nnyc\n203.0.113.10\n40.7,-74\nn\n\n\
                   https://origin.example.org\n";
    let init = answering(temp.path(), &["init", "--ask"], answers);
    assert_eq!(init.code, Some(0), "{init:?}");
    let check = nearside(temp.path(), &["check"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(check.stdout.contains("2 PoPs, 2 DNS nodes, 1 zones, 1 sites"), "{check:?}");
    assert!(temp.path().join("zones/cdn.example.org.zone").exists());
    for node in ["fra", "nyc", "ns1", "ns2"] {
        assert!(temp.path().join("home/identities").join(node).exists(), "{node} has an identity");
    }
    let before = fs::read(temp.path().join("nearside.toml")).expect("a file");
    let again = answering(temp.path(), &["init", "--ask"], answers);
    assert_eq!(again.code, Some(1), "a file that is there is nobody's to overwrite: {again:?}");
    assert_eq!(fs::read(temp.path().join("nearside.toml")).expect("a file"), before);
}

#[test]
fn a_fleet_file_is_made_of_flags_and_answers_that_end_early_leave_nothing() {
    let temp = tempfile::tempdir().expect("a directory");
    let short = answering(temp.path(), &["init", "--ask"], "cdn.example.org\n\nfra\n");
    assert_eq!((short.code, temp.path().join("nearside.toml").exists()), (Some(1), false), "{short:?}");
    let missing = nearside(temp.path(), &["init", "--domain", "cdn.example.org"]);
    assert_eq!(missing.code, Some(2), "{missing:?}");
    assert!(missing.stderr.contains("--origin, --pop"), "{missing:?}");
    let flags = [
        "init",
        "--domain",
        "cdn.example.org",
        "--name",
        "mine",
        "--origin",
        "https://origin.example.org",
        "--pop",
        "fra=198.51.100.10@50.1,8.7",
        "--dns",
        "ns1=198.51.100.53",
        "--dns",
        "ns2=203.0.113.53",
    ];
    let init = nearside(temp.path(), &flags);
    assert_eq!(init.code, Some(0), "{init:?}");
    let check = nearside(temp.path(), &["check"]);
    assert_eq!(check.code, Some(0), "{check:?}");
    assert!(check.stdout.contains("fleet mine is good: 1 PoPs, 2 DNS nodes"), "{check:?}");
}

#[test]
fn exit_codes_say_who_is_to_act() {
    let temp = tempfile::tempdir().expect("a directory");
    assert_eq!(nearside(temp.path(), &["check"]).code, Some(1), "there is no fleet file");
    assert_eq!(nearside(temp.path(), &["purge"]).code, Some(2), "of what?");
    assert_eq!(nearside(temp.path(), &["nonsense"]).code, Some(2));
    assert_eq!(nearside(temp.path(), &["init"]).code, Some(0));
    let nobody = ["--controller", "127.0.0.1:1"];
    for words in
        [&["status"][..], &["stats"], &["events"], &["publish"], &["webhook", "list"], &["status", "--json"]]
    {
        let unreachable = nearside(temp.path(), &[words, &nobody].concat());
        assert_eq!(unreachable.code, Some(3), "{words:?}: {unreachable:?}");
        assert!(unreachable.stderr.contains("nearside-controller serve"), "what to do next: {unreachable:?}");
    }
}

#[test]
fn completions_and_manual_pages_are_of_this_program() {
    let temp = tempfile::tempdir().expect("a directory");
    for (shell, text) in
        [("bash", "_nearside()"), ("zsh", "#compdef nearside"), ("fish", "complete -c nearside")]
    {
        let completions = nearside(temp.path(), &["completions", shell]);
        assert!(completions.code == Some(0) && completions.stdout.contains(text), "{shell}: {completions:?}");
    }
    let man = nearside(temp.path(), &["man", "man1"]);
    assert_eq!(man.code, Some(0), "{man:?}");
    for page in ["nearside.1", "nearside-purge.1", "nearside-status.1"] {
        let text = fs::read_to_string(temp.path().join("man1").join(page)).expect("a page");
        assert!(text.contains(".TH nearside"), "{page}: {text}");
    }
}
