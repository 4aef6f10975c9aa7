//! Holds a thread below the rest of the program.
#![allow(unsafe_code)]

/// Lowers the calling thread's priority by so much (`nice(1)`: 1 to 19). On Linux niceness belongs to a thread, not to its
/// process. A system that refuses leaves it as it is: nothing depends on it but latency.
pub fn lower(by: i32) {
    // SAFETY: no memory is passed; `PRIO_PROCESS` with 0 names the calling thread alone.
    let outcome = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, by) };
    if outcome != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "a thread keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_is_held_below_the_others_alone() {
        // Field 19 of `stat`, counted from after the name's closing parenthesis.
        let nice = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let rest = stat.rsplit(')').next().unwrap();
            rest.split_ascii_whitespace().nth(16).unwrap().parse::<i32>().unwrap()
        };
        let before = nice();
        let lowered = std::thread::spawn(move || {
            super::lower((before + 5).min(19));
            nice()
        });
        assert_eq!((lowered.join().unwrap(), nice()), ((before + 5).min(19), before));
    }
}
