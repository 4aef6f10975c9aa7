//! Answer → bytes.
//!
//! [`Message`] writes front to back into a buffer whose end is a limit: whatever does not fit is
//! taken back whole ([`Full`]), so that a message never holds part of an RRset. Room for the OPT
//! record is set aside from the start.
//!
//! Names are compressed against those already written ([`Names`]), by offset and length, and
//! only then octet by octet. Compression ignores case, as the protocol does.

use nearside_zones::{
    RrSet, Rtype,
    record::{self, Embedded},
};

use super::{Ede, Edns, HEADER_BYTES, Rcode, Tsig, edns::option, flags};

/// Names remembered for compression. An answer names few; past this, names are written in full.
const NAMES_MAX: usize = 48;
/// Labels of a name that takes part in compression; longer names are rare and written in full.
const TAILS_MAX: usize = 16;
/// Highest offset a pointer can hold (RFC 1035 section 4.1.4).
const POINTER_MAX: usize = 0x3fff;
/// Offset of the question's name.
const QUESTION: u16 = HEADER_BYTES as u16;

/// Something did not fit; the message is as it was before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The three sections an answer is written to, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// What was asked for.
    Answer = 0,
    /// SOA of a negative answer, NS of a referral.
    Authority = 1,
    /// Glue.
    Additional = 2,
}

/// The owner of a record.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// A name that is already in the message.
    At(u16),
    /// Wire octets.
    Wire(&'a [u8]),
}

impl Owner<'_> {
    /// The question's name.
    pub const QUESTION: Self = Self::At(QUESTION);
}

/// A name in the message: its tail from `offset` on is `length` octets, uncompressed.
#[derive(Clone, Copy, Default)]
struct Known {
    offset: u16,
    length: u16,
}

/// Names written so far; lives in the worker's scratch so that it is not set up per query.
pub struct Names {
    known: [Known; NAMES_MAX],
    count: usize,
}

impl Default for Names {
    fn default() -> Self {
        Self { known: [Known::default(); NAMES_MAX], count: 0 }
    }
}

/// An answer being written.
pub struct Message<'m> {
    out: &'m mut [u8],
    at: usize,
    /// First octet that may not be written by a section.
    limit: usize,
    /// First octet that may not be written at all.
    end: usize,
    questions: u16,
    /// Where the sections begin.
    start: usize,
    counts: [u16; 3],
    names: &'m mut Names,
    /// The question's name, known to `names` only once something is to be compressed.
    question: Option<&'m [u8]>,
    /// The key that is refused: the last record, behind OPT.
    refused_key: Option<Tsig<'m>>,
}

impl<'m> Message<'m> {
    /// Begins an answer with the query's header and question (`head`), up to `limit` octets of
    /// `out` of which `reserved` are kept for [`Message::opt`].
    ///
    /// # Errors
    /// [`Full`] if not even these fit.
    pub fn begin(
        out: &'m mut [u8],
        limit: usize,
        reserved: usize,
        head: &'m [u8],
        names: &'m mut Names,
    ) -> Result<Self, Full> {
        let limit = limit.min(out.len());
        if head.len() < HEADER_BYTES || head.len() + reserved > limit {
            return Err(Full);
        }
        out[..head.len()].copy_from_slice(head);
        names.count = 0;
        let question = (head.len() > HEADER_BYTES).then(|| &head[HEADER_BYTES..head.len() - 4]);
        let questions = u16::from(question.is_some());
        let at = head.len();
        Ok(Self {
            out,
            at,
            limit: limit - reserved,
            end: limit,
            questions,
            start: at,
            counts: [0; 3],
            names,
            question,
            refused_key: None,
        })
    }

    /// Octets written.
    pub fn len(&self) -> usize {
        self.at
    }

    /// Whether no section holds a record.
    pub fn is_empty(&self) -> bool {
        self.counts == [0; 3]
    }

    #[inline(always)]
    fn put(&mut self, octets: &[u8]) -> Result<(), Full> {
        let end = self.at + octets.len();
        if end > self.limit {
            return Err(Full);
        }
        self.out[self.at..end].copy_from_slice(octets);
        self.at = end;
        Ok(())
    }

    /// Writes one RRset, whole or not at all. Returns where the last compressible name of its data
    /// stands, for the next link of a chain.
    ///
    /// # Errors
    /// [`Full`]; the message is as before.
    pub fn rrset(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        set: &RrSet,
        ttl: u32,
    ) -> Result<Option<u16>, Full> {
        let embedded = record::compressible(set.rtype);
        self.whole(section, |message| {
            let mut owner = owner;
            let mut target = None;
            for data in set {
                let at = message.head(owner, set.rtype.0, ttl)?;
                // Written once, the owner of the other records of the set is a pointer to it.
                owner = Owner::At(at);
                let start = message.at;
                message.put(&[0, 0])?;
                match embedded {
                    Some(embedded) => target = message.embedded(data, embedded)?,
                    None => message.put(data)?,
                }
                message.length(start);
            }
            Ok((target, set.len()))
        })
    }

    /// Writes records of one type from data that is made for this answer, all or none.
    ///
    /// # Errors
    /// [`Full`]; the message is as before.
    pub fn records<D: AsRef<[u8]>>(
        &mut self,
        section: Section,
        owner: Owner<'_>,
        rtype: Rtype,
        ttl: u32,
        items: impl IntoIterator<Item = D>,
    ) -> Result<(), Full> {
        self.whole(section, |message| {
            let mut count = 0;
            for data in items {
                message.head(owner, rtype.0, ttl)?;
                let start = message.at;
                message.put(&[0, 0])?;
                message.put(data.as_ref())?;
                message.length(start);
                count += 1;
            }
            Ok(((), count))
        })
    }

    /// Writes one record whose data a function writes.
    ///
    /// # Errors
    /// [`Full`]; the message is as before.
    pub fn record(
        &mut self,
        owner: Owner<'_>,
        rtype: Rtype,
        ttl: u32,
        data: impl FnOnce(&mut Data<'_, 'm>) -> Result<(), Full>,
    ) -> Result<(), Full> {
        self.whole(Section::Answer, |message| {
            message.head(owner, rtype.0, ttl)?;
            let start = message.at;
            message.put(&[0, 0])?;
            data(&mut Data { message })?;
            message.length(start);
            Ok(((), 1))
        })
    }

    /// Writes the one record class CHAOS knows: a TXT at the question's name, TTL 0, in one string
    /// of at most 255 octets.
    ///
    /// # Errors
    /// [`Full`]; the message is as before.
    pub fn chaos_txt(&mut self, text: &str) -> Result<(), Full> {
        let octets = text.as_bytes();
        let octets = &octets[..octets.len().min(255)];
        let head_at = self.at;
        self.record(Owner::QUESTION, Rtype::TXT, 0, |data| {
            data.put(&[octets.len() as u8])?;
            data.put(octets)
        })?;
        // Owner pointer and type stand before the class.
        self.out[head_at + 5] = 3;
        Ok(())
    }

    /// Writes a CNAME record and returns where its target stands.
    ///
    /// # Errors
    /// [`Full`]; the message is as before.
    pub fn cname(&mut self, owner: Owner<'_>, ttl: u32, target: &[u8]) -> Result<Option<u16>, Full> {
        self.whole(Section::Answer, |message| {
            message.head(owner, Rtype::CNAME.0, ttl)?;
            let start = message.at;
            message.put(&[0, 0])?;
            let at = message.name(target)?;
            message.length(start);
            Ok((at, 1))
        })
    }

    fn whole<T>(
        &mut self,
        section: Section,
        write: impl FnOnce(&mut Self) -> Result<(T, usize), Full>,
    ) -> Result<T, Full> {
        let (at, names) = (self.at, self.names.count);
        match write(self) {
            Ok((value, records)) => {
                // An RRset of more records than a count can hold has long been too large to fit.
                self.counts[section as usize] = self.counts[section as usize].saturating_add(records as u16);
                Ok(value)
            }
            Err(Full) => {
                self.at = at;
                self.names.count = names;
                Err(Full)
            }
        }
    }

    /// Owner, type, class IN and TTL. Returns where the owner can be pointed at.
    #[inline]
    fn head(&mut self, owner: Owner<'_>, rtype: u16, ttl: u32) -> Result<u16, Full> {
        let [high, low] = rtype.to_be_bytes();
        let [t0, t1, t2, t3] = ttl.to_be_bytes();
        match owner {
            Owner::At(at) => {
                let [owner_high, owner_low] = (0xc000 | at).to_be_bytes();
                self.put(&[owner_high, owner_low, high, low, 0, 1, t0, t1, t2, t3])?;
                Ok(at)
            }
            Owner::Wire(wire) => {
                // A name past the reach of pointers cannot be the owner of several records.
                let at = self.name(wire)?.ok_or(Full)?;
                self.put(&[high, low, 0, 1, t0, t1, t2, t3])?;
                Ok(at)
            }
        }
    }

    fn length(&mut self, start: usize) {
        let length = (self.at - start - 2) as u16;
        self.out[start..start + 2].copy_from_slice(&length.to_be_bytes());
    }

    fn embedded(&mut self, data: &[u8], embedded: Embedded) -> Result<Option<u16>, Full> {
        let (before, mut rest) = data.split_at_checked(embedded.offset).ok_or(Full)?;
        self.put(before)?;
        let mut at = None;
        for _ in 0..embedded.names {
            let length = name_bytes(rest).ok_or(Full)?;
            at = self.name(&rest[..length])?;
            rest = &rest[length..];
        }
        self.put(rest)?;
        Ok(at)
    }

    /// Writes a name, compressed. Returns an offset that stands for the whole name, if one does.
    fn name(&mut self, wire: &[u8]) -> Result<Option<u16>, Full> {
        if wire.len() <= 1 {
            // The root takes one octet; a pointer to it would take two.
            let at = self.at;
            self.put(&[0])?;
            return Ok(u16::try_from(at).ok().filter(|at| usize::from(*at) <= POINTER_MAX));
        }
        if let Some(question) = self.question.take() {
            self.remember(question, HEADER_BYTES, question.len());
        }
        let start = self.at;
        for position in tails(wire) {
            if let Some(offset) = self.find(&wire[position..]) {
                self.put(&wire[..position])?;
                self.put(&(0xc000 | offset).to_be_bytes())?;
                self.remember(wire, start, position);
                return Ok(if position == 0 { Some(offset) } else { pointable(start) });
            }
        }
        self.put(wire)?;
        self.remember(wire, start, wire.len());
        Ok(pointable(start))
    }

    /// Notes the tails of a name that start in its first `fresh` octets, written at `start`.
    fn remember(&mut self, wire: &[u8], start: usize, fresh: usize) {
        for position in tails(wire).take_while(|&position| position < fresh) {
            let Some(offset) = pointable(start + position) else { return };
            let Some(slot) = self.names.known.get_mut(self.names.count) else { return };
            *slot = Known { offset, length: (wire.len() - position) as u16 };
            self.names.count += 1;
        }
    }

    /// Few names of an answer are of one length, and those differ in their first octets: looking at both costs
    /// less than hashing the name would.
    fn find(&self, tail: &[u8]) -> Option<u16> {
        self.names.known[..self.names.count]
            .iter()
            .find(|known| {
                usize::from(known.length) == tail.len() && self.reads(usize::from(known.offset), tail)
            })
            .map(|known| known.offset)
    }

    /// Whether the name at `offset` is `tail`. Pointers here are our own and only lead backwards.
    fn reads(&self, mut offset: usize, mut tail: &[u8]) -> bool {
        loop {
            let first = self.out[offset];
            if first >= 0xc0 {
                offset = usize::from(u16::from_be_bytes([first, self.out[offset + 1]])) & POINTER_MAX;
                continue;
            }
            let length = 1 + usize::from(first);
            let same = tail.len() >= length
                && self.out[offset..offset + length].eq_ignore_ascii_case(&tail[..length]);
            if !same || first == 0 {
                return same;
            }
            offset += length;
            tail = &tail[length..];
        }
    }

    /// Ends the message with a record that refuses the query's key, into octets set aside
    /// ([`Tsig::bytes`]): unsigned, since there is no key to sign with (RFC 8945 section 5.3.2).
    pub fn refuse_key(&mut self, tsig: Tsig<'m>) {
        self.refused_key = Some(tsig);
    }

    /// Takes back everything but the question.
    pub fn clear(&mut self) {
        self.at = self.start;
        self.counts = [0; 3];
        self.names.count = 0;
    }

    /// Writes the header and, if the client spoke EDNS, the OPT record into the octets set aside.
    /// Returns the length of the message.
    pub fn finish(mut self, head_flags: u16, rcode: Rcode, opt: Option<&Opt<'_>>) -> usize {
        let mut additional = self.counts[2];
        if let Some(opt) = opt {
            self.limit = self.end;
            let before = self.at;
            match self.opt(rcode, opt) {
                Ok(()) => additional = additional.saturating_add(1),
                // Only where the caller reserved less than `Opt::bytes`.
                Err(Full) => self.at = before,
            }
        }
        if let Some(tsig) = self.refused_key {
            self.limit = self.end;
            let before = self.at;
            match self.tsig(&tsig) {
                Ok(()) => additional = additional.saturating_add(1),
                Err(Full) => self.at = before,
            }
        }
        let flags = head_flags | (rcode.0 & 0xf);
        self.out[2..4].copy_from_slice(&flags.to_be_bytes());
        for (index, count) in
            [self.questions, self.counts[0], self.counts[1], additional].into_iter().enumerate()
        {
            self.out[4 + 2 * index..6 + 2 * index].copy_from_slice(&count.to_be_bytes());
        }
        self.at
    }

    fn opt(&mut self, rcode: Rcode, opt: &Opt<'_>) -> Result<(), Full> {
        let dnssec_ok = if opt.query.dnssec_ok { 0x80 } else { 0 };
        self.put(&[0, 0, 41])?;
        self.put(&opt.payload.to_be_bytes())?;
        self.put(&[(rcode.0 >> 4) as u8, 0, dnssec_ok, 0])?;
        let start = self.at;
        self.put(&[0, 0])?;
        if let Some(nsid) = opt.nsid {
            self.option(option::NSID, &[nsid])?;
        }
        if let Some(subnet) = opt.query.client_subnet {
            let [family_high, family_low] = subnet.family.to_be_bytes();
            let fixed = [family_high, family_low, subnet.source, opt.scope];
            self.option(option::CLIENT_SUBNET, &[&fixed, subnet.octets])?;
        }
        if let (Some(cookie), Some(server)) = (opt.query.cookie, &opt.cookie) {
            self.option(option::COOKIE, &[&cookie.client, server])?;
        }
        if let Some(keepalive) = opt.keepalive_100ms {
            self.option(option::KEEPALIVE, &[&keepalive.to_be_bytes()])?;
        }
        if let Some((code, text)) = opt.error {
            // A hint for people: left out where there is no room for it.
            let _ = self.option(option::EDE, &[&(code as u16).to_be_bytes(), text.as_bytes()]);
        }
        self.length(start);
        Ok(())
    }

    /// RFC 8945 section 4.2: no MAC, BADKEY.
    fn tsig(&mut self, tsig: &Tsig<'_>) -> Result<(), Full> {
        const BADKEY: u16 = 17;
        self.put(tsig.key)?;
        // Type TSIG, class ANY, TTL 0.
        self.put(&[0, 250, 0, 255, 0, 0, 0, 0])?;
        let start = self.at;
        self.put(&[0, 0])?;
        self.put(tsig.algorithm)?;
        self.put(tsig.time)?;
        self.put(&[0, 0])?;
        self.put(tsig.id)?;
        self.put(&BADKEY.to_be_bytes())?;
        self.put(&[0, 0])?;
        self.length(start);
        Ok(())
    }

    fn option(&mut self, code: u16, parts: &[&[u8]]) -> Result<(), Full> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if self.at + OPTION_BYTES + length > self.limit {
            return Err(Full);
        }
        self.put(&code.to_be_bytes())?;
        self.put(&(length as u16).to_be_bytes())?;
        parts.iter().try_for_each(|part| self.put(part))
    }
}

/// Where [`Message::record`] writes data.
pub struct Data<'a, 'm> {
    message: &'a mut Message<'m>,
}

impl Data<'_, '_> {
    /// Appends octets.
    ///
    /// # Errors
    /// [`Full`]
    pub fn put(&mut self, octets: &[u8]) -> Result<(), Full> {
        self.message.put(octets)
    }
}

/// The OPT record of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Opt<'a> {
    /// The query's OPT record: what may be answered to.
    pub query: &'a Edns<'a>,
    /// UDP payload we take.
    pub payload: u16,
    /// Name of this server, where asked for.
    pub nsid: Option<&'a [u8]>,
    /// SCOPE PREFIX-LENGTH; the option is echoed only where the query had one.
    pub scope: u8,
    /// Our half of the cookie.
    pub cookie: Option<[u8; 16]>,
    /// Idle timeout of this stream.
    pub keepalive_100ms: Option<u16>,
    /// Why it went wrong, in a word.
    pub error: Option<(Ede, &'static str)>,
}

/// Octets of an OPT record without options.
const OPT_BYTES: usize = 11;
/// Octets before an option's data.
const OPTION_BYTES: usize = 4;

impl Opt<'_> {
    /// Octets this record takes: what to set aside. The error is not counted: it is a hint, and
    /// written only where there is room.
    pub fn bytes(&self) -> usize {
        let option = |present: bool, data: usize| if present { OPTION_BYTES + data } else { 0 };
        OPT_BYTES
            + option(self.nsid.is_some(), self.nsid.map_or(0, <[u8]>::len))
            + option(
                self.query.client_subnet.is_some(),
                4 + self.query.client_subnet.map_or(0, |s| s.octets.len()),
            )
            + option(self.cookie.is_some(), 24)
            + option(self.keepalive_100ms.is_some(), 2)
    }
}

impl Tsig<'_> {
    /// Octets of the record that refuses the key: what to set aside.
    pub fn bytes(&self) -> usize {
        /// Type, class, TTL, length; time and fudge; MAC length, id, error, other length.
        const FIXED: usize = 10 + 8 + 8;
        self.key.len() + FIXED + self.algorithm.len()
    }
}

fn pointable(offset: usize) -> Option<u16> {
    u16::try_from(offset).ok().filter(|offset| usize::from(*offset) <= POINTER_MAX)
}

/// Octets of the uncompressed name at the start of `octets`.
fn name_bytes(octets: &[u8]) -> Option<usize> {
    let mut position = 0;
    loop {
        let length = usize::from(*octets.get(position)?);
        position += 1 + length;
        if length == 0 {
            return Some(position);
        }
    }
}

/// Where the labels of a name begin, the root left out: where a pointer to one of its tails could lead. A name
/// of more than [`TAILS_MAX`] labels has none.
fn tails(wire: &[u8]) -> impl Iterator<Item = usize> + use<'_> {
    let mut starts = [0u8; TAILS_MAX];
    let mut labels = 0;
    let mut position = 0;
    while let Some(&length) = wire.get(position)
        && length != 0
    {
        if labels == TAILS_MAX {
            labels = 0;
            break;
        }
        starts[labels] = position as u8;
        labels += 1;
        position += 1 + usize::from(length);
    }
    starts.into_iter().take(labels).map(usize::from)
}

/// Flags of an answer to a query with `query_flags`: QR, the opcode, RD and CD as they came.
pub(crate) fn answer_flags(query_flags: u16) -> u16 {
    flags::QR | (query_flags & (flags::OPCODE | flags::RD | flags::CD))
}
