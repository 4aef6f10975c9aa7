//! Has things made of stored responses, each once, and stores them.
//!
//! Who wants something takes [`Workshop::order`] and waits for the [`Order`], or not; then looks it up with
//! [`Workshop::find`] like anybody else. Making goes on when whoever ordered has gone. That something is not worth making
//! is stored too, as a head without content, so that it is not tried again for the same source.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Full};
use nearside_fleet::config::transform::{Coding, WrittenAs};
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::watch;

use super::{
    compress::{self, Level},
    image,
    pool::{Failure, Pool, Urgency},
    stats::{End, Kind, Stats},
};
use crate::{
    cache::{Cache, Object, fill, fill::Keep},
    policy::{
        Content, Meta, Timestamp,
        meta::{EntityTag, Reuse, Validators},
    },
};

/// Things in the making. More than the pool's queues take: of each some are being read or stored.
const MAKING_MAX: usize = 256;

/// Of which generation of content something was made, and how well: `GENERATION fast|better`. Never sent.
const MADE_OF: HeaderName = HeaderName::from_static("nearside-made-of");

/// Fields by which purges find what was made, with its source.
const TAGS: [HeaderName; 2] =
    [HeaderName::from_static("surrogate-key"), HeaderName::from_static("cache-tag")];

/// What is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recipe {
    /// Coded content.
    Coded(Coding),
    /// An image.
    Image(image::Asked, Formats),
}

/// What an image may become, best first; empty: what it is.
pub type Formats = SmallVec<[WrittenAs; 2]>;

impl Recipe {
    /// What metrics call it.
    pub fn kind(&self) -> Kind {
        match self {
            Recipe::Coded(coding) => Kind::Coded(*coding),
            Recipe::Image(_, formats) => formats.first().map_or(Kind::Resized, |format| Kind::Image(*format)),
        }
    }

    /// Its part of the key.
    fn name(&self) -> String {
        match self {
            Recipe::Coded(coding) => coding.token().to_owned(),
            Recipe::Image(asked, formats) => {
                let side = |side: Option<u32>| side.unwrap_or(0);
                let (width, height) = (side(asked.width), side(asked.height));
                let mut name = format!("image:{width}x{height}:{:?}:{}", asked.fit, asked.quality);
                formats.iter().for_each(|format| {
                    name.push(':');
                    name.push_str(format.media_type());
                });
                name
            }
        }
    }
}

/// What was found of something made.
#[derive(Clone, Debug)]
pub enum Found {
    /// It, possibly in a first version that a better one will replace.
    Made(Arc<Object>, Level),
    /// It was tried, and is not worth it.
    Useless,
}

/// Something in the making.
#[derive(Clone, Debug)]
pub struct Order(watch::Receiver<()>);

impl Order {
    /// Waits until it is stored or has failed, at most `wait_max`; whether that was enough. Cancel-safe.
    pub async fn wait(mut self, wait_max: Duration) -> bool {
        tokio::time::timeout(wait_max, self.0.changed()).await.is_ok()
    }
}

/// See the module. One per edge.
pub struct Workshop {
    pool: Pool,
    making: Mutex<HashMap<Slot, watch::Receiver<()>>>,
    /// What was made, and what was not.
    pub stats: Stats,
}

/// A derived key and a generation.
type Slot = (Box<str>, u64);

impl Workshop {
    /// A workshop with so many threads.
    pub fn new(threads: usize) -> Arc<Workshop> {
        Arc::new(Workshop { pool: Pool::new(threads), making: Mutex::default(), stats: Stats::default() })
    }

    /// Its threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Finds what was made of this very content.
    pub async fn find(&self, cache: &Cache, source: &Object, recipe: &Recipe) -> Option<Found> {
        let candidates = cache.lookup(&source.key().derived(&recipe.name())).await;
        candidates.into_iter().find_map(|found| {
            let meta = found.object.meta();
            let (generation, level) = made_of(&meta.headers)?;
            if generation != source.generation() {
                return None;
            }
            Some(match meta.content {
                Content::HeadOnly => Found::Useless,
                _ => Found::Made(found.object, level),
            })
        })
    }

    /// Has something made, unless that is under way. With [`Urgency::Later`] in its better form only.
    ///
    /// # Errors
    /// [`Failure::Busy`]: too much is.
    pub fn order(
        self: &Arc<Self>,
        cache: &Arc<Cache>,
        source: &Arc<Object>,
        recipe: &Recipe,
        urgency: Urgency,
    ) -> Result<Order, Failure> {
        let key = source.key().derived(&recipe.name());
        let slot: Slot = (key.as_str().into(), source.generation());
        let mut making = self.making.lock();
        if let Some(known) = making.get(&slot) {
            return Ok(Order(known.clone()));
        }
        if making.len() >= MAKING_MAX {
            self.stats.ended(recipe.kind(), End::Busy);
            return Err(Failure::Busy);
        }
        let (tell, told) = watch::channel(());
        making.insert(slot.clone(), told.clone());
        drop(making);
        let making = Making {
            workshop: self.clone(),
            slot,
            cache: cache.clone(),
            source: source.clone(),
            recipe: recipe.clone(),
            tell,
        };
        tokio::spawn(async move { making.run(urgency).await });
        Ok(Order(told))
    }
}

/// Something being made. Dropped, whoever waits is told and it can be ordered again.
struct Making {
    workshop: Arc<Workshop>,
    slot: Slot,
    cache: Arc<Cache>,
    source: Arc<Object>,
    recipe: Recipe,
    tell: watch::Sender<()>,
}

impl Drop for Making {
    fn drop(&mut self) {
        self.workshop.making.lock().remove(&self.slot);
    }
}

impl Making {
    async fn run(self, urgency: Urgency) {
        let Some(content) = read(&self.source).await else {
            return self.workshop.stats.ended(self.recipe.kind(), End::Failed);
        };
        match self.recipe.clone() {
            Recipe::Coded(coding) => self.coded(coding, content, urgency).await,
            Recipe::Image(asked, formats) => self.image(asked, formats, content, urgency).await,
        }
    }

    async fn coded(self, coding: Coding, content: Bytes, urgency: Urgency) {
        let mut first = None;
        if urgency == Urgency::Now {
            let Some(made) = self.code(coding, Level::Fast, &content, Urgency::Now).await else { return };
            let Some(made) = made else { return self.store(None, Level::Better, End::Useless).await };
            first = Some(made.clone());
            self.store(Some(made), Level::Fast, End::Made).await;
            // Whoever waits for it has it; the better one nobody waits for.
            self.tell.send_replace(());
        }
        let Some(made) = self.code(coding, Level::Better, &content, Urgency::Later).await else { return };
        // A coder's better level may gain less than its fast one.
        let best = [made, first].into_iter().flatten().min_by_key(Bytes::len);
        let end = if best.is_some() { End::Made } else { End::Useless };
        self.store(best, Level::Better, end).await;
    }

    async fn image(self, asked: image::Asked, formats: Formats, content: Bytes, urgency: Urgency) {
        let (kind, length) = (self.recipe.kind(), content.len());
        let deadline = Instant::now() + image::JOB_MAX;
        let work = move || {
            let begun = Instant::now();
            let made = image::make(&content, asked, &formats, deadline);
            (made.map(|made| (EntityTag::of(&made.content), made)), begun.elapsed())
        };
        let stats = &self.workshop.stats;
        match self.workshop.pool.run(urgency, length as u64, work).await {
            Ok((Ok((tag, made)), time)) => {
                stats.worked(kind, length, made.content.len(), time);
                let mut headers = HeaderMap::new();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(made.media_type));
                if let Ok(tag) = HeaderValue::from_bytes(&tag.opaque) {
                    headers.insert(header::ETAG, tag);
                }
                self.store_as(Some(made.content), headers, Some(tag), Level::Better, End::Made).await;
            }
            Ok((Err(why), time)) => {
                stats.worked(kind, length, 0, time);
                match why {
                    image::Unmade::Late => stats.ended(kind, End::Late),
                    // Whatever it is, it is that the next time too.
                    image::Unmade::Useless => self.store(None, Level::Better, End::Useless).await,
                    image::Unmade::Unreadable | image::Unmade::TooLarge => {
                        self.store(None, Level::Better, End::Failed).await;
                    }
                }
            }
            Err(Failure::Panicked) => self.store(None, Level::Better, End::Failed).await,
            Err(Failure::Busy) => stats.ended(kind, End::Busy),
        }
    }

    /// `None`: it could not be done, and is counted.
    async fn code(
        &self,
        coding: Coding,
        level: Level,
        content: &Bytes,
        urgency: Urgency,
    ) -> Option<Option<Bytes>> {
        let (workshop, kind) = (&self.workshop, self.recipe.kind());
        let (input, length) = (content.clone(), content.len());
        let work = move || {
            let begun = Instant::now();
            (compress::code(coding, level, &input), begun.elapsed())
        };
        let end = match workshop.pool.run(urgency, length as u64, work).await {
            Ok((Ok(coded), time)) => {
                workshop.stats.worked(kind, length, coded.as_ref().map_or(length, Bytes::len), time);
                return Some(coded);
            }
            Ok((Err(_), _)) | Err(Failure::Panicked) => End::Failed,
            Err(Failure::Busy) => End::Busy,
        };
        workshop.stats.ended(kind, end);
        None
    }

    /// Stores what was made, or that nothing was.
    async fn store(&self, made: Option<Bytes>, level: Level, end: End) {
        self.store_as(made, HeaderMap::new(), None, level, end).await;
    }

    async fn store_as(
        &self,
        made: Option<Bytes>,
        headers: HeaderMap,
        tag: Option<EntityTag>,
        level: Level,
        end: End,
    ) {
        self.workshop.stats.ended(self.recipe.kind(), end);
        let mut meta = head(&self.source, made.as_ref().map(|made| made.len() as u64), level, headers);
        meta.validators = Validators { etag: tag, ..self.source.meta().validators.clone() };
        let key = self.source.key().derived(&self.recipe.name());
        let (filler, _object) = self.cache.alone(&key).start(meta, Keep::Always);
        // A store that has no room for it is a store without it.
        let _ = fill::drive(filler, Full::new(made.unwrap_or_default())).await;
    }
}

/// All of a source's content. It is complete, or its fill completes it: bounded by what the caller lets in.
async fn read(source: &Object) -> Option<Bytes> {
    if let Some(whole) = source.whole() {
        return Some(whole.clone());
    }
    let length = usize::try_from(source.length()?).ok()?;
    let mut content = BytesMut::with_capacity(length);
    let mut body = source.body(None);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            content.extend_from_slice(&data);
        }
    }
    (content.len() == length).then(|| content.freeze())
}

/// The head of something made. It is never planned with, validated or sent: the source's is. What varies with the
/// source's request fields stands beside the others as the sources do.
fn head(source: &Object, length: Option<u64>, level: Level, mut headers: HeaderMap) -> Meta {
    let of = source.meta();
    for name in TAGS {
        for value in of.headers.get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    let level = if level == Level::Fast { "fast" } else { "better" };
    if let Ok(value) = HeaderValue::try_from(format!("{} {level}", source.generation())) {
        headers.insert(MADE_OF, value);
    }
    let now: Timestamp = crate::request::now();
    Meta {
        status: StatusCode::OK,
        headers,
        request_time: now,
        response_time: now,
        initial_age: Duration::ZERO,
        lifetime: of.lifetime,
        date_secs: of.date_secs,
        stale_while_revalidate: Duration::ZERO,
        stale_if_error: Duration::ZERO,
        reuse: Reuse::Freely,
        immutable: false,
        vary: of.vary.clone(),
        validators: Validators::default(),
        content: match length {
            Some(length) => Content::Whole { length: Some(length) },
            None => Content::HeadOnly,
        },
    }
}

fn made_of(headers: &HeaderMap) -> Option<(u64, Level)> {
    let (generation, level) = headers.get(MADE_OF)?.to_str().ok()?.split_once(' ')?;
    Some((generation.parse().ok()?, if level == "fast" { Level::Fast } else { Level::Better }))
}
