//! `[[site.NAME.rule]]` and `[site.NAME.split.NAME]`: what a site does to requests that meet conditions.
//!
//! Only what was written, checked: the edge compiles it.

use std::{path::PathBuf, time::Duration};

use super::{Id, Match, QueryKey};
use crate::{glob::Glob, template::Template};

/// Rules of one site. A set of them is a bitmap in a request's hands: 128 bytes.
pub const RULES_MAX: usize = 1024;

/// Distinct header fields, cookies and query parameters that the conditions of a site look at: each is looked for in
/// every request that any rule may concern.
pub const SUBJECTS_MAX: usize = 64;

/// Bytes that one regular expression may take compiled. `\d{1,3}` takes a few hundred; what takes more than this was not
/// meant, or is meant badly.
pub const REGEX_BYTES_MAX: usize = 1 << 20;

/// Longest regular expression, bytes.
pub const REGEX_TEXT_MAX: usize = 1024;

/// Values of one list in a condition.
pub const LIST_MAX: usize = 1024;

/// Largest file of a fixed response, bytes: it is kept in memory.
pub const BODY_BYTES_MAX: u64 = 1 << 20;

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteRule {
    /// Unique within the site: in metrics, logs and explanations.
    pub name: String,
    /// All of them hold.
    pub when: Vec<Condition>,
    /// In none of these do all hold.
    pub not: Vec<Vec<Condition>>,
    /// What happens then.
    pub then: Then,
    /// Whether the next rules are looked at.
    pub continues: bool,
}

/// One condition: of its values any.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// The path as it is normalised, without query.
    Path(Vec<Glob>),
    /// The same, by regular expressions that may match anywhere in it.
    PathRegex(Vec<String>),
    /// What follows the last dot of the last segment, lower case.
    Extension(Vec<String>),
    /// Methods, upper case.
    Method(Vec<String>),
    /// Host names, lower case; `*.` matches one label.
    Host(Vec<String>),
    /// `http` or `https`.
    Scheme(String),
    /// A request field, lower case.
    Header(String, Vec<Test>),
    /// A cookie.
    Cookie(String, Vec<Test>),
    /// A query parameter, decoded.
    Query(String, Vec<Test>),
    /// Where the client is, or its network.
    Place(Vec<Match>),
    /// A split and arms of it.
    Split(Id, Vec<String>),
    /// When it is.
    Time(TimeWindow),
}

/// What is asked of a field, cookie or parameter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Test {
    /// It is there.
    Present,
    /// It is not.
    Absent,
    /// It is this.
    Equals(String),
    /// This matches somewhere in it.
    Regex(String),
}

/// `time = { … }`: all that is given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimeWindow {
    /// Seconds since the epoch, inclusive.
    pub from: Option<i64>,
    /// Seconds since the epoch, exclusive.
    pub until: Option<i64>,
    /// Days of the week, Monday first; none set: all.
    pub weekdays: [bool; 7],
    /// Minutes of the day, from inclusive to exclusive; from after to: over midnight.
    pub minutes: Option<(u16, u16)>,
    /// What days and hours are counted in, seconds east of UTC.
    pub offset_secs: i32,
}

impl TimeWindow {
    /// Whether it holds at a time, seconds since the epoch.
    pub fn holds(&self, now: i64) -> bool {
        if self.from.is_some_and(|from| now < from) || self.until.is_some_and(|until| now >= until) {
            return false;
        }
        let local = now + i64::from(self.offset_secs);
        let (mut day, minute) = (local.div_euclid(86_400), local.rem_euclid(86_400) / 60);
        if let Some((from, to)) = self.minutes {
            let (from, to) = (i64::from(from), i64::from(to));
            let inside =
                if from <= to { minute >= from && minute < to } else { minute >= from || minute < to };
            if !inside {
                return false;
            }
            // After midnight it is still the night of the day before.
            if from > to && minute < to {
                day -= 1;
            }
        }
        // The epoch was a Thursday.
        let weekday = (day + 3).rem_euclid(7) as usize;
        self.weekdays == [false; 7] || self.weekdays[weekday]
    }
}

/// What a rule does. Of each thing, the first rule that matches and says it counts; fields, tags and parts of the key
/// add up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Then {
    /// Lifetime at the edge in place of the origin's.
    pub ttl: Option<Duration>,
    /// `Cache-Control` that clients get.
    pub client_cache_control: Option<String>,
    /// The cache has no part in it.
    pub bypass: bool,
    /// How the query is part of the key.
    pub query: Option<QueryKey>,
    /// What joins the key.
    pub key: Key,
    /// Fields on the way to the origin.
    pub request_headers: Fields,
    /// Fields on the way to the client.
    pub response_headers: Fields,
    /// Cross-origin resource sharing.
    pub cors: Option<Cors>,
    /// Another path and query, for key and origin.
    pub rewrite: Option<Rewrite>,
    /// Positions in the site's origins, in order of preference; empty: as the site says. No others are asked.
    pub origins: Vec<usize>,
    /// Whether these origins have the same content as the others, so that one copy is kept for all.
    pub same_content: bool,
    /// Bytes per second of one response.
    pub throttle: Option<u64>,
    /// Tags, to purge by.
    pub tags: Vec<String>,
    /// The request is answered so.
    pub answer: Option<RuleAnswer>,
}

/// What joins a cache key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// Request fields, lower case.
    pub headers: Vec<String>,
    /// Cookies.
    pub cookies: Vec<String>,
    /// The client's country.
    pub country: bool,
    /// Splits: the client's arm.
    pub splits: Vec<Id>,
}

/// Changes of fields: removed, then set, then added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields {
    /// Names, lower case.
    pub remove: Vec<String>,
    /// In place of what is there.
    pub set: Vec<(String, Template)>,
    /// Beside what is there.
    pub add: Vec<(String, Template)>,
}

impl Fields {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

/// Cross-origin resource sharing (the Fetch standard).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Origins like `https://app.example.org`; `*`: any; `https://*.example.org`.
    pub origins: Vec<String>,
    /// Methods that a preflight is told.
    pub methods: Vec<String>,
    /// Request fields that a preflight is told; `*`: what it asks for.
    pub headers: Vec<String>,
    /// Response fields that pages may read.
    pub expose: Vec<String>,
    /// Whether cookies may be sent.
    pub credentials: bool,
    /// For how long a preflight holds.
    pub max_age: Option<Duration>,
}

/// Another target for key and origin. The host stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rewrite {
    /// The path; `None`: as it is.
    pub path: Option<Template>,
    /// The query, without `?`; `None`: as it is; empty: none.
    pub query: Option<Template>,
}

/// An answer without the origin.
#[derive(Clone, Debug, PartialEq)]
pub enum RuleAnswer {
    /// Elsewhere.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: u16,
        /// Where.
        to: Template,
    },
    /// This.
    Respond {
        /// 200 to 599.
        status: u16,
        /// What.
        body: RuleBody,
        /// `Content-Type`.
        content_type: String,
    },
    /// A refusal with the site's error page.
    Block {
        /// 400 to 599.
        status: u16,
    },
}

/// The content of a fixed response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleBody {
    /// As written in the fleet file.
    Text(String),
    /// As in a file of its own.
    File(PathBuf),
}

/// `[site.NAME.split.NAME]`: clients in arms, by percent, always the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// Its name.
    pub name: Id,
    /// Arms with their shares in hundredths of a percent, which add up to 10,000; in the order of their names.
    pub arms: Vec<(String, u32)>,
    /// By what clients are told apart: this cookie; `None`, or where it is missing: their network.
    pub cookie: Option<String>,
    /// Whether a client without the cookie is given one.
    pub set_cookie: bool,
    /// Request field that tells the origin the arm.
    pub request_header: Option<String>,
    /// Response field that tells the client.
    pub response_header: Option<String>,
}

/// `[site.NAME.error_pages]`: what people see of errors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPages {
    /// By status.
    pub of_status: Vec<(u16, PathBuf)>,
    /// By hundreds: 4 or 5.
    pub of_class: Vec<(u16, PathBuf)>,
    /// Whether errors of the origin's own are replaced too.
    pub replace_origin: bool,
}

impl ErrorPages {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.of_status.is_empty() && self.of_class.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_time_know_days_and_midnight() {
        // 2026-11-21 is a Saturday; 12:00 UTC.
        let noon = 1_795_262_400;
        let hours =
            |from: u16, to: u16| TimeWindow { minutes: Some((from * 60, to * 60)), ..TimeWindow::default() };
        assert!(hours(8, 18).holds(noon) && !hours(13, 18).holds(noon) && hours(22, 13).holds(noon));
        assert!(!hours(22, 6).holds(noon));
        let on = |day: usize| {
            let mut window = hours(22, 6);
            window.weekdays[day] = true;
            window
        };
        // Three in the morning of Saturday belongs to Friday's night.
        assert!(on(4).holds(noon - 9 * 3600) && !on(5).holds(noon - 9 * 3600));
        assert!(on(5).holds(noon + 11 * 3600));
        let east = TimeWindow { offset_secs: 3600, ..hours(13, 14) };
        assert!(east.holds(noon));
        let dates = TimeWindow { from: Some(noon), until: Some(noon + 1), ..TimeWindow::default() };
        assert!(dates.holds(noon) && !dates.holds(noon - 1) && !dates.holds(noon + 1));
    }
}
