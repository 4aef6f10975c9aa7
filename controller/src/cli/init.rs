//! `nearside init` and `nearside check`: what is done before there is a controller.

use std::{
    io::{BufRead, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use clap::Args;
use nearside_node::{args, state::StateDir};

use super::{Failure, HomeArgs, failed};
use crate::{
    check, home,
    starter::{self, Answers, DnsAnswer, PopAnswer},
};

/// What may be said of a fleet that has no file yet.
#[derive(Args)]
pub(super) struct InitArgs {
    /// Where the nodes' identities go [default: <STATE_DIR>/identities]
    #[arg(long, value_name = "DIR")]
    identities: Option<PathBuf>,
    /// Asks for what the flags below leave open, also where standard input is no terminal
    #[arg(long)]
    ask: bool,
    /// The fleet's name, for a fleet file that is to be made; with the other flags below, nothing is asked
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The domain that its DNS nodes answer for
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// A machine that serves: its name, addresses and place (a city, or degrees north and east); repeated
    #[arg(long, value_name = "NAME=ADDRESS[,ADDRESS]@PLACE")]
    pop: Vec<PopAnswer>,
    /// A machine that answers DNS; repeated [default: the first two PoPs]
    #[arg(long, value_name = "NAME=ADDRESS[,ADDRESS]")]
    dns: Vec<DnsAnswer>,
    /// Where the content comes from
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
}

impl InitArgs {
    fn says_something(&self) -> bool {
        let named = self.name.is_some() || self.domain.is_some() || self.origin.is_some();
        named || !self.pop.is_empty() || !self.dns.is_empty()
    }
}

pub(super) fn init(at: &HomeArgs, asked: InitArgs) -> Result<ExitCode, Failure> {
    let identities = asked.identities.clone();
    if at.fleet.exists() {
        if asked.says_something() || asked.ask {
            let file = at.fleet.display();
            return Err(failed(format!("{file} is there already: edit it, or name another with --fleet")));
        }
    } else if asked.says_something() || asked.ask || std::io::stdin().is_terminal() {
        let stdin = std::io::stdin();
        let ask = asked.ask || (stdin.is_terminal() && !asked.says_something());
        let answers = match ask {
            true => questions(asked, &mut stdin.lock(), &mut std::io::stderr())?,
            false => complete(asked)?,
        };
        write_files(&at.fleet, &answers)?;
    } else if home::write_starter(&at.fleet)
        .map_err(|error| failed(format!("{}: {error}", at.fleet.display())))?
    {
        eprintln!("wrote {}: change it to your fleet, then run this again", at.fleet.display());
    }
    let loaded = nearside_fleet::load(&at.fleet).map_err(|mistakes| {
        failed(mistakes.iter().map(nearside_fleet::Mistake::with_source).collect::<Vec<_>>().join("\n"))
    })?;
    let state = StateDir::open(&at.state_dir).map_err(failed)?;
    let dir = identities.unwrap_or_else(|| at.state_dir.join("identities"));
    let out = StateDir::open(&dir).map_err(failed)?;
    let made = home::init(&state, &out, &loaded.config, SystemTime::now()).map_err(failed)?;
    if at.json {
        println!("{:#}", serde_json::json!({ "fleet": at.fleet, "identities": dir, "made": made.paths }));
        return Ok(args::OK);
    }
    for path in &made.paths {
        println!("made {}", path.display());
    }
    if made.paths.is_empty() {
        println!("nothing was missing");
    } else {
        println!("copy {}/NODE to each node's state directory as `identity`", Path::new(&dir).display());
        println!("then: nearside-controller serve --fleet {}", at.fleet.display());
    }
    Ok(args::OK)
}

/// Writes the fleet file and its zone file; a zone file that is there stays.
fn write_files(fleet_file: &Path, answers: &Answers) -> Result<(), Failure> {
    let written = answers.written(fleet_file).map_err(|mistakes| failed(mistakes.join("\n")))?;
    let beside = fleet_file.parent().unwrap_or(Path::new(""));
    let zone_file = beside.join(&written.zone_path);
    let write = |path: &Path, text: &str| {
        let made =
            path.parent().filter(|dir| !dir.as_os_str().is_empty()).map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::write(path, text))
            .map_err(|error| failed(format!("{}: {error}", path.display())))
    };
    if !zone_file.exists() {
        write(&zone_file, &written.zone)?;
        eprintln!("wrote {}", zone_file.display());
    }
    // Last: whoever finds it finds its zone.
    write(fleet_file, &written.fleet)?;
    eprintln!("wrote {}", fleet_file.display());
    Ok(())
}

/// The flags alone.
fn complete(asked: InitArgs) -> Result<Answers, Failure> {
    let InitArgs { name, domain, pop: pops, dns, origin, .. } = asked;
    let mut missing = Vec::new();
    let mut need = |flag, value: Option<String>| {
        value.unwrap_or_else(|| {
            missing.push(flag);
            String::new()
        })
    };
    let (domain, origin) = (need("--domain", domain), need("--origin", origin));
    if pops.is_empty() {
        missing.push("--pop");
    }
    if !missing.is_empty() {
        return Err(Failure::Usage(format!(
            "a fleet needs {} too (or --ask, to be asked)",
            missing.join(", ")
        )));
    }
    Ok(Answers { name: name.unwrap_or_else(|| fleet_name(&domain)), domain, pops, dns, origin })
}

/// `cdn.example.org` belongs to `example`.
fn fleet_name(domain: &str) -> String {
    let mut labels = domain.trim_end_matches('.').rsplit('.');
    labels.nth(1).or_else(|| domain.split('.').next()).unwrap_or("fleet").to_ascii_lowercase()
}

/// Asks for what the flags left open.
fn questions(asked: InitArgs, input: &mut impl BufRead, output: &mut impl Write) -> Result<Answers, Failure> {
    let mut asker = Asker { input, output };
    asker.say(
        "A fleet is described by one file. A few questions, and it is written; nothing else happens yet.",
    )?;
    let domain = match asked.domain {
        Some(domain) => domain,
        None => asker.ask("The domain your DNS nodes shall answer for (cdn.example.org)", None, |text| {
            let is_domain = text.contains('.') && !text.contains(char::is_whitespace);
            if is_domain { Ok(text.to_owned()) } else { Err("expected a domain".to_owned()) }
        })?,
    };
    let name = match asked.name {
        Some(name) => name,
        None => asker.ask("The fleet's name", Some(&fleet_name(&domain)), |text| Ok(text.to_owned()))?,
    };
    let mut pops = asked.pop;
    while pops.is_empty() || asker.yes("Another machine that serves?")? {
        let ordinal = pops.len() + 1;
        let name = asker
            .ask(&format!("Name of machine {ordinal} (fra)"), None, |text| Ok(text.to_ascii_lowercase()))?;
        let addresses = asker.ask("Its public addresses, IPv4 and IPv6", None, starter::addresses)?;
        let place =
            asker.ask("Where it is: a city, or degrees north and east (50.1,8.7)", None, starter::place)?;
        pops.push(PopAnswer { name, addresses, place });
        if pops.len() >= POPS_ASKED_MAX {
            break;
        }
    }
    let mut dns = asked.dns;
    if dns.is_empty() {
        let first: Vec<&str> = pops.iter().take(2).map(|pop| pop.name.as_str()).collect();
        let question = format!("DNS servers, as NAME=ADDRESS (empty: on {})", first.join(" and "));
        dns = asker.ask(&question, Some(""), |text| text.split_whitespace().map(str::parse).collect())?;
    }
    let origin = match asked.origin {
        Some(origin) => origin,
        None => asker.ask("Where the content comes from (https://origin.example.org)", None, |text| {
            let is_url = text.starts_with("https://") || text.starts_with("http://");
            if is_url { Ok(text.to_owned()) } else { Err("expected http://… or https://…".to_owned()) }
        })?,
    };
    Ok(Answers { name, domain, pops, dns, origin })
}

/// More are written into the file by hand.
const POPS_ASKED_MAX: usize = 100;
/// Wrong answers to one question; then somebody else is typing.
const TRIES_MAX: usize = 20;

/// A conversation.
struct Asker<'a, I, O> {
    input: &'a mut I,
    output: &'a mut O,
}

impl<I: BufRead, O: Write> Asker<'_, I, O> {
    fn say(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.output, "{text}").map_err(failed)
    }

    /// Asks until the answer is one; an empty one is the default, where there is one.
    fn ask<T>(
        &mut self,
        question: &str,
        default: Option<&str>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let shown = default.filter(|default| !default.is_empty());
        let shown = shown.map_or(String::new(), |default| format!(" [{default}]"));
        for _ in 0..TRIES_MAX {
            write!(self.output, "{question}{shown}: ").and_then(|()| self.output.flush()).map_err(failed)?;
            let mut line = String::new();
            if self.input.read_line(&mut line).map_err(failed)? == 0 {
                return Err(failed("the answers ended before the questions; nothing was written"));
            }
            let answer = match (line.trim(), default) {
                ("", Some(default)) => read(default),
                ("", None) => Err("an answer is needed".to_owned()),
                (answer, _) => read(answer),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(reason) => self.say(&format!("  {reason}"))?,
            }
        }
        Err(failed("no answer that can be used; nothing was written"))
    }

    fn yes(&mut self, question: &str) -> Result<bool, Failure> {
        self.ask(&format!("{question} (y/n)"), Some("n"), |text| match text.to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(true),
            "n" | "no" => Ok(false),
            _ => Err("expected y or n".to_owned()),
        })
    }
}

pub(super) fn checked(at: &HomeArgs) -> ExitCode {
    let checked = check::check(&at.fleet, SystemTime::now());
    if at.json {
        let is_good = checked.mistakes.is_empty();
        let answer = serde_json::json!({
            "good": is_good,
            "mistakes": checked.mistakes,
            "warnings": checked.warnings,
        });
        println!("{answer:#}");
        return if is_good { args::OK } else { args::failed() };
    }
    for warning in &checked.warnings {
        eprintln!("warning: {warning}");
    }
    for mistake in &checked.mistakes {
        eprintln!("{mistake}");
    }
    if !checked.mistakes.is_empty() {
        match checked.mistakes.len() {
            1 => eprintln!("1 mistake"),
            count => eprintln!("{count} mistakes"),
        }
        return args::failed();
    }
    if let Some(config) = checked.loaded.map(|loaded| loaded.config) {
        println!(
            "{}: fleet {} is good: {} PoPs, {} DNS nodes, {} zones, {} sites",
            at.fleet.display(),
            config.fleet,
            config.pops.len(),
            config.dns.len(),
            config.zones.len(),
            config.sites.len()
        );
    }
    args::OK
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(lines: &str) -> (Result<Answers, Failure>, String) {
        let asked = InitArgs {
            identities: None,
            ask: true,
            name: None,
            domain: None,
            pop: Vec::new(),
            dns: Vec::new(),
            origin: None,
        };
        let mut said = Vec::new();
        let answers = questions(asked, &mut lines.as_bytes(), &mut said);
        (answers, String::from_utf8(said).unwrap())
    }

    #[test]
    fn questions_are_asked_until_they_are_answered() {
        let (answers, said) = ask(
            "cdn.example.org\n\nFRA\nnowhere\n198.51.100.10\nFrankfurt\ny\nnyc\n203.0.113.10\n                                   40.7 -74\n\n\nexample.org\nhttps://example.org\n",
        );
        let Ok(answers) = answers else { panic!("{said}") };
        assert_eq!((answers.name.as_str(), answers.origin.as_str()), ("example", "https://example.org"));
        let names: Vec<&str> = answers.pops.iter().map(|pop| pop.name.as_str()).collect();
        assert_eq!((names, answers.dns.len()), (vec!["fra", "nyc"], 0));
        assert!(said.contains("\"nowhere\" is no address") && said.contains("expected http://"), "{said}");
        assert!(answers.written(Path::new("x.toml")).is_ok());
    }

    #[test]
    fn answers_that_end_early_leave_nothing_behind() {
        let (answers, _) = ask("cdn.example.org\nfleet\nfra\n");
        assert!(matches!(answers, Err(Failure::Failed(reason)) if reason.contains("nothing was written")));
    }
}
