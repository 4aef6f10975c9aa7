//! What a client gets and what the origin sees, section by section of the RFCs, as scripts for
//! [`super::sim`].
//!
//! Each script is a history: it starts with an empty cache and a true clock. Where several spellings
//! mean the same, one script runs for each of them. Long, because in one file it reads like the RFCs do:
//! section after section.

use std::time::Duration;

use nearside_fleet::config::{CacheRule, SiteCache};

use super::{
    Rules,
    sim::{run, run_with},
};

/// Runs the script once for each spelling in place of `SPELLING`.
fn each(spellings: &[&str], script: &str) {
    for spelling in spellings {
        run(&script.replace("SPELLING", spelling));
    }
}

// ---- RFC 9111 §3: storing responses ----

#[test]
fn section_3_explicit_freshness_makes_any_final_status_storable() {
    each(
        &[
            "200", "201", "202", "203", "204", "205", "226", "299", "300", "301", "302", "303", "307", "308",
            "399", "400", "401", "403", "404", "405", "410", "414", "418", "451", "499", "500", "501", "502",
            "503", "504", "599", "600", "999",
        ],
        "origin SPELLING {cache-control: max-age=60}
         GET / -> SPELLING MISS body=1
         wait 30
         GET / -> SPELLING HIT body=1 age=30",
    );
    each(
        &[
            "expires: @60",
            "cache-control: s-maxage=60",
            "cdn-cache-control: max-age=60",
            "cache-control: public, max-age=60",
        ],
        "origin 302 {SPELLING}
         GET /
         wait 30
         GET / -> 302 HIT age=30",
    );
}

#[test]
fn section_3_without_it_only_what_can_be_used_again_is_stored() {
    each(
        &[
            "200 {x: y}",
            "404 {x: y}",
            "302 {last-modified: @-1000}",
            "503 {etag: \"a\"}",
            "200 {cache-control: max-age=0}",
        ],
        "origin SPELLING
         GET / -> MISS
         origin 200
         GET / -> body=2",
    );
}

#[test]
fn section_3_what_must_not_be_stored() {
    each(
        &[
            "200 {cache-control: no-store, max-age=60}",
            "200 {cache-control: max-age=60 | cache-control: NO-STORE}",
            "200 {cache-control: max-age=60, no-store=\"x\"}",
            "200 {cache-control: private, max-age=60}",
            "200 {cache-control: private, s-maxage=60}",
            "200 {cache-control: private=\"content-type\", max-age=60}",
            "200 {cache-control: max-age=60 | vary: *}",
            "200 {cache-control: max-age=60 | set-cookie: a=b}",
            "200 {cdn-cache-control: max-age=60, no-store}",
            "200 {cdn-cache-control: private | cache-control: max-age=60}",
            "304 {cache-control: max-age=60}",
            "428 {cache-control: max-age=60}",
            "429 {cache-control: max-age=60}",
            "431 {cache-control: max-age=60}",
            "511 {cache-control: max-age=60}",
            "206 {cache-control: max-age=60 | content-range: bytes 0-0/10}",
        ],
        "origin SPELLING
         GET / -> MISS body=1
         origin 200
         GET / -> MISS body=2",
    );
}

#[test]
fn section_3_the_requests_no_store() {
    run("origin 200 {cache-control: max-age=60}
         GET / {cache-control: no-store} -> MISS
         origin 200 {cache-control: max-age=60}
         GET / -> MISS body=2
         # what is stored already may answer it
         GET / {cache-control: no-store} -> HIT body=2
         wait 60
         origin 304 {etag: \"a\"}
         GET / {cache-control: no-store | if-none-match: \"a\"} -> 304 MISS
         saw GET {if-none-match: \"a\"}");
}

#[test]
fn section_3_1_what_is_stored_of_the_fields() {
    run("origin 200 {cache-control: max-age=60 | connection: close, x-hop | x-hop: 1 | x-end: 2 | x-end: 3 | keep-alive: timeout=1 | proxy-authenticate: Basic | te: x}
         GET / -> {!x-hop | x-end: 2, 3 | !connection | !keep-alive | !proxy-authenticate}
         GET / -> HIT {!x-hop | x-end: 2, 3 | !connection | !keep-alive | !proxy-authenticate | !te}");
}

#[test]
fn section_3_2_a_304_updates_stored_fields_but_not_the_framing() {
    run("origin 200 {cache-control: max-age=1 | etag: \"a\" | x-old: 1 | x-both: 1 | content-length: 4 | content-type: text/plain} body=body
         GET / -> MISS body=body
         wait 2
         origin 304 {etag: \"a\" | cache-control: max-age=60 | x-both: 2 | x-both: 3 | x-new: 4 | content-length: 99}
         GET / -> 200 REVALIDATED body=body {x-old: 1 | x-both: 2, 3 | x-new: 4 | content-length: 4 | content-type: text/plain}
         saw GET {if-none-match: \"a\" | !if-modified-since}
         wait 50
         GET / -> 200 HIT age=50 {x-both: 2, 3 | cache-control: max-age=60 | content-length: 4}");
}

#[test]
fn section_3_3_parts_answer_only_what_lies_inside_them() {
    run("origin 206 {cache-control: max-age=60 | etag: \"a\" | content-range: bytes 2-5/10 | content-length: 4} body=2345
         GET / {range: bytes=2-5} -> 206 MISS body=2345
         saw GET {range: bytes=2-5}
         GET / {range: bytes=3-4} -> 206 HIT body=34 {content-range: bytes 3-4/10 | !content-length}
         origin 206 {content-range: bytes 0-2/10 | cache-control: no-store} body=012
         GET / {range: bytes=0-2} -> 206 MISS body=012
         origin 200 {cache-control: max-age=60} body=0123456789
         GET / -> 200 MISS body=0123456789
         GET / {range: bytes=-3} -> 206 HIT body=789");
    // A suffix of unknown length can't be placed.
    run("origin 206 {cache-control: max-age=60 | content-range: bytes 0-4/*} body=01234
         GET / {range: bytes=0-4} -> 206
         GET / {range: bytes=0-1} -> 206 HIT body=01
         origin 206 {cache-control: max-age=60 | content-range: bytes 8-9/10} body=89
         GET / {range: bytes=-2} -> 206 MISS body=89");
}

#[test]
fn section_3_4_a_whole_response_answers_ranges() {
    run("origin 200 {cache-control: max-age=60 | etag: \"a\" | last-modified: @-99} body=0123456789
         GET / -> 200
         GET / {range: bytes=2-4} -> 206 HIT body=234 {content-range: bytes 2-4/10}
         GET / {range: bytes=8-} -> 206 body=89
         GET / {range: bytes=0-0,-1} -> 206
         GET / {range: bytes=10-} -> 416 {content-range: bytes */10}
         GET / {range: bytes=x} -> 200 body=0123456789
         GET / {range: lines=1-2} -> 200 body=0123456789
         GET / {range: bytes=2-4 | if-range: \"a\"} -> 206 body=234
         GET / {range: bytes=2-4 | if-range: \"b\"} -> 200 body=0123456789
         GET / {range: bytes=2-4 | if-range: W/\"a\"} -> 200 body=0123456789
         GET / {range: bytes=2-4 | if-range: @-99} -> 206 body=234
         GET / {range: bytes=2-4 | if-range: @-98} -> 200 body=0123456789
         GET / {range: bytes=2-4 | if-none-match: \"a\"} -> 304
         HEAD / {range: bytes=2-4} -> 200");
}

#[test]
fn section_3_5_responses_to_authorized_requests() {
    each(
        &["public, max-age=60", "s-maxage=60", "must-revalidate, max-age=60", "Public, max-age=60"],
        "origin 200 {cache-control: SPELLING}
         GET / {authorization: Basic Zm9v} -> MISS
         GET / {authorization: Basic YmFy} -> HIT
         GET / -> HIT",
    );
    each(
        &["max-age=60", "proxy-revalidate, max-age=60", "max-age=60, immutable"],
        "origin 200 {cache-control: SPELLING}
         GET / {authorization: Basic Zm9v} -> MISS
         origin 200 {cache-control: max-age=60}
         GET / -> MISS
         GET / {authorization: Basic Zm9v} -> HIT",
    );
}

#[test]
fn section_7_3_cookies_are_stored_where_the_origin_speaks_to_shared_caches() {
    each(
        &["cache-control: public, max-age=60", "cache-control: s-maxage=60", "cdn-cache-control: max-age=60"],
        "origin 200 {SPELLING | set-cookie: a=b}
         GET / -> {set-cookie: a=b}
         GET / -> HIT {set-cookie: a=b}",
    );
    run("origin 200 {cache-control: max-age=60, private=\"Set-Cookie\" | set-cookie: a=b}
         GET / -> {set-cookie: a=b}
         GET / -> HIT {!set-cookie}");
    // A confirmation may set a cookie too.
    run("origin 200 {cache-control: max-age=1 | etag: \"a\"}
         GET /
         wait 2
         origin 304 {set-cookie: a=b | cache-control: max-age=60}
         GET / -> 200 REVALIDATED body=1
         GET / -> HIT {!set-cookie}");
}

// ---- RFC 9111 §4.1: Vary ----

#[test]
fn section_4_1_variants_are_told_apart() {
    run("origin 200 {cache-control: max-age=60 | vary: Accept-Language}
         GET / {accept-language: de} -> MISS body=1
         GET / {accept-language: DE;q=1.0} -> HIT body=1
         origin 200 {cache-control: max-age=60 | vary: accept-language}
         GET / {accept-language: en} -> MISS body=2 {cache-status: Nearside; fwd=vary-miss; fwd-status=200; stored}
         GET / {accept-language: de} -> HIT body=1
         GET / {accept-language: en} -> HIT body=2
         origin 200 {cache-control: max-age=60 | vary: accept-language}
         GET / -> MISS body=3
         GET / {accept-language: en} -> HIT body=2
         GET / -> HIT body=3");
}

#[test]
fn section_4_1_several_fields_and_lines() {
    each(
        &["vary: foo, bar", "vary: foo | vary: bar", "vary: Bar,, FOO", "vary: bar ,\tfoo , foo"],
        "origin 200 {cache-control: max-age=60 | SPELLING}
         GET / {foo: 1 | bar: 2, 3} -> MISS
         GET / {bar: 2 | foo: 1 | bar: 3} -> HIT
         origin 200 {cache-control: no-store}
         GET / {foo: 1} -> MISS
         origin 200 {cache-control: no-store}
         GET / {foo: 1 | bar: 3, 2} -> MISS",
    );
}

#[test]
fn section_4_of_several_that_match_the_most_recent_counts() {
    run("origin 200 {cache-control: max-age=600 | vary: foo}
         GET / {foo: 1 | bar: 1} -> body=1
         wait 10
         origin 200 {cache-control: max-age=600 | vary: bar}
         GET / {foo: 2 | bar: 1} -> MISS body=2
         GET / {foo: 1 | bar: 1} -> HIT body=2");
}

/// What says what it varies by counts before a default that does not, as long as it is fresh.
#[test]
fn section_4_1_a_default_without_vary_comes_second() {
    run("origin 200 {cache-control: max-age=100 | vary: foo}
         GET / {foo: 1} -> body=1
         wait 10
         origin 200 {cache-control: max-age=600}
         GET / {foo: 2} -> MISS body=2
         GET / {foo: 1} -> HIT body=1
         GET / {foo: 3} -> HIT body=2
         wait 100
         GET / {foo: 1} -> HIT body=2");
}

// ---- RFC 9111 §4.2: freshness ----

#[test]
fn section_4_2_the_lifetime_ends_exactly() {
    each(
        &[
            "cache-control: max-age=60",
            "expires: @60",
            "cache-control: max-age=10, s-maxage=60",
            "cdn-cache-control: max-age=60",
        ],
        "origin 200 {SPELLING}
         GET / -> MISS
         wait 59
         GET / -> HIT age=59
         wait 1
         origin 200 {SPELLING}
         GET / -> body=2",
    );
}

#[test]
fn section_4_2_3_age_is_used_and_grows() {
    run("origin 200 {cache-control: max-age=60 | age: 50}
         GET / -> MISS age=50
         wait 9
         GET / -> HIT age=59
         wait 1
         origin 200 {cache-control: max-age=60}
         GET / -> EXPIRED body=2");
    run("origin 200 {cache-control: max-age=60 | age: 10} delay=5
         GET / -> age=15
         GET / -> HIT age=15");
    run("origin 200 {cache-control: max-age=60 | date: @-50}
         GET / -> MISS
         wait 9
         GET / -> HIT age=59");
    // A Date ahead of us makes nothing younger than zero, and shortens what Expires promises.
    run("origin 200 {cache-control: max-age=60 | date: @3600}
         GET / -> MISS
         GET / -> HIT age=0");
    run("origin 200 {expires: @3660 | date: @3600}
         GET / -> MISS
         wait 59
         GET / -> HIT
         wait 1
         origin 200
         GET / -> body=2");
    each(
        &["-60", "60.0", "abc", "abc, 60", "\"60\"", "0, 60", ""],
        "origin 200 {cache-control: max-age=60 | age: SPELLING}
         GET /
         GET / -> HIT age=0",
    );
    each(
        &["60", "60, 0", "99999999999999999999", "2147483648"],
        "origin 200 {cache-control: max-age=60 | age: SPELLING}
         GET /
         origin 200
         GET / -> body=2",
    );
}

#[test]
fn section_4_2_invalid_lifetimes_are_over() {
    each(
        &[
            "cache-control: max-age=a",
            "cache-control: max-age=60.5",
            "cache-control: max-age=-1",
            "cache-control: max-age",
            "cache-control: max-age =60",
            "cache-control: max-age= 60",
            "cache-control: max-age='60'",
            "cache-control: s-maxage=a, max-age=60",
            "expires: 0",
            "expires: x",
            "expires: @-1",
            "expires: @0",
            "cache-control: max-age=0 | expires: @60",
            "cdn-cache-control: max-age=-1",
        ],
        "origin 200 {SPELLING | last-modified: @-100000}
         GET /
         origin 200
         GET / -> body=2",
    );
}

#[test]
fn section_4_2_1_cache_control_beats_expires() {
    run("origin 200 {cache-control: max-age=60 | expires: @-60}
         GET /
         GET / -> HIT");
    // Unknown directives are nothing, whatever they look like.
    each(
        &["foo", "foo=bar", "foo=\"a, no-store\"", "foo=(x)", "=", "\"", "max-agex=0", "no-storex", "a;b=c"],
        "origin 200 {cache-control: SPELLING, max-age=60}
         GET /
         GET / -> HIT",
    );
}

#[test]
fn section_5_4_pragma_in_responses_means_nothing() {
    run("origin 200 {cache-control: max-age=60 | pragma: no-cache}
         GET /
         GET / -> HIT");
}

#[test]
fn section_6_6_1_of_rfc_9110_a_missing_date_is_added() {
    run("origin 200 {cache-control: max-age=60 | date: -}
         GET / -> MISS {date: @0}
         wait 30
         GET / -> HIT age=30 {date: @-30}");
}

// ---- RFC 9111 §4.3: validation ----

#[test]
fn section_4_3_1_all_known_validators_are_sent() {
    run("origin 200 {cache-control: max-age=1 | etag: W/\"a\" | last-modified: @-9}
         GET / -> body=1
         wait 2
         origin 304 {etag: W/\"a\"}
         GET / {if-none-match: \"x\" | if-modified-since: @-1} -> 200 REVALIDATED body=1
         saw GET {if-none-match: W/\"a\" | if-modified-since: @-11}");
    run("origin 200 {cache-control: max-age=1}
         GET / -> body=1
         wait 2
         origin 200 {cache-control: max-age=1}
         GET / {if-none-match: \"x\"} -> 200 EXPIRED body=2
         saw GET {!if-none-match}");
}

#[test]
fn section_4_3_2_conditional_requests_are_answered_from_the_store() {
    run("origin 200 {cache-control: max-age=60 | etag: \"a\" | last-modified: @-100 | content-type: x/y | vary: foo}
         GET /
         GET / {if-none-match: \"a\"} -> 304 HIT {etag: \"a\" | vary: foo | cache-control: max-age=60 | !content-type | age: 0}
         GET / {if-none-match: W/\"a\"} -> 304
         GET / {if-none-match: \"b\", \"a\"} -> 304
         GET / {if-none-match: \"b\" | if-none-match: \"a\"} -> 304
         GET / {if-none-match: *} -> 304
         GET / {if-none-match: \"b\"} -> 200 HIT
         GET / {if-none-match: \"b\" | if-modified-since: @0} -> 200 HIT
         GET / {if-none-match: \"a\" | if-modified-since: @-200} -> 304
         GET / {if-modified-since: @-100} -> 304
         GET / {if-modified-since: @-101} -> 200
         GET / {if-modified-since: x} -> 200
         HEAD / {if-none-match: \"a\"} -> 304
         fetches 1");
    // Without Last-Modified, by Date.
    run("origin 200 {cache-control: max-age=60}
         GET /
         wait 5
         GET / {if-modified-since: @-5} -> 304
         GET / {if-modified-since: @-6} -> 200");
    // Preconditions are for successful responses only.
    run("origin 404 {cache-control: max-age=60 | etag: \"a\"}
         GET /
         GET / {if-none-match: \"a\"} -> 404 HIT");
    // What just arrived is compared as well.
    run("origin 200 {cache-control: max-age=60 | etag: \"a\"}
         GET / {if-none-match: \"a\"} -> 304 MISS
         saw GET {!if-none-match}
         GET / -> 200 HIT body=1");
}

#[test]
fn section_4_3_3_a_full_response_replaces_what_was_stored() {
    run("origin 200 {cache-control: max-age=1 | etag: \"a\"}
         GET /
         wait 2
         origin 200 {cache-control: max-age=60 | etag: \"b\"}
         GET / -> 200 EXPIRED body=2
         GET / -> HIT body=2");
    // One that may not be stored removes it.
    run("origin 200 {cache-control: max-age=1, stale-while-revalidate=600 | etag: \"a\"}
         GET /
         wait 2
         origin 200 {cache-control: no-store}
         GET / -> UPDATING body=1
         origin 200
         GET / -> MISS body=3");
}

#[test]
fn what_is_said_to_one_client_outdates_nothing() {
    each(
        &["401", "403", "429", "200 {set-cookie: a=b}", "500"],
        "origin 200 {cache-control: max-age=60, stale-if-error=0 | etag: \"a\"}
         GET /
         wait 70
         origin SPELLING
         GET / -> EXPIRED body=2
         origin 304
         GET / -> REVALIDATED body=1",
    );
}

#[test]
fn section_4_3_4_a_304_freshens_only_what_it_confirms() {
    each(
        &["etag: \"b\"", "etag: W/\"b\"", "last-modified: @-5"],
        "origin 200 {cache-control: max-age=1 | etag: \"a\"}
         GET /
         wait 2
         origin 304 {SPELLING}
         origin 200 {cache-control: max-age=60}
         GET / -> 200 body=3
         saw GET {!if-none-match}
         GET / -> HIT body=3",
    );
    each(
        &["x: y", "etag: \"a\"", "etag: W/\"a\""],
        "origin 200 {cache-control: max-age=1 | etag: \"a\"}
         GET /
         wait 2
         origin 304 {SPELLING | cache-control: max-age=9}
         GET / -> 200 REVALIDATED body=1 age=-
         wait 8
         GET / -> HIT age=8",
    );
    // Of the right variant.
    run("origin 200 {cache-control: max-age=1 | etag: \"a\" | vary: foo}
         GET / {foo: 1} -> body=1
         origin 200 {cache-control: max-age=1 | etag: \"b\" | vary: foo}
         GET / {foo: 2} -> body=2
         wait 2
         origin 304 {etag: \"a\" | cache-control: max-age=60 | x: new}
         GET / {foo: 1} -> REVALIDATED body=1 {x: new}
         saw GET {if-none-match: \"a\"}
         origin 304 {etag: \"b\"}
         GET / {foo: 2} -> REVALIDATED body=2 {!x}
         saw GET {if-none-match: \"b\"}");
}

#[test]
fn section_4_3_5_head_freshens_or_outdates() {
    run("origin 200 {cache-control: max-age=10 | etag: \"a\" | content-length: 1}
         GET / -> body=1
         HEAD / -> 200 HIT {etag: \"a\" | content-length: 1}
         wait 20
         origin 200 {cache-control: max-age=60 | etag: \"a\" | content-length: 1 | x: new}
         HEAD / -> 200 REVALIDATED {x: new}
         saw HEAD {!if-none-match}
         GET / -> HIT body=1 {x: new}");
    each(
        &["etag: \"b\"", "etag: \"a\" | content-length: 2", "last-modified: @-5"],
        "origin 200 {cache-control: max-age=10 | etag: \"a\" | content-length: 1}
         GET / -> body=1
         wait 20
         origin 200 {cache-control: max-age=60 | SPELLING}
         HEAD / -> 200
         origin 200 {cache-control: max-age=60}
         GET / -> MISS body=3",
    );
    run("origin 200 {cache-control: max-age=60}
         HEAD / -> 200 MISS
         saw HEAD
         origin 200 {cache-control: max-age=60}
         GET / -> MISS body=2");
}

#[test]
fn if_match_is_for_the_origin() {
    run("origin 200 {cache-control: max-age=60 | etag: \"a\"}
         GET /
         origin 412
         GET / {if-match: \"b\" | if-none-match: \"c\"} -> 412 BYPASS
         saw GET {if-match: \"b\" | if-none-match: \"c\"}
         GET / -> HIT body=1");
}

// ---- RFC 9111 §4.4: invalidation ----

#[test]
fn section_4_4_successful_unsafe_requests_invalidate() {
    each(
        &["POST", "PUT", "DELETE", "PATCH", "FROBNICATE"],
        "origin 200 {cache-control: max-age=60}
         GET /x
         origin 200 {cache-control: max-age=60}
         GET /y
         origin 204 {location: /y}
         SPELLING /x -> 204 BYPASS
         saw SPELLING
         origin 200
         GET /x -> MISS body=4
         origin 200
         GET /y -> MISS body=5",
    );
    each(
        &["POST", "FROBNICATE"],
        "origin 200 {cache-control: max-age=60}
         GET /x
         origin 500 {content-location: /x}
         SPELLING /x -> 500
         GET /x -> HIT body=1",
    );
    each(
        &["content-location: http://a.test/y", "location: y", "content-location: //a.test:80/y?"],
        "origin 200 {cache-control: max-age=60}
         GET /z
         origin 201 {SPELLING}
         POST /x
         GET /z -> HIT",
    );
    each(
        &["http://b.test/y", "https://a.test/y", "http://a.test:8080/y"],
        "origin 200 {cache-control: max-age=60}
         GET /y
         origin 201 {location: SPELLING}
         POST /x
         GET /y -> HIT",
    );
}

#[test]
fn section_9_3_3_of_rfc_9110_a_post_may_answer_later_gets() {
    run("origin 200 {cache-control: max-age=60 | content-location: /x}
         POST /x -> 200 BYPASS body=1
         GET /x -> HIT body=1
         origin 200
         POST /x -> body=2");
    each(
        &[
            "cache-control: max-age=60",
            "content-location: /x | etag: \"a\"",
            "cache-control: max-age=60 | content-location: /y",
        ],
        "origin 200 {SPELLING}
         POST /x
         origin 200
         GET /x -> MISS body=2",
    );
}

// ---- RFC 9111 §5.2.1: request directives ----

#[test]
fn section_5_2_1_what_clients_may_wish() {
    let fresh = "origin 200 {cache-control: max-age=60 | etag: \"a\"}
                 GET /
                 wait 30
                 ";
    for wish in [
        "max-age=10",
        "max-age=0",
        "min-fresh=31",
        "no-cache",
        "No-Cache, max-stale",
        "max-age=29, max-stale",
    ] {
        run(&format!(
            "{fresh}origin 304
             GET / {{cache-control: {wish}}} -> 200 REVALIDATED body=1 age=- {{cache-status: Nearside; fwd=request; fwd-status=304}}"
        ));
        run(&format!("{fresh}GET / {{cache-control: {wish}, only-if-cached}} -> 504"));
    }
    for wish in ["max-age=30", "min-fresh=30", "only-if-cached", "max-stale=0", "foo", "no-cach"] {
        run(&format!("{fresh}GET / {{cache-control: {wish}}} -> HIT age=30"));
    }
    run(&format!("{fresh}origin 304\nGET / {{pragma: no-cache}} -> REVALIDATED"));
    run(&format!("{fresh}GET / {{pragma: no-cache | cache-control: max-age=100}} -> HIT"));
    run("GET / {cache-control: only-if-cached} -> 504
         fetches 0");
}

#[test]
fn section_5_2_1_2_max_stale() {
    let stale = |directives: &str| {
        format!(
            "origin 200 {{cache-control: max-age=10{directives} | etag: \"a\"}}
             GET /
             wait 30
             "
        )
    };
    for wish in ["max-stale", "max-stale=20", "max-stale=1000, max-age=30"] {
        run(&format!("{}GET / {{cache-control: {wish}}} -> STALE age=30", stale("")));
    }
    for wish in
        ["max-stale=19", "max-stale=x", "max-stale=-1", "max-stale, max-age=29", "max-stale, min-fresh=1"]
    {
        run(&format!("{}origin 304\nGET / {{cache-control: {wish}}} -> REVALIDATED", stale("")));
    }
    for never in [", must-revalidate", ", proxy-revalidate", ", s-maxage=10", ", no-cache"] {
        run(&format!("{}origin 304\nGET / {{cache-control: max-stale}} -> REVALIDATED", stale(never)));
    }
}

// ---- RFC 9111 §5.2.2: response directives ----

#[test]
fn section_5_2_2_4_no_cache_is_stored_and_validated_every_time() {
    each(
        &[
            "no-cache",
            "max-age=60, No-Cache",
            "no-cache, s-maxage=60",
            "no-cache=\"\"",
            "no-cache=\"vary\"",
            "max-age=60, no-cache=\"a b\"",
        ],
        "origin 200 {cache-control: SPELLING | etag: \"a\"}
         GET / -> body=1
         origin 304
         GET / -> REVALIDATED body=1
         saw GET {if-none-match: \"a\"}
         origin 304
         GET / -> REVALIDATED body=1",
    );
    run(
        "origin 200 {cache-control: max-age=60, no-cache=\"x-one, X-Two\" | x-one: 1 | x-two: 2 | x-three: 3}
         GET / -> {x-one: 1 | x-two: 2}
         GET / -> HIT {!x-one | !x-two | x-three: 3}",
    );
}

#[test]
fn section_5_2_2_3_must_understand_overrules_no_store_for_known_statuses() {
    run("origin 200 {cache-control: must-understand, no-store, max-age=60}
         GET /
         GET / -> HIT");
    each(
        &[
            "599 {cache-control: must-understand, no-store, max-age=60}",
            "299 {cache-control: max-age=60, must-understand}",
        ],
        "origin SPELLING
         GET /
         origin 200
         GET / -> MISS",
    );
}

#[test]
fn section_5_2_2_10_s_maxage_forbids_stale() {
    each(
        &["must-revalidate, max-age=1", "proxy-revalidate, max-age=1", "s-maxage=1", "no-cache"],
        "origin 200 {cache-control: SPELLING, stale-if-error=60, stale-while-revalidate=60 | etag: \"a\"}
         GET /
         wait 2
         origin 500
         GET / -> 500 EXPIRED
         origin down
         GET / -> 504",
    );
}

#[test]
fn rfc_8246_immutable_spares_the_reload() {
    run("origin 200 {cache-control: max-age=60, immutable | etag: \"a\"}
         GET /
         GET / {cache-control: max-age=0} -> HIT
         origin 304
         GET / {cache-control: no-cache} -> REVALIDATED
         wait 60
         origin 304
         GET / {cache-control: max-age=0} -> REVALIDATED");
}

// ---- RFC 5861, RFC 9111 §4.2.4: stale ----

#[test]
fn rfc_5861_section_3_stale_while_revalidate() {
    run("origin 200 {cache-control: max-age=10, stale-while-revalidate=20 | etag: \"a\"}
         GET / -> body=1
         wait 20
         origin 200 {cache-control: max-age=10, stale-while-revalidate=20}
         GET / -> 200 UPDATING body=1 age=20 {cache-status: Nearside; hit; ttl=-10 | !warning}
         saw GET {if-none-match: \"a\"}
         GET / -> HIT body=2 age=0
         wait 30
         origin 200
         GET / -> EXPIRED body=3");
}

#[test]
fn rfc_5861_section_4_stale_if_error() {
    each(
        &["origin 500", "origin 502", "origin 503", "origin 504", "origin down", "origin timeout"],
        "origin 200 {cache-control: max-age=10, stale-if-error=20 | etag: \"a\"}
         GET / -> body=1
         wait 20
         SPELLING
         GET / -> 200 STALE body=1 age=20 {!warning}
         wait 9
         SPELLING
         GET / -> STALE body=1 age=29",
    );
    each(
        &["404", "403", "501", "505"],
        "origin 200 {cache-control: max-age=10, stale-if-error=20}
         GET /
         wait 20
         origin SPELLING
         GET / -> SPELLING",
    );
    run("origin 200 {cache-control: max-age=10, stale-if-error=20 | etag: \"a\"}
         GET /
         wait 30
         origin 503
         GET / -> 503
         origin down
         GET / -> 504
         origin 304
         GET / -> REVALIDATED body=1");
    run("origin 200 {cache-control: max-age=10 | etag: \"a\"}
         GET /
         wait 20
         origin down
         GET / {cache-control: stale-if-error=30} -> STALE age=20
         origin 503
         GET / {cache-control: stale-if-error=30} -> STALE age=20
         origin 503
         GET / -> 503");
    run("origin down
         GET / -> 502
         origin timeout
         GET / -> 504");
}

#[test]
fn section_4_2_4_disconnected() {
    run("origin 200 {cache-control: max-age=10 | etag: \"a\"}
         GET /
         wait 20
         origin down
         GET / -> STALE body=1 age=20
         origin timeout
         GET / -> STALE body=1 age=20
         origin 503
         GET / -> 503
         wait 600000
         origin down
         GET / -> STALE body=1
         wait 4800
         origin down
         GET / -> 504");
}

#[test]
fn a_soft_purge_is_stale_at_once_and_still_useful() {
    run("origin 200 {cache-control: max-age=60, stale-if-error=20 | etag: \"a\"}
         GET /
         purge /
         origin down
         GET / -> STALE body=1
         origin 304 {cache-control: max-age=60}
         GET / -> REVALIDATED body=1
         GET / -> HIT");
}

// ---- A site's rules ----

#[test]
fn a_sites_rules_for_paths_statuses_cookies_and_headers() {
    let rule = |path: &str, status: u16, secs: u64| CacheRule {
        path: Some(path.into()),
        statuses: vec![status],
        ttl: Some(Duration::from_secs(secs)),
        ..CacheRule::default()
    };
    let rules = Rules::from(&SiteCache {
        negative_ttl: Some(Duration::from_secs(5)),
        bypass_cookies: vec!["session".into()],
        key_headers: vec!["accept-language".into()],
        rules: vec![rule("/long/", 200, 100), rule("/", 503, 2)],
        ..SiteCache::default()
    });
    let run = |script: &str| run_with(rules.clone(), script);
    run("origin 404
         GET /x -> 404 MISS
         wait 4
         GET /x -> 404 HIT
         wait 1
         origin 404
         GET /x -> 404 body=2");
    run("origin 200 {cache-control: max-age=1}
         GET /long/x
         wait 99
         GET /long/x -> HIT age=99");
    run("origin 200 {cache-control: private, max-age=1}
         GET /long/x
         origin 200 {cache-control: no-cache | etag: \"a\"}
         GET /long/x -> MISS body=2
         origin 304
         GET /long/x -> REVALIDATED body=2");
    run("origin 503
         GET / -> 503 MISS
         wait 1
         GET / -> 503 HIT
         wait 1
         origin 200
         GET / -> 200");
    run("origin 200 {cache-control: max-age=60}
         GET / -> MISS
         origin 200 {cache-control: max-age=60}
         GET / {cookie: a=b; session=1} -> BYPASS body=2
         GET / {cookie: a=b} -> HIT body=1");
    run("origin 200 {cache-control: max-age=60}
         GET / {accept-language: de} -> MISS body=1
         origin 200 {cache-control: max-age=60}
         GET / {accept-language: en} -> MISS body=2
         GET / {accept-language: de} -> HIT body=1");
}

#[test]
fn a_sites_rules_speak_where_the_origin_is_silent() {
    let rules = Rules {
        default_ttl: Some(Duration::from_secs(30)),
        stale_while_revalidate: Duration::from_secs(10),
        stale_if_error: Duration::from_secs(100),
        ..Rules::default()
    };
    run_with(
        rules.clone(),
        "origin 200
         GET / -> body=1
         wait 29
         GET / -> HIT age=29
         wait 2
         origin down
         GET / -> UPDATING body=1
         wait 60
         origin 503
         GET / -> STALE body=1",
    );
    for silent in ["no-store", "private", "no-cache", "max-age=0", "max-age=x", "s-maxage=0"] {
        run_with(
            rules.clone(),
            &format!(
                "origin 200 {{cache-control: {silent}, stale-while-revalidate=0, stale-if-error=0}}
                 GET /
                 origin 200
                 GET / -> body=2"
            ),
        );
    }
    run_with(rules, "origin 500\nGET / -> 500\norigin 500\nGET / -> 500 body=2");
}
