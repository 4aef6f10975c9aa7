//! What a module may import: `nearside_1`, a handful of functions over pointers and lengths. docs/edge-code.md explains them.
//!
//! Texts go in as pointer and length in the module's memory (its export `memory`), and come out into a buffer that the module
//! offers: the result is the text's length, which may be more than fitted, [`ABSENT`] or [`REFUSED`]. A pointer outside of the
//! memory is a trap. What frames a message or says who is on a connection is never a module's to set. It knows
//! HTTP's fields, nothing of the edge.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use nearside_fleet::fields;
use wasmtime::{Caller, Extern, Linker};

/// There is no such thing.
pub const ABSENT: i32 = -1;
/// It may not be done: a field that is ours, a text that is none, one thing too many, or not in this hook.
pub const REFUSED: i32 = -2;

/// Largest body that a module answers with.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Longest target, name, value or part of a key.
const TEXT_BYTES_MAX: usize = 8 << 10;
/// Fields of a message, when a module is through with it.
const FIELDS_MAX: usize = 128;
/// All that a module adds to a key.
const KEY_BYTES_MAX: usize = 512;

/// Whether a field is ours: the same that no rule may change, but for what clients may keep, which is a module's to say.
fn is_ours(name: &HeaderName, phase: Phase) -> bool {
    let name = name.as_str();
    let of_edges =
        name.starts_with("nearside-") || name.starts_with("http2-") || name.starts_with("x-forwarded-");
    of_edges
        || match phase {
            Phase::Request => fields::may_change_request(name).is_err(),
            Phase::Response => fields::kept_of_responses().any(|kept| kept == name),
        }
}

/// Which message the fields are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// A request that has passed the gates.
    #[default]
    Request,
    /// A response on its way to a client.
    Response,
}

/// What a module may read of a request besides its fields.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Its method.
    pub method: String,
    /// Path as the client sent it, or as the module set it.
    pub path: String,
    /// Query without `?`.
    pub query: Option<String>,
    /// Host, lower case, without port.
    pub host: String,
    /// `http` or `https`.
    pub scheme: String,
    /// The client's address.
    pub client: String,
}

/// What a module answers in the origin's place.
#[derive(Clone, Debug)]
pub struct Answered {
    /// 200 to 599.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its content.
    pub body: Vec<u8>,
}

/// What a hook is called with, and what it has made of it.
#[derive(Debug, Default)]
pub struct Call {
    phase: Phase,
    /// The request.
    pub facts: Facts,
    /// Fields of the request, or of the response.
    pub headers: HeaderMap,
    /// The response's.
    pub status: StatusCode,
    /// Path and query were set.
    pub is_retargeted: bool,
    /// Joins the cache key.
    pub key: String,
    answer_headers: HeaderMap,
    answer: Option<Answered>,
}

impl Call {
    /// A call about a message.
    pub fn new(phase: Phase, facts: Facts, headers: HeaderMap) -> Call {
        Call { phase, facts, headers, ..Call::default() }
    }

    /// What the module answers itself, if it does.
    pub fn answer(&mut self) -> Option<Answered> {
        let mut answer = self.answer.take()?;
        answer.headers = std::mem::take(&mut self.answer_headers);
        Some(answer)
    }

    fn read(&self, what: i32) -> Option<&str> {
        let facts = &self.facts;
        match what {
            0 => Some(&facts.method),
            1 => Some(&facts.path),
            2 => facts.query.as_deref(),
            3 => Some(&facts.host),
            4 => Some(&facts.scheme),
            5 => Some(&facts.client),
            _ => None,
        }
    }

    fn retarget(&mut self, target: &[u8]) -> i32 {
        let text = std::str::from_utf8(target).ok().filter(|text| {
            text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
        });
        let Some(text) = text.filter(|_| self.phase == Phase::Request) else { return REFUSED };
        let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
        (self.facts.path, self.facts.query) = (path.to_owned(), query.map(str::to_owned));
        self.is_retargeted = true;
        0
    }

    fn add_to_key(&mut self, part: &[u8]) -> i32 {
        let text =
            std::str::from_utf8(part).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
        match text {
            Some(text) if self.phase == Phase::Request && self.key.len() + text.len() < KEY_BYTES_MAX => {
                self.key.push_str(text);
                // Two parts are not one: no part holds a space.
                self.key.push(' ');
                0
            }
            _ => REFUSED,
        }
    }

    fn respond(&mut self, status: i32, body: Vec<u8>) -> i32 {
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        match status.filter(|status| (200..600).contains(&status.as_u16())) {
            Some(status) if self.phase == Phase::Request && body.len() <= BODY_BYTES_MAX => {
                self.answer = Some(Answered { status, headers: HeaderMap::new(), body });
                0
            }
            _ => REFUSED,
        }
    }

    fn set_status(&mut self, status: i32) -> i32 {
        let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        // Where one of the two has no content, or a part of it, another status would frame it wrongly.
        let has_content = |status: StatusCode| {
            status.as_u16() >= 200 && !matches!(status.as_u16(), 204 | 205 | 206 | 304 | 600..)
        };
        match status.filter(|status| has_content(*status)) {
            Some(status) if self.phase == Phase::Response && has_content(self.status) => {
                self.status = status;
                0
            }
            _ => REFUSED,
        }
    }

    fn redirect(&mut self, status: i32, location: &[u8]) -> i32 {
        let is_one = matches!(status, 301 | 302 | 303 | 307 | 308);
        match HeaderValue::from_bytes(location) {
            Ok(location) if is_one && self.respond(status, Vec::new()) == 0 => {
                self.answer_headers.insert(header::LOCATION, location);
                0
            }
            _ => REFUSED,
        }
    }
}

/// How a field is put among the others.
#[derive(Clone, Copy)]
enum Put {
    Set,
    Add,
}

fn put(headers: &mut HeaderMap, phase: Phase, name: &[u8], value: &[u8], how: Put) -> i32 {
    let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
        return REFUSED;
    };
    if is_ours(&name, phase) || headers.len() >= FIELDS_MAX {
        return REFUSED;
    }
    match how {
        Put::Set => drop(headers.insert(name, value)),
        Put::Add => drop(headers.append(name, value)),
    }
    0
}

fn remove(headers: &mut HeaderMap, phase: Phase, name: &[u8]) -> i32 {
    match HeaderName::from_bytes(name) {
        Ok(name) if !is_ours(&name, phase) => headers.remove(name).map_or(ABSENT, |_| 0),
        _ => REFUSED,
    }
}

/// The lines of a field as one (RFC 9110 section 5.3).
fn joined(headers: &HeaderMap, name: &[u8]) -> Option<Vec<u8>> {
    let name = HeaderName::from_bytes(name).ok()?;
    let mut lines = headers.get_all(name).iter();
    let first = lines.next()?.as_bytes().to_vec();
    Some(lines.fold(first, |mut all, line| {
        all.extend_from_slice(b", ");
        all.extend_from_slice(line.as_bytes());
        all
    }))
}

/// A pointer and a length outside of the module's memory.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a pointer outside of `memory`, or a text longer than it may be")]
struct Outside;

fn memory<T: 'static>(caller: &mut Caller<'_, T>) -> wasmtime::Result<wasmtime::Memory> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => Err(wasmtime::Error::new(Outside)),
    }
}

fn taken<T: 'static>(
    caller: &mut Caller<'_, T>,
    at: i32,
    length: i32,
    most: usize,
) -> wasmtime::Result<Vec<u8>> {
    let memory = memory(caller)?;
    let (at, length) = (at as u32 as usize, length as u32 as usize);
    let end = at.checked_add(length).filter(|_| length <= most);
    let bytes = end.and_then(|end| memory.data(&*caller).get(at..end));
    bytes.map(<[u8]>::to_vec).ok_or_else(|| wasmtime::Error::new(Outside))
}

/// Puts as much of `text` as fits; its whole length is the result.
fn given<T: 'static>(
    caller: &mut Caller<'_, T>,
    text: Option<Vec<u8>>,
    at: i32,
    room: i32,
) -> wasmtime::Result<i32> {
    let Some(text) = text else { return Ok(ABSENT) };
    let memory = memory(caller)?;
    let (at, room) = (at as u32 as usize, room as u32 as usize);
    let fits = text.len().min(room);
    let into = at.checked_add(fits).and_then(|end| memory.data_mut(&mut *caller).get_mut(at..end));
    into.ok_or_else(|| wasmtime::Error::new(Outside))?.copy_from_slice(&text[..fits]);
    Ok(i32::try_from(text.len()).unwrap_or(i32::MAX))
}

/// Defines all imports. `of` finds the call in the store's data.
///
/// # Errors
/// None but a name defined twice.
pub(super) fn link<T: 'static>(
    linker: &mut Linker<T>,
    of: impl Fn(&mut T) -> &mut Call + Copy + Send + Sync + 'static,
) -> wasmtime::Result<()> {
    const ABI: &str = "nearside_1";
    linker.func_wrap(ABI, "read", move |mut caller: Caller<'_, T>, what: i32, out: i32, room: i32| {
        let text = of(caller.data_mut()).read(what).map(|text| text.as_bytes().to_vec());
        given(&mut caller, text, out, room)
    })?;
    linker.func_wrap(
        ABI,
        "header_get",
        move |mut caller: Caller<'_, T>, name: i32, length: i32, out: i32, room: i32| {
            let name = taken(&mut caller, name, length, TEXT_BYTES_MAX)?;
            let value = joined(&of(caller.data_mut()).headers, &name);
            given(&mut caller, value, out, room)
        },
    )?;
    for (function, how) in [("header_set", Put::Set), ("header_add", Put::Add)] {
        linker.func_wrap(
            ABI,
            function,
            move |mut caller: Caller<'_, T>, name: i32, name_length: i32, value: i32, length: i32| {
                let name = taken(&mut caller, name, name_length, TEXT_BYTES_MAX)?;
                let value = taken(&mut caller, value, length, TEXT_BYTES_MAX)?;
                let call = of(caller.data_mut());
                wasmtime::Result::Ok(put(&mut call.headers, call.phase, &name, &value, how))
            },
        )?;
    }
    linker.func_wrap(ABI, "header_remove", move |mut caller: Caller<'_, T>, name: i32, length: i32| {
        let name = taken(&mut caller, name, length, TEXT_BYTES_MAX)?;
        let call = of(caller.data_mut());
        wasmtime::Result::Ok(remove(&mut call.headers, call.phase, &name))
    })?;
    linker.func_wrap(ABI, "target_set", move |mut caller: Caller<'_, T>, target: i32, length: i32| {
        let target = taken(&mut caller, target, length, TEXT_BYTES_MAX)?;
        wasmtime::Result::Ok(of(caller.data_mut()).retarget(&target))
    })?;
    linker.func_wrap(ABI, "key_add", move |mut caller: Caller<'_, T>, part: i32, length: i32| {
        let part = taken(&mut caller, part, length, TEXT_BYTES_MAX)?;
        wasmtime::Result::Ok(of(caller.data_mut()).add_to_key(&part))
    })?;
    linker.func_wrap(ABI, "status", move |mut caller: Caller<'_, T>| {
        let call = of(caller.data_mut());
        if call.phase == Phase::Response { i32::from(call.status.as_u16()) } else { ABSENT }
    })?;
    linker.func_wrap(ABI, "status_set", move |mut caller: Caller<'_, T>, status: i32| {
        of(caller.data_mut()).set_status(status)
    })?;
    linker.func_wrap(
        ABI,
        "respond",
        move |mut caller: Caller<'_, T>, status: i32, body: i32, length: i32| {
            let body = taken(&mut caller, body, length, BODY_BYTES_MAX)?;
            wasmtime::Result::Ok(of(caller.data_mut()).respond(status, body))
        },
    )?;
    linker.func_wrap(
        ABI,
        "answer_header_set",
        move |mut caller: Caller<'_, T>, name: i32, name_length: i32, value: i32, length: i32| {
            let name = taken(&mut caller, name, name_length, TEXT_BYTES_MAX)?;
            let value = taken(&mut caller, value, length, TEXT_BYTES_MAX)?;
            let headers = &mut of(caller.data_mut()).answer_headers;
            wasmtime::Result::Ok(put(headers, Phase::Response, &name, &value, Put::Set))
        },
    )?;
    linker.func_wrap(
        ABI,
        "redirect",
        move |mut caller: Caller<'_, T>, status: i32, to: i32, length: i32| {
            let location = taken(&mut caller, to, length, TEXT_BYTES_MAX)?;
            wasmtime::Result::Ok(of(caller.data_mut()).redirect(status, &location))
        },
    )?;
    Ok(())
}
