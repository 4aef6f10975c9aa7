//! What a webhook is sent for an event: body and fields. Pure.
//!
//! Three forms: a bot of Lark or Feishu (signed as theirs are, inside the body), Slack's, and our own JSON. With a
//! secret, every request but Lark's carries `X-Nearside-Signature: t=SECONDS,v1=HEX`: HMAC-SHA256 over `SECONDS.BODY`, so that
//! a receiver can tell a forged message and an old one.

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use nearside_fleet::config::webhook::WebhookFormat;
use serde_json::json;

use crate::events::{Entry, State};

/// The field that carries the signature.
pub const SIGNATURE: &str = "x-nearside-signature";

/// A request, but for where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// JSON.
    pub body: String,
    /// Value of [`SIGNATURE`], if there is one.
    pub signature: Option<String>,
}

/// Words an event for a receiver. `now`: seconds since the epoch.
pub fn message(
    format: WebhookFormat,
    fleet: &str,
    entry: &Entry,
    secret: Option<&[u8]>,
    now: u64,
) -> Message {
    let mut body = match format {
        WebhookFormat::Lark => json!({ "msg_type": "text", "content": { "text": text(fleet, entry) } }),
        WebhookFormat::Slack => json!({ "text": escaped(&text(fleet, entry)) }),
        WebhookFormat::Json => json!({ "fleet": fleet, "event": entry }),
    };
    if let (WebhookFormat::Lark, Some(secret)) = (format, secret) {
        body["timestamp"] = now.to_string().into();
        body["sign"] = lark_sign(secret, now).into();
        return Message { body: body.to_string(), signature: None };
    }
    let body = body.to_string();
    let signature = secret.map(|secret| format!("t={now},v1={}", sign(secret, now, body.as_bytes())));
    Message { body, signature }
}

/// Why a receiver that answered with a success refused all the same: Lark says so in the body.
pub fn refusal(format: WebhookFormat, body: &[u8]) -> Option<String> {
    if format != WebhookFormat::Lark {
        return None;
    }
    let answer: serde_json::Value = serde_json::from_slice(body).ok()?;
    let code = answer.get("code").or_else(|| answer.get("StatusCode"))?.as_i64()?;
    let said = answer.get("msg").and_then(|said| said.as_str()).unwrap_or("no reason");
    (code != 0).then(|| format!("code {code}: {said}"))
}

/// HMAC-SHA256 over `SECONDS.BODY`, in hexadecimal.
pub fn sign(secret: &[u8], now: u64, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    context.update(format!("{now}.").as_bytes());
    context.update(body);
    context.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As bots of Lark and Feishu want it: the text to sign is the key, and nothing is signed.
fn lark_sign(secret: &[u8], now: u64) -> String {
    let mut key = format!("{now}\n").into_bytes();
    key.extend_from_slice(secret);
    BASE64_STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), b""))
}

fn text(fleet: &str, entry: &Entry) -> String {
    let (severity, kind, subject) = (entry.severity.name(), entry.kind.name(), &entry.subject);
    let state = match entry.state {
        State::Raised | State::Told => severity.to_owned(),
        State::Repeated => format!("still {severity}"),
        State::Cleared => "over".to_owned(),
    };
    format!("[{fleet}] {state}: {kind} {subject}\n{}", entry.message)
}

/// Slack reads these three as markup.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Kind;

    fn entry() -> Entry {
        let (subject, message) = ("fra".to_owned(), "a < b & c".to_owned());
        let kind = Kind::PopDown;
        let (state, severity) = (State::Raised, kind.severity());
        Entry { number: 7, at: 99, kind, subject, state, severity, message, muted: false }
    }

    #[test]
    fn a_bot_of_lark_gets_its_own_signature() {
        let sent = message(WebhookFormat::Lark, "x", &entry(), Some(b"demo"), 1_599_360_473);
        let body: serde_json::Value = serde_json::from_str(&sent.body).unwrap();
        // `printf '' | openssl dgst -sha256 -hmac $'1599360473\ndemo' -binary | base64`
        assert_eq!(body["sign"], "l1N0gAcBjdwBvGm1xMjOF0XSyaLRpR7tuO5dHfhAYc8=");
        assert_eq!(body["timestamp"], "1599360473");
        assert_eq!(body["content"]["text"], "[x] critical: pop-down fra\na < b & c");
        assert_eq!(sent.signature, None);
        assert_eq!(refusal(WebhookFormat::Lark, br#"{"code":0}"#), None);
        assert_eq!(
            refusal(WebhookFormat::Lark, br#"{"code":19021,"msg":"sign match fail"}"#).unwrap(),
            "code 19021: sign match fail"
        );
    }

    #[test]
    fn others_are_signed_over_time_and_body() {
        let sent = message(WebhookFormat::Json, "x", &entry(), Some(b"key"), 100);
        let expected = sign(b"key", 100, sent.body.as_bytes());
        assert_eq!(sent.signature, Some(format!("t=100,v1={expected}")));
        assert_ne!(sign(b"key", 101, sent.body.as_bytes()), expected);
        let body: serde_json::Value = serde_json::from_str(&sent.body).unwrap();
        assert_eq!((&body["fleet"], &body["event"]["number"]), (&"x".into(), &7.into()));
        let slack = message(WebhookFormat::Slack, "x", &entry(), None, 100);
        assert!(slack.body.contains("a &lt; b &amp; c") && slack.signature.is_none(), "{slack:?}");
    }
}
