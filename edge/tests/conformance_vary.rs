//! RFC 9111 section 4.1: which of several responses answers a request.

mod conformance;

use conformance::Bench;

#[test]
fn variants() {
    Bench::with("").run(
        "
        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #1
        GET | Foo: 1 => #1
        GET | Foo: 2 -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #2
        GET | Foo: 1 => #1
        GET | Foo: 2 => #2
        GET -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #3
        GET => #3
        GET | Foo: 3 -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #4
        GET | Foo: 1 => #1
        GET | Foo: 2 => #2
        GET | Foo: 3 => #4
        GET => #3

        # a field that is absent is not one that is empty
        GET -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #1
        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #2

        # all of several
        GET | Foo: 1 | Bar: a -> 200 | Cache-Control: max-age=3600 | Vary: Foo, Bar => #1
        GET | Foo: 1 | Bar: a | Baz: x => #1
        GET | Foo: 1 | Bar: b -> 200 | Cache-Control: max-age=3600 | Vary: Foo, Bar => #2
        GET | Foo: 2 | Bar: a -> 200 | Cache-Control: max-age=3600 | Vary: Foo, Bar => #3
        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo, Bar => #4
        GET | Bar: a | Foo: 1 => #1
        GET | Foo: 2 | Bar: a => #3

        # on several lines
        GET | Foo: 1 | Bar: a -> 200 | Cache-Control: max-age=3600 | Vary: Foo | Vary: Bar => #1
        GET | Foo: 1 | Bar: b -> 200 => #2
        GET | Foo: 1 | Bar: a => #1

        # names are case-insensitive, values are not
        GET | FOO: a -> 200 | Cache-Control: max-age=3600 | Vary: fOO => #1
        GET | foo: a => #1
        GET | foo: A -> 200 => #2

        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: ,, Foo ,, => #1
        GET | Foo: 1 => #1
        GET | Foo: 2 -> 200 => #2

        # order matters where nothing says that it does not
        GET | Foo: a, b -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #1
        GET | Foo: a,b => #1
        GET | Foo:   a  ,  b => #1
        GET | Foo: a | Foo: b => #1
        GET | Foo: b, a -> 200 => #2

        # several Vary histories under one URL
        GET | Foo: 1 | Bar: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #1
        GET | Foo: 2 | Bar: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Bar, Foo => #2
        GET | Foo: 1 | Bar: 2 => #1
        GET | Foo: 2 | Bar: 1 => #2
        ",
    );
}

/// RFC 9111 section 4.1: a default response that forgets to say what it varies by.
#[test]
fn a_default_without_vary_comes_second() {
    Bench::with("").run(
        "
        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo | Date: {now-50} => #1
        GET | Foo: 2 -> 200 | Cache-Control: max-age=3600 => #2
        GET | Foo: 1 => #1
        GET | Foo: 3 => #2
        GET => #2
        ",
    );
}

#[test]
fn the_star_matches_nothing() {
    let stars = [
        "Vary: *",
        "Vary: *, Foo",
        "Vary: Foo, *",
        "Vary: Foo | Vary: *",
        "Vary: * | Vary: Foo",
        "Vary: Foo , *,",
    ];
    Bench::with("").run_all(stars.map(|vary| {
        format!("GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | {vary} => #1\nGET | Foo: 1 -> 200 => #2")
    }));
}

#[test]
fn preferences_of_one_meaning_are_one() {
    let same = [
        ("Accept-Encoding", "gzip, br", "br,gzip"),
        ("Accept-Encoding", "gzip", "GZIP"),
        ("Accept-Encoding", "gzip, br", "gzip , br"),
        ("Accept-Language", "en, de", "EN,de"),
        ("Accept-Language", "en, de;q=0.5", "de;q=0.5, en"),
        ("Accept-Language", "en", "  en  "),
    ];
    let different = [
        ("Accept-Encoding", "gzip", "br"),
        ("Accept-Encoding", "gzip, br", "gzip"),
        ("Accept-Language", "en, de", "de;q=0.9, en;q=0.8"),
        ("User-Agent", "A", "a"),
    ];
    let bench = Bench::with("");
    bench.run_all(same.map(|(name, one, other)| {
        format!(
            "GET | {name}: {one} -> 200 | Cache-Control: max-age=3600 | Vary: {name} => #1 | saw {name}: {one}\n\
             GET | {name}: {other} => #1"
        )
    }));
    bench.run_all(different.map(|(name, one, other)| {
        format!(
            "GET | {name}: {one} -> 200 | Cache-Control: max-age=3600 | Vary: {name} => #1\n\
             GET | {name}: {other} -> 200 => #2"
        )
    }));
}

/// An answer that is not stored says nothing of the variants that are.
#[test]
fn an_uncacheable_variant_leaves_the_others() {
    Bench::with("").run_all(["no-store", "private", "max-age=0"].map(|control| {
        format!(
            "GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #1\n\
             GET | Foo: 2 -> 200 | Cache-Control: {control} | Vary: Foo => #2\n\
             GET | Foo: 1 => #1\n\
             GET | Foo: 2 -> 200 | Cache-Control: max-age=3600 | Vary: Foo => #3\n\
             GET | Foo: 2 => #3"
        )
    }));
}

#[test]
fn variants_are_validated_each_by_itself() {
    Bench::with("").run(
        "
        GET | Foo: 1 -> 200 | Cache-Control: max-age=60 | Age: 100 | Vary: Foo | ETag: \"a\" => #1
        GET | Foo: 2 -> 200 | Cache-Control: max-age=60 | Age: 100 | Vary: Foo | ETag: \"b\" => #2
        GET | Foo: 1 -> 304 | Cache-Control: max-age=3600 | Vary: Foo | ETag: \"a\" => 200 | #1 | saw If-None-Match ~ \"a\"
        GET | Foo: 2 -> 304 | Cache-Control: max-age=3600 | Vary: Foo | ETag: \"b\" => 200 | #2 | saw If-None-Match ~ \"b\"
        GET | Foo: 1 => #1 | ETag: \"a\"
        GET | Foo: 2 => #2 | ETag: \"b\"
        ",
    );
}

/// RFC 9111 sections 4.1 and 4.3.1: the origin may choose one of the variants that are there.
#[test]
fn the_origin_may_choose_a_stored_variant() {
    Bench::with("").run(
        "
        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo | ETag: \"a\" => #1
        GET | Foo: 2 -> 200 | Cache-Control: max-age=3600 | Vary: Foo | ETag: \"b\" => #2 | saw If-None-Match: \"a\"
        GET | Foo: 3 -> 304 | Cache-Control: max-age=3600 | Vary: Foo | ETag: \"a\" | X-A: 1 => 200 | #1 | X-A: 1 | ETag: \"a\" | saw If-None-Match ~ \"a\" | saw If-None-Match ~ \"b\"
        GET | Foo: 3 => #1 | X-A: 1
        GET | Foo: 1 => #1 | !X-A
        GET | Foo: 2 => #2

        # the client's own condition is answered by what was chosen
        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo | ETag: \"a\" => #1
        GET | Foo: 2 | If-None-Match: \"a\" -> 304 | Cache-Control: max-age=3600 | Vary: Foo | ETag: \"a\" => 304
        GET | Foo: 2 => #1

        # a 304 that names none of them chooses none: asked again
        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo | ETag: \"a\" => #1
        GET | Foo: 2 -> 304 | ETag: \"x\" => 304 | saw !If-None-Match
        GET | Foo: 2 -> 304 => 304 | saw !If-None-Match

        # neither weak tags nor encoded content are offered
        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo | ETag: W/\"a\" => #1
        GET | Foo: 2 -> 200 | Vary: Foo => #2 | saw !If-None-Match

        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo | ETag: \"a\" | Content-Encoding: gzip => #1
        GET | Foo: 2 -> 200 | Vary: Foo => #2 | saw !If-None-Match

        # no-store in the 304 forbids the copy
        GET | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo | ETag: \"a\" => #1
        GET | Foo: 2 -> 304 | Cache-Control: no-store | ETag: \"a\" => 304 | saw !If-None-Match
        GET | Foo: 1 => #1
        ",
    );
}
