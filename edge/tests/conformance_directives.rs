//! RFC 9111 sections 3 and 5.2: what `Cache-Control` says in responses and in requests, and what is stored.

mod conformance;

use conformance::Bench;

#[test]
fn responses_that_are_never_reused() {
    let forbidden = [
        "Cache-Control: no-store",
        "Cache-Control: NO-STORE",
        "Cache-Control: No-Store, max-age=3600",
        "Cache-Control: max-age=3600, no-store",
        "Cache-Control: max-age=3600 | Cache-Control: no-store",
        "Cache-Control: no-store | Expires: {now+3600}",
        "Cache-Control: no-store=x, max-age=3600",
        "Cache-Control: private, max-age=3600",
        "Cache-Control: PRIVATE, max-age=3600",
        "Cache-Control: private, s-maxage=3600",
        "Cache-Control: private, public, max-age=3600",
        "Cache-Control: no-cache",
        "Cache-Control: no-cache, max-age=3600",
        "Cache-Control: No-Cache, s-maxage=3600",
        "Cache-Control: max-age=3600 | Vary: *",
    ];
    Bench::with("").run_all(forbidden.map(|fields| format!("GET -> 200 | {fields} => #1\nGET -> 200 => #2")));
}

#[test]
fn directives_that_do_not_forbid_reuse() {
    let allowed = [
        "Cache-Control: max-age=3600, must-revalidate",
        "Cache-Control: max-age=3600, proxy-revalidate",
        "Cache-Control: max-age=3600, public",
        "Cache-Control: max-age=3600, immutable",
        "Cache-Control: max-age=3600, no-transform",
        "Cache-Control: max-age=3600, unknown, also=\"x, no-store\", more=(no-cache)",
        "Cache-Control: max-age=3600, xno-store, no-storex",
        "Cache-Control: max-age=3600 | Pragma: no-cache",
        "Cache-Control: max-age=3600 | Clear-Site-Data: \"cache\"",
        "Cache-Control: max-age=3600, no-cache=\"Some-Field\"",
        "Cache-Control: max-age=3600, private=\"Some-Field\"",
    ];
    Bench::with("").run_all(allowed.map(|fields| format!("GET -> 200 | {fields} => #1\nGET => #1 | Age")));
}

/// RFC 9111 section 5.2.2.3.
#[test]
fn must_understand() {
    Bench::with("").run(
        "
        # a status that is understood: no-store is not looked at
        GET -> 200 | Cache-Control: max-age=3600, must-understand, no-store => #1
        GET => #1

        GET -> 404 | Cache-Control: max-age=3600, no-store, must-understand => #1
        GET => 404 | #1

        # a status that is not
        GET -> 599 | Cache-Control: max-age=3600, must-understand => #1
        GET -> 200 => #2

        GET -> 299 | Cache-Control: max-age=3600, must-understand, no-store => #1
        GET -> 200 => #2
        ",
    );
}

/// RFC 9111 sections 5.2.2.4 and 5.2.2.7: named fields are kept from others, the rest is shared.
#[test]
fn no_cache_and_private_with_fields() {
    Bench::with("").run_all(["no-cache", "private"].iter().flat_map(|directive| {
        [
            format!(
                "GET -> 200 | Cache-Control: max-age=3600, {directive}=\"A, b\" | A: 1 | B: 2 | C: 3 => #1 | A: 1 | B: 2 | C: 3\n\
                 GET => #1 | !A | !B | C: 3"
            ),
            format!("GET -> 200 | Cache-Control: max-age=3600, {directive}=a | A: 1 => #1\nGET => #1 | !A"),
            format!("GET -> 200 | Cache-Control: max-age=3600, {directive}=\"\" => #1\nGET -> 200 => #2"),
        ]
    }));
}

/// RFC 9111 section 3.5.
#[test]
fn authorization() {
    let shared = ["public, max-age=3600", "s-maxage=3600", "max-age=3600, must-revalidate"];
    let own = ["max-age=3600", "max-age=3600, proxy-revalidate", "max-age=3600, immutable"];
    let bench = Bench::with("");
    bench.run_all(shared.iter().map(|control| {
        format!("GET | Authorization: Basic x -> 200 | Cache-Control: {control} => #1 | saw Authorization: Basic x\nGET => #1")
    }));
    bench.run_all(own.iter().map(|control| {
        format!("GET | Authorization: Basic x -> 200 | Cache-Control: {control} => #1\nGET -> 200 => #2")
    }));
}

/// RFC 9111 section 5.2.1: what clients ask of caches.
#[test]
fn request_directives() {
    Bench::with("").run(
        "
        GET -> 200 | Cache-Control: max-age=3600 => #1
        GET | Cache-Control: no-cache -> 200 | Cache-Control: max-age=3600 => #2
        GET => #2

        GET -> 200 | Cache-Control: max-age=3600 => #1
        GET | Pragma: no-cache -> 200 => #2

        GET -> 200 | Cache-Control: max-age=3600 => #1
        GET | Pragma: foo, NO-CACHE -> 200 => #2

        # Pragma speaks only where Cache-Control is silent
        GET -> 200 | Cache-Control: max-age=3600 => #1
        GET | Pragma: no-cache | Cache-Control: max-age=100 => #1

        GET -> 200 | Cache-Control: max-age=3600 | Age: 100 => #1
        GET | Cache-Control: max-age=50 -> 200 => #2

        GET -> 200 | Cache-Control: max-age=3600 | Age: 100 => #1
        GET | Cache-Control: max-age=200 => #1

        GET -> 200 | Cache-Control: max-age=3600 => #1
        GET | Cache-Control: max-age=0 -> 200 | Cache-Control: max-age=3600 => #2

        GET -> 200 | Cache-Control: max-age=3600 | Age: 3000 => #1
        GET | Cache-Control: min-fresh=1000 -> 200 => #2

        GET -> 200 | Cache-Control: max-age=3600 | Age: 3000 => #1
        GET | Cache-Control: min-fresh=100 => #1

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET | Cache-Control: max-stale=1000 => #1 | Age >= 100

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET | Cache-Control: max-stale => #1 | Age >= 100

        GET -> 200 | Cache-Control: max-age=60 | Age: 200 | ETag: \"a\" => #1
        GET | Cache-Control: max-stale=10 -> 200 => #2

        GET -> 200 | Cache-Control: max-age=60, must-revalidate | Age: 100 | ETag: \"a\" => #1
        GET | Cache-Control: max-stale=1000 -> 200 => #2

        GET -> 200 | Cache-Control: s-maxage=60 | Age: 100 | ETag: \"a\" => #1
        GET | Cache-Control: max-stale=1000 -> 200 => #2

        GET | Cache-Control: only-if-cached => 504

        GET -> 200 | Cache-Control: max-age=3600 => #1
        GET | Cache-Control: only-if-cached => #1

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET | Cache-Control: only-if-cached => 504

        # nothing of a request with no-store is kept
        GET | Cache-Control: no-store -> 200 | Cache-Control: max-age=3600 => #1
        GET -> 200 | Cache-Control: max-age=3600 => #2
        GET => #2

        # unknown and odd request directives change nothing
        GET -> 200 | Cache-Control: max-age=3600 => #1
        GET | Cache-Control: foo=\"no-cache\", bar=, ,, xmax-age=0 => #1
        ",
    );
}

/// RFC 9111 section 7.3: a cookie is not shared by accident.
#[test]
fn cookies() {
    Bench::with("").run(
        "
        GET -> 200 | Cache-Control: max-age=3600 | Set-Cookie: a=1 => #1 | Set-Cookie: a=1
        GET -> 200 => #2

        GET -> 200 | Cache-Control: max-age=3600, public | Set-Cookie: a=1 => #1
        GET => #1 | Set-Cookie: a=1

        GET -> 200 | Cache-Control: max-age=3600, private=\"set-cookie\" | Set-Cookie: a=1 => #1 | Set-Cookie: a=1
        GET => #1 | !Set-Cookie

        GET | Cookie: a=1 -> 200 | Cache-Control: max-age=3600 => #1 | saw Cookie: a=1
        GET | Cookie: b=1 => #1
        ",
    );
}

/// A site may decide otherwise.
#[test]
fn cookies_by_the_sites_choice() {
    Bench::with("set_cookie = \"strip\"").run(
        "
        GET -> 200 | Cache-Control: max-age=3600 | Set-Cookie: a=1 | X-A: 1 => #1 | Set-Cookie: a=1
        GET => #1 | !Set-Cookie | X-A: 1

        GET -> 200 | Cache-Control: max-age=3600, public | Set-Cookie: a=1 => #1
        GET => #1 | Set-Cookie: a=1

        GET -> 200 | Cache-Control: no-store | Set-Cookie: a=1 => #1
        GET -> 200 => #2

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 | Set-Cookie: a=1 => 200 | #1 | Set-Cookie: a=1
        GET => #1 | !Set-Cookie
        ",
    );
    Bench::with("set_cookie = \"keep\"").run(
        "
        GET -> 200 | Cache-Control: max-age=3600 | Set-Cookie: a=1 => #1 | Set-Cookie: a=1
        GET => #1 | Set-Cookie: a=1

        GET -> 200 | Cache-Control: private | Set-Cookie: a=1 => #1
        GET -> 200 => #2
        ",
    );
}

#[test]
fn the_query_is_part_of_the_key() {
    Bench::with("").run(
        "
        GET ?a=1 -> 200 | Cache-Control: max-age=3600 => #1
        GET ?a=2 -> 200 | Cache-Control: max-age=3600 => #2
        GET ?a=1 => #1
        GET ?a=2 => #2
        GET -> 200 | Cache-Control: max-age=3600 => #3
        GET ?b=1&a=1 -> 200 | Cache-Control: max-age=3600 => #4
        GET ?a=1&b=1 -> 200 | Cache-Control: max-age=3600 => #5
        GET /sub -> 200 | Cache-Control: max-age=3600 => #6
        GET => #3
        ",
    );
}

/// RFC 9111 section 5.2.1 again: wishes together, and what they leave alone.
#[test]
fn wishes_in_combination() {
    let stale = "GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1";
    let fresh = "GET -> 200 | Cache-Control: max-age=3600 | Age: 100 | ETag: \"a\" => #1";
    let hit = [
        (stale, "only-if-cached, max-stale"),
        (stale, "max-stale=1000, max-age=1000"),
        (stale, "MAX-STALE=1000"),
        (stale, "max-stale=\"1000\""),
        (stale, "max-stale=99999999999999999999"),
        (fresh, "max-age=200, min-fresh=10"),
        (fresh, "no-store"),
        (fresh, "no-transform"),
        (fresh, "only-if-cached, max-age=200"),
        (fresh, "public, private, must-revalidate, s-maxage=0"),
        (fresh, "max-age"),
        (fresh, "stale-if-error=0"),
        (fresh, ""),
    ];
    let asked = [
        (stale, "max-stale=1000, max-age=50"),
        (stale, "max-stale=x"),
        (stale, "max-stale=1"),
        (stale, "max-stale=-1000"),
        (stale, "max-stale=1000, no-cache"),
        (stale, "max-stale=1000, min-fresh=1"),
        (fresh, "max-age=50, max-stale"),
        (fresh, "min-fresh=3600"),
        (fresh, "No-Cache"),
        (fresh, "no-cache=\"x\""),
        (fresh, "max-age=\"50\""),
    ];
    let bench = Bench::with("");
    bench.run_all(
        hit.map(|(stored, wish)| format!("{stored}\nGET | Cache-Control: {wish} => #1 | Age >= 100")),
    );
    bench.run_all(asked.map(|(stored, wish)| format!("{stored}\nGET | Cache-Control: {wish} -> 200 => #2")));
    bench.run(
        "
        # several lines are one field
        GET -> 200 | Cache-Control: max-age=3600 | Age: 100 => #1
        GET | Cache-Control: max-age=200 | Cache-Control: no-cache -> 200 => #2

        # what is stored for all answers those with credentials too
        GET -> 200 | Cache-Control: max-age=3600 => #1
        GET | Authorization: Basic x => #1

        # RFC 8246: a page that never changes is not validated on a reload
        GET -> 200 | Cache-Control: max-age=3600, immutable => #1
        GET | Cache-Control: max-age=0 => #1
        GET | Cache-Control: no-cache -> 200 | Cache-Control: max-age=3600, immutable => #2

        GET -> 200 | Cache-Control: max-age=60, immutable | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 => 200 | #1

        # nothing of an answer to no-store is kept, not even that nothing changed
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET | Cache-Control: no-store -> 200 | Cache-Control: max-age=3600 => #2 | saw !If-None-Match
        GET -> 304 | Cache-Control: max-age=3600 => 200 | #1 | saw If-None-Match: \"a\"
        ",
    );
}
