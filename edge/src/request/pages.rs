//! What people see of errors: a site's own pages, by status or class.
//!
//! HTML for clients that ask for it, in place of the line of text that programs get. Pages are read when a configuration
//! is loaded; what is filled in is escaped.

use std::{collections::HashMap, path::Path};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use nearside_fleet::config::rules::ErrorPages;

use super::{Answer, Body};
use crate::rules::read_bounded;

/// Largest page. It is kept in memory, and answered to whoever provokes an error.
const PAGE_BYTES_MAX: u64 = 256 << 10;

/// Who is to blame for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Author {
    /// This edge.
    Edge,
    /// The origin, whether or not by way of the store.
    Origin,
    /// The operator, in a rule: it says what it means.
    Rule,
}

/// What pages may tell.
pub(super) struct About<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) host: &'a str,
    pub(super) request_id: &'a HeaderValue,
}

/// See the module.
pub struct Pages {
    of_status: HashMap<u16, Page>,
    of_class: HashMap<u16, Page>,
    replace_origin: bool,
}

/// Text with holes between its pieces.
struct Page {
    pieces: Vec<(String, Option<Hole>)>,
}

#[derive(Clone, Copy)]
enum Hole {
    Status,
    Reason,
    Host,
    RequestId,
}

const HOLES: [(&str, Hole); 4] = [
    ("{status}", Hole::Status),
    ("{reason}", Hole::Reason),
    ("{host}", Hole::Host),
    ("{request_id}", Hole::RequestId),
];

impl Pages {
    /// Reads a site's pages; `None`: it has none.
    ///
    /// # Errors
    /// A file that can't be read, is too large or no UTF-8, in words.
    pub fn build(config: &ErrorPages) -> Result<Option<Pages>, String> {
        if config.is_empty() {
            return Ok(None);
        }
        let read = |pages: &[(u16, std::path::PathBuf)]| {
            pages.iter().map(|(key, path)| Ok((*key, Page::read(path)?))).collect::<Result<_, String>>()
        };
        Ok(Some(Pages {
            of_status: read(&config.of_status)?,
            of_class: read(&config.of_class)?,
            replace_origin: config.replace_origin,
        }))
    }

    fn page(&self, status: StatusCode) -> Option<&Page> {
        self.of_status.get(&status.as_u16()).or_else(|| self.of_class.get(&(status.as_u16() / 100)))
    }

    /// Puts a page in place of an error's content, where there is one for it and the client would read it.
    pub(super) fn dress(&self, author: Author, answer: &mut Answer, about: &About<'_>) {
        let status = answer.response.status();
        let is_theirs = match author {
            Author::Edge => false,
            Author::Origin => !self.replace_origin,
            Author::Rule => true,
        };
        if status.as_u16() < 400 || is_theirs {
            return;
        }
        let Some(page) = self.page(status) else { return };
        let fields = answer.response.headers_mut();
        // A gate's own page is more to the point.
        let is_page =
            fields.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
        if author == Author::Edge && is_page {
            return;
        }
        fields.append(header::VARY, HeaderValue::from_static("Accept"));
        if !wants_html(about.headers) {
            return;
        }
        for name in [
            header::CONTENT_ENCODING,
            header::CONTENT_RANGE,
            header::ACCEPT_RANGES,
            header::ETAG,
            header::LAST_MODIFIED,
            header::CONTENT_DISPOSITION,
        ] {
            fields.remove(name);
        }
        let text = page.fill(status, about);
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        fields.insert(header::CONTENT_LENGTH, text.len().into());
        *answer.response.body_mut() =
            if *about.method == Method::HEAD { Body::empty() } else { Body::whole(text) };
    }
}

/// Whether a client asks for HTML by name: browsers do, programs say `*/*`.
fn wants_html(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|line| {
        line.as_bytes().split(|byte| *byte == b',').any(|member| {
            let mut parts = member.split(|byte| *byte == b';');
            let is_html =
                parts.next().is_some_and(|media| media.trim_ascii().eq_ignore_ascii_case(b"text/html"));
            let is_refused = parts.any(|parameter| {
                let text = std::str::from_utf8(parameter).unwrap_or("").trim();
                text.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0))
            });
            is_html && !is_refused
        })
    })
}

impl Page {
    fn read(path: &Path) -> Result<Page, String> {
        let bytes = read_bounded(path, PAGE_BYTES_MAX)?;
        let text = std::str::from_utf8(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Page::parse(text))
    }

    /// Braces around anything else are CSS, or scripts: they stay.
    fn parse(mut text: &str) -> Page {
        let mut pieces = Vec::new();
        loop {
            let next = HOLES.iter().filter_map(|&(word, hole)| Some((text.find(word)?, word, hole)));
            let Some((at, word, hole)) = next.min_by_key(|(at, ..)| *at) else { break };
            pieces.push((text[..at].to_owned(), Some(hole)));
            text = &text[at + word.len()..];
        }
        pieces.push((text.to_owned(), None));
        Page { pieces }
    }

    fn fill(&self, status: StatusCode, about: &About<'_>) -> String {
        let mut out = String::new();
        for (text, hole) in &self.pieces {
            out.push_str(text);
            match hole {
                None => {}
                Some(Hole::Status) => out.push_str(status.as_str()),
                Some(Hole::Reason) => escape(status.canonical_reason().unwrap_or("Error"), &mut out),
                Some(Hole::Host) => escape(about.host, &mut out),
                Some(Hole::RequestId) => escape(about.request_id.to_str().unwrap_or(""), &mut out),
            }
        }
        out
    }
}

/// For text and quoted attributes of HTML.
fn escape(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            character => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_is_escaped() {
        let page = Page::parse(
            "<style>p {color: red}</style><p title='{host}'>{status} {reason} {request_id}{other}",
        );
        let about = About {
            method: &Method::GET,
            headers: &HeaderMap::new(),
            host: "a'<b>",
            request_id: &HeaderValue::from_static("x&y"),
        };
        assert_eq!(
            page.fill(StatusCode::NOT_FOUND, &about),
            "<style>p {color: red}</style><p title='a&#39;&lt;b&gt;'>404 Not Found x&amp;y{other}"
        );
    }

    #[test]
    fn html_is_for_those_who_name_it() {
        let wants = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
            wants_html(&headers)
        };
        assert!(wants("text/html,application/xhtml+xml;q=0.9,*/*;q=0.8") && wants("a/b, Text/HTML;q=0.5"));
        assert!(!wants("*/*") && !wants("application/json") && !wants("text/html;q=0") && !wants(""));
        assert!(!wants_html(&HeaderMap::new()));
    }
}
