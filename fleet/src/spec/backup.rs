//! `[controller.backup]`: backups that home makes by itself.

use std::time::Duration;

use super::{keys, reader::Section};
use crate::config::backup::Backup;

/// As often as the journal is worth it; below that, disks and people only suffer.
const EVERY_MIN: Duration = Duration::from_secs(10 * 60);
const EVERY_MAX: Duration = Duration::from_secs(31 * 86_400);
const EVERY: Duration = Duration::from_secs(86_400);
/// Kept unless said otherwise: two weeks of days.
const KEEP: usize = 14;
const KEEP_MAX: i64 = 1_000;

pub(super) fn backup(controller: &Section<'_>) -> Option<Backup> {
    let section = controller.section("backup", keys::BACKUP)?;
    section.required("directory", "an absolute path");
    section.required("recipient", "an age recipient, \"age1…\"");
    let recipient = section.read("recipient", "an age recipient, \"age1…\"", |value| {
        value.as_str().filter(|text| is_recipient(text)).map(str::to_owned)
    });
    let keep = section.integer("keep", 1, KEEP_MAX).and_then(|keep| usize::try_from(keep).ok());
    Some(Backup {
        directory: section.directory("directory")?,
        recipient: recipient?,
        every: section.duration("every", EVERY, EVERY_MIN, EVERY_MAX),
        keep: keep.unwrap_or(KEEP),
    })
}

/// By its looks (Bech32, 62 characters); whether it is a point of the curve is found when a backup is made.
fn is_recipient(text: &str) -> bool {
    let letter = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    text.starts_with("age1") && text.len() == 62 && text.chars().all(letter)
}
