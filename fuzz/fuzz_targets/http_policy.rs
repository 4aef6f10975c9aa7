//! Heads of requests and responses to caching decisions: three heads, one `name: value` a line,
//! separated by empty lines (the first request, the origin's answer, a later request).
//!
//! What must hold: no panic; nothing is served as fresh past its lifetime; a head alone answers no GET.
#![no_main]

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use libfuzzer_sys::fuzz_target;
use nearside_edge::policy::{
    Asked, Candidate, Content, Plan, Request, Rules, Timestamp, Verdict, invalidate, judge, plan, range,
};

fn head<'a>(lines: &mut impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.by_ref().take_while(|line| !line.is_empty()).take(64) {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

fuzz_target!(|data: &[u8]| {
    let [status, delay, methods, data @ ..] = data else { return };
    let method = |bits: u8| [Method::GET, Method::HEAD, Method::POST, Method::GET][usize::from(bits & 3)].clone();
    let (first_method, later_method) = (method(*methods), method(*methods >> 2));
    let status = StatusCode::from_u16(200 + u16::from(*status)).expect("200 to 455");
    let mut lines = data.split(|byte| *byte == b'\n');
    let (first, origin, later) = (head(&mut lines), head(&mut lines), head(&mut lines));
    let now = Timestamp::from_secs(1_795_000_000);
    let rules = Rules::default();
    let request = Request::new(&first_method, &first);
    let uri = "http://a.test/dir/x?q";
    let mut asked =
        Asked { request: &request, rules: &rules, uri, request_time: now, response_time: now, validating: None };
    let base = uri.parse().expect("a URI");
    let _ = invalidate::targets(&Method::PUT, status, &base, &origin, &rules.query);
    let Verdict::Store(meta) = judge(&asked, status, &origin) else { return };
    let now = now.plus(Duration::from_secs(u64::from(*delay)));
    let later_request = Request::new(&later_method, &later);
    let candidate = Candidate { meta: &meta, stale_since: None };
    let _ = range::extent(&Method::GET, &later, &meta, u64::from(*delay), now);
    match plan(&later_request, &[candidate], now) {
        Plan::Serve(serve) => {
            assert_eq!(serve.ttl_secs > 0, meta.age(now).as_secs() < meta.lifetime.as_secs());
            assert!(meta.content != Content::HeadOnly || later_method == Method::HEAD);
            assert_ne!(later_method, Method::POST);
        }
        Plan::Revalidate(revalidate) => {
            asked.request = &later_request;
            asked.response_time = now;
            asked.validating = Some((candidate, revalidate.stale));
            let _ = judge(&asked, StatusCode::NOT_MODIFIED, &origin);
            let _ = judge(&asked, status, &origin);
        }
        _ => {}
    }
});
