//! Tokens for deploy pipelines: what they may, for which sites, and what the audit log says of it.

use std::fs;

use nearside_tests::{curl, fleet::Fleet};
use serde_json::Value;

#[test]
fn a_deployer_purges_its_own_site_and_nothing_else() {
    let fleet = Fleet::governed();
    let made =
        fleet.nearside(&["token", "create", "ci", "--role", "deployer", "--site", "www", "--expires", "1h"]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let token = made.stdout.trim().to_owned();
    assert!(token.starts_with("nearside_"), "{made:?}");
    let home = fleet.state_dir("home");
    let address = fs::read_to_string(home.join("controller.addr")).expect("the controller is up");
    let address = address.trim().parse().expect("an address");
    let ask = |token: &str, path: &str, arguments: &[&str]| {
        curl::Request::at(address, "https", "controller.node.nearside.internal", path)
            .ca(&home.join("ca/ca.pem"))
            .with(["-H", &format!("Authorization: Bearer {token}")])
            .with(arguments.iter().copied())
            .send()
    };
    fleet.http("fra", "/hello").send();
    assert_eq!(fleet.http("fra", "/hello").send().header("x-cache-status"), "HIT");
    let own = r#"{"scopes": [{"url": "http://www.cdn.test:8080/hello"}]}"#;
    let purged = ask(&token, "/v1/purges", &["-d", own]);
    assert_eq!(purged.status, 200, "{purged:?}");
    assert_eq!(fleet.http("fra", "/hello").send().header("x-cache-status"), "MISS");

    for (path, arguments, says) in [
        ("/v1/purges", &["-d", r#"{"scopes": ["all"]}"#][..], "for site www alone"),
        ("/v1/purges", &["-d", r#"{"scopes": [{"url": "https://other.test/"}]}"#], "for site www alone"),
        ("/v1/warm", &["-d", r#"{"urls": ["https://other.test/"]}"#], "for site www alone"),
        ("/v1/cached?url=https://other.test/", &[], "for site www alone"),
        ("/v1/publish", &["-X", "POST"], "it is a deployer's"),
        ("/v1/status", &[], "it is a deployer's"),
        ("/v1/tokens", &[], "it is a deployer's"),
    ] {
        let refused = ask(&token, path, arguments);
        assert_eq!(refused.status, 403, "{path}: {refused:?}");
        assert!(refused.body.contains(says), "{path}: {refused:?}");
    }
    let nobody = ask("nearside_x", "/v1/purges", &["-d", own]);
    assert_eq!(
        (nobody.status, nobody.header("www-authenticate")),
        (401, "Bearer realm=\"nearside\""),
        "{nobody:?}"
    );
    let wrong = ask(&token, "/v1/purges", &["-X", "PUT"]);
    assert_eq!((wrong.status, wrong.header("allow")), (405, "POST"), "{wrong:?}");

    let log: Value = serde_json::from_str(&fleet.nearside(&["audit", "--json"]).stdout).expect("JSON");
    let entries: Vec<&Value> = log["entries"].as_array().expect("entries").iter().collect();
    let of = |text: &str| {
        let found =
            entries.iter().find(|entry| entry["what"].as_str().is_some_and(|what| what.contains(text)));
        found.unwrap_or_else(|| panic!("no {text} in {log}"))
    };
    let done = of("purged http://www.cdn.test:8080/hello");
    assert_eq!((&done["who"], &done["result"]), (&"token:ci".into(), &"done".into()));
    assert!(done["from"].as_str().is_some_and(|from| from.starts_with("127.")), "{done}");
    assert!(of("POST /v1/publish")["result"].as_str().is_some_and(|result| result.starts_with("403")));
    assert_eq!(of("made token ci")["who"], "operator");
    assert!(!log.to_string().contains(&token[20..]), "a token is in no log");

    assert_eq!(fleet.nearside(&["token", "revoke", "ci"]).code, Some(0));
    assert_eq!(ask(&token, "/v1/purges", &["-d", own]).status, 401);
    assert_eq!(fleet.http("fra", "/hello").send().header("x-cache-status"), "HIT");
}
