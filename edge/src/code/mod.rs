//! Code at the edge: a site's own WebAssembly module, asked about every request and every response.
//!
//! A module is core WebAssembly with the imports of [`host`] and no others; docs/edge-code.md is its manual. It is compiled when a
//! configuration is staged, so that a bad one is refused with the rest of the configuration and the last good one
//! serves on. Each call has an instance of its own with fresh memory: nothing stays from one request to the next. Fuel bounds
//! its work, an epoch its time, a limiter its memory; whatever ends a call early (a trap, a limit) either
//! lets the request go on as it came or refuses it, as the site says.
//!
//! It runs on the worker that serves the request: for a few microseconds the way to another thread costs more than the
//! work, and the time limit bounds what the worker's other requests wait.

pub mod host;

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use nearside_fleet::config::transform::{self as config, OnError};
use wasmtime::{Config, Engine, InstancePre, Linker, Module, Store, StoreLimits, StoreLimitsBuilder, Trap};

pub use self::host::{Answered, Call, Facts, Phase};

/// Largest module, bytes. What Rust makes of a hook is some tens of KiB.
const MODULE_BYTES_MAX: u64 = 4 << 20;

/// A call's time is measured in steps of this.
const TICK: Duration = Duration::from_millis(5);

/// Stack of a call, bytes; a worker thread has 2 MiB.
const STACK_BYTES_MAX: usize = 256 << 10;

/// Elements of a module's tables.
const TABLE_ELEMENTS_MAX: usize = 10_000;

/// Which hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before the request is looked up.
    Request,
    /// Before the response leaves.
    Response,
}

impl Hook {
    /// Both.
    pub const ALL: [Hook; 2] = [Hook::Request, Hook::Response];

    /// The export's name, and the metrics' label.
    pub fn name(self) -> &'static str {
        match self {
            Hook::Request => "on_request",
            Hook::Response => "on_response",
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It returned.
    Returned,
    /// It trapped, or could not be begun.
    Trapped,
    /// Its fuel was used up.
    Fuel,
    /// Its time was up.
    Time,
}

impl End {
    /// All of them.
    pub const ALL: [End; 4] = [End::Returned, End::Trapped, End::Fuel, End::Time];

    /// The metrics' label.
    pub fn name(self) -> &'static str {
        match self {
            End::Returned => "returned",
            End::Trapped => "trapped",
            End::Fuel => "fuel",
            End::Time => "time",
        }
    }
}

/// What is counted; survives reloads.
#[derive(Debug, Default)]
pub struct Stats {
    calls: [[AtomicU64; End::ALL.len()]; Hook::ALL.len()],
    /// Fuel that calls used.
    pub fuel: AtomicU64,
}

impl Stats {
    /// Calls of a hook that ended so.
    pub fn calls(&self, hook: Hook, end: End) -> u64 {
        self.calls[hook as usize][end as usize].load(Relaxed)
    }
}

/// Why a module can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its file.
    #[error("{path}: {error}")]
    File {
        /// As configured.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// Its size.
    #[error("{0}: larger than 4 MiB")]
    TooLarge(String),
    /// No module, one that wants more than it may have, or has other imports than there are.
    #[error("{path}: {why}")]
    Unusable {
        /// As configured.
        path: String,
        /// In the engine's words.
        why: String,
    },
    /// It does nothing.
    #[error("{0}: exports neither `on_request` nor `on_response`")]
    NoHook(String),
}

/// What is used of a call at most.
struct Held {
    call: Call,
    limits: StoreLimits,
}

/// A site's module, ready to be called.
pub struct Code {
    engine: Engine,
    ready: InstancePre<Held>,
    has: [bool; Hook::ALL.len()],
    settings: config::Code,
    /// SHA-256 of the module.
    digest: [u8; 32],
    /// What became of its calls.
    pub stats: Arc<Stats>,
}

impl Code {
    /// Loads and compiles a module, unless `last` is of the same bytes and settings. Blocks: some milliseconds for each
    /// 100 KiB.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(settings: &config::Code, last: Option<&Arc<Code>>) -> Result<Arc<Code>, LoadError> {
        let bytes = read(&settings.module)?;
        let mut digest = [0; 32];
        digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes).as_ref());
        if let Some(last) = last.filter(|last| last.digest == digest && last.settings == *settings) {
            return Ok(last.clone());
        }
        let stats = last.map(|last| last.stats.clone()).unwrap_or_default();
        let path = || settings.module.display().to_string();
        let unusable =
            |error: wasmtime::Error| LoadError::Unusable { path: path(), why: format!("{error:#}") };
        let engine = engine().map_err(|why| LoadError::Unusable { path: path(), why })?;
        let module = Module::new(&engine, &bytes).map_err(unusable)?;
        let mut linker: Linker<Held> = Linker::new(&engine);
        host::link(&mut linker, |held| &mut held.call).map_err(unusable)?;
        let ready = linker.instantiate_pre(&module).map_err(unusable)?;
        let code = Code { engine, ready, has: [false; 2], settings: settings.clone(), digest, stats };
        code.checked(&module).map(Arc::new)
    }

    /// Finds the hooks, and begins an instance: a module whose memory does not fit is refused now.
    fn checked(mut self, module: &Module) -> Result<Code, LoadError> {
        let path = self.settings.module.display().to_string();
        let unusable =
            |error: wasmtime::Error| LoadError::Unusable { path: path.clone(), why: format!("{error:#}") };
        for hook in Hook::ALL {
            self.has[hook as usize] = module.get_export(hook.name()).is_some();
        }
        if !self.has.contains(&true) {
            return Err(LoadError::NoHook(path));
        }
        let mut store = self.store(Call::default()).map_err(unusable)?;
        let instance = self.ready.instantiate(&mut store).map_err(unusable)?;
        for hook in Hook::ALL.into_iter().filter(|hook| self.has[*hook as usize]) {
            instance.get_typed_func::<(), ()>(&mut store, hook.name()).map_err(unusable)?;
        }
        Ok(self)
    }

    /// Whether it has anything to say there.
    pub fn has(&self, hook: Hook) -> bool {
        self.has[hook as usize]
    }

    /// What becomes of requests whose call ends early.
    pub fn on_error(&self) -> OnError {
        self.settings.on_error
    }

    fn store(&self, call: Call) -> Result<Store<Held>, wasmtime::Error> {
        let limits = StoreLimitsBuilder::new()
            .memory_size(usize::try_from(self.settings.memory_bytes_max).unwrap_or(usize::MAX))
            .table_elements(TABLE_ELEMENTS_MAX)
            .instances(1)
            .memories(1)
            .tables(4)
            // A refused growth is -1 to the module, as the standard has it; what it makes of that is its own.
            .trap_on_grow_failure(false)
            .build();
        let mut store = Store::new(&self.engine, Held { call, limits });
        store.limiter(|held| &mut held.limits);
        store.set_fuel(self.settings.fuel)?;
        store.epoch_deadline_trap();
        let ticks = self.settings.time.as_millis() / TICK.as_millis();
        // One more: the tick under way may end at once.
        store.set_epoch_deadline(u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1));
        Ok(store)
    }

    /// Calls a hook. Gives back what it was called with, changed; after [`End::Returned`] only is that what the module meant.
    pub fn call(&self, hook: Hook, call: Call) -> (Call, End) {
        let mut store = match self.store(call) {
            Ok(store) => store,
            // Fuel is on for every engine there is: it can't be refused.
            Err(_) => return (Call::default(), self.ended(hook, End::Trapped)),
        };
        let called = self.ready.instantiate(&mut store).and_then(|instance| {
            let function = instance.get_typed_func::<(), ()>(&mut store, hook.name())?;
            function.call(&mut store, ())
        });
        let left = store.get_fuel().unwrap_or(0);
        self.stats.fuel.fetch_add(self.settings.fuel.saturating_sub(left), Relaxed);
        let end = match called {
            Ok(()) => End::Returned,
            Err(error) => {
                tracing::debug!(module = %self.settings.module.display(), hook = hook.name(), %error, "ended early");
                match error.downcast_ref::<Trap>() {
                    Some(Trap::OutOfFuel) => End::Fuel,
                    Some(Trap::Interrupt) => End::Time,
                    _ => End::Trapped,
                }
            }
        };
        (store.into_data().call, self.ended(hook, end))
    }

    fn ended(&self, hook: Hook, end: End) -> End {
        self.stats.calls[hook as usize][end as usize].fetch_add(1, Relaxed);
        end
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let file = |error| LoadError::File { path: path.display().to_string(), error };
    if std::fs::metadata(path).map_err(file)?.len() > MODULE_BYTES_MAX {
        return Err(LoadError::TooLarge(path.display().to_string()));
    }
    std::fs::read(path).map_err(file)
}

/// The one engine, and the thread that counts its epochs; both begin with the first module.
fn engine() -> Result<Engine, String> {
    static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
    ENGINE
        .get_or_init(|| {
            let mut config = Config::new();
            config.consume_fuel(true).epoch_interruption(true).max_wasm_stack(STACK_BYTES_MAX);
            // Bounds are checked by the code itself: no signal handlers in a server, and memory as small as a module's own,
            // where the other way reserves 4 GiB of addresses and a system call or two for every call of ours.
            config
                .signals_based_traps(false)
                .memory_reservation(0)
                .memory_guard_size(0)
                .memory_init_cow(false);
            let engine = Engine::new(&config).map_err(|error| format!("{error:#}"))?;
            let ticking = engine.weak();
            let ticker = std::thread::Builder::new().name("code-epochs".to_owned()).spawn(move || {
                while let Some(engine) = ticking.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            });
            ticker.map_err(|error| error.to_string())?;
            Ok(engine)
        })
        .clone()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn load(text: &str) -> Result<Arc<Code>, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        let module = dir.path().join("x.wasm");
        std::fs::write(&module, wat::parse_str(text).unwrap()).unwrap();
        let time = Duration::from_millis(50);
        let settings =
            config::Code { module, fuel: 100_000, time, memory_bytes_max: 1 << 20, on_error: OnError::Open };
        Code::load(&settings, None)
    }

    fn call(text: &str) -> (Call, End) {
        let facts = Facts { path: "/a".into(), client: "192.0.2.1".into(), ..Facts::default() };
        let headers = HeaderMap::from_iter([(http::header::ACCEPT, "x".parse().unwrap())]);
        load(text).unwrap().call(Hook::Request, Call::new(Phase::Request, facts, headers))
    }

    #[test]
    fn what_can_not_be_used_is_refused_at_load() {
        for (text, why) in [
            (r#"(module)"#, "exports neither"),
            (
                r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)) (func (export "on_request")))"#,
                "unknown import",
            ),
            (r#"(module (func (export "on_request") (param i32)))"#, "type"),
            (r#"(module (memory (export "memory") 17) (func (export "on_request")))"#, "memory"),
            (r#"(module (func $s unreachable) (start $s) (func (export "on_request")))"#, "unreachable"),
            (r#"(module (func $s (loop (br 0))) (start $s) (func (export "on_request")))"#, "fuel"),
        ] {
            let error = load(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn limits_end_calls() {
        for (text, end) in [
            (r#"(module (func (export "on_request")))"#, End::Returned),
            (r#"(module (func (export "on_request") unreachable))"#, End::Trapped),
            (r#"(module (func (export "on_request") (loop (br 0))))"#, End::Fuel),
            (r#"(module (func $f (export "on_request") (call $f)))"#, End::Trapped),
            // Growth past the limit fails, and is the module's to see.
            (
                r#"(module (memory (export "memory") 1) (func (export "on_request")
                    (if (i32.ne (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable))))"#,
                End::Returned,
            ),
            (
                r#"(module (memory (export "memory") 1) (func (export "on_request")
                    (drop (i32.load (i32.const 65536)))))"#,
                End::Trapped,
            ),
        ] {
            assert_eq!(call(text).1, end, "{text}");
        }
    }

    #[test]
    fn time_ends_a_call_that_has_fuel_for_hours() {
        let dir = tempfile::tempdir().unwrap();
        let module = dir.path().join("x.wasm");
        std::fs::write(
            &module,
            wat::parse_str(r#"(module (func (export "on_request") (loop (br 0))))"#).unwrap(),
        )
        .unwrap();
        let time = Duration::from_millis(10);
        let settings = config::Code {
            module,
            fuel: u64::MAX / 2,
            time,
            memory_bytes_max: 1 << 20,
            on_error: OnError::Open,
        };
        let code = Code::load(&settings, None).unwrap();
        assert_eq!(code.call(Hook::Request, Call::default()).1, End::Time);
        assert_eq!(code.stats.calls(Hook::Request, End::Time), 1);
        let again = Code::load(&settings, Some(&code)).unwrap();
        assert!(Arc::ptr_eq(&code, &again), "the same bytes are not compiled twice");
    }

    #[test]
    fn nothing_stays_from_call_to_call() {
        let code = load(
            r#"(module (memory (export "memory") 1) (global $n (mut i32) (i32.const 0))
                (func (export "on_request")
                    (if (i32.or (global.get $n) (i32.load (i32.const 8))) (then unreachable))
                    (global.set $n (i32.const 1)) (i32.store (i32.const 8) (i32.const 1))))"#,
        )
        .unwrap();
        for _ in 0..3 {
            assert_eq!(code.call(Hook::Request, Call::default()).1, End::Returned);
        }
    }

    #[test]
    fn pointers_outside_of_memory_trap() {
        for arguments in [
            "(i32.const 65530) (i32.const 100)",
            "(i32.const -1) (i32.const 1)",
            "(i32.const 0) (i32.const -1)",
        ] {
            let text = format!(
                r#"(module (import "nearside_1" "key_add" (func $key (param i32 i32) (result i32)))
                    (memory (export "memory") 1) (func (export "on_request") (drop (call $key {arguments}))))"#
            );
            assert_eq!(call(&text).1, End::Trapped, "{arguments}");
        }
    }
}
