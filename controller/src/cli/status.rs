//! `nearside status`: the fleet at one glance.
//!
//! A table of PoPs (one line each: state, snapshot, purges, health as every DNS node sees it, traffic, hits, how full its
//! store is, how long its certificates last), one of DNS nodes, and below them in words what is not as it should be.

use std::{process::ExitCode, time::Duration};

use nearside_node::args;
use serde_json::Value;

use super::{
    Failure, HomeArgs, QUICK, failed,
    paint::{self, Canvas, Tone},
    publish::watched,
};
use crate::{
    alarms,
    nodes::{Kind, Phase, Status},
    serve::FleetStatus,
};

/// Certificates that end within so many days are shown as wrong, and as doubtful.
const DAYS_BAD: i64 = 7;
const DAYS_DOUBTFUL: i64 = 21;
/// Clocks that keep time by themselves drift less; identities are made an hour early to allow for more.
const CLOCK_DOUBTFUL_SECONDS: i64 = 60;
/// DNS nodes with a column of their own; more are counted.
const VIEWS_MAX: usize = 5;

pub(super) async fn fleet_status(at: &HomeArgs) -> Result<FleetStatus, Failure> {
    Ok(at.peer()?.get("/v1/status", QUICK).await?)
}

/// Shows it once, or over and over until interrupted.
pub(super) async fn status(at: &HomeArgs, every: Option<Duration>) -> Result<ExitCode, Failure> {
    loop {
        let status = fleet_status(at).await?;
        let now = crate::home::seconds(std::time::SystemTime::now());
        if at.json {
            let text = match every {
                Some(_) => serde_json::to_string(&status),
                None => serde_json::to_string_pretty(&status),
            };
            println!("{}", text.map_err(failed)?);
        } else {
            let canvas = Canvas::stdout();
            let drawn = draw(&status, now, canvas);
            // Top left, and what was there before goes only below what is new: no flicker.
            let (before, after) =
                if every.is_some() && canvas.is_screen() { ("\x1b[H", "\x1b[J") } else { ("", "") };
            let end = if before.is_empty() { "\n" } else { "\x1b[K\n" };
            print!("{before}{}{after}", drawn.replace('\n', end));
        }
        let Some(every) = every else { return Ok(args::OK) };
        // A reader that went away ends it.
        if std::io::Write::flush(&mut std::io::stdout()).is_err() {
            return Ok(args::OK);
        }
        tokio::time::sleep(every).await;
    }
}

fn draw(fleet: &FleetStatus, now: u64, canvas: Canvas) -> String {
    let mut out = String::new();
    let mut line = |text: &str| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    let snapshot =
        fleet.snapshot.map_or("nothing published".to_owned(), |number| format!("snapshot {number}"));
    let trouble = match fleet.conditions {
        0 => canvas.paint(Tone::Good, "nothing is wrong"),
        1 => canvas.paint(Tone::Bad, "1 thing is wrong: nearside events"),
        count => canvas.paint(Tone::Bad, &format!("{count} things are wrong: nearside events")),
    };
    let name = canvas.paint(Tone::Strong, &fleet.fleet);
    line(&format!("fleet {name}, {snapshot}, purges {}, {trouble}", fleet.purges));
    rollout(fleet).iter().for_each(|text| line(text));
    let edges: Vec<&Status> = fleet.nodes.iter().filter(|node| node.kind == Kind::Edge).collect();
    let dns: Vec<&Status> = fleet.nodes.iter().filter(|node| node.kind == Kind::Dns).collect();
    line("");
    for text in edges_table(fleet, &edges, &dns, now, canvas) {
        line(&text);
    }
    if !dns.is_empty() {
        line("");
        for text in dns_table(&dns, now, canvas) {
            line(&text);
        }
    }
    let words = words(fleet, now, canvas);
    if !words.is_empty() {
        line("");
    }
    words.iter().for_each(|text| line(text));
    out
}

/// A rollout under way, and a snapshot that home made by itself because the one before was taken back.
fn rollout(fleet: &FleetStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(rollout) = &fleet.rollout {
        let nodes =
            rollout.waves.get(rollout.wave.saturating_sub(1)).map_or(String::new(), |wave| wave.join(", "));
        lines.push(format!(
            "snapshot {} is being rolled out: wave {} of {} ({nodes}), {}; the others keep {}",
            rollout.number,
            rollout.wave,
            rollout.waves.len(),
            watched(rollout),
            rollout.from
        ));
    }
    if let Some((newest, number)) =
        fleet.newest.as_ref().and_then(|newest| Some((newest, newest.rollback_of?)))
    {
        lines.push(format!("snapshot {} repeats {number}: {} ({})", newest.number, newest.note, newest.who));
    }
    lines
}

/// A cell: what it says, and how it is meant.
type Cell = (String, Option<Tone>);

fn edges_table(
    fleet: &FleetStatus,
    edges: &[&Status],
    dns: &[&Status],
    now: u64,
    canvas: Canvas,
) -> Vec<String> {
    let named = dns.len() <= VIEWS_MAX;
    let mut head: Vec<String> = ["POP", "ROLE", "STATE", "SNAPSHOT", "PURGES"].map(str::to_owned).into();
    match named {
        true => head.extend(dns.iter().map(|node| node.node.to_uppercase())),
        false => head.push("SEEN UP".to_owned()),
    }
    head.extend(["REQ/S", "TRAFFIC", "HITS", "MEMORY", "DISK", "CERTS"].map(str::to_owned));
    let rows = edges.iter().map(|node| {
        let drained = fleet.drains.iter().any(|drain| drain.pop == node.node);
        let mut row = vec![plain(&node.node), plain(role(node)), state(node, drained), has(node)];
        row.push(match fleet.purges.saturating_sub(node.purges) {
            0 => plain("all"),
            lag => (format!("-{lag}"), Some(Tone::Doubtful)),
        });
        let views: Vec<Cell> = dns.iter().map(|server| view(server, &node.node, now)).collect();
        match named {
            true => row.extend(views),
            false => {
                let up = views.iter().filter(|(view, _)| view == "up").count();
                let tone = (up < views.len()).then_some(Tone::Bad);
                row.push((format!("{up}/{}", views.len()), tone));
            }
        }
        match fleet.traffic.get(&node.node) {
            Some(rate) => row.extend([
                plain(&format!("{:.1}", rate.requests)),
                plain(&paint::bits(rate.bits)),
                plain(&paint::percent(rate.hit_ratio)),
            ]),
            None => row.extend(["-", "-", "-"].map(plain)),
        }
        row.extend([fill(node, "memory"), fill(node, "disk"), certificates(node, now)]);
        row
    });
    columns(head, rows.collect(), canvas)
}

fn dns_table(dns: &[&Status], now: u64, canvas: Canvas) -> Vec<String> {
    let head = ["DNS NODE", "STATE", "SNAPSHOT", "ZONES", "SINCE", "VERSION"].map(str::to_owned).into();
    let rows = dns.iter().map(|node| {
        let report = node.report.as_ref();
        let zones = report.and_then(|report| report.program_report.get("zones")?.as_array().map(Vec::len));
        let since = report.map_or("-".to_owned(), |report| short(now.saturating_sub(report.started)));
        let version = report.map_or("-", |report| report.version.as_str());
        let zones = zones.map_or("-".to_owned(), |zones| zones.to_string());
        vec![plain(&node.node), state(node, false), has(node), plain(&zones), plain(&since), plain(version)]
    });
    columns(head, rows.collect(), canvas)
}

fn plain(text: &str) -> Cell {
    (text.to_owned(), None)
}

fn role(node: &Status) -> &'static str {
    let listening =
        node.report.as_ref().and_then(|report| report.program_report.get("listening")?.as_array());
    let shields = |listener: &Value| {
        listener.get("protocol").and_then(Value::as_str).is_some_and(|protocol| protocol.contains("fleet"))
    };
    if listening.is_some_and(|all| all.iter().any(shields)) { "shield" } else { "edge" }
}

fn state(node: &Status, drained: bool) -> Cell {
    let tone = match node.phase {
        Phase::Current => Tone::Good,
        Phase::Unknown | Phase::Behind | Phase::Staging => Tone::Doubtful,
        Phase::Unreachable | Phase::Refusing => Tone::Bad,
    };
    match drained && node.phase == Phase::Current {
        true => ("drained".to_owned(), Some(Tone::Doubtful)),
        false => (node.phase.to_string(), Some(tone)),
    }
}

/// Its snapshot, and how far behind what it should have it is.
fn has(node: &Status) -> Cell {
    let Some(number) = node.snapshot else { return plain("-") };
    match node.lag().unwrap_or(0) {
        0 => plain(&number.to_string()),
        lag => (format!("{number} (-{lag})"), Some(Tone::Doubtful)),
    }
}

/// A PoP as a DNS node sees it.
fn view(server: &Status, pop: &str, now: u64) -> Cell {
    let stale = server.phase == Phase::Unreachable || server.seen.is_none_or(|seen| seen + 60 < now);
    let statuses: Vec<&str> = alarms::targets(server)
        .filter(|target| target.get("pop").and_then(Value::as_str) == Some(pop))
        .filter_map(|target| target.get("status")?.as_str())
        .collect();
    if stale || statuses.is_empty() {
        return ("?".to_owned(), Some(Tone::Faint));
    }
    let down = statuses.iter().filter(|status| **status == "down").count();
    match down {
        0 => ("up".to_owned(), Some(Tone::Good)),
        down if down == statuses.len() => ("down".to_owned(), Some(Tone::Bad)),
        down => (format!("{down}/{} down", statuses.len()), Some(Tone::Doubtful)),
    }
}

/// How full a tier of the store is.
fn fill(node: &Status, tier: &str) -> Cell {
    let cache = node.report.as_ref().and_then(|report| report.program_report.get("cache"));
    let number = |key: String| cache.and_then(|cache| cache.get(key)?.as_u64());
    let (Some(used), Some(most)) = (number(format!("{tier}_bytes")), number(format!("{tier}_bytes_max")))
    else {
        return plain("-");
    };
    let part = if most == 0 { 0.0 } else { used as f64 / most as f64 };
    plain(&format!("{} {:.0} %", paint::bytes(used), part * 100.0))
}

/// The certificate that ends first.
fn certificates(node: &Status, now: u64) -> Cell {
    let report = node.report.as_ref();
    let all = report.and_then(|report| report.program_report.get("certificates")?.as_object());
    let ends =
        all.into_iter().flatten().filter_map(|(_, certificate)| certificate.get("not_after")?.as_i64());
    let Some(first) = ends.min() else { return plain("-") };
    let days = first.saturating_sub(i64::try_from(now).unwrap_or(i64::MAX)).div_euclid(86_400);
    let tone = match days {
        ..DAYS_BAD => Tone::Bad,
        DAYS_BAD..DAYS_DOUBTFUL => Tone::Doubtful,
        _ => Tone::Good,
    };
    let count = all.map_or(0, serde_json::Map::len);
    (format!("{count}, {days} d"), Some(tone))
}

/// Lines of columns as wide as they need to be.
fn columns(head: Vec<String>, rows: Vec<Vec<Cell>>, canvas: Canvas) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|(text, _)| text.chars().count());
        cells.max().unwrap_or(0).max(head[column].chars().count())
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let heading: Vec<String> =
        head.iter().zip(&widths).map(|(text, width)| paint::fit(text, *width)).collect();
    let mut lines = vec![canvas.paint(Tone::Faint, heading.join("  ").trim_end())];
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|((text, tone), width)| {
                let text = paint::fit(text, *width);
                tone.map_or(text.clone(), |tone| canvas.paint(tone, &text))
            })
            .collect();
        lines.push(cells.join("  "));
    }
    lines
}

/// What is not as it should be, and what operators did.
fn words(fleet: &FleetStatus, now: u64, canvas: Canvas) -> Vec<String> {
    let mut lines = Vec::new();
    for node in &fleet.nodes {
        let name = &node.node;
        let mut say = |tone, text: &str| {
            lines.push(format!("{}: {}", canvas.paint(tone, name), text.replace('\n', "\n    ")));
        };
        if let Some(error) = &node.error {
            let seen = node.seen.map(|seen| format!(" (last seen {} ago)", short(now.saturating_sub(seen))));
            say(Tone::Bad, &format!("{error}{}", seen.unwrap_or_default()));
        }
        if let Some(ahead) = node.clock_ahead_seconds.filter(|ahead| ahead.abs() > CLOCK_DOUBTFUL_SECONDS) {
            let way = if ahead > 0 { "ahead of" } else { "behind" };
            say(
                Tone::Doubtful,
                &format!("its clock is {} s {way} home's: one of them is wrong", ahead.abs()),
            );
        }
        let Some(report) = &node.report else { continue };
        report.warnings.iter().for_each(|warning| say(Tone::Doubtful, warning));
        for target in alarms::targets(node) {
            let text = |key: &str| target.get(key).and_then(Value::as_str).unwrap_or("?");
            if text("status") == "down" {
                let told = format!(
                    "sees {} {} down: {} ({})",
                    text("pop"),
                    text("address"),
                    text("reason"),
                    text("check")
                );
                say(Tone::Bad, &told);
            }
        }
        let problems = report.program_report.get("certificate_problems").and_then(Value::as_array);
        for problem in problems.into_iter().flatten() {
            let text = |key: &str| problem.get(key).and_then(Value::as_str).unwrap_or("?");
            say(Tone::Doubtful, &format!("certificate of {}: {}", text("site"), text("message")));
        }
        let unwell = report.program_report.get("origins_unwell").and_then(Value::as_array);
        for origin in unwell.into_iter().flatten().filter_map(Value::as_str) {
            say(Tone::Doubtful, &format!("origin {origin} is not well"));
        }
    }
    for drain in &fleet.drains {
        let until = drain.until.map_or("until lifted".to_owned(), |until| format!("until {}", clock(until)));
        lines.push(format!("{} is drained {until} {}", drain.pop, drain.reason).trim_end().to_owned());
    }
    for reason in &fleet.refused {
        lines.push(format!("{} {reason}", canvas.paint(Tone::Bad, "not published:")));
    }
    lines
}

/// A stretch of time in its largest unit.
fn short(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

pub(super) fn clock(at: u64) -> String {
    let at = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    at.map_or("?".to_owned(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fleet() -> FleetStatus {
        let report = |program_report: Value| {
            json!({"node": "x", "program": "p", "version": "0.1.0", "started": 1_000, "now": 9_000, "enrolled": true,
                "serving": {"source": "snapshot", "snapshot": 6, "since": 1}, "program_report": program_report})
        };
        let health = json!({"health": [
            {"pop": "fra", "check": "page", "address": "192.0.2.1", "status": "up", "reason": "fine"},
            {"pop": "nyc", "check": "page", "address": "192.0.2.2", "status": "down", "reason": "refused"}],
            "zones": [{}]});
        let cache = json!({"cache": {"memory_bytes": 128_000_000, "memory_bytes_max": 256_000_000, "disk_bytes": 0,
            "disk_bytes_max": null}, "certificates": {"www": {"not_after": 9_000 + 3 * 86_400}},
            "listening": [{"protocol": "HTTPS for the fleet's edges"}]});
        let node = |name: &str, kind: &str, phase: &str, snapshot: u64, report: Value| {
            json!({"node": name, "kind": kind, "phase": phase, "snapshot": snapshot, "wanted": 7, "error": null, "purges": 4,
                "seen": 8_990, "report": report})
        };
        serde_json::from_value(json!({
            "fleet": "example", "snapshot": 7, "refused": ["nearside.toml:1:1: no"], "purges": 5,
            "drains": [{"pop": "fra", "until": null, "reason": "new disk"}],
            "nodes": [node("fra", "edge", "current", 7, report(cache)),
                node("nyc", "edge", "behind", 6, report(json!({}))),
                node("ns1", "dns", "current", 7, report(health))],
            "traffic": {"fra": {"requests": 12.5, "bits": 2_500_000.0, "hit_ratio": 0.5}}, "conditions": 2,
        }))
        .unwrap()
    }

    #[test]
    fn everything_is_there_at_one_glance() {
        let drawn = draw(&fleet(), 9_000, Canvas::plain(100));
        let line =
            |start: &str| drawn.lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
        let words = |start: &str| line(start).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(line("fleet"), "fleet example, snapshot 7, purges 5, 2 things are wrong: nearside events");
        assert_eq!(words("POP"), "POP ROLE STATE SNAPSHOT PURGES NS1 REQ/S TRAFFIC HITS MEMORY DISK CERTS");
        assert_eq!(words("fra "), "fra shield drained 7 -1 up 12.5 2.50 Mbit/s 50.0 % 128 MB 50 % - 1, 3 d");
        assert_eq!(words("nyc"), "nyc edge behind 6 (-1) -1 down - - - - - -");
        assert_eq!(words("ns1 "), "ns1 current 7 1 2 h 0.1.0");
        assert_eq!(line("ns1:"), "ns1: sees nyc 192.0.2.2 down: refused (page)");
        assert_eq!(line("fra is"), "fra is drained until lifted new disk");
        assert_eq!(line("not"), "not published: nearside.toml:1:1: no");
    }

    #[test]
    fn many_dns_nodes_are_counted_and_a_silent_one_says_nothing() {
        let mut fleet = fleet();
        let server = fleet.nodes[2].clone();
        for number in 2..=7 {
            let node = format!("ns{number}");
            let seen = if number == 7 { Some(8_000) } else { server.seen };
            fleet.nodes.push(Status { node, seen, ..server.clone() });
        }
        let drawn = draw(&fleet, 9_000, Canvas::plain(100));
        assert!(drawn.contains("SEEN UP") && drawn.contains("6/7"), "{drawn}");
    }
}
