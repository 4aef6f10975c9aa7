//! `exec` checks: a program on this machine judges an address by its exit code.
//!
//! A fleet file is published to every DNS node, so a check that could name any program would turn whoever
//! writes the file into a user of all those machines. The node decides instead: only programs of the one
//! directory it was started with ([`ExecPolicy::Within`]) are run, and without it none. The file then chooses
//! among what an administrator put there. There is no shell, so an address or port is never more than a word.
//!
//! Invariant: nothing a check started in its process group outlives the probe, whether it ended, timed out or
//! was cancelled. A program that leaves its group (`setsid`) is beyond reach.

use std::{
    net::IpAddr,
    path::{Component, Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};

/// Programs under way at once: each is a process of its own, and a thousand at once would be a load that
/// fails the checks by itself.
pub const PROGRAMS_AT_ONCE: usize = 32;

/// Bytes of standard error that become the reason; the rest is read and thrown away, so that a talkative
/// program does not block.
pub const STDERR_BYTES_MAX: usize = 4096;

/// All a program finds in its environment. The daemon's own may hold what is none of its business.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The last words of a program that has ended are in the pipe already; only a stray that holds the pipe
/// open makes this wait.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Which programs this node runs for checks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExecPolicy {
    /// None (the default).
    #[default]
    Refused,
    /// Those that lie in this directory.
    Within(PathBuf),
    /// Not judged: nothing will be run here (`check`, `explain`).
    Unjudged,
}

impl ExecPolicy {
    /// Whether a program may be run.
    ///
    /// # Errors
    /// Why not, and what to do about it.
    pub fn judge(&self, program: &str) -> Result<(), String> {
        let directory = match self {
            Self::Unjudged => return Ok(()),
            Self::Refused => {
                return Err(format!(
                    "would run {program}, and this node was started without --exec-dir: exec checks are refused"
                ));
            }
            Self::Within(directory) => directory,
        };
        let path = Path::new(program);
        let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if plain && path.parent() == Some(directory) {
            return Ok(());
        }
        Err(format!("{program} does not lie in {}, this node's --exec-dir", directory.display()))
    }
}

/// Runs a check's program once. `Err` says why the address counts as failed.
pub async fn probe(command: &[String], address: IpAddr, port: u16, time: Duration) -> Result<(), String> {
    let fill =
        |word: &String| word.replace("{address}", &address.to_string()).replace("{port}", &port.to_string());
    let Some((program, arguments)) = command.split_first() else { return Err("no command".to_owned()) };
    let mut child = Command::new(program)
        .args(arguments.iter().map(fill))
        .env_clear()
        .env("PATH", PATH)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program} can't be run: {error}"))?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Group);
    let stderr = child.stderr.take();
    let mut said = Vec::new();
    let ended = {
        let mut listening = std::pin::pin!(listen(stderr, &mut said));
        let mut heard_all = false;
        let ended = timeout(time, async {
            tokio::select! {
                status = child.wait() => status,
                () = &mut listening => {
                    heard_all = true;
                    child.wait().await
                }
            }
        })
        .await;
        drop(group);
        if !heard_all {
            // What is missing then stays unsaid.
            let _ = timeout(LAST_WORDS, listening).await;
        }
        ended
    };
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(in_words(status, &said)),
        Ok(Err(error)) => Err(format!("{program} was lost: {error}")),
        Err(_) => Err(format!("killed after {} ms: it had not ended{}", time.as_millis(), colon(&said))),
    }
}

/// A process group that ends with this value.
struct Group(i32);

impl Drop for Group {
    fn drop(&mut self) {
        // The leader may be reaped already. Its number can't be another's by now: Linux hands process ids out
        // in a circle, and keeps one back while a group still bears it. No such group: nothing was left.
        let _gone = killpg(Pid::from_raw(self.0), Signal::SIGKILL);
    }
}

/// Reads to the end and keeps the beginning.
async fn listen(stderr: Option<impl AsyncRead + Unpin>, said: &mut Vec<u8>) {
    let Some(mut stderr) = stderr else { return };
    let mut chunk = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut chunk).await {
        let room = STDERR_BYTES_MAX - said.len();
        said.extend_from_slice(&chunk[..count.min(room)]);
    }
}

fn in_words(status: ExitStatus, said: &[u8]) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}{}", colon(said)),
        (None, Some(signal)) => format!("killed by signal {signal}{}", colon(said)),
        (None, None) => format!("{status}{}", colon(said)),
    }
}

/// What a program said, in one line: a log line must not be forged by what a check prints.
fn colon(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let line: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    let line: Vec<&str> = line.into_iter().filter(|word| !word.is_empty()).collect();
    if line.is_empty() { String::new() } else { format!(": {}", line.join(" ")) }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt, time::Instant};

    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A script in a directory of its own.
    fn script(body: &str) -> (tempfile::TempDir, String) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("check");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let program = path.to_str().unwrap().to_owned();
        (directory, program)
    }

    async fn run(body: &str, time: Duration) -> Result<(), String> {
        let (_directory, program) = script(body);
        let command = [program, "{address}".to_owned(), "[{port}]; exit 9".to_owned()];
        probe(&command, HOME, 53, time).await
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn exit_codes_decide_and_stderr_says_why() {
        assert_eq!(run("exit 0", LONG).await, Ok(()));
        let failed = run("echo replica is 40 s >&2; echo behind >&2; exit 3", LONG).await;
        assert_eq!(failed, Err("exit code 3: replica is 40 s behind".into()));
        assert_eq!(run("kill -SEGV $$", LONG).await, Err("killed by signal 11".into()));
        let absent = probe(&["/nowhere/check".into()], HOME, 53, LONG).await.unwrap_err();
        assert!(absent.starts_with("/nowhere/check can't be run: No such file"), "{absent}");
    }

    #[tokio::test]
    async fn words_stay_words_and_the_environment_is_empty_but_for_path() {
        let said = run("echo \"$# $1 $2 $(env | grep -vE '^(PATH|PWD|SHLVL|_)=')\" >&2; exit 1", LONG).await;
        assert_eq!(said, Err("exit code 1: 2 127.0.0.1 [53]; exit 9".into()));
    }

    #[tokio::test]
    async fn much_stderr_is_cut_and_does_not_block() {
        let failed = run("head -c 300000 /dev/zero | tr '\\0' x >&2; exit 1", LONG).await.unwrap_err();
        assert_eq!(failed.len(), "exit code 1: ".len() + STDERR_BYTES_MAX);
    }

    #[tokio::test]
    async fn the_whole_group_is_killed_at_the_timeout_and_at_the_end() {
        for (body, time, expected) in [
            ("sleep 600 & echo $! > \"$0.pid\"; wait", Duration::from_millis(700), "killed after 700 ms"),
            ("sleep 600 & echo $! > \"$0.pid\"; exit 1", LONG, "exit code 1"),
        ] {
            let (directory, program) = script(body);
            let begun = Instant::now();
            let said = probe(&[program], HOME, 53, time).await.unwrap_err();
            assert!(said.starts_with(expected), "{said}");
            assert!(begun.elapsed() < LONG);
            let pid = fs::read_to_string(directory.path().join("check.pid")).unwrap();
            gone(pid.trim()).await;
        }
    }

    /// Waits until a process is dead (its zombie may wait for init).
    async fn gone(pid: &str) {
        let deadline = Instant::now() + LONG;
        loop {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                return;
            }
            assert!(Instant::now() < deadline, "{pid} lives: {stat}");
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn only_programs_of_the_directory_are_run() {
        let within = ExecPolicy::Within("/usr/lib/nearside".into());
        assert_eq!(within.judge("/usr/lib/nearside/check"), Ok(()));
        for program in
            ["/bin/sh", "/usr/lib/nearside/../../../bin/sh", "/usr/lib/nearside/sub/check", "check"]
        {
            assert!(within.judge(program).unwrap_err().contains("--exec-dir"), "{program}");
        }
        assert!(ExecPolicy::default().judge("/usr/lib/nearside/check").is_err());
    }
}
