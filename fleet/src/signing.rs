//! Signed addresses: who may fetch what, and until when. What `nearside sign` makes and edges check.
//!
//! An address is signed by adding parameters to its query; a cookie is signed for all paths below one. Both are
//! HMAC-SHA256 (RFC 2104) over a text of lines that names the site and everything that is granted, so that nothing can be
//! moved from one grant to another: fields are separated by line feeds, which none of them can hold, and the first line
//! says what kind of grant it is. Pure: no clock, no I/O. Whether a path needs a signature is the edge's business.
//!
//! | part | signed address | cookie |
//! |---|---|---|
//! | granted | path and query as they are sent | every path that begins so |
//! | until | `ns-expires`, seconds since the Unix epoch | second field |
//! | to | `ns-from`, a network; left out: everybody | fourth field |
//! | key | `ns-key` | first field |
//! | signature | `ns-sig`, base64url without padding | last field |

use std::{fmt, fmt::Write as _, net::IpAddr};

use aws_lc_rs::hmac;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

use crate::config::front::Network;

/// Shortest secret, bytes: as long as the digest (RFC 2104 section 3 advises against less).
pub const SECRET_BYTES_MIN: usize = 32;
/// Keys of a file: one to sign with, the others for what is still in circulation.
pub const KEYS_MAX: usize = 16;
/// Longest name of a key, bytes.
pub const KEY_NAME_BYTES_MAX: usize = 32;
/// Largest file of keys.
pub const FILE_BYTES_MAX: u64 = 16 << 10;

/// Parameters that a signature adds to a query.
const KEY: &str = "ns-key";
const EXPIRES: &str = "ns-expires";
const FROM: &str = "ns-from";
const SIGNATURE: &str = "ns-sig";
/// What every parameter of ours begins with. No other may: it would be neither signed nor passed on.
pub const PREFIX: &str = "ns-";

const URL_LINE: &str = "nearside-url-1";
const COOKIE_LINE: &str = "nearside-cookie-1";

/// Secrets by name; the first one signs.
pub struct Keys(Vec<(String, hmac::Key)>);

/// Two are equal if they are of the same names: secrets are not compared.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

/// Why a file of keys is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// A line that is none. Its text stays unsaid: it may hold a secret.
    #[error(
        "line {0}: expected a name of letters, digits, `-` or `_` and base64 of at least {SECRET_BYTES_MIN} bytes, \
         like \"k1 $(openssl rand -base64 32)\""
    )]
    Line(usize),
    /// A secret that could be guessed.
    #[error("line {line}: the secret has {bytes} bytes, expected at least {SECRET_BYTES_MIN}")]
    Short {
        /// Where.
        line: usize,
        /// How long it is.
        bytes: usize,
    },
    /// A name that was given before.
    #[error("line {0}: this name was given before")]
    Twice(usize),
    /// None, or too many.
    #[error("expected 1 to {KEYS_MAX} keys, read {0}")]
    Count(usize),
}

impl Keys {
    /// Reads lines of `NAME BASE64`; empty ones and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// [`KeysError`] with the line.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let mut keys: Vec<(String, hmac::Key)> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, secret) = line.split_once(char::is_whitespace).ok_or(KeysError::Line(number))?;
            let secret = STANDARD.decode(secret.trim()).map_err(|_| KeysError::Line(number))?;
            if !is_key_name(name) {
                return Err(KeysError::Line(number));
            }
            if secret.len() < SECRET_BYTES_MIN {
                return Err(KeysError::Short { line: number, bytes: secret.len() });
            }
            if keys.iter().any(|(known, _)| known == name) {
                return Err(KeysError::Twice(number));
            }
            keys.push((name.to_owned(), hmac::Key::new(hmac::HMAC_SHA256, &secret)));
        }
        match keys.len() {
            1..=KEYS_MAX => Ok(Keys(keys)),
            count => Err(KeysError::Count(count)),
        }
    }

    /// A line with a new secret for such a file; `None`: the name is none, or the system gives no randomness.
    pub fn new_line(name: &str) -> Option<String> {
        let mut secret = [0; SECRET_BYTES_MIN];
        aws_lc_rs::rand::fill(&mut secret).ok()?;
        is_key_name(name).then(|| format!("{name} {}\n", STANDARD.encode(secret)))
    }

    /// Their names, the one that signs first.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    fn find(&self, name: &str) -> Option<&hmac::Key> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, key)| key)
    }

    /// The named key, else the first.
    fn signing(&self, name: Option<&str>) -> Option<(&str, &hmac::Key)> {
        let found = self.0.iter().find(|(known, _)| name.is_none_or(|name| name == known));
        found.map(|(name, key)| (name.as_str(), key))
    }
}

fn is_key_name(name: &str) -> bool {
    (1..=KEY_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// What is granted besides a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Until then, seconds since the Unix epoch.
    pub expires: u64,
    /// To clients of this network; `None`: to everybody.
    pub from: Option<Network>,
}

/// Why a request is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It carries no signature.
    Missing,
    /// A part is missing, there twice, or not of its form.
    Malformed,
    /// No such key: it was withdrawn, or never was.
    Key,
    /// Something was changed.
    Signature,
    /// Granted to others.
    Client,
    /// For other paths.
    Path,
    /// It was good until then.
    Expired,
    /// Good for longer than the site allows.
    TooLong,
}

impl Denied {
    /// In metrics, logs and `Cache-Status`.
    pub fn reason(self) -> &'static str {
        match self {
            Denied::Missing => "signature-missing",
            Denied::Malformed => "signature-malformed",
            Denied::Key => "signature-key",
            Denied::Signature => "signature-wrong",
            Denied::Client => "signature-client",
            Denied::Path => "signature-path",
            Denied::Expired => "signature-expired",
            Denied::TooLong => "signature-too-long",
        }
    }
}

/// Whether a parameter of a query stays unsigned, by its name as it is sent.
pub type Unsigned<'u> = &'u dyn Fn(&str) -> bool;

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asking {
    /// The client.
    pub client: IpAddr,
    /// Now, seconds since the Unix epoch.
    pub now: u64,
    /// How far ahead a grant may end, seconds.
    pub life_max: u64,
}

impl Asking {
    /// Whether a genuine grant is good for who asks.
    fn check(&self, grant: &Grant) -> Result<(), Denied> {
        if grant.from.is_some_and(|network| !network.contains(self.client)) {
            return Err(Denied::Client);
        }
        if grant.expires <= self.now {
            return Err(Denied::Expired);
        }
        if grant.expires - self.now > self.life_max {
            return Err(Denied::TooLong);
        }
        Ok(())
    }
}

/// The query that an address is sent with. `path` begins with `/`; both are as they are sent, percent-encoded.
/// `None`: there is no key of that name, or the query holds parameters of ours already.
pub fn sign_url(
    keys: &Keys,
    key: Option<&str>,
    site: &str,
    path: &str,
    query: Option<&str>,
    grant: &Grant,
    unsigned: Unsigned<'_>,
) -> Option<String> {
    let (name, key) = keys.signing(key)?;
    let mut out = query.unwrap_or_default().to_owned();
    if parameters(query).any(|(name, _)| name.starts_with(PREFIX)) {
        return None;
    }
    let text = url_text(site, path, &signed_query(query, unsigned), name, grant);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(key, text.as_bytes()));
    if !out.is_empty() {
        out.push('&');
    }
    let from =
        grant.from.map_or_else(String::new, |from| format!("&{FROM}={}/{}", from.address, from.length));
    // Writing to a string can't fail.
    let _ = write!(out, "{KEY}={name}&{EXPIRES}={}{from}&{SIGNATURE}={signature}", grant.expires);
    Some(out)
}

/// Checks an address; the query that is left without what the signature added.
///
/// # Errors
/// [`Denied`], in this order: missing, malformed, key, signature, client, expired, too long.
pub fn check_url(
    keys: &Keys,
    site: &str,
    path: &str,
    query: Option<&str>,
    unsigned: Unsigned<'_>,
    asking: &Asking,
) -> Result<Option<String>, Denied> {
    let mut ours: [Option<&str>; 4] = [None; 4];
    for (name, value) in parameters(query).filter(|(name, _)| name.starts_with(PREFIX)) {
        let at = [KEY, EXPIRES, FROM, SIGNATURE].iter().position(|known| *known == name);
        let slot = at.and_then(|at| ours.get_mut(at)).ok_or(Denied::Malformed)?;
        if slot.replace(value.unwrap_or_default()).is_some() {
            return Err(Denied::Malformed);
        }
    }
    let [name, expires, from, signature] = ours;
    if name.is_none() && expires.is_none() && signature.is_none() {
        return Err(Denied::Missing);
    }
    let (Some(name), Some(expires), Some(signature)) = (name, expires, signature) else {
        return Err(Denied::Malformed);
    };
    let grant = Grant {
        expires: seconds(expires).ok_or(Denied::Malformed)?,
        from: from.map(|from| network(from).ok_or(Denied::Malformed)).transpose()?,
    };
    let key = keys.find(name).ok_or(Denied::Key)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Denied::Malformed)?;
    let text = url_text(site, path, &signed_query(query, unsigned), name, &grant);
    hmac::verify(key, text.as_bytes(), &signature).map_err(|_| Denied::Signature)?;
    asking.check(&grant)?;
    Ok(without_ours(query))
}

/// A query without parameters of ours; `None` where nothing is left.
pub fn without_ours(query: Option<&str>) -> Option<String> {
    let rest: Vec<&str> = pieces(query).filter(|piece| !piece.starts_with(PREFIX)).collect();
    (!rest.is_empty()).then(|| rest.join("&"))
}

/// The value of a cookie that grants every path that begins with `prefix`. `None`: there is no key of that name.
pub fn sign_cookie(
    keys: &Keys,
    key: Option<&str>,
    site: &str,
    prefix: &str,
    grant: &Grant,
) -> Option<String> {
    let (name, key) = keys.signing(key)?;
    let from = from_text(grant);
    let text = cookie_text(site, prefix, name, grant);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(key, text.as_bytes()));
    let (prefix, from) = (URL_SAFE_NO_PAD.encode(prefix), URL_SAFE_NO_PAD.encode(from));
    Some(format!("{name}.{}.{prefix}.{from}.{signature}", grant.expires))
}

/// Checks a cookie's value for a normalised path.
///
/// # Errors
/// [`Denied`]; where the signature is good and the path another one, [`Denied::Path`].
pub fn check_cookie(keys: &Keys, site: &str, path: &str, value: &str, asking: &Asking) -> Result<(), Denied> {
    let mut fields = value.split('.');
    let mut next = || fields.next().ok_or(Denied::Malformed);
    let (name, expires, prefix, from, signature) = (next()?, next()?, next()?, next()?, next()?);
    let text = |field: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(field).map_err(|_| Denied::Malformed)?;
        String::from_utf8(bytes).map_err(|_| Denied::Malformed)
    };
    let (prefix, from) = (text(prefix)?, text(from)?);
    if fields.next().is_some() || prefix.contains('\n') {
        return Err(Denied::Malformed);
    }
    let from = (!from.is_empty()).then(|| network(&from).ok_or(Denied::Malformed)).transpose()?;
    let grant = Grant { expires: seconds(expires).ok_or(Denied::Malformed)?, from };
    let key = keys.find(name).ok_or(Denied::Key)?;
    let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Denied::Malformed)?;
    let signed = cookie_text(site, &prefix, name, &grant);
    hmac::verify(key, signed.as_bytes(), &signature).map_err(|_| Denied::Signature)?;
    if !path.starts_with(&prefix) {
        return Err(Denied::Path);
    }
    asking.check(&grant)
}

fn url_text(site: &str, path: &str, query: &str, key: &str, grant: &Grant) -> String {
    let (expires, from) = (grant.expires, from_text(grant));
    format!("{URL_LINE}\n{site}\n{path}\n{query}\n{key}\n{expires}\n{from}")
}

fn cookie_text(site: &str, prefix: &str, key: &str, grant: &Grant) -> String {
    let (expires, from) = (grant.expires, from_text(grant));
    format!("{COOKIE_LINE}\n{site}\n{prefix}\n{key}\n{expires}\n{from}")
}

fn from_text(grant: &Grant) -> String {
    grant.from.map_or_else(String::new, |from| format!("{}/{}", from.address, from.length))
}

/// What of a query is signed: all but ours and what the site lets clients add, in the order it is sent.
fn signed_query(query: Option<&str>, unsigned: Unsigned<'_>) -> String {
    let mut out = String::new();
    for piece in pieces(query) {
        let name = piece.split('=').next().unwrap_or_default();
        if name.starts_with(PREFIX) || unsigned(name) {
            continue;
        }
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(piece);
    }
    out
}

fn pieces(query: Option<&str>) -> impl Iterator<Item = &str> {
    query.unwrap_or_default().split('&').filter(|piece| !piece.is_empty())
}

fn parameters(query: Option<&str>) -> impl Iterator<Item = (&str, Option<&str>)> {
    pieces(query).map(|piece| match piece.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (piece, None),
    })
}

/// A number written the one way it is written.
fn seconds(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// A network like `192.0.2.0/24`, host bits zero.
pub fn network(text: &str) -> Option<Network> {
    let (address, length) = text.split_once('/')?;
    let network = Network { address: address.parse().ok()?, length: length.parse().ok()? };
    let (bits, host_bits) = match network.address {
        IpAddr::V4(address) => {
            (32, address.to_bits().checked_shl(u32::from(network.length)).unwrap_or(0) != 0)
        }
        IpAddr::V6(address) => {
            (128, address.to_bits().checked_shl(u32::from(network.length)).unwrap_or(0) != 0)
        }
    };
    (network.length <= bits && !host_bits).then_some(network)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;
    const NONE: Unsigned<'static> = &|_| false;

    fn keys(names: &[&str]) -> Keys {
        let line = |name: &&str| format!("{name} {}\n", STANDARD.encode([name.as_bytes()[0]; 32]));
        Keys::parse(&names.iter().map(line).collect::<String>()).unwrap()
    }

    fn asking(client: &str, now: u64) -> Asking {
        Asking { client: client.parse().unwrap(), now, life_max: 86_400 }
    }

    fn grant(from: Option<&str>) -> Grant {
        Grant { expires: NOW + 60, from: from.map(|from| network(from).unwrap()) }
    }

    #[test]
    fn a_signed_address_is_good_for_what_it_names_and_nothing_else() {
        let keys = keys(&["b", "a"]);
        let signed =
            sign_url(&keys, None, "www", "/a/b.mp4", Some("x=1&y=2"), &grant(Some("192.0.2.0/24")), NONE);
        let query = signed.unwrap();
        assert!(
            query.starts_with("x=1&y=2&ns-key=b&ns-expires=1800000060&ns-from=192.0.2.0/24&ns-sig="),
            "{query}"
        );
        let ask = |site: &str, path: &str, query: &str, client: &str, now| {
            check_url(&keys, site, path, Some(query), NONE, &asking(client, now))
        };
        let good = ("www", "/a/b.mp4", query.as_str(), "192.0.2.9", NOW);
        assert_eq!(ask(good.0, good.1, good.2, good.3, good.4), Ok(Some("x=1&y=2".to_owned())));
        assert_eq!(ask("web", good.1, good.2, good.3, NOW), Err(Denied::Signature), "another site");
        assert_eq!(ask(good.0, "/a/c.mp4", good.2, good.3, NOW), Err(Denied::Signature), "another path");
        assert_eq!(ask(good.0, good.1, good.2, "192.0.3.9", NOW), Err(Denied::Client));
        assert_eq!(
            ask(good.0, good.1, good.2, "::ffff:192.0.2.9", NOW),
            ask(good.0, good.1, good.2, good.3, NOW)
        );
        assert_eq!(ask(good.0, good.1, good.2, good.3, NOW + 60), Err(Denied::Expired));
        assert_eq!(ask(good.0, good.1, good.2, good.3, NOW - 86_400), Err(Denied::TooLong));
        for (from, to, denied) in [
            ("x=1", "x=2", Denied::Signature),
            ("x=1&y=2", "y=2&x=1", Denied::Signature),
            ("x=1&", "x=1&z=3&", Denied::Signature),
            ("x=1&", "x=1&%6es-expires=9999999999&", Denied::Signature),
            ("1800000060", "1900000060", Denied::Signature),
            ("ns-from=192.0.2.0/24&", "", Denied::Signature),
            ("ns-key=b", "ns-key=a", Denied::Signature),
            ("ns-key=b", "ns-key=c", Denied::Key),
            ("ns-key=b&", "", Denied::Malformed),
            ("ns-key=b", "ns-key=b&ns-key=b", Denied::Malformed),
            ("ns-key=b", "ns-key=b&ns-other=1", Denied::Malformed),
            ("1800000060", "+1800000060", Denied::Malformed),
            ("1800000060", "01800000060", Denied::Malformed),
            ("192.0.2.0/24", "192.0.2.1/24", Denied::Malformed),
            ("ns-sig=", "ns-sig=!", Denied::Malformed),
        ] {
            let changed = query.replacen(from, to, 1);
            assert_ne!(changed, query);
            assert_eq!(ask(good.0, good.1, &changed, good.3, NOW), Err(denied), "{from} -> {to}");
        }
        assert_eq!(ask(good.0, good.1, "x=1&y=2", good.3, NOW), Err(Denied::Missing));
        assert_eq!(check_url(&keys, "www", "/", None, NONE, &asking("::1", NOW)), Err(Denied::Missing));
    }

    #[test]
    fn clients_may_add_what_the_site_leaves_unsigned() {
        let keys = keys(&["a"]);
        let unsigned: Unsigned<'_> = &|name| name == "t";
        let query = sign_url(&keys, None, "www", "/v", Some("q=1"), &grant(None), unsigned).unwrap();
        let check = |query: &str| check_url(&keys, "www", "/v", Some(query), unsigned, &asking("::1", NOW));
        assert_eq!(check(&format!("t=30&{query}")), Ok(Some("t=30&q=1".to_owned())));
        assert_eq!(check(&format!("{query}&u=30")), Err(Denied::Signature));
        let bare = sign_url(&keys, None, "www", "/v", None, &grant(None), unsigned).unwrap();
        assert_eq!(check(&bare), Ok(None));
        assert_eq!(
            sign_url(&keys, None, "www", "/v", Some(&bare), &grant(None), unsigned),
            None,
            "signed once"
        );
        assert_eq!(sign_url(&keys, Some("z"), "www", "/v", None, &grant(None), unsigned), None);
    }

    #[test]
    fn a_cookie_is_good_below_its_path() {
        let keys = keys(&["k1", "k2"]);
        let value = sign_cookie(&keys, Some("k2"), "www", "/hls/7/", &grant(None)).unwrap();
        let check =
            |path: &str, value: &str, now| check_cookie(&keys, "www", path, value, &asking("::1", now));
        assert_eq!(check("/hls/7/seg-1.ts", &value, NOW), Ok(()));
        assert_eq!(check("/hls/71/seg-1.ts", &value, NOW), Err(Denied::Path));
        assert_eq!(check("/hls/7/seg-1.ts", &value, NOW + 60), Err(Denied::Expired));
        assert_eq!(
            check_cookie(&keys, "web", "/hls/7/a", &value, &asking("::1", NOW)),
            Err(Denied::Signature)
        );
        assert_eq!(check("/hls/7/", &value.replacen("k2.", "k1.", 1), NOW), Err(Denied::Signature));
        assert_eq!(check("/hls/7/", &value.replacen("k2.", "k3.", 1), NOW), Err(Denied::Key));
        let root = URL_SAFE_NO_PAD.encode("/");
        let wider = value.replacen(&URL_SAFE_NO_PAD.encode("/hls/7/"), &root, 1);
        assert_eq!(check("/hls/7/", &wider, NOW), Err(Denied::Signature));
        for bad in ["", "k1", "k1.1.2.3", "k1.x.Lw..AA", &format!("{value}.x")] {
            assert_eq!(check("/", bad, NOW), Err(Denied::Malformed), "{bad}");
        }
        // An address is no cookie, though the fields are alike.
        let forged = sign_url(&keys, None, "www", "/", None, &grant(None), NONE).unwrap();
        let signature = forged.rsplit('=').next().unwrap();
        let cookie = format!("k1.{}.{root}..{signature}", NOW + 60);
        assert_eq!(check("/x", &cookie, NOW), Err(Denied::Signature));
    }

    #[test]
    fn keys_are_read_with_their_mistakes() {
        let secret = STANDARD.encode([7; 32]);
        let read =
            |text: &str| Keys::parse(text).map(|keys| keys.names().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(
            read(&format!("# new\nk2 {secret}\n\nk1\t{secret}\n")),
            Ok(vec!["k2".into(), "k1".into()])
        );
        assert_eq!(read(&format!("k1 {secret}\nk1 {secret}")), Err(KeysError::Twice(2)));
        assert_eq!(read("k1 c2hvcnQ="), Err(KeysError::Short { line: 1, bytes: 5 }));
        assert_eq!(read("k1"), Err(KeysError::Line(1)));
        assert_eq!(read(&format!("k.1 {secret}")), Err(KeysError::Line(1)));
        assert_eq!(read(""), Err(KeysError::Count(0)));
        let made = Keys::new_line("k9").unwrap();
        assert_eq!(read(&made), Ok(vec!["k9".into()]));
        assert_eq!(Keys::new_line("k 9"), None);
        assert!(
            !format!("{:?}", Keys::parse(&made).unwrap()).contains(made.split(' ').nth(1).unwrap().trim())
        );
    }

    proptest! {
        #[test]
        fn what_is_signed_checks_and_whatever_is_sent_is_answered(
            path in "/[a-z%0-9./]{0,20}",
            query in proptest::option::of("[a-z=&%0-9]{0,20}"),
            noise in "[ -~]{0,60}",
            from in proptest::option::of((any::<[u8; 4]>(), 0u8..=32)),
        ) {
            let keys = keys(&["a"]);
            let from = from.map(|(octets, length)| {
                let bits = u32::from_be_bytes(octets) & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Network { address: IpAddr::V4(bits.into()), length }
            });
            let granted = Grant { expires: NOW + 1, from };
            let client = from.map_or(IpAddr::from([192, 0, 2, 1]), |from| from.address);
            let asking = Asking { client, now: NOW, life_max: 10 };
            let signed = sign_url(&keys, None, "s", &path, query.as_deref(), &granted, NONE).unwrap();
            let left = check_url(&keys, "s", &path, Some(&signed), NONE, &asking);
            prop_assert_eq!(left, Ok(without_ours(query.as_deref())));
            let _ = check_url(&keys, "s", &path, Some(&noise), NONE, &asking);
            let _ = check_url(&keys, "s", &path, Some(&format!("{signed}{noise}")), NONE, &asking);
            prop_assert!(check_cookie(&keys, "s", &path, &noise, &asking).is_err());
        }
    }
}
