//! Signed addresses and cookies: 403 for who has no signature that fits, 410 where it fitted once.
//!
//! What is signed and how is [`nearside_fleet::signing`]'s; here are the site's keys, which paths need a signature,
//! and that neither store nor origin sees it: the same object under a thousand signatures is stored once.

use std::{fs, net::IpAddr, path::Path};

use http::{HeaderMap, Request, StatusCode};
use nearside_fleet::{
    config::{gates::Acting, tokens::Signed},
    signing::{self, Asking, Denied, FILE_BYTES_MAX, Keys},
};

use super::{Finding, Judgement, cookies, paths::Paths, set_query};

/// Cookies of the name that are tried: browsers send those of longer paths first, and a site that signs several
/// prefixes has a few.
const COOKIES_MAX: usize = 4;

/// The gate of one site.
pub struct SignedGate {
    site: String,
    keys: Keys,
    paths: Paths,
    unsigned: Vec<String>,
    cookie: String,
    life_max: u64,
    /// How it acts.
    pub acting: Acting,
}

impl SignedGate {
    /// Reads the keys.
    ///
    /// # Errors
    /// A file that can't be read or has a mistake, in words and without what it holds.
    pub fn build(site: &str, asked: &Signed) -> Result<Self, String> {
        Ok(SignedGate {
            site: site.to_owned(),
            keys: read_keys(&asked.keys)?,
            paths: Paths::new(&asked.paths),
            unsigned: asked.unsigned_query.clone(),
            cookie: asked.cookie.clone(),
            life_max: asked.life_max.as_secs(),
            acting: asked.acting,
        })
    }

    /// Judges a request for a client at a time in seconds since the Unix epoch.
    pub fn judge<B>(&self, request: &Request<B>, client: IpAddr, now: u64) -> Judgement {
        let path = request.uri().path();
        if !self.paths.guard(path) {
            return Ok(());
        }
        let asking = Asking { client, now, life_max: self.life_max };
        let unsigned = |name: &str| self.unsigned.iter().any(|known| known == name);
        let query = request.uri().query();
        let denied = match signing::check_url(&self.keys, &self.site, path, query, &unsigned, &asking) {
            Ok(_) => return Ok(()),
            // An address that is signed counts alone: whoever shares a link that is over must see that it is.
            Err(Denied::Missing) => match self.by_cookie(request.headers(), path, &asking) {
                Ok(()) => return Ok(()),
                Err(denied) => denied,
            },
            Err(denied) => denied,
        };
        let status = match denied {
            Denied::Expired => StatusCode::GONE,
            _ => StatusCode::FORBIDDEN,
        };
        Err(Finding::new(status, denied.reason()))
    }

    /// The best that any cookie of the name has to say.
    fn by_cookie(&self, headers: &HeaderMap, path: &str, asking: &Asking) -> Result<(), Denied> {
        // A grant for a prefix is compared with the path as it is looked up, not as it was sent.
        let path = crate::policy::normal_path(path);
        let mut denied = Denied::Missing;
        for value in cookies::values(headers, &self.cookie).take(COOKIES_MAX) {
            match signing::check_cookie(&self.keys, &self.site, &path, value, asking) {
                Ok(()) => return Ok(()),
                // One for another path says less than one that is over.
                Err(found) if denied == Denied::Missing || found == Denied::Expired => denied = found,
                Err(_) => {}
            }
        }
        Err(denied)
    }

    /// Takes out of a request that was let in what was meant for this gate.
    pub fn strip<B>(&self, request: &mut Request<B>) {
        if request.uri().query().is_some_and(|query| query.contains(signing::PREFIX)) {
            let left = signing::without_ours(request.uri().query());
            set_query(request, left.as_deref());
        }
        cookies::remove(request.headers_mut(), &self.cookie);
    }
}

fn read_keys(path: &Path) -> Result<Keys, String> {
    let words = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    if fs::metadata(path).map_err(|error| words(&error))?.len() > FILE_BYTES_MAX {
        return Err(words(&format!("expected at most {FILE_BYTES_MAX} bytes")));
    }
    let text = fs::read_to_string(path).map_err(|error| words(&error))?;
    Keys::parse(&text).map_err(|error| words(&error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header;
    use nearside_fleet::signing::Grant;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    struct Site {
        _dir: tempfile::TempDir,
        gate: SignedGate,
        keys: Keys,
    }

    fn site() -> Site {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("urls.keys");
        let line = Keys::new_line("k1").unwrap();
        fs::write(&file, &line).unwrap();
        let asked = Signed {
            keys: file,
            paths: vec!["/private/".to_owned()],
            unsigned_query: vec!["t".to_owned()],
            cookie: "ns-access".to_owned(),
            life_max: Duration::from_secs(3600),
            acting: Acting::default(),
        };
        let gate = SignedGate::build("www", &asked).unwrap();
        Site { _dir: dir, gate, keys: Keys::parse(&line).unwrap() }
    }

    fn grant(expires: u64) -> Grant {
        Grant { expires, from: None }
    }

    fn request(target: &str, cookies: &[String]) -> Request<()> {
        let mut request = Request::builder().uri(target);
        for cookie in cookies {
            request = request.header(header::COOKIE, cookie);
        }
        request.body(()).unwrap()
    }

    fn status(site: &Site, request: &Request<()>) -> u16 {
        let judged = site.gate.judge(request, [192, 0, 2, 1].into(), NOW);
        judged.map_or_else(|finding| finding.status.as_u16(), |()| 200)
    }

    #[test]
    fn addresses_are_let_in_and_leave_no_trace() {
        let site = site();
        let sign = |expires| {
            let query = signing::sign_url(
                &site.keys,
                None,
                "www",
                "/private/a",
                Some("v=1"),
                &grant(expires),
                &|_| false,
            );
            format!("/private/a?{}", query.unwrap())
        };
        let good = sign(NOW + 10);
        assert_eq!(status(&site, &request(&good, &[])), 200);
        assert_eq!(status(&site, &request(&sign(NOW), &[])), 410);
        assert_eq!(status(&site, &request(&sign(NOW + 3601), &[])), 403);
        assert_eq!(status(&site, &request("/private/a", &[])), 403);
        assert_eq!(status(&site, &request(&good.replacen("/a", "/b", 1), &[])), 403);
        assert_eq!(status(&site, &request("/x/%2e%2e/private/a", &[])), 403);
        assert_eq!(status(&site, &request("/public", &[])), 200);
        let mut passed = request(&format!("{good}&t=9"), &["a=1; ns-access=x; b=2".to_owned()]);
        assert_eq!(status(&site, &passed), 200);
        site.gate.strip(&mut passed);
        assert_eq!(passed.uri(), "/private/a?v=1&t=9");
        assert_eq!(passed.headers()["cookie"], "a=1; b=2");
    }

    #[test]
    fn a_cookie_stands_for_a_signature_below_its_path() {
        let site = site();
        let cookie = |prefix, expires| {
            let value = signing::sign_cookie(&site.keys, None, "www", prefix, &grant(expires)).unwrap();
            format!("ns-access={value}")
        };
        let ask = |path: &str, cookies: &[String]| status(&site, &request(path, cookies));
        assert_eq!(ask("/private/7/a", &[cookie("/private/7/", NOW + 10)]), 200);
        assert_eq!(ask("/private/8/a", &[cookie("/private/7/", NOW + 10)]), 403);
        assert_eq!(ask("/private/7/../8/a", &[cookie("/private/7/", NOW + 10)]), 403);
        assert_eq!(ask("/private/7/a", &[cookie("/private/7/", NOW)]), 410);
        let both = format!("{}; {}", cookie("/private/8/", NOW + 10), cookie("/private/7/", NOW + 10));
        assert_eq!(ask("/private/7/a", &[both]), 200);
        // A link that is over is over, whatever else the client has.
        let query = signing::sign_url(&site.keys, None, "www", "/private/7/a", None, &grant(NOW), &|_| false);
        let over = format!("/private/7/a?{}", query.unwrap());
        assert_eq!(ask(&over, &[cookie("/private/7/", NOW + 10)]), 410);
    }
}
