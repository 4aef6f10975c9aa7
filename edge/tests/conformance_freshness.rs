//! RFC 9111 section 4.2: how long a response is fresh, and how old it is.

mod conformance;

use conformance::Bench;

/// A response with these fields is fresh on arrival, or it is not. The first request stores it, the second tells.
fn lifetimes(fresh: &[&str], stale: &[&str]) {
    let bench = Bench::with("");
    let hit = fresh.iter().map(|fields| format!("# fresh\nGET -> 200 | {fields} => #1\nGET => #1 | Age"));
    let miss = stale.iter().map(|fields| format!("# stale\nGET -> 200 | {fields} => #1\nGET -> 200 => #2"));
    bench.run_all(hit.chain(miss));
}

#[test]
fn explicit_lifetimes() {
    lifetimes(
        &[
            "Cache-Control: max-age=3600",
            "Cache-Control: s-maxage=3600",
            "Cache-Control: max-age=0, s-maxage=3600",
            "Cache-Control: s-maxage=3600 | Expires: {now-60}",
            "Cache-Control: max-age=3600 | Expires: {now-60}",
            "Cache-Control: max-age=3600 | Expires: 0",
            "Cache-Control: max-age=3600 | Pragma: no-cache",
            "Expires: {now+3600}",
            "Expires: {now+3600} | Date: {now}",
            "Expires: {now+3600} | @undated",
            "Expires: {now+3600} | Cache-Control: foo",
            "Expires: {now+3600} | Pragma: no-cache",
            "Expires: Sun, 21 Nov 2286 04:46:39 GMT",
            "Expires: Thu, 18 Aug 2050 02:01:18 GMT",
            "Cache-Control: max-age=3600 | Age: 1800",
            "Cache-Control: max-age=3600 | Date: {now-1800}",
            "Cache-Control: max-age=3600 | Date: {now+3600}",
            "Cache-Control: max-age=3600 | @undated",
            "Cache-Control: max-age=3600 | Set-Nothing: 1 | Clear-Site-Data: \"cache\"",
        ],
        &[
            "Cache-Control: max-age=0",
            "Cache-Control: s-maxage=0",
            "Cache-Control: max-age=3600, s-maxage=0",
            "Cache-Control: s-maxage=0 | Expires: {now+60}",
            "Cache-Control: max-age=0 | Expires: {now+60}",
            "Expires: {now-60}",
            "Expires: {now}",
            "Expires: {now+60} | Date: {now+60}",
            "Cache-Control: max-age=60 | Age: 60",
            "Cache-Control: max-age=60 | Age: 3600",
            "Cache-Control: max-age=60 | Date: {now-60}",
            "Expires: {now+60} | Age: 3600",
            "Foo: no lifetime at all",
            "Cache-Control: public",
        ],
    );
}

#[test]
fn spellings_of_max_age() {
    lifetimes(
        &[
            "Cache-Control: MAX-AGE=3600",
            "Cache-Control: Max-Age=3600",
            "cache-control: mAx-aGe=3600",
            "Cache-Control: max-age=003600",
            "Cache-Control: max-age=\"3600\"",
            "Cache-Control:   max-age=3600  ",
            "Cache-Control: ,,max-age=3600,,",
            "Cache-Control: max-age=3600, max-age=0",
            "Cache-Control: max-age=3600 | Cache-Control: max-age=0",
            "Cache-Control: foo | Cache-Control: max-age=3600",
            "Cache-Control: foo=bar, max-age=3600, baz=\"qux\"",
            "Cache-Control: foo=\"max-age=0\", max-age=3600",
            "Cache-Control: foo=\"\\\", max-age=0, \", max-age=3600",
            "Cache-Control: max-age=2147483648",
            "Cache-Control: max-age=2147483649",
            "Cache-Control: max-age=4294967296",
            "Cache-Control: max-age=99999999999",
            "Cache-Control: max-age=99999999999999999999999999999999999999",
            "Cache-Control: s-maxage=99999999999",
            "Cache-Control: S-MaxAge=3600",
            "Cache-Control: max-age=3600, s-maxage=3600 ,x",
            "Cache-Control: a=b;c=d, max-age=3600",
            "Cache-Control: \"a\", max-age=3600",
        ],
        &[
            "Cache-Control: max-age=-3600",
            "Cache-Control: max-age=a",
            "Cache-Control: max-age=a3600",
            "Cache-Control: max-age",
            "Cache-Control: max-age=",
            "Cache-Control: max-age=\"\"",
            "Cache-Control: max-age=0.5",
            "Cache-Control: max-age=-0.5",
            "Cache-Control: max-age=\"0\"",
            "Cache-Control: max-age=0, max-age=3600",
            "Cache-Control: max-age=0 | Cache-Control: max-age=3600",
            "Cache-Control: foo=\"max-age=3600\"",
            "Cache-Control: foo=\"bar, max-age=3600\"",
            "Cache-Control: xmax-age=3600",
            "Cache-Control: max_age=3600",
            "Cache-Control: max-age:3600",
        ],
    );
}

#[test]
fn forms_of_expires() {
    lifetimes(
        &[
            "Expires: Thursday, 18-Aug-50 02:01:18 GMT",
            "Expires: Thu Aug 18 02:01:18 2050",
            "Expires: thu, 18 aug 2050 02:01:18 gmt",
            "Expires: THU, 18 AUG 2050 02:01:18 GMT",
            "Expires: {now+3600} | Expires: {now-3600}",
        ],
        &[
            "Expires: 0",
            "Expires: -1",
            "Expires: never",
            "Expires: \"{now+3600}\"",
            "Expires: Thu, 18 Aug 2050 02:01:18 AEST",
            "Expires: Thu, 18 Aug 2050 02:01:18 UTC",
            "Expires: Thu, 18 Aug 2050 02:01:18 EST",
            "Expires: Thu, 18 Aug 2050 02:01:18 Z",
            "Expires: Thursday, 18-Aug-50 02:01:18 UTC",
            "Expires: Thursday, 18-Aug-2050 02:01:18 GMT",
            "Expires: Thu Aug 18 02:01:18 2050 GMT",
            "Expires: Thursday, 18-Aug-99 02:01:18 GMT",
            "Expires: ",
            "Expires: Thu, 18 Aug 2050 02:01:18 GMT;",
            "Expires: Thu, 18 Aug 2050 02:01:18 GMT, Thu, 18 Aug 2050 02:01:18 GMT",
            "Expires: Thu, 18 Aug 2050 02:01:18 +0000",
            "Expires: Thu, 18 Aug 2050 02:01:18",
            "Expires: 18 Aug 2050 02:01:18 GMT",
            "Expires: Thu 18 Aug 2050 02:01:18 GMT",
            "Expires: Thu, 18-Aug-2050 02:01:18 GMT",
            "Expires: Thu,  18  Aug  2050 02:01:18 GMT",
            "Expires: Thu, 18 Aug 50 02:01:18 GMT",
            "Expires: Thu, 18 Aug 2050 2:1:18 GMT",
            "Expires: Thu, 18 Aug 2050 02.01.18 GMT",
            "Expires: Thu, 18 Aug 2050",
            "Expires: 2050-08-18T02:01:18Z",
            "Expires: {now-3600} | Expires: {now+3600}",
            "Expires: 0 | Expires: {now+3600}",
        ],
    );
}

#[test]
fn ages() {
    let bench = Bench::with("");
    let cases = [
        ("Age: 30", "Age >= 30"),
        ("Age: 030", "Age >= 30"),
        ("Age: 30, 90", "Age >= 30"),
        ("Age: 30 | Age: 90", "Age >= 30"),
        ("Age: 0, 0", "Age >= 0"),
        ("Age: -30", "Age >= 0"),
        ("Age: abc", "Age >= 0"),
        ("Age: 30.5", "Age >= 0"),
        ("Age: 30;x=y", "Age >= 0"),
        ("Age: \"30\"", "Age >= 0"),
        ("Age: abc, 30", "Age >= 0"),
        ("Foo: 1", "Age >= 0"),
        ("Date: {now-90}", "Age >= 90"),
        ("Date: {now-90} | Age: 30", "Age >= 90"),
        ("Date: {now-30} | Age: 90", "Age >= 90"),
        ("Date: {now+90}", "Age >= 0"),
        ("Date: rubbish", "Age >= 0"),
    ];
    bench.run_all(cases.iter().map(|(fields, age)| {
        format!("GET -> 200 | Cache-Control: max-age=3600 | {fields} => #1\nGET => #1 | {age}")
    }));
}

#[test]
fn an_overflowing_age_is_the_oldest() {
    let cases = ["2147483648", "99999999999999999999999999"]
        .map(|age| format!("GET -> 200 | Cache-Control: max-age=3600 | Age: {age} => #1\nGET -> 200 => #2"));
    Bench::with("").run_all(cases);
}

/// RFC 9111 section 4.2.2 and RFC 9110 section 15.1.
#[test]
fn heuristics_only_where_the_status_allows_them() {
    let heuristic = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];
    let others =
        [201, 202, 302, 303, 307, 400, 402, 403, 406, 409, 412, 418, 422, 499, 500, 502, 503, 504, 599, 299];
    let hit = heuristic.iter().map(|status| {
        let body = if *status == 204 { "@body" } else { "#1" };
        format!("GET -> {status} | Last-Modified: {{now-360000}} => {body}\nGET => {status} | {body} | Age")
    });
    let miss = others
        .iter()
        .map(|status| format!("GET -> {status} | Last-Modified: {{now-360000}} => #1\nGET -> 200 => #2"));
    let explicit =
        ["Cache-Control: max-age=0", "Expires: 0", "Cache-Control: s-maxage=0", "Cache-Control: no-cache"];
    let stale = explicit
        .iter()
        .map(|field| format!("GET -> 200 | Last-Modified: {{now-360000}} | {field} => #1\nGET -> 200 => #2"));
    Bench::with("").run_all(hit.chain(miss).chain(stale));
}

#[test]
fn any_final_status_with_an_explicit_lifetime() {
    let all: Vec<u16> = (200..=599)
        .filter(|status| {
            matches!(status, 200..=208 | 226 | 299..=303 | 305..=308 | 399..=418 | 421..=427 | 451 | 499..=508 | 510 | 599)
        })
        .filter(|status| !matches!(status, 206 | 304))
        .collect();
    Bench::with("").run_all(all.iter().flat_map(|status| {
        let body = if matches!(status, 204) {
            "@body"
        } else if matches!(status, 205) {
            "Age"
        } else {
            "#1"
        };
        ["Cache-Control: max-age=3600", "Cache-Control: s-maxage=3600", "Expires: {now+3600}"]
            .map(|field| format!("GET -> {status} | {field} => {status}\nGET => {status} | {body} | Age"))
    }));
}

/// RFC 6585 forbids storing these outright.
#[test]
fn statuses_that_are_never_stored() {
    let cases = [428, 429, 431, 511];
    Bench::with("").run_all(
        cases.map(|status| format!("GET -> {status} | Cache-Control: max-age=3600 => #1\nGET -> 200 => #2")),
    );
}
