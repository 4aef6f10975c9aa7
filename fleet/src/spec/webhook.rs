//! `[controller.webhook.NAME]`: who is told of events.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    keys,
    reader::{Section, members},
};
use crate::config::webhook::{EVENTS, Webhook, WebhookAddress, WebhookFormat};

pub(super) fn webhooks(controller: &Section<'_>) -> BTreeMap<String, Webhook> {
    let sections = controller.named("webhook", keys::WEBHOOK);
    let read = |(name, section): &(String, Section<'_>)| {
        super::check_name(section, name);
        webhook(name, section).map(|webhook| (name.clone(), webhook))
    };
    sections.iter().filter_map(read).collect()
}

fn webhook(name: &str, section: &Section<'_>) -> Option<Webhook> {
    let formats =
        [("lark", WebhookFormat::Lark), ("slack", WebhookFormat::Slack), ("json", WebhookFormat::Json)];
    section.required("format", "lark, slack or json");
    let format = section.word("format", &formats);
    let written = section.value("events").map(members).unwrap_or_default();
    let reference = |value| {
        section.doc.reference(value, &section.name("events"), "kind of event", EVENTS.iter().copied())
    };
    let events = written.into_iter().filter_map(reference).collect();
    let url = section.parse("url", "a URL like \"https://hooks.example.org/…\"").map(WebhookAddress::Url);
    let file = home_file(section, "url_file").map(WebhookAddress::File);
    let given = |key| section.value(key).is_some();
    if given("url") == given("url_file") {
        let message = format!("[{}]: expected either `url` or `url_file`", section.place);
        section.doc.mistake(section.span(), message);
    }
    Some(Webhook {
        name: name.to_owned(),
        address: url.or(file)?,
        format: format?,
        secret_file: home_file(section, "secret_file"),
        ca: home_file(section, "ca"),
        events,
    })
}

/// A file that home alone reads: not noted as one of the fleet's, so that it is in no snapshot.
fn home_file(section: &Section<'_>, key: &str) -> Option<PathBuf> {
    section.read(key, "the path of a file", |value| {
        let written = value.as_str().filter(|text| !text.is_empty() && !text.contains('\0'))?;
        Some(section.doc.paths.real(written))
    })
}
