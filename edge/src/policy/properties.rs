//! What holds for all inputs: random heads, random spellings, random bytes.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use proptest::prelude::*;

use super::{
    Asked, Candidate, Meta, Plan, Request, Rules, Timestamp, Verdict, date, invalidate, judge, plan, range,
    structured::CDN_CACHE_CONTROL,
};

const NOW: Timestamp = Timestamp::from_secs(1_795_000_000);

/// Fields that decisions read.
const READ: [HeaderName; 16] = [
    header::AGE,
    header::CACHE_CONTROL,
    CDN_CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::CONTENT_RANGE,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::LAST_MODIFIED,
    header::RANGE,
    header::VARY,
];

fn get(headers: &HeaderMap) -> Request<'_> {
    Request::new(&Method::GET, headers)
}

fn asked<'a>(request: &'a Request<'a>, rules: &'a Rules) -> Asked<'a> {
    let uri = "http://a.test/dir/x?q";
    Asked { request, rules, uri, request_time: NOW, response_time: NOW, validating: None }
}

fn stored(headers: &HeaderMap, status: StatusCode) -> Option<Meta> {
    let empty = HeaderMap::new();
    let request = get(&empty);
    match judge(&asked(&request, &Rules::default()), status, headers) {
        Verdict::Store(meta) => Some(*meta),
        _ => None,
    }
}

/// A field that is as often almost right as it is noise.
fn field() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let plausible = proptest::sample::select(vec![
        "max-age=60",
        "max-age=\"60\"",
        "s-maxage=99999999999",
        "no-cache=\"a, b\"",
        "private",
        "no-store",
        "public",
        "must-understand",
        "only-if-cached",
        "max-stale",
        "stale-if-error=10",
        "\"a\"",
        "W/\"a\", \"b\"",
        "*",
        "0",
        "bytes=0-5, -3",
        "bytes 0-5/10",
        "bytes */10",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "foo, *",
        "accept-encoding, foo",
        "/x",
        "//b.test:80/y",
        "close, x",
        "-1",
        "60, 0",
        "5",
    ]);
    let noise = proptest::collection::vec(prop_oneof![Just(b'\t'), 0x20u8..=0x7e, 0x80u8..=0xff], 0..60);
    let cut = (plausible, 0usize..40, proptest::collection::vec(0x20u8..=0x7e, 0..4)).prop_map(
        |(text, at, tail)| {
            let mut text = text.as_bytes().to_vec();
            text.truncate(at);
            text.extend(tail);
            text
        },
    );
    let value = prop_oneof![noise, cut];
    (proptest::sample::select(READ.to_vec()), value).prop_filter_map("no field value", |(name, value)| {
        Some((name, HeaderValue::from_bytes(&value).ok()?))
    })
}

fn fields() -> impl Strategy<Value = HeaderMap> {
    proptest::collection::vec(field(), 0..8).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    })
}

proptest! {
    /// Whatever the bytes, there is a decision, and it is about something that exists.
    #[test]
    fn no_bytes_panic(client in fields(), origin in fields(), later in fields(), status in 200u16..=599) {
        let status = StatusCode::from_u16(status).unwrap();
        let request = get(&client);
        let rules = Rules::default();
        let Verdict::Store(meta) = judge(&asked(&request, &rules), status, &origin) else { return Ok(()) };
        let now = NOW.plus(Duration::from_secs(30));
        let candidate = Candidate { meta: &meta, stale_since: None };
        let repeated = get(&later);
        let permit = match plan(&repeated, &[candidate], now) {
            Plan::Revalidate(revalidate) => Some(revalidate.stale),
            Plan::Serve(serve) | Plan::ServeAndRefresh(serve, _) => {
                prop_assert_eq!(serve.index, 0);
                None
            }
            _ => None,
        };
        let validating = permit.map(|permit| (candidate, permit));
        let mut again = asked(&repeated, &rules);
        again.validating = validating;
        let _ = judge(&again, StatusCode::NOT_MODIFIED, &origin);
        let _ = range::extent(&Method::GET, &later, &meta, 10, now);
        let base = "http://a.test/dir/x?q".parse().unwrap();
        let _ = invalidate::targets(&Method::PUT, status, &base, &origin, &rules.query);
    }

    /// Nothing is served fresh for longer than its origin said, whatever else the head holds.
    #[test]
    fn never_fresher_than_the_origin_said(
        noise in fields(), max_age in 0u64..100_000, age in 0u64..200_000, behind in 0u64..200_000, later in 0u64..200_000,
    ) {
        let mut origin = noise;
        origin.remove(CDN_CACHE_CONTROL);
        origin.insert(header::CACHE_CONTROL, HeaderValue::from_str(&format!("max-age={max_age}")).unwrap());
        origin.insert(header::AGE, HeaderValue::from(age));
        origin.insert(header::DATE, date::format(NOW.secs() - behind));
        let Some(meta) = stored(&origin, StatusCode::OK) else { return Ok(()) };
        let now = NOW.plus(Duration::from_secs(later));
        let true_age = age.max(behind) + later;
        prop_assert!(meta.age(now).as_secs() >= true_age);
        let empty = HeaderMap::new();
        let served = plan(&get(&empty), &[Candidate { meta: &meta, stale_since: None }], now);
        if matches!(served, Plan::Serve(_)) {
            prop_assert!(true_age < max_age, "served {served:?} at the age of {true_age}");
        }
    }

    /// A restrictive directive holds, whatever stands around it on other lines or after a comma.
    #[test]
    fn no_noise_hides_no_store(before in "[ -~]{0,30}", after in "[ -~]{0,30}") {
        // A well-formed quoted argument may hold anything, by right.
        prop_assume!(!before.contains("=\""));
        let mut origin = HeaderMap::new();
        let line = format!("{before}, no-store, {after}");
        origin.append(header::CACHE_CONTROL, HeaderValue::from_str(&line).unwrap());
        origin.append(header::CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
        prop_assert_eq!(
            stored(&origin, StatusCode::OK).is_some(),
            line.to_ascii_lowercase().contains("must-understand")
        );
    }

    /// Case, space, empty members, lines and quotes change no decision.
    #[test]
    fn spellings_of_one_meaning_decide_alike(
        members in proptest::collection::vec(
            proptest::sample::select(vec![
                "max-age=60", "s-maxage=30", "public", "must-revalidate", "no-cache", "immutable", "private", "x=y",
                "stale-if-error=5", "stale-while-revalidate=7", "no-store",
            ]),
            1..6,
        ),
        styles in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), 0usize..3), 6),
    ) {
        let mut plain = HeaderMap::new();
        plain.insert(header::ETAG, HeaderValue::from_static("\"a\""));
        let mut ornate = plain.clone();
        plain.insert(header::CACHE_CONTROL, HeaderValue::from_str(&members.join(",")).unwrap());
        let mut line = String::new();
        for (member, (upper, quoted, broken, spaces)) in members.iter().zip(styles) {
            let mut member = if upper { member.to_uppercase() } else { (*member).to_owned() };
            if let (true, Some((name, value))) = (quoted, member.split_once('=')) {
                member = format!("{name}=\"{value}\"");
            }
            line.push_str(&format!("{}{member}{},,", " ".repeat(spaces), "\t".repeat(spaces)));
            if broken {
                ornate.append(header::CACHE_CONTROL, HeaderValue::from_str(&line).unwrap());
                line.clear();
            }
        }
        ornate.append(header::CACHE_CONTROL, HeaderValue::from_str(&line).unwrap());
        let strip = |meta: Option<Meta>| meta.map(|mut meta| {
            meta.headers.clear();
            meta
        });
        prop_assert_eq!(strip(stored(&plain, StatusCode::OK)), strip(stored(&ornate, StatusCode::OK)));
    }

    /// What must not be served stale is not, whatever the client asks for and however long ago it was fresh.
    #[test]
    fn prohibitions_of_stale_responses_hold(
        client in fields(),
        prohibition in proptest::sample::select(vec!["must-revalidate", "proxy-revalidate", "s-maxage=60", "no-cache"]),
        wishes in proptest::sample::subsequence(
            vec!["max-stale", "max-stale=99999", "stale-if-error=99999", "max-age=99999", "only-if-cached"], 0..5,
        ),
        past in 0u64..100_000,
    ) {
        let mut origin = HeaderMap::new();
        let control = format!("max-age=60, {prohibition}, stale-while-revalidate=99999, stale-if-error=99999");
        origin.insert(header::CACHE_CONTROL, HeaderValue::from_str(&control).unwrap());
        origin.insert(header::ETAG, HeaderValue::from_static("\"a\""));
        let meta = stored(&origin, StatusCode::OK).expect("it has a lifetime and a validator");
        let mut client = client;
        client.append(header::CACHE_CONTROL, HeaderValue::from_str(&wishes.join(", ")).unwrap());
        let now = NOW.plus(Duration::from_secs(60 + past));
        match plan(&get(&client), &[Candidate { meta: &meta, stale_since: None }], now) {
            Plan::Serve(serve) | Plan::ServeAndRefresh(serve, _) => prop_assert!(false, "{serve:?}"),
            Plan::Revalidate(asked) => {
                prop_assert!(asked.stale.erring <= now && asked.stale.silent <= now, "{:?}", asked.stale);
            }
            Plan::Fetch(_) | Plan::Pass(_) | Plan::GatewayTimeout => {}
        }
    }

    /// An instant is one, in whatever form it is written.
    #[test]
    fn dates_of_all_forms_are_one(secs in 0u64..3_300_000_000) {
        let written = date::format(secs);
        let text = written.to_str().unwrap().to_owned();
        let words: Vec<&str> = text.trim_end_matches(" GMT").split(' ').collect();
        let [name, day, month, year, clock] = words[..] else { panic!("{text}") };
        let name = name.trim_end_matches(',');
        let asctime = format!("{name} {month} {:>2} {clock} {year}", day.trim_start_matches('0'));
        for form in [text.clone(), text.to_uppercase(), text.to_lowercase(), asctime] {
            prop_assert_eq!(date::parse(form.as_bytes(), NOW), Some(secs as i64), "{}", form);
        }
        // Two digits reach from fifty years ago to fifty years ahead.
        let near = secs.abs_diff(NOW.secs()) < 49 * 31_556_952;
        let long = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
        let full = long.iter().find(|full| full.starts_with(name)).unwrap();
        let rfc_850 = format!("{full}, {day}-{month}-{} {clock} GMT", &year[2..]);
        let read = date::parse(rfc_850.as_bytes(), NOW);
        prop_assert!(read.is_some());
        prop_assert!(!near || read == Some(secs as i64), "{rfc_850}: {read:?}");
    }

    /// A confirmation makes nothing fresher than it says itself.
    #[test]
    fn a_304_is_no_fresher_than_it_says(noise in fields(), max_age in 0u64..1000, age in 0u64..2000, later in 0u64..2000) {
        let mut origin = HeaderMap::new();
        origin.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=10"));
        origin.insert(header::ETAG, HeaderValue::from_static("\"a\""));
        let meta = stored(&origin, StatusCode::OK).expect("it has a lifetime");
        let mut news = noise;
        for name in [CDN_CACHE_CONTROL, header::ETAG, header::LAST_MODIFIED, header::DATE] {
            news.remove(name);
        }
        news.insert(header::CACHE_CONTROL, HeaderValue::from_str(&format!("max-age={max_age}")).unwrap());
        news.insert(header::AGE, HeaderValue::from(age));
        let (empty, rules) = (HeaderMap::new(), Rules::default());
        let request = get(&empty);
        let mut asked = asked(&request, &rules);
        let candidate = Candidate { meta: &meta, stale_since: None };
        let never = Timestamp::default();
        asked.validating = Some((candidate, super::StalePermit { erring: never, silent: never }));
        asked.response_time = NOW.plus(Duration::from_secs(100));
        asked.request_time = asked.response_time;
        let Verdict::Update { meta, .. } = judge(&asked, StatusCode::NOT_MODIFIED, &news) else { return Ok(()) };
        let now = asked.response_time.plus(Duration::from_secs(later));
        if let Plan::Serve(serve) = plan(&request, &[Candidate { meta: &meta, stale_since: None }], now) {
            prop_assert!(age + later < max_age, "{serve:?}");
        }
    }

    /// A part of a representation lies within it, and parts are apart and in order.
    #[test]
    fn spans_lie_within(text in "bytes=([0-9]{0,3}-[0-9]{0,3},?){1,6}", length in 0u64..500) {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(&text).unwrap());
        let Some(specs) = range::parse(&headers) else { return Ok(()) };
        if let range::Extent::Parts(spans) = range::resolve(&specs, length) {
            prop_assert!(spans.iter().all(|span| span.first <= span.last && span.last < length));
            prop_assert!(spans.windows(2).all(|pair| pair[0].last < pair[1].first));
        }
    }
}
