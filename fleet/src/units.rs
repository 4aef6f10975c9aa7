//! Durations and sizes the way people write them.
//!
//! Durations: `250ms`, `10s`, `5m`, `1h30m`, `7d`. Sizes: `512MiB`, `10GB`, `4096`. A number always needs its
//! unit in a duration, because a bare `10` means seconds to one reader and milliseconds to the next.

use std::time::Duration;

/// Reads a duration; `None` if it is none, is empty or overflows.
pub fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let millis: u64 = match &rest[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(number.checked_mul(millis)?))?;
        rest = rest[letters..].trim_start();
    }
    Some(total)
}

/// Writes a duration as [`duration`] reads it, to the millisecond.
pub fn write_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    let mut rest = millis;
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= size {
            out.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    out
}

/// Reads a size in bytes; binary (`KiB`, `MiB`, `GiB`, `TiB`) and decimal (`kB`, `MB`, `GB`, `TB`) units.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5_400)));
        assert_eq!(duration(" 1h 5s "), Some(Duration::from_secs(3_605)));
        for bad in ["", "10", "s", "10x", "1.5s", "-1s", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for millis in [0, 1, 999, 1_000, 61_001, 86_400_000, 90_061_001] {
            let value = Duration::from_millis(millis);
            assert_eq!(duration(&write_duration(value)), Some(value));
        }
    }

    #[test]
    fn sizes_are_binary_or_decimal_as_written() {
        assert_eq!(bytes("512MiB"), Some(512 << 20));
        assert_eq!(bytes("10 GB"), Some(10_000_000_000));
        assert_eq!(bytes("4096"), Some(4096));
        for bad in ["", "MiB", "1 XB", "-1", "99999999999 TB"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }
}
