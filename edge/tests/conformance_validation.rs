//! RFC 9110 section 13 and RFC 9111 section 4.3: conditions from clients, and conditions of our own.

mod conformance;

use conformance::Bench;

#[test]
fn clients_conditions_are_answered_from_the_store() {
    let bench = Bench::with("");
    let with_tag = [
        ("\"a\"", true),
        ("W/\"a\"", true),
        ("*", true),
        ("\"b\", \"a\"", true),
        ("\"b\" ,W/\"a\",\"c\"", true),
        ("\"b\" | If-None-Match: \"a\"", true),
        ("\"b\"", false),
        ("a", false),
        ("\"A\"", false),
        ("\"a", false),
    ];
    bench.run_all(with_tag.iter().flat_map(|(tags, same)| {
        let wanted = if *same { "304 | @body" } else { "#1" };
        ["\"a\"", "W/\"a\""].map(|stored| {
            format!(
                "GET -> 200 | Cache-Control: max-age=3600 | ETag: {stored} => #1 | ETag: {stored}\n\
                 GET | If-None-Match: {tags} => {wanted} | ETag: {stored} | Age"
            )
        })
    }));
    bench.run(
        "
        # an entity tag that is none is compared as it is
        GET -> 200 | Cache-Control: max-age=3600 | ETag: abc => #1
        GET | If-None-Match: abc => 304

        GET -> 200 | Cache-Control: max-age=3600 | ETag: \"a, b\" => #1
        GET | If-None-Match: \"a, b\" => 304

        GET -> 200 | Cache-Control: max-age=3600 | Last-Modified: {now-1000} => #1
        GET | If-Modified-Since: {now-1000} => 304 | Last-Modified
        GET | If-Modified-Since: {now-500} => 304
        GET | If-Modified-Since: {now-2000} => #1
        GET | If-Modified-Since: rubbish => #1
        GET | If-None-Match: \"x\" => #1

        # If-None-Match has precedence
        GET -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" | Last-Modified: {now-1000} => #1
        GET | If-None-Match: \"b\" | If-Modified-Since: {now} => #1
        GET | If-None-Match: \"a\" | If-Modified-Since: {now-5000} => 304

        # without Last-Modified, Date is compared
        GET -> 200 | Cache-Control: max-age=3600 | Date: {now-1000} => #1
        GET | If-Modified-Since: {now} => 304
        GET | If-Modified-Since: {now-3000} => #1

        # conditions count where the answer would be a success
        GET -> 404 | Cache-Control: max-age=3600 | ETag: \"a\" => #1
        GET | If-None-Match: \"a\" => 404 | #1

        HEAD -> 200 => 200
        GET -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" => #2
        HEAD | If-None-Match: \"a\" => 304
        ",
    );
}

/// RFC 9110 section 15.4.5: the fields a 304 must have, and nothing of the content it does not carry.
#[test]
fn fields_of_a_304() {
    Bench::with("").run(
        "
        GET -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" | Expires: {now+100} | Vary: Foo | Content-Location: {base} | Date: {now-5} | Content-Type: text/plain | X-Other: 1 => #1
        GET | If-None-Match: \"a\" => 304 | Cache-Control: max-age=3600 | ETag: \"a\" | Expires | Vary: Foo | Content-Location: {base} | Date | Age >= 5 | !Content-Length | !Content-Type
        ",
    );
}

#[test]
fn conditions_on_a_miss_ask_for_the_whole() {
    Bench::with("").run(
        "
        GET | If-None-Match: \"a\" -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" => 304 | saw !If-None-Match
        GET => #1

        GET | If-None-Match: \"b\" -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" => #1

        GET | If-Modified-Since: {now} -> 200 | Cache-Control: max-age=3600 | Last-Modified: {now-1000} => 304
        GET => #1
        ",
    );
}

#[test]
fn a_stale_response_is_validated_with_all_its_validators() {
    Bench::with("").run(
        "
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 | ETag: \"a\" => 200 | #1 | saw If-None-Match: \"a\" | saw !If-Modified-Since
        GET => #1

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: W/\"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 => 200 | #1 | saw If-None-Match: W/\"a\"
        GET => #1

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | Last-Modified: Thu, 18 Aug 2005 02:01:18 GMT => #1
        GET -> 304 | Cache-Control: max-age=3600 => 200 | #1 | saw If-Modified-Since: Thu, 18 Aug 2005 02:01:18 GMT | saw !If-None-Match
        GET => #1

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | Last-Modified: Thu, 18 Aug 2005 02:01:18 GMT => #1
        GET -> 304 | Cache-Control: max-age=3600 => 200 | #1 | saw If-None-Match: \"a\" | saw If-Modified-Since: Thu, 18 Aug 2005 02:01:18 GMT

        # no-cache is validated each time, fresh or not
        GET -> 200 | Cache-Control: no-cache, max-age=3600 | ETag: \"a\" => #1
        GET -> 304 => 200 | #1 | saw If-None-Match: \"a\"
        GET -> 304 => 200 | #1 | saw If-None-Match: \"a\"

        # a client that insists
        GET -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" => #1
        GET | Cache-Control: no-cache -> 304 => 200 | #1 | saw If-None-Match: \"a\"
        GET | Cache-Control: max-age=0 -> 304 => 200 | #1 | saw If-None-Match: \"a\"
        GET | Pragma: no-cache -> 304 => 200 | #1 | saw If-None-Match: \"a\"

        # the client's own conditions give way to ours, and are answered by the outcome
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET | If-None-Match: \"a\" -> 304 | Cache-Control: max-age=60 | Age: 100 => 304 | saw If-None-Match: \"a\"
        GET | If-None-Match: \"b\" -> 304 | Cache-Control: max-age=3600 => 200 | #1 | saw If-None-Match: \"a\"

        # what the origin has instead replaces what is stored
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | X-Old: 1 => #1
        GET -> 200 | Cache-Control: max-age=3600 | ETag: \"b\" => #2 | !X-Old
        GET => #2 | ETag: \"b\" | !X-Old

        # a 304 about something else confirms nothing
        GET -> 200 | Cache-Control: no-store => #1
        GET -> 304 => 304

        # statuses other than 200 have validators too
        GET -> 404 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 => 404 | #1
        GET => 404 | #1
        ",
    );
}

/// RFC 9111 section 3.2.
#[test]
fn a_304_updates_what_is_stored() {
    Bench::with("").run(
        "
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | X-A: 1 | X-B: 1 | X-B: 2 | X-C: 1 | Content-Type: text/plain => #1
        GET -> 304 | Cache-Control: max-age=3600 | ETag: \"a\" | X-A: 2 | X-B: 3 | X-D: 1 => 200 | #1 | X-A: 2 | X-B: 3 | X-C: 1 | X-D: 1 | Content-Type: text/plain
        GET => #1 | X-A: 2 | X-B: 3 | X-C: 1 | X-D: 1 | Cache-Control: max-age=3600

        # several lines replace one
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | X-A: 1 => #1
        GET -> 304 | Cache-Control: max-age=3600 | X-A: 2 | X-A: 3 => 200 | X-A: 2, 3
        GET => #1 | X-A: 2, 3

        # not the framing of the content that is kept
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | @body content => @body content
        GET -> 304 | Cache-Control: max-age=3600 | Content-Length: 3 | Content-Range: bytes 0-2/3 => 200 | @body content | Content-Length: 7 | !Content-Range
        GET => @body content | Content-Length: 7 | !Content-Range

        # nor what belongs to the connection
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 | Connection: X-Hop | X-Hop: 1 | Keep-Alive: timeout=1 => 200 | #1 | !X-Hop | !Keep-Alive
        GET => #1 | !X-Hop | !Keep-Alive

        # Expires and Date are new, the age starts again
        GET -> 200 | Expires: {now-100} | Date: {now-200} | Last-Modified: {now-3000} => #1
        GET -> 304 | Expires: {now+100} => 200 | #1
        GET => #1 | Age >= 0

        # an Age in the 304 counts
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 | Age: 50 => 200 | #1
        GET => #1 | Age >= 50

        # a weak tag may follow a strong one
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 | ETag: W/\"a\" => 200 | #1
        GET => #1

        # what the 304 forbids from now on is no longer stored
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: no-store | ETag: \"a\" => 200 | #1
        GET -> 200 => #3 | saw !If-None-Match

        # the old lifetime counts again where the 304 brings none
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | ETag: \"a\" => 200 | #1
        GET => #1

        # the client that asked gets the cookie, nobody else
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 | Set-Cookie: a=1 => 200 | #1 | Set-Cookie: a=1
        GET => #1 | !Set-Cookie
        ",
    );
}

/// RFC 9111 section 4.3.5.
#[test]
fn head_and_get() {
    Bench::with("").run(
        "
        GET -> 200 | Cache-Control: max-age=3600 | X-A: 1 => #1
        HEAD => 200 | X-A: 1 | Age | Content-Length

        # a HEAD that agrees freshens
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | X-A: 1 | @body content => @body content
        HEAD -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" | X-A: 2 | Content-Length: 7 => 200 | X-A: 2 | saw @method HEAD | saw !If-None-Match
        GET => @body content | X-A: 2

        # one that does not, by tag, date or length, outdates
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | @body content => @body content
        HEAD -> 200 | Cache-Control: max-age=3600 | ETag: \"b\" | Content-Length: 7 => 200
        GET -> 200 => #3 | saw !If-None-Match

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | Last-Modified: {now-5000} | @body content => @body content
        HEAD -> 200 | Cache-Control: max-age=3600 | Last-Modified: {now-100} | Content-Length: 7 => 200
        GET -> 200 => #3 | saw !If-Modified-Since

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | @body content => @body content
        HEAD -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" | Content-Length: 8 => 200
        GET -> 200 => #3

        # an answer to HEAD never answers GET
        HEAD -> 200 | Cache-Control: max-age=3600 => 200
        GET -> 200 | Cache-Control: max-age=3600 => #2
        HEAD => 200

        # even without its being fresh
        HEAD -> 200 | Cache-Control: max-age=3600, stale-if-error=1000 | Content-Length: 10 => 200
        GET -> 502 | @close => 502
        ",
    );
}

/// RFC 9111 section 4.3.3: a failed or strange answer to a validation.
#[test]
fn odd_answers_to_a_validation() {
    Bench::with("").run(
        "
        # a 304 about another representation confirms nothing: asked again, without conditions
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 304 | Cache-Control: max-age=3600 | ETag: \"b\" => 304 | saw !If-None-Match

        # an answer for one client alone leaves what is stored
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 403 | Cache-Control: no-store => #2
        GET -> 304 | Cache-Control: max-age=3600 => 200 | #1 | saw If-None-Match: \"a\"

        # something uncacheable in its place outdates it
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 200 | Cache-Control: no-store => #2
        GET -> 200 => #3 | saw !If-None-Match

        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        GET -> 404 => #2
        GET -> 200 => #3
        ",
    );
}

/// RFC 9110 section 9.3.2: an answer to HEAD answers other HEADs.
#[test]
fn answers_to_head_are_kept_for_head() {
    Bench::with("").run(
        "
        HEAD -> 200 | Cache-Control: max-age=3600 | X-A: 1 | Content-Length: 10 | ETag: \"a\" => 200 | X-A: 1 | Content-Length: 10 | !Age
        HEAD => 200 | X-A: 1 | Content-Length: 10 | Age
        HEAD | If-None-Match: \"a\" => 304 | !Content-Length
        HEAD | Range: bytes=0-1 => 200 | Content-Length: 10 | !Content-Range

        HEAD -> 404 | Cache-Control: max-age=3600 => 404
        HEAD => 404

        HEAD -> 200 | Last-Modified: {now-360000} => 200
        HEAD => 200

        HEAD -> 200 | Cache-Control: no-store => 200
        HEAD -> 200 => 200

        HEAD | Cache-Control: no-store -> 200 | Cache-Control: max-age=3600 => 200
        HEAD -> 200 => 200

        HEAD | Foo: 1 -> 200 | Cache-Control: max-age=3600 | Vary: Foo | X-A: 1 => 200
        HEAD | Foo: 2 -> 200 | Cache-Control: max-age=3600 | Vary: Foo | X-A: 2 => 200
        HEAD | Foo: 1 => 200 | X-A: 1
        HEAD | Foo: 2 => 200 | X-A: 2

        # a stale one is asked for anew; what comes takes its place
        HEAD -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | X-A: 1 => 200
        HEAD -> 200 | Cache-Control: max-age=3600 | ETag: \"b\" | X-A: 2 => 200 | X-A: 2 | saw !If-None-Match
        HEAD => 200 | X-A: 2

        HEAD -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | X-A: 1 => 200
        HEAD -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" | X-B: 2 => 200 | X-A: 1 | X-B: 2
        HEAD => 200 | X-A: 1 | X-B: 2

        # a GET brings the content, and then answers both
        HEAD -> 200 | Cache-Control: max-age=3600 | X-A: 1 => 200
        GET -> 200 | Cache-Control: max-age=3600 | X-A: 2 => #2
        HEAD => 200 | X-A: 2
        GET => #2

        # an unsafe method makes it untrue
        HEAD -> 200 | Cache-Control: max-age=3600 => 200
        POST -> 200 => 200
        HEAD -> 200 => 200

        # an error says nothing of a stored answer to GET
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" => #1
        HEAD -> 404 | Cache-Control: max-age=3600 => 404
        GET -> 304 | Cache-Control: max-age=3600 => 200 | #1 | saw If-None-Match: \"a\"
        ",
    );
}

/// RFC 9110 section 13.1: conditions in odd spellings.
#[test]
fn odd_conditions() {
    let matching = [
        "*",
        "\"a\"",
        "W/\"a\"",
        "\"b\", \"a\"",
        "\"b\",\"a\"",
        " \"a\" ,",
        ",,\"a\"",
        "\"b, c\" , \"a\"",
        "\"\",\"a\"",
    ];
    let other = ["a", "\"A\"", "\"a", "a\"", "'a'", "w/\"a\"", "\"a \"", "\"*\"", "", "\"aa\""];
    let bench = Bench::with("");
    let store = "GET -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" | Last-Modified: {now-1000} => #1";
    bench.run_all(matching.map(|tags| format!("{store}\nGET | If-None-Match: {tags} => 304")));
    bench.run_all(other.map(|tags| {
        format!("{store}\nGET | If-None-Match: {tags} => #1\nGET | If-None-Match: {tags} | If-Modified-Since: {{now}} => #1")
    }));
    // Read as dates are, or not at all.
    let dates = [
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "sun, 06 nov 1994 08:49:37 gmt",
        "Thu, 18 Aug 2050 02:01:18 GMT",
    ];
    let odd = [
        "0",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 EST",
        "784111777",
        "Sun, 06 Nov 1994 08:49:37 GMT; length=5",
        "Sun, 06 Nov 1994 08:49:37 GMT | If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    ];
    let store =
        "GET -> 200 | Cache-Control: max-age=3600 | Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT => #1";
    bench.run_all(dates.map(|date| format!("{store}\nGET | If-Modified-Since: {date} => 304")));
    bench.run_all(odd.map(|date| format!("{store}\nGET | If-Modified-Since: {date} => #1")));
    // An entity tag that is none is compared as it is, and proves nothing about bytes.
    bench.run(
        "
        GET -> 200 | Cache-Control: max-age=3600 | ETag: a | @body 0123 => @body 0123
        GET | If-None-Match: a => 304
        GET | Range: bytes=0-1 | If-Range: a => @body 0123

        # one second earlier than what is stored
        GET -> 200 | Cache-Control: max-age=3600 | Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT => #1
        GET | If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT => #1

        # not a cache's to judge
        GET -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" => #1
        GET | If-Match: \"b\" -> 412 => 412 | saw If-Match: \"b\"
        GET | If-Unmodified-Since: {now-5000} -> 412 => 412 | saw If-Unmodified-Since
        GET => #1
        ",
    );
}

/// RFC 9111 section 3.2: fields about the content are updated too, the length is not.
#[test]
fn a_304_updates_fields_about_the_content() {
    let fields = [
        "Content-Type: text/b",
        "Content-Encoding: b",
        "Content-Language: b",
        "Content-Location: /b",
        "ETag: \"a\"",
        "Vary: B",
        "Content-Disposition: b",
        "Link: b",
        "Server: b",
        "Clear-Site-Data: \"b\"",
        "Content-Security-Policy: b",
        "Expires: {now+5000}",
    ];
    Bench::with("").run_all(fields.map(|field| {
        let name = field.split(':').next().unwrap();
        let before = match name {
            "ETag" | "Vary" | "Expires" => "X-Y: z".to_owned(),
            name => format!("{name}: a"),
        };
        let field = if name == "Expires" { "Expires ~ GMT" } else { field };
        let sent = if name == "Expires" { "Expires: {now+5000}" } else { field };
        format!(
            "GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | {before} => #1\n\
             GET -> 304 | Cache-Control: max-age=3600 | {sent} => 200 | #1 | {field}\n\
             GET => #1 | {field}"
        )
    }));
}
