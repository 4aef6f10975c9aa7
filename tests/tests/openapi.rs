//! Holds `docs/openapi.json` and `docs/openapi-nodes.json` against programs that run: every answer is what they say.
//!
//! That tables and documents list the same endpoints is a unit test of each program.

use std::{collections::BTreeSet, fs, path::Path};

use nearside_tests::{curl, fleet::Fleet, schema};
use serde_json::Value;

/// One request: method, path with what stands for its braces, body, the status to come.
type Sample = (&'static str, &'static str, &'static str, &'static str, u16);

const CONTROLLER: &[Sample] = &[
    ("get", "/v1/openapi.json", "", "", 200),
    ("get", "/v1/status", "", "", 200),
    ("post", "/v1/publish", "", "", 200),
    ("post", "/v1/publish", "", r#"{"note": "test", "at_once": true}"#, 200),
    ("post", "/v1/publish", "", r#"{"waves": {"percents": [0]}}"#, 400),
    ("post", "/v1/publish", "", r#"{"waves": {"canary": ["xyz"]}}"#, 422),
    ("get", "/v1/history", "", "", 200),
    ("get", "/v1/history", "?count=0", "", 400),
    ("get", "/v1/history/{number}", "1", "", 200),
    ("get", "/v1/history/{number}", "999", "", 404),
    ("get", "/v1/diff", "", "", 200),
    ("get", "/v1/diff", "?from=1&to=999", "", 422),
    ("get", "/v1/diff", "?from=x", "", 400),
    ("post", "/v1/rollback", "", r#"{"number": 1, "note": "test"}"#, 200),
    ("post", "/v1/rollback", "", r#"{"number": 999}"#, 422),
    (
        "post",
        "/v1/purges",
        "",
        r#"{"scopes": [{"url": "https://www.cdn.test/x"}, "all"], "mode": "soft"}"#,
        200,
    ),
    ("post", "/v1/purges", "", r#"{"scopes": []}"#, 400),
    ("get", "/v1/purges/{number}", "1?settled=1", "", 200),
    ("get", "/v1/purges/{number}", "999", "", 404),
    (
        "post",
        "/v1/warm",
        "",
        r#"{"urls": ["http://www.cdn.test/warm"], "pops": ["fra"], "per_second": 5}"#,
        200,
    ),
    ("post", "/v1/warm", "", r#"{"urls": ["/warm"]}"#, 400),
    ("post", "/v1/warm", "", r#"{"urls": ["http://www.cdn.test/warm"], "pops": ["xyz"]}"#, 404),
    ("get", "/v1/warm/{job}", "1?wait_seconds=20", "", 200),
    ("get", "/v1/warm/{job}", "999", "", 404),
    ("get", "/v1/cached", "?url=http://www.cdn.test/warm", "", 200),
    ("get", "/v1/cached", "", "", 400),
    ("get", "/v1/route", "?name=www.cdn.test&client=91.64.0.1", "", 200),
    (
        "get",
        "/v1/route",
        "?name=www.cdn.test&client=165.21.0.9&url=http://www.cdn.test/near&fetch=1&redirect=1",
        "",
        307,
    ),
    ("get", "/v1/route", "?name=static.cdn.test&client=91.64.0.1", "", 404),
    ("get", "/v1/route", "?client=91.64.0.1", "", 400),
    ("post", "/v1/drains", "", r#"{"pop": "fra", "seconds": 60, "reason": "test"}"#, 200),
    ("get", "/v1/status", "", "", 200),
    ("post", "/v1/drains", "", r#"{"pop": "xyz"}"#, 404),
    ("delete", "/v1/drains/{pop}", "fra", "", 200),
    ("delete", "/v1/drains/{pop}", "fra", "", 404),
    ("get", "/v1/certificates", "", "", 200),
    ("get", "/v1/certificates", "?site=none", "", 404),
    ("put", "/v1/certificates/{site}", "www", r#"{"chain": "", "key": ""}"#, 422),
    ("post", "/v1/certificates/revoke", "", r#"{"site": "www"}"#, 422),
    ("post", "/v1/certificates/rotate-key", "", r#"{"directory": "none"}"#, 422),
    ("post", "/v1/certificates/renew", "", "{}", 200),
    ("post", "/v1/certificates/renew", "", r#"{"site": "none"}"#, 422),
    ("get", "/v1/explain", "?name=www.cdn.test&client=91.64.0.1", "", 200),
    (
        "post",
        "/v1/explain/http",
        "",
        r#"{"url": "https://www.cdn.test/x", "client": "91.64.0.1", "pop": "fra"}"#,
        200,
    ),
    (
        "post",
        "/v1/explain/http",
        "",
        r#"{"url": "https://www.cdn.test/x", "client": "91.64.0.1", "pop": "xyz"}"#,
        502,
    ),
    ("get", "/v1/events", "?since=3600", "", 200),
    ("get", "/v1/events", "?since=x", "", 400),
    ("get", "/v1/stats", "?now=1&since=3600&step=60&top=5", "", 200),
    ("get", "/v1/stats", "?since=x", "", 400),
    ("get", "/v1/webhooks", "", "", 200),
    ("post", "/v1/webhooks/{name}/test", "none/test", "", 404),
    (
        "post",
        "/v1/tokens",
        "",
        r#"{"name": "ci", "role": "deployer", "sites": ["www"], "expires_seconds": 60}"#,
        200,
    ),
    ("post", "/v1/tokens", "", r#"{"name": "ci", "role": "reader", "expires_seconds": 60}"#, 409),
    (
        "post",
        "/v1/tokens",
        "",
        r#"{"name": "x", "role": "deployer", "sites": ["none"], "expires_seconds": 60}"#,
        400,
    ),
    ("get", "/v1/tokens", "", "", 200),
    ("delete", "/v1/tokens/{name}", "ci", "", 200),
    ("delete", "/v1/tokens/{name}", "ci", "", 404),
    ("get", "/v1/audit", "?since=0&limit=5", "", 200),
    ("get", "/v1/identities", "", "", 200),
    ("post", "/v1/identities/revoke", "", r#"{"name": "node:sin", "reason": "test"}"#, 200),
    ("post", "/v1/identities/revoke", "", r#"{"name": "node:xyz"}"#, 404),
    ("get", "/v1/audit", "?since=yesterday", "", 400),
];

const EDGE: &[Sample] = &[
    ("get", "/health", "", "", 200),
    ("get", "/v1/status", "", "", 200),
    ("get", "/v1/snapshot", "", "", 200),
    ("post", "/v1/snapshots", "", "{}", 400),
    ("get", "/v1/identity/csr", "", "", 200),
    ("put", "/v1/identity/certificate", "", "no certificate", 422),
    ("put", "/v1/identity/revoked", "", "no list", 422),
    (
        "put",
        "/v1/files/{sha256}",
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        "x",
        200,
    ),
    (
        "put",
        "/v1/files/{sha256}",
        "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        "y",
        400,
    ),
    ("post", "/v1/purges", "", r#"{"purges": [{"scope": "all", "mode": "soft"}]}"#, 200),
    ("get", "/v1/cached", "?url=https://www.cdn.test/none", "", 200),
    ("get", "/v1/cached", "", "", 400),
    ("get", "/v1/origins", "", "", 200),
    ("get", "/v1/stats", "?now=1", "", 200),
    ("get", "/v1/stats", "?life=1&after=x", "", 400),
    ("post", "/v1/warm", "", r#"{"urls": []}"#, 200),
    ("post", "/v1/warm", "", r#"{"urls": [], "job": "x"}"#, 200),
    ("get", "/v1/warm", "?job=x", "", 200),
    ("get", "/v1/warm", "?job=y", "", 404),
    ("get", "/v1/warm", "", "", 200),
    (
        "post",
        "/v1/explain-http",
        "",
        r#"{"url": "https://www.cdn.test/x", "client": "91.64.0.1", "method": "HEAD", "headers": [["accept", "text/html"]]}"#,
        200,
    ),
    ("post", "/v1/explain-http", "", r#"{"url": "https://nobody.test/", "client": "91.64.0.1"}"#, 200),
    ("post", "/v1/explain-http", "", r#"{"url": "/x", "client": "91.64.0.1"}"#, 400),
];

const DNS: &[Sample] = &[
    ("get", "/health", "", "", 200),
    ("get", "/v1/status", "", "", 200),
    ("post", "/v1/drains", "", r#"{"pop": "fra", "seconds": 60}"#, 200),
    ("get", "/v1/drains", "", "", 200),
    ("delete", "/v1/drains/{pop}", "fra", "", 200),
    ("delete", "/v1/drains/{pop}", "fra", "", 404),
    ("put", "/v1/challenges/{name}", "_acme-challenge.cdn.test", r#"{"values": ["x"], "seconds": 60}"#, 200),
    ("put", "/v1/challenges/{name}", "_acme-challenge.cdn.test", r#"{"values": [], "seconds": 60}"#, 400),
    ("get", "/v1/challenges", "", "", 200),
    ("delete", "/v1/challenges/{name}", "_acme-challenge.cdn.test", "", 200),
    ("delete", "/v1/challenges/{name}", "_acme-challenge.cdn.test", "", 404),
    ("get", "/v1/health-view", "", "", 200),
    ("get", "/v1/explain", "?name=www.cdn.test&client=91.64.0.1", "", 200),
];

#[test]
fn every_answer_is_what_the_documents_say() {
    let fleet = Fleet::governed();
    fleet.wait_all_up();
    let home = fleet.state_dir("home");
    let address = fs::read_to_string(home.join("controller.addr")).expect("the controller is up");
    let address = address.trim().parse().expect("an address");
    let operator = |file: &str| home.join("operator").join(file).to_string_lossy().into_owned();
    let controller = |path: &str| {
        curl::Request::at(address, "https", "controller.node.nearside.internal", path)
            .ca(&home.join("operator/ca.pem"))
            .with(["--cert", &operator("cert.pem"), "--key", &operator("key.pem")])
    };
    let node = |node: &str| {
        let socket = fleet.state_dir(node).join("control.sock");
        move |path: &str| curl::Request::socket(&socket, path)
    };
    let mut tried = hold("openapi.json", CONTROLLER, controller);
    tried.extend(hold("openapi-nodes.json", EDGE, node("fra")));
    tried.extend(hold("openapi-nodes.json", DNS, node("ns1")));
    let documented: BTreeSet<String> = ["openapi.json", "openapi-nodes.json"]
        .into_iter()
        .flat_map(|name| operations(name, &document(name)).into_iter().map(|(named, _)| named))
        .filter(|named| !named.ends_with("/metrics") && !named.ends_with("get /v1/identity/revoked"))
        .collect();
    let untried: Vec<_> = documented.difference(&tried).collect();
    assert!(untried.is_empty(), "no sample of {untried:?}");
}

/// Examples are read by the same schemas.
#[test]
fn examples_are_what_the_documents_say() {
    for name in ["openapi.json", "openapi-nodes.json"] {
        let document = document(name);
        assert_eq!(document["openapi"], "3.1.0");
        for (named, operation) in operations(name, &document) {
            for content in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                if let Some(example) = content.1.get("example") {
                    let problems = schema::problems(&document, &content.1["schema"], example);
                    assert!(problems.is_empty(), "{named}: {problems:#?}");
                }
            }
        }
    }
}

/// Sends every sample; the operations that were tried.
fn hold(name: &str, samples: &[Sample], request: impl Fn(&str) -> curl::Request) -> BTreeSet<String> {
    let document = document(name);
    let mut tried = BTreeSet::new();
    for (method, path, rest, body, status) in samples {
        let operation = &document["paths"][path][method];
        let named = format!("{name} {method} {path}");
        assert!(operation.is_object(), "{named} is not documented");
        let asked = match path.split_once('{') {
            Some((before, _)) => format!("{before}{rest}"),
            None => format!("{path}{rest}"),
        };
        let mut curl = request(&asked).with(["-X", &method.to_ascii_uppercase()]);
        if !body.is_empty() {
            curl = curl.with(["--data-binary", body]);
        }
        let response = curl.send();
        assert_eq!(response.status, *status, "{named}: {response:?}");
        let responses = &operation["responses"];
        let described =
            responses.get(status.to_string()).unwrap_or(&document["components"]["responses"]["Error"]);
        let schema = &described["content"]["application/json"]["schema"];
        let value: Value =
            serde_json::from_str(&response.body).unwrap_or_else(|error| panic!("{named}: {error}"));
        let problems = schema::problems(&document, schema, &value);
        assert!(problems.is_empty(), "{named} answered {status}: {problems:#?}");
        // A body that is taken is one that the document allows.
        let asks = &operation["requestBody"]["content"]["application/json"]["schema"];
        if *status == 200 && asks.is_object() && !body.is_empty() {
            let body = serde_json::from_str(body).expect("a sample's body");
            assert_eq!(schema::problems(&document, asks, &body), [""; 0], "{named}");
        }
        tried.insert(named);
    }
    tried
}

fn operations(name: &str, document: &Value) -> Vec<(String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let of_path = |(path, methods): (&String, &Value)| -> Vec<(String, Value)> {
        let methods = methods.as_object().into_iter().flatten();
        methods.map(|(method, operation)| (format!("{name} {method} {path}"), operation.clone())).collect()
    };
    paths.iter().flat_map(of_path).collect()
}

fn document(name: &str) -> Value {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let text = fs::read_to_string(docs.join(name)).expect("the document");
    serde_json::from_str(&text).expect("JSON")
}
