//! `nearside stats`: what the fleet served, drawn.

use std::{process::ExitCode, time::Duration};

use clap::Args;
use nearside_fleet::units;
use nearside_node::args;

use super::{
    Failure, HomeArgs, QUICK, duration, failed,
    paint::{self, Canvas, Tone},
};
use crate::{
    api::encode,
    stats::answer::{Figures, StatsAnswer},
};

#[derive(Args)]
pub(super) struct StatsArgs {
    /// Only this site
    site: Option<String>,
    /// How far back
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    since: Duration,
    /// Only this PoP
    #[arg(long, value_name = "POP")]
    pop: Option<String>,
    /// How many of the busiest paths
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    top: usize,
    /// How long a point of the series is, at least
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    step: Option<Duration>,
}

pub(super) async fn stats(at: &HomeArgs, what: &StatsArgs) -> Result<ExitCode, Failure> {
    let mut path = format!("/v1/stats?now=1&since={}&top={}", what.since.as_secs(), what.top);
    for (name, value) in [("site", &what.site), ("pop", &what.pop)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    if let Some(step) = what.step {
        path.push_str(&format!("&step={}", step.as_secs()));
    }
    let answer: StatsAnswer = at.peer()?.get(&path, QUICK).await?;
    if at.json {
        println!("{}", serde_json::to_string_pretty(&answer).map_err(failed)?);
        return Ok(args::OK);
    }
    print!("{}", draw(&answer, what.site.as_deref(), what.since, Canvas::stdout()));
    for pop in &answer.away {
        eprintln!("nearside: {pop} did not hand out its last minutes: they are added when it does");
    }
    Ok(args::OK)
}

fn draw(answer: &StatsAnswer, site: Option<&str>, since: Duration, canvas: Canvas) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    let totals = &answer.totals;
    let what = site.map_or("all sites".to_owned(), |site| format!("site {site}"));
    let step = units::write_duration(Duration::from_secs(answer.step));
    let head = format!("{what}, last {}", units::write_duration(since));
    line(format!("{}  (a point is {step})", canvas.paint(Tone::Strong, &head)));
    if totals.requests == 0 && totals.origin_requests == 0 {
        line("nothing was served".to_owned());
        return out;
    }
    let money = totals.money_saved.map(|money| format!(" = {}", price(money, &answer.currency)));
    line(format!(
        "{} requests, {} hits; {} to clients, {} from origins in {} requests; saved {}{}",
        paint::count(totals.requests),
        paint::percent(totals.hit_ratio),
        paint::bytes(totals.bytes_out),
        paint::bytes(totals.bytes_origin),
        paint::count(totals.origin_requests),
        paint::bytes(totals.bytes_saved),
        money.unwrap_or_default(),
    ));
    line(format!("status  {}", shares(&totals.statuses, totals.requests)));
    line(format!("cache   {}", shares(&totals.outcomes, totals.requests)));
    if let Some(latency) = totals.latency_ms {
        let [p50, p90, p95, p99] = [latency.p50, latency.p90, latency.p95, latency.p99].map(paint::ms);
        line(format!("head in {p50} (half), {p90} (90 %), {p95} (95 %), {p99} (99 %)"));
    }
    line(String::new());
    let columns = canvas.width.saturating_sub(32).max(10);
    let columns =
        columns.min(usize::try_from((answer.until - answer.from).div_ceil(answer.step)).unwrap_or(columns));
    type Pick = fn(&crate::stats::answer::Point) -> f64;
    type Show = fn(u64) -> String;
    let series: [(&str, Pick, Show); 4] = [
        ("requests", |point| point.requests as f64, paint::count),
        ("to clients", |point| point.bytes_out as f64, paint::bytes),
        ("from origins", |point| point.bytes_origin as f64, paint::bytes),
        ("errors (5xx)", |point| point.errors as f64, paint::count),
    ];
    for (name, pick, show) in series {
        let points: Vec<(u64, f64)> = answer.series.iter().map(|point| (point.at, pick(point))).collect();
        let values = paint::resample(&points, answer.from, answer.until, columns);
        let most = values.iter().copied().fold(0.0, f64::max);
        line(format!("{name:<13}▕{}▏ most {}", paint::sparkline(&values), show(most as u64)));
    }
    for (title, rows) in [("SITE", &answer.sites), ("POP", &answer.pops)] {
        if rows.len() > 1 || site.is_none() {
            line(String::new());
            table(title, rows, &answer.currency, canvas, &mut line);
        }
    }
    if !answer.top.is_empty() {
        line(String::new());
        let most = answer.top.iter().map(|top| top.requests).max().unwrap_or(1).max(1);
        line(canvas.paint(Tone::Faint, &format!("{:>9}  {:<10}  PATH", "REQUESTS", "")));
        for top in &answer.top {
            let bar = paint::fit(&paint::bar(top.requests as f64 / most as f64, 10), 10);
            let of = if site.is_some() { String::new() } else { format!("{} ", named(&top.site)) };
            let path = paint::fit(&format!("{of}{}", top.path), canvas.width.saturating_sub(23));
            line(format!("{:>9}  {bar}  {path}", paint::count(top.requests)));
        }
    }
    out
}

fn table(
    title: &str,
    rows: &std::collections::BTreeMap<String, Figures>,
    currency: &str,
    canvas: Canvas,
    line: &mut impl FnMut(String),
) {
    let head = format!(
        "{title:<16} {:>9} {:>8} {:>11} {:>11} {:>11} {:>14} {:>9}",
        "REQUESTS", "HITS", "OUT", "ORIGIN", "SAVED", "MONEY", "95 %"
    );
    line(canvas.paint(Tone::Faint, &head));
    for (name, figures) in rows {
        let money = figures.money_saved.map_or("-".to_owned(), |money| price(money, currency));
        let p95 = figures.latency_ms.map_or("-".to_owned(), |latency| paint::ms(latency.p95));
        line(format!(
            "{} {:>9} {:>8} {:>11} {:>11} {:>11} {money:>14} {p95:>9}",
            paint::fit(named(name), 16),
            paint::count(figures.requests),
            paint::percent(figures.hit_ratio),
            paint::bytes(figures.bytes_out),
            paint::bytes(figures.bytes_origin),
            paint::bytes(figures.bytes_saved),
        ));
    }
}

/// Requests that no site serves have no name.
fn named(site: &str) -> &str {
    if site.is_empty() { "(no site)" } else { site }
}

fn shares(parts: &std::collections::BTreeMap<String, u64>, all: u64) -> String {
    let share = |(name, count): (&String, &u64)| {
        format!(
            "{name} {} ({})",
            paint::count(*count),
            paint::percent((all > 0).then(|| *count as f64 / all as f64))
        )
    };
    parts.iter().map(share).collect::<Vec<_>>().join("  ")
}

fn price(money: f64, currency: &str) -> String {
    format!("{money:.2} {currency}").trim_end().to_owned()
}
