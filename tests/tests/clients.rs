//! The clients for site backends against a real fleet: the nearest PoP if it holds the file, the source otherwise.

use std::{
    fs,
    time::{Duration, Instant},
};

use nearside_client::{Client, Credentials, Settings, State};
use nearside_tests::{
    fleet::{Fleet, SOON},
    process, wait,
};

/// Users whom the built-in country table places near Frankfurt and Singapore.
const GERMAN: &str = "91.64.1.2";
const SINGAPOREAN: &str = "165.21.3.4";
const SOURCE: &str = "https://source.test";

#[test]
fn the_rust_client_finds_the_nearest_pop_that_holds_a_file() {
    let mut fleet = Fleet::governed();
    let operator = fleet.state_dir("home").join("operator");
    let read = |name: &str| fs::read(operator.join(name)).expect("the operator's identity");
    let controller = fs::read_to_string(fleet.state_dir("home").join("controller.addr")).expect("an address");
    let settings = Settings {
        controller: controller.trim().to_owned(),
        ca: read("ca.pem"),
        credentials: Credentials::Certificate { chain: read("cert.pem"), key: read("key.pem") },
        name: "www.cdn.test".to_owned(),
        pop_url: "http://www.cdn.test/at/{pop}".to_owned(),
        source_url: SOURCE.to_owned(),
        timeout: Duration::from_secs(5),
        ..Settings::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = Client::new(settings).expect("a client");
    let locate =
        |user: &str, path: &str| runtime.block_on(client.locate(user.parse().expect("an address"), path));

    let first = locate(GERMAN, "/setup.exe");
    assert_eq!(
        (first.url.as_str(), first.state),
        ("https://source.test/setup.exe", State::Absent),
        "{first:?}"
    );
    assert_eq!(first.pop.as_deref(), Some("fra"));
    wait::until("the PoP has fetched it, and the answer is asked for again", SOON, || {
        let located = locate(GERMAN, "/setup.exe");
        let at_pop = located.url == "http://www.cdn.test/at/fra/setup.exe" && located.state == State::Cached;
        if at_pop { Ok(()) } else { Err(format!("{located:?}")) }
    });
    assert_eq!(fleet.http("fra", "/at/fra/setup.exe").send().header("x-cache-status"), "HIT");
    assert_eq!(locate(SINGAPOREAN, "/setup.exe").pop.as_deref(), Some("sin"));

    // Without home: what is known is used, the rest comes from the source, at once after the first failure.
    fleet.process("controller").kill();
    assert_eq!(locate("91.64.1.77", "/setup.exe").url, "http://www.cdn.test/at/fra/setup.exe");
    let lost = locate(GERMAN, "/other.exe");
    assert_eq!((lost.url.as_str(), lost.state), ("https://source.test/other.exe", State::Failed));
    let began = Instant::now();
    assert!(locate(GERMAN, "/third.exe").error.is_some_and(|error| error.starts_with("not asked")));
    assert!(began.elapsed() < Duration::from_secs(5), "nobody was asked");
}

#[test]
fn the_python_client_does_the_same() {
    let mut fleet = Fleet::governed();
    let script = r#"
import json, sys, time
sys.path.insert(0, sys.argv[1])
from nearside import Nearside
operator = sys.argv[3]
cdn = Nearside(controller=sys.argv[2], ca=operator + "/ca.pem",
               certificate=(operator + "/cert.pem", operator + "/key.pem"), name="www.cdn.test",
               pop_url="http://www.cdn.test/at/{pop}", source_url="https://source.test", timeout=5.0)
first = cdn.locate("91.64.1.2", "/setup.exe")
deadline = time.monotonic() + 20
while (there := cdn.locate("91.64.1.2", "/setup.exe")).state != "cached" and time.monotonic() < deadline:
    time.sleep(0.05)
other = cdn.locate("165.21.3.4", "/setup.exe")
open(sys.argv[4], "w").close()
sys.stdin.readline()
kept = cdn.locate("91.64.1.77", "/setup.exe")
lost = cdn.locate("91.64.1.2", "/other.exe")
quiet = cdn.locate("91.64.1.2", "/third.exe")
wrong = cdn.locate("nobody", "/x")
print(json.dumps([[at.url, at.state, at.pop, at.error] for at in (first, there, other, kept, lost, quiet, wrong)]))
"#;
    let module = concat!(env!("CARGO_MANIFEST_DIR"), "/../clients/python");
    let home = fleet.state_dir("home");
    let controller = fs::read_to_string(home.join("controller.addr")).expect("an address");
    let (operator, ready) = (home.join("operator"), fleet.path("ready"));
    let mut child = std::process::Command::new("python3")
        .args(["-B", "-c", script, module, controller.trim()])
        .args([&operator, &ready])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("python3 runs");
    wait::until("the script has asked", SOON * 2, || if ready.exists() { Ok(()) } else { Err("not yet") });
    fleet.process("controller").kill();
    drop(child.stdin.take());
    let output = child.wait_with_output().expect("its output");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let [first, there, other, kept, lost, quiet, wrong] = [0, 1, 2, 3, 4, 5, 6].map(|at| &told[at]);
    assert_eq!(
        (&first[0], &first[1], &first[2]),
        (&"https://source.test/setup.exe".into(), &"absent".into(), &"fra".into())
    );
    assert_eq!(
        (&there[0], &there[1]),
        (&"http://www.cdn.test/at/fra/setup.exe".into(), &"cached".into()),
        "{told}"
    );
    assert_eq!(other[2], "sin", "{told}");
    assert_eq!(kept[0], "http://www.cdn.test/at/fra/setup.exe", "the same network: {told}");
    assert_eq!((&lost[0], &lost[1]), (&"https://source.test/other.exe".into(), &"failed".into()), "{told}");
    assert!(quiet[3].as_str().is_some_and(|error| error.starts_with("not asked")), "{told}");
    assert_eq!(wrong[0], "https://source.test/x", "{told}");
}

#[test]
fn the_best_pop_is_a_redirect_for_who_asks_for_one() {
    let fleet = Fleet::governed();
    let home = fleet.state_dir("home");
    let controller = fs::read_to_string(home.join("controller.addr")).expect("an address");
    let url = format!(
        "https://{}/v1/route?name=www.cdn.test&client={GERMAN}",
        "controller.node.nearside.internal:9443"
    );
    let address = controller.trim().rsplit_once(':').map(|(host, _)| host.to_owned()).unwrap_or_default();
    let ask = |more: &[&str]| {
        let resolve = format!("controller.node.nearside.internal:9443:{address}");
        let ca = home.join("operator/ca.pem");
        let mut command = std::process::Command::new("curl");
        command.args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{redirect_url}",
            "--resolve",
            &resolve,
            "--cacert",
        ]);
        process::run(command.arg(ca).args(more)).stdout
    };
    assert_ne!(ask(&[&url]).split(' ').next(), Some("200"), "strangers are told nothing");
    let identity = |file: &str| home.join("operator").join(file).display().to_string();
    let redirected = format!("{url}&url=https://%7Bpop%7D.dl.cdn.test/x&redirect=1");
    let told = ask(&["--cert", &identity("cert.pem"), "--key", &identity("key.pem"), &redirected]);
    assert_eq!(told.trim(), "307 https://fra.dl.cdn.test/x");
}
