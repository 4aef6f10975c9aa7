//! How figures are drawn: colours, widths, bars, units. Writes nothing itself.
//!
//! Colours only where a person looks: standard output is a terminal and `NO_COLOR` is not set.

use std::io::IsTerminal;

/// A width to draw in where there is no terminal to ask.
const WIDTH: usize = 100;
/// Beyond it lines are hard to follow with the eye.
const WIDTH_MAX: usize = 160;

/// Where something is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Canvas {
    pub(super) width: usize,
    colours: bool,
    is_screen: bool,
}

/// What a colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// To be looked at.
    Doubtful,
    /// Wrong.
    Bad,
    /// Beside the point.
    Faint,
    /// A heading.
    Strong,
}

impl Canvas {
    /// Standard output.
    pub(super) fn stdout() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let is_screen = is_terminal && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let named = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let seen = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
        let width = named.or_else(seen).unwrap_or(WIDTH).clamp(40, WIDTH_MAX);
        Canvas { width, colours: is_screen && !plain, is_screen }
    }

    /// Without colours.
    #[cfg(test)]
    pub(super) fn plain(width: usize) -> Self {
        Canvas { width, colours: false, is_screen: false }
    }

    /// Whether what was drawn can be drawn over.
    pub(super) fn is_screen(self) -> bool {
        self.is_screen
    }

    /// Text in a colour, padded by the caller.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.colours || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Doubtful => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
            Tone::Strong => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Values as one line of blocks of eight heights; what is 0 is a space.
pub(super) fn sparkline(values: &[f64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(0.0, f64::max);
    let block = |value: &f64| {
        if *value <= 0.0 || most <= 0.0 {
            return ' ';
        }
        BLOCKS[((value / most * 8.0).ceil() as usize).clamp(1, 8) - 1]
    };
    values.iter().map(block).collect()
}

/// A part of 1 as a bar of so many columns.
pub(super) fn bar(part: f64, columns: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (part.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize;
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// So many values, each the sum of those that fall into its place.
pub(super) fn resample(points: &[(u64, f64)], from: u64, until: u64, columns: usize) -> Vec<f64> {
    let mut out = vec![0.0; columns.max(1)];
    let length = until.saturating_sub(from).max(1);
    for &(at, value) in points {
        let place = u128::from(at.saturating_sub(from)) * out.len() as u128 / u128::from(length);
        let place = usize::try_from(place).unwrap_or(usize::MAX).min(out.len() - 1);
        out[place] += value;
    }
    out
}

/// A number with at most four digits and a unit of thousands: `950`, `12.3k`, `4.56M`.
pub(super) fn count(number: u64) -> String {
    scaled(number as f64, &["", "k", "M", "G", "T", "P", "E"])
}

/// Bytes, by thousands, as prices are.
pub(super) fn bytes(number: u64) -> String {
    scaled(number as f64, &[" B", " kB", " MB", " GB", " TB", " PB", " EB"])
}

/// Bits per second.
pub(super) fn bits(number: f64) -> String {
    scaled(number, &[" bit/s", " kbit/s", " Mbit/s", " Gbit/s", " Tbit/s"])
}

fn scaled(number: f64, units: &[&str]) -> String {
    let mut scaled = number;
    let mut unit = 0;
    // 999.5 would be shown as 1000.
    while scaled >= 999.5 && unit + 1 < units.len() {
        scaled /= 1000.0;
        unit += 1;
    }
    let digits = match scaled {
        _ if unit == 0 && scaled.fract() == 0.0 => 0,
        scaled if scaled < 9.995 => 2,
        scaled if scaled < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{}", units[unit])
}

/// A part of 1 in percent.
pub(super) fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "-".to_owned(), |part| format!("{:.1} %", part * 100.0))
}

/// Milliseconds.
pub(super) fn ms(value: f64) -> String {
    match value {
        value if value < 10.0 => format!("{value:.2} ms"),
        value if value < 1_000.0 => format!("{value:.0} ms"),
        value => format!("{:.1} s", value / 1e3),
    }
}

/// Text in so many columns: padded, or cut with an ellipsis.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let length = text.chars().count();
    if length <= columns {
        return format!("{text}{}", " ".repeat(columns - length));
    }
    let kept: String = text.chars().take(columns.saturating_sub(1)).collect();
    kept + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown: Vec<String> = [0, 7, 999, 1_000, 12_345, 999_999, 4_560_000].map(count).into();
        assert_eq!(shown, ["0", "7", "999", "1.00k", "12.3k", "1.00M", "4.56M"]);
        assert_eq!((bytes(1_500_000_000), bits(2.5e6)), ("1.50 GB".into(), "2.50 Mbit/s".into()));
        assert_eq!((percent(Some(0.941)), percent(None)), ("94.1 %".into(), "-".into()));
    }

    #[test]
    fn lines_and_bars_are_as_long_as_they_say() {
        assert_eq!(sparkline(&[0.0, 1.0, 4.0, 8.0]), " ▁▄█");
        assert_eq!(sparkline(&[0.0, 0.0]), "  ");
        assert_eq!((bar(0.5, 4), bar(1.0, 2), bar(0.0, 5)), ("██".into(), "██".into(), String::new()));
        assert_eq!(resample(&[(10, 1.0), (11, 2.0), (19, 4.0)], 10, 20, 2), [3.0, 4.0]);
        assert_eq!((fit("abc", 5), fit("abcdef", 4)), ("abc  ".into(), "abc…".into()));
    }
}
