//! RFC 9110 section 14 and RFC 9111 section 3.3: parts of a representation.

mod conformance;

use conformance::Bench;

#[test]
fn parts_of_a_stored_whole() {
    Bench::with("").run(
        "
        GET -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" | Last-Modified: {now-5000} | @body 0123456789 => @body 0123456789
        GET | Range: bytes=2-4 => 206 | @body 234 | Content-Range: bytes 2-4/10 | Content-Length: 3 | ETag: \"a\" | Age
        GET | Range: bytes=7- => 206 | @body 789 | Content-Range: bytes 7-9/10
        GET | Range: bytes=-2 => 206 | @body 89 | Content-Range: bytes 8-9/10
        GET | Range: bytes=-20 => 206 | @body 0123456789 | Content-Range: bytes 0-9/10
        GET | Range: bytes=0-0 => 206 | @body 0
        GET | Range: bytes=8-100 => 206 | @body 89 | Content-Range: bytes 8-9/10
        GET | Range: BYTES=2-4 => 206 | @body 234
        GET | Range: bytes=10- => 416 | Content-Range: bytes */10
        GET | Range: bytes=-0 => 416 | Content-Range: bytes */10
        GET | Range: bytes=4-2 => @body 0123456789
        GET | Range: bytes=a-b => @body 0123456789
        GET | Range: items=0-1 => @body 0123456789
        GET | Range: bytes=2-4 | If-Range: \"a\" => 206 | @body 234
        GET | Range: bytes=2-4 | If-Range: \"b\" => @body 0123456789
        GET | Range: bytes=2-4 | If-Range: W/\"a\" => @body 0123456789
        GET | Range: bytes=2-4 | If-Range: {now} => @body 0123456789
        GET | Range: bytes=2-4 | If-None-Match: \"a\" => 304
        HEAD | Range: bytes=2-4 => 200 | Content-Length: 10
        GET => @body 0123456789 | !Content-Range

        # what ignores Range is whole, stored whole and cut here
        GET | Range: bytes=2-4 -> 200 | Cache-Control: max-age=3600 | @body 0123456789 => 206 | @body 234
        GET => @body 0123456789
        ",
    );
}

#[test]
fn a_stored_part_answers_ranges_within() {
    Bench::with("").run(
        "
        GET | Range: bytes=2-6 -> 206 | Cache-Control: max-age=3600 | ETag: \"a\" | Content-Range: bytes 2-6/10 | @body 23456 => 206 | @body 23456 | saw Range | Content-Range: bytes 2-6/10
        GET | Range: bytes=2-6 => 206 | @body 23456 | Content-Range: bytes 2-6/10 | Content-Length: 5 | Age
        GET | Range: bytes=3-4 => 206 | @body 34 | Content-Range: bytes 3-4/10 | Content-Length: 2
        GET | Range: bytes=1-4 -> 206 | Cache-Control: max-age=3600 | Content-Range: bytes 1-4/10 | @body 1234 => 206 | @body 1234

        # never the whole
        GET | Range: bytes=2-6 -> 206 | Cache-Control: max-age=3600 | ETag: \"a\" | Content-Range: bytes 2-6/10 | @body 23456 => 206
        GET -> 200 | Cache-Control: max-age=3600 | @body 0123456789 => @body 0123456789
        GET | Range: bytes=0-1 => 206 | @body 01

        GET | Range: bytes=5-9 -> 206 | Cache-Control: max-age=3600 | Content-Range: bytes 5-9/10 | @body 56789 => 206
        GET | Range: bytes=-2 => 206 | @body 89

        # a part that lies about itself, or that nobody asked for
        GET | Range: bytes=2-6 -> 206 | Cache-Control: max-age=3600 | @body 23456 => 206
        GET | Range: bytes=2-6 -> 200 => 200 | #2

        GET -> 206 | Cache-Control: max-age=3600 | Content-Range: bytes 2-6/10 | @body 23456 => 206
        GET -> 200 => #2

        # without a lifetime it is not kept
        GET | Range: bytes=2-6 -> 206 | Content-Range: bytes 2-6/10 | @body 23456 => 206
        GET | Range: bytes=2-6 -> 200 | @body 0123456789 => 200 | @body 0123456789
        ",
    );
}

#[test]
fn parts_of_one_generation_make_a_whole() {
    Bench::with("").run(
        "
        GET | Range: bytes=0-4 -> 206 | Cache-Control: max-age=3600 | ETag: \"a\" | Content-Range: bytes 0-4/10 | @body 01234 => 206 | @body 01234
        GET | Range: bytes=5-9 -> 206 | Cache-Control: max-age=3600 | ETag: \"a\" | Content-Range: bytes 5-9/10 | @body 56789 => 206 | @body 56789
        GET | Range: bytes=3-6 => 206 | @body 3456
        GET => 200 | @body 0123456789 | Content-Length: 10 | !Content-Range

        # not with a weak validator, nor without, nor with another
        GET | Range: bytes=0-4 -> 206 | Cache-Control: max-age=3600 | ETag: W/\"a\" | Content-Range: bytes 0-4/10 | @body 01234 => 206
        GET | Range: bytes=5-9 -> 206 | Cache-Control: max-age=3600 | ETag: W/\"a\" | Content-Range: bytes 5-9/10 | @body 56789 => 206
        GET -> 200 => #3

        GET | Range: bytes=0-4 -> 206 | Cache-Control: max-age=3600 | Content-Range: bytes 0-4/10 | @body 01234 => 206
        GET | Range: bytes=5-9 -> 206 | Cache-Control: max-age=3600 | Content-Range: bytes 5-9/10 | @body 56789 => 206
        GET -> 200 => #3

        GET | Range: bytes=0-4 -> 206 | Cache-Control: max-age=3600 | ETag: \"a\" | Content-Range: bytes 0-4/10 | @body 01234 => 206
        GET | Range: bytes=5-9 -> 206 | Cache-Control: max-age=3600 | ETag: \"b\" | Content-Range: bytes 5-9/10 | @body 56789 => 206
        GET -> 200 => #3
        ",
    );
}

/// RFC 9110 section 15.3.7.2: several ranges, of what is stored and of what is not.
#[test]
fn several_ranges() {
    let body = "0123456789".repeat(40);
    let bench = Bench::with("");
    bench.run_all([
        format!(
            "GET -> 200 | Cache-Control: max-age=3600 | Content-Type: text/x | @body {body} => @body {body}\n\
             GET | Range: bytes=0-1,200-202 => 206 | Content-Type ~ multipart/byteranges; boundary= | !Content-Range\n\
             GET | Range: bytes=0-1,500- => 206 | @body 01 | Content-Range: bytes 0-1/400 | Content-Type: text/x\n\
             GET | Range: bytes=500-,600- => 416 | Content-Range: bytes */400\n\
             GET | Range: bytes=0-1, 4-5 , ,-1 => 206 | Content-Type ~ multipart/byteranges"
        ),
        // The chunk around the first has the others too.
        format!(
            "GET | Range: bytes=0-1,200-202 -> 206 | Cache-Control: max-age=3600 | ETag: \"a\" | Content-Range: bytes 0-399/400 | @body {body} \
                 => 206 | Content-Type ~ multipart/byteranges | saw Range: bytes=0-1048575\n\
             GET => 200 | @body {body}\n\
             GET | Range: bytes=-2,0-0 => 206 | Content-Type ~ multipart/byteranges"
        ),
        // What can't be kept is asked for as the client asks for it.
        format!(
            "GET | Range: bytes=0-1,200-202 -> 206 | Cache-Control: max-age=3600 | ETag: W/\"a\" | Content-Range: bytes 0-399/400 | @body {body} \
                 => 206 | saw Range: bytes=0-1,200-202 | @body {body}"
        ),
        "GET | Range: bytes=0-1,200-202 -> 206 | Cache-Control: max-age=3600 | Content-Type: multipart/byteranges; boundary=x | @body x => 206 | @body x | Content-Type: multipart/byteranges; boundary=x\n\
         GET | Range: bytes=0-1,200-202 -> 200 | Cache-Control: max-age=3600 | @body 0123456789 => 206 | @body 01"
            .to_owned(),
    ]);
}

/// RFC 9110 sections 13.1.5 and 15.3.7.3: what makes two parts, or a part and a whole, the same.
#[test]
fn what_proves_the_same_bytes() {
    Bench::with("").run(
        "
        # a date that is a second old proves as much as a strong tag
        GET -> 200 | Cache-Control: max-age=3600 | Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT | @body 0123456789 => @body 0123456789
        GET | Range: bytes=0-1 | If-Range: Sun, 06 Nov 1994 08:49:37 GMT => 206 | @body 01
        GET | Range: bytes=0-1 | If-Range: Sunday, 06-Nov-94 08:49:37 GMT => 206 | @body 01
        GET | Range: bytes=0-1 | If-Range: Sun, 06 Nov 1994 08:49:38 GMT => @body 0123456789
        GET | Range: bytes=0-1 | If-Range: Sun, 06 Nov 1994 08:49:36 GMT => @body 0123456789
        GET | Range: bytes=0-1 | If-Range: x => @body 0123456789
        GET | If-Range: \"x\" => @body 0123456789

        # one of this very second does not
        GET -> 200 | Cache-Control: max-age=3600 | Date: {now} | Last-Modified: {now} | @body 0123456789 => @body 0123456789
        GET | Range: bytes=0-1 | If-Range: {now} => @body 0123456789

        # conditions before ranges
        GET -> 200 | Cache-Control: max-age=3600 | ETag: \"a\" | @body 0123456789 => @body 0123456789
        GET | Range: bytes=0-1 | If-None-Match: \"b\" => 206 | @body 01
        GET | Range: bytes=50- | If-None-Match: \"a\" => 304

        # a stale whole is validated before a part of it is served
        GET -> 200 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | @body 0123456789 => @body 0123456789
        GET | Range: bytes=0-1 -> 304 | Cache-Control: max-age=3600 => 206 | @body 01 | saw If-None-Match: \"a\" | saw !Range
        GET | Range: bytes=2-3 => 206 | @body 23

        # a stale part is asked for again, not combined with what is another generation
        GET | Range: bytes=0-4 -> 206 | Cache-Control: max-age=60 | Age: 100 | ETag: \"a\" | Content-Range: bytes 0-4/10 | @body 01234 => 206
        GET | Range: bytes=0-4 -> 206 | Cache-Control: max-age=3600 | ETag: \"b\" | Content-Range: bytes 0-4/10 | @body abcde => 206 | @body abcde
        GET | Range: bytes=0-1 => 206 | @body ab

        # only what was a success has parts
        GET -> 404 | Cache-Control: max-age=3600 | @body 0123456789 => 404 | @body 0123456789
        GET | Range: bytes=0-1 => 404 | @body 0123456789

        # 416 answers one range; it is not kept for others
        GET | Range: bytes=50- -> 416 | Cache-Control: max-age=3600 | Content-Range: bytes */10 => 416
        GET -> 200 | Cache-Control: max-age=3600 | @body 0123456789 => @body 0123456789

        # an empty whole
        GET -> 200 | Cache-Control: max-age=3600 | Content-Length: 0 | @body => 200 | Content-Length: 0
        GET | Range: bytes=0-1 => 416 | Content-Range: bytes */0
        ",
    );
}
