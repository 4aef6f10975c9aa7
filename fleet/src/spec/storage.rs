//! Reads `s3` and `azure` of an origin.

use super::{keys, reader::Section};
use crate::{
    config::{BucketStyle, Storage, StorageKind},
    files::Role,
};

/// `None` for an origin that is a web server, or one with mistakes (told).
pub(super) fn storage(origin: &Section<'_>) -> Option<Storage> {
    match (origin.value("s3").is_some(), origin.value("azure").is_some()) {
        (true, true) => {
            let message = format!("{}: expected `s3` or `azure`, not both", origin.place);
            origin.doc.mistake(origin.place_of("azure"), message);
            None
        }
        (true, false) => s3(&origin.section("s3", keys::S3)?),
        (false, true) => azure(&origin.section("azure", keys::AZURE)?),
        (false, false) => None,
    }
}

fn s3(section: &Section<'_>) -> Option<Storage> {
    const BUCKET: &str = "a bucket's name";
    const REGION: &str = "a region like \"eu-central-1\"";
    const KEY_ID: &str = "an access key id";
    for (key, expected) in [("bucket", BUCKET), ("access_key_id", KEY_ID)] {
        section.required(key, expected);
    }
    section.required("secret_file", "the path of a file with the secret access key");
    let bucket = name(section, "bucket", BUCKET);
    let region = match section.value("region") {
        Some(_) => name(section, "region", REGION),
        None => Some("us-east-1".to_owned()),
    };
    let styles = [("path", BucketStyle::Path), ("virtual-host", BucketStyle::VirtualHost)];
    let style = section.word("style", &styles).unwrap_or(BucketStyle::Path);
    let access_key_id = section.read("access_key_id", KEY_ID, |value| visible(value.as_str()?));
    let secret_file = section.path("secret_file", Role::Key);
    let (prefix, index) = (prefix(section), index(section));
    let kind =
        StorageKind::S3 { region: region?, style, access_key_id: access_key_id?, secret_file: secret_file? };
    Some(Storage { kind, bucket: bucket?, prefix, index })
}

fn azure(section: &Section<'_>) -> Option<Storage> {
    const ACCOUNT: &str = "a storage account's name";
    const CONTAINER: &str = "a container's name";
    section.required("account", ACCOUNT);
    section.required("container", CONTAINER);
    let account = name(section, "account", ACCOUNT);
    let bucket = name(section, "container", CONTAINER);
    let path_style = section.read("path_style", "true or false", |value| value.as_bool()).unwrap_or(false);
    let (prefix, index) = (prefix(section), index(section));
    let given = |key| section.value(key).is_some();
    let kind = match (given("key_file"), given("sas_file")) {
        (true, false) => {
            let secret_file = section.path("key_file", Role::Key);
            StorageKind::AzureKey { account: account?, path_style, secret_file: secret_file? }
        }
        (false, true) => {
            let secret_file = section.path("sas_file", Role::Key);
            StorageKind::AzureSas { account: account?, path_style, secret_file: secret_file? }
        }
        _ => {
            let message = format!("[{}]: expected either `key_file` or `sas_file`", section.place);
            section.doc.mistake(section.span(), message);
            return None;
        }
    };
    Some(Storage { kind, bucket: bucket?, prefix, index })
}

/// A name that may stand in a host or a path as it is.
fn name(section: &Section<'_>, key: &str, expected: &str) -> Option<String> {
    section.read(key, expected, |value| {
        let text = value.as_str()?;
        let legal = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._$".contains(&byte));
        (legal && (1..=255).contains(&text.len()) && !text.contains("..")).then(|| text.to_owned())
    })
}

fn visible(text: &str) -> Option<String> {
    let legal = text.bytes().all(|byte| byte.is_ascii_graphic());
    (legal && (1..=256).contains(&text.len())).then(|| text.to_owned())
}

fn key_text(text: &str) -> Option<String> {
    let dotted = text.split('/').any(|segment| matches!(segment, "." | ".."));
    let legal = !dotted && text.len() <= 512 && !text.starts_with('/') && !text.chars().any(char::is_control);
    legal.then(|| text.to_owned())
}

fn prefix(section: &Section<'_>) -> String {
    section
        .read("prefix", "the start of keys, like \"public/\"", |value| key_text(value.as_str()?))
        .unwrap_or_default()
}

fn index(section: &Section<'_>) -> Option<String> {
    section.read("index", "an object's name like \"index.html\"", |value| {
        key_text(value.as_str()?).filter(|name| !name.is_empty() && !name.contains('/'))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(origin: &str) -> Result<Option<Storage>, String> {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("nearside.toml");
        fs::write(temp.path().join("secret"), "x").unwrap();
        let text = format!(
            "version = 1\nfleet = \"x\"\n[pop.fra]\nlocation = [50.1, 8.6]\nipv4 = \"192.0.2.1\"\n\
             [site.s]\nhosts = \"a.test\"\n[site.s.origin]\nurl = \"https://storage.test\"\n{origin}\n"
        );
        fs::write(&file, text).unwrap();
        match crate::load(&file) {
            Ok(loaded) => Ok(loaded.config.sites["s"].origins[0].storage.clone()),
            Err(mistakes) => Err(format!("{mistakes:?}")),
        }
    }

    #[test]
    fn both_protocols_are_read_with_their_defaults() {
        let s3 = load(
            "s3 = { bucket = \"media\", access_key_id = \"AK\", secret_file = \"secret\", prefix = \"p/\" }",
        );
        let s3 = s3.unwrap().unwrap();
        assert_eq!((s3.bucket.as_str(), s3.prefix.as_str(), s3.index.clone()), ("media", "p/", None));
        assert!(
            matches!(&s3.kind, StorageKind::S3 { region, style: BucketStyle::Path, .. } if region == "us-east-1")
        );
        assert!(s3.secret_file().ends_with("secret"));
        let azure = load(
            "azure = { account = \"a\", container = \"c\", sas_file = \"secret\", index = \"index.html\" }",
        );
        let azure = azure.unwrap().unwrap();
        assert!(matches!(azure.kind, StorageKind::AzureSas { path_style: false, .. }));
        assert_eq!(azure.index.as_deref(), Some("index.html"));
        assert_eq!(load("").unwrap(), None);
    }

    #[test]
    fn mistakes_are_told() {
        for (origin, expected) in [
            ("s3 = { bucket = \"media\", access_key_id = \"AK\" }", "secret_file"),
            (
                "s3 = { bucket = \"a/b\", access_key_id = \"AK\", secret_file = \"secret\" }",
                "a bucket's name",
            ),
            (
                "s3 = { bucket = \"b\", access_key_id = \"AK\", secret_file = \"secret\", prefix = \"../x\" }",
                "the start of keys",
            ),
            ("azure = { account = \"a\", container = \"c\" }", "`key_file` or `sas_file`"),
            (
                "azure = { account = \"a\", container = \"c\", key_file = \"secret\", sas_file = \"secret\" }",
                "`key_file` or `sas_file`",
            ),
        ] {
            let mistakes = load(origin).unwrap_err();
            assert!(mistakes.contains(expected), "{origin}: {mistakes}");
        }
    }
}
