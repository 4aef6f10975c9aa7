//! Processes that end with the test, and the binaries of this workspace.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use crate::wait;

/// The path of a binary of this workspace, beside the test's own.
///
/// # Panics
/// Where it was not built: cargo does not build other packages' binaries for a test.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the test knows its own path");
    // target/<profile>/deps/<test> or target/<profile>/drill → target/<profile>/<name>
    let beside = own.parent().expect("a program lies in a directory");
    let profile = if beside.ends_with("deps") { beside.parent().expect("deps has a parent") } else { beside };
    let path = profile.join(name);
    assert!(path.exists(), "{} is missing: run `cargo build --workspace --bins` first", path.display());
    path
}

/// A running program whose output goes to a file; killed, by its own pid, when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command; `log` takes what it prints.
    ///
    /// # Panics
    /// Where it can't be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("the log can be written");
        let again = file.try_clone().expect("a descriptor");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(again).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.to_owned(), child, log: log.to_path_buf() }
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has printed `text`.
    ///
    /// # Panics
    /// At the deadline, or where it ends first, with its output.
    pub fn wait_for(&mut self, text: &str, at_most: Duration) {
        let what = format!("{} prints {text:?}", self.name);
        wait::until(&what, at_most, || {
            let output = self.output();
            if output.contains(text) {
                return Ok(());
            }
            assert!(self.runs(), "{} ended before it printed {text:?}:\n{output}", self.name);
            Err(output)
        });
    }

    /// Sends a signal by name (`TERM`, `HUP`, `KILL`, `STOP`, `CONT`).
    ///
    /// # Panics
    /// Where `kill` fails.
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status();
        assert!(status.expect("kill runs").success(), "kill -{signal} {}", self.name);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// At the deadline.
    pub fn wait_end(&mut self, at_most: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait::until(&what, at_most, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Kills it at once, as a power cut would.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- {} ({}) ----\n{}", self.name, self.log.display(), self.output());
        }
    }
}

/// What a program that ran to its end printed and returned.
#[derive(Debug)]
pub struct Finished {
    /// Exit code; `None`: a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a command to its end.
///
/// # Panics
/// Where it can't be started.
pub fn run(command: &mut Command) -> Finished {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
