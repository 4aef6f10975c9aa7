//! Reads and removes single cookies of a request (RFC 6265 section 4.2.1). A cookie may be sent in one line or several.

use http::{HeaderMap, HeaderValue, header};

/// Values of the cookies of a name, in the order they were sent.
pub fn values<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(move |pair| {
        let (found, value) = pair.split_once('=')?;
        (found.trim() == name).then(|| value.trim())
    })
}

/// Removes the cookies of a name; the others stay as they were sent.
pub fn remove(headers: &mut HeaderMap, name: &str) {
    let has = |line: &HeaderValue| line.to_str().is_ok_and(|line| line.split(';').any(|pair| is(pair, name)));
    if !headers.get_all(header::COOKIE).iter().any(has) {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    headers.remove(header::COOKIE);
    for line in lines {
        let Ok(text) = line.to_str() else {
            headers.append(header::COOKIE, line);
            continue;
        };
        let kept: Vec<&str> =
            text.split(';').map(str::trim).filter(|pair| !pair.is_empty() && !is(pair, name)).collect();
        if let Ok(kept) = HeaderValue::from_str(&kept.join("; "))
            && !kept.is_empty()
        {
            headers.append(header::COOKIE, kept);
        }
    }
}

fn is(pair: &str, name: &str) -> bool {
    pair.split('=').next().unwrap_or_default().trim() == name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cookie_among_others_is_read_and_removed() {
        let mut headers = HeaderMap::new();
        for line in ["a=1; b=2;a=3", "b=4", "c", "\u{e9}=1"] {
            headers.append(header::COOKIE, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        assert_eq!(values(&headers, "a").collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(values(&headers, "b").collect::<Vec<_>>(), ["2", "4"]);
        remove(&mut headers, "b");
        let lines: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(lines, [&b"a=1; a=3"[..], b"c", "\u{e9}=1".as_bytes()]);
    }
}
