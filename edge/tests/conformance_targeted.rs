//! RFC 9213: `CDN-Cache-Control`, a structured field that governs in place of `Cache-Control` and `Expires`.

mod conformance;

use conformance::Bench;

fn fresh(fields: &[&str]) -> Vec<String> {
    fields.iter().map(|fields| format!("GET -> 200 | {fields} => #1\nGET => #1 | Age")).collect()
}

fn asked_again(fields: &[&str]) -> Vec<String> {
    fields.iter().map(|fields| format!("GET -> 200 | {fields} => #1\nGET -> 200 => #2")).collect()
}

#[test]
fn it_governs_where_it_is_valid() {
    let bench = Bench::with("");
    bench.run_all(fresh(&[
        "CDN-Cache-Control: max-age=3600",
        "CDN-Cache-Control: max-age=3600 | Cache-Control: max-age=0",
        "CDN-Cache-Control: max-age=3600 | Cache-Control: no-store",
        "CDN-Cache-Control: max-age=3600 | Cache-Control: no-cache",
        "CDN-Cache-Control: max-age=3600 | Cache-Control: private",
        "CDN-Cache-Control: max-age=3600 | Cache-Control: s-maxage=0",
        "CDN-Cache-Control: max-age=3600 | Expires: {now-60}",
        "CDN-Cache-Control: max-age=3600 | Pragma: no-cache",
        "CDN-Cache-Control: max-age=0, s-maxage=3600",
        "CDN-Cache-Control: foo, max-age=3600, bar=(1 2);x",
        "CDN-Cache-Control: foo | CDN-Cache-Control: max-age=3600",
        "CDN-Cache-Control: max-age=0, max-age=3600",
        "CDN-Cache-Control: max-age=3600;foo=bar",
        "CDN-Cache-Control: max-age=999999999999999",
    ]));
    bench.run_all(asked_again(&[
        "CDN-Cache-Control: max-age=0 | Cache-Control: max-age=3600",
        "CDN-Cache-Control: no-store | Cache-Control: max-age=3600",
        "CDN-Cache-Control: no-store, max-age=3600",
        "CDN-Cache-Control: no-cache | Cache-Control: max-age=3600",
        "CDN-Cache-Control: private | Cache-Control: max-age=3600",
        "CDN-Cache-Control: max-age=0 | Expires: {now+3600}",
        "CDN-Cache-Control: foo | Cache-Control: max-age=3600",
        "CDN-Cache-Control: foo | Expires: {now+3600}",
        "CDN-Cache-Control: max-age=60 | Age: 100 | Cache-Control: max-age=3600",
        "CDN-Cache-Control: max-age=-1 | Cache-Control: max-age=3600",
    ]));
}

#[test]
fn an_invalid_or_empty_field_is_as_if_it_were_not_there() {
    let invalid = [
        "",
        "max-age=3600, ",
        "max-age=3600,,",
        ", max-age=0",
        "Max-Age=0",
        "MAX-AGE=0",
        "max-age=0, &&",
        "max-age =0",
        "max-age= 0",
        "max-age=",
        "max-age=0, foo=",
        "max-age=\"0",
        "max-age=0;;",
        "no-store, FOO",
        "no-store, foo='a'",
    ];
    let bench = Bench::with("");
    bench.run_all(invalid.map(|field| {
        format!(
            "GET -> 200 | CDN-Cache-Control: {field} | Cache-Control: max-age=3600 => #1\nGET => #1 | Age"
        )
    }));
    bench.run_all(invalid.map(|field| {
        format!("GET -> 200 | CDN-Cache-Control: {field} | Cache-Control: no-store => #1\nGET -> 200 => #2")
    }));
}

#[test]
fn a_value_of_the_wrong_type_is_ignored_by_itself() {
    let wrong = [
        "max-age=\"3600\"",
        "max-age=3600.0",
        "max-age=a3600",
        "max-age",
        "max-age=?1",
        "max-age=(3600)",
        "max-age=:AA==:",
    ];
    Bench::with("").run_all(wrong.map(|field| {
        format!(
            "GET -> 200 | CDN-Cache-Control: {field} | Cache-Control: max-age=3600 => #1\nGET -> 200 => #2"
        )
    }));
}

#[test]
fn it_goes_down_as_it_came() {
    Bench::with("").run(
        "
        GET -> 200 | CDN-Cache-Control: max-age=3600, foo | Cache-Control: no-store => #1 | CDN-Cache-Control: max-age=3600, foo | Cache-Control: no-store
        GET => #1 | CDN-Cache-Control: max-age=3600, foo | Cache-Control: no-store
        ",
    );
}

#[test]
fn it_permits_and_forbids_stale_responses() {
    Bench::with("").run(
        "
        GET -> 200 | CDN-Cache-Control: max-age=60, stale-while-revalidate=1000 | Cache-Control: s-maxage=1 | Age: 100 => #1
        GET ~> 200 => #1

        GET -> 200 | CDN-Cache-Control: max-age=60, stale-if-error=1000 | Cache-Control: no-store | Age: 100 => #1
        GET -> 503 => 200 | #1

        GET -> 200 | CDN-Cache-Control: max-age=60, must-revalidate | Age: 100 | ETag: \"a\" => #1
        GET -> 504 | @close => 504
        ",
    );
}
