//! Derive: answers with what was made of a stored response, where the site has that and the client can take it.
//!
//! The source has been found and may be served: its head, its age and its preconditions count. Whatever is in
//! the way (nothing made yet, too much to do, a part asked for) the source itself is the answer; no request fails here.
//! Other edges get sources only: each edge makes its own.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::{HeaderMap, StatusCode, Uri, header};
use nearside_fleet::config::transform::{Coding, Compress, Images};

use super::{Answer, Body, Exchange, Refusal, deliver, now};
use crate::{
    cache::Object,
    listen::connection::Client,
    policy::{Content, Precondition, Serve, conditional, headers, range, status::CacheStatus},
    site::Site,
    stats::Outcome,
    transform::{
        Accepts,
        compress::{self, Level},
        image,
        pool::Urgency,
        stats::{End, Kind},
        workshop::{Formats, Found, Recipe},
    },
};

/// Content up to this size is coded while the first client that finds it stored waits: 10 ms. Larger content goes to that
/// client as it is.
const CODED_NOW_BYTES_MAX: u64 = 1 << 20;

/// Longest that a client waits for a coding, whatever the pool has to do.
const CODED_WAIT_MAX: Duration = Duration::from_millis(250);

/// What a request wants of transformations. Only where its site has any.
#[derive(Clone, Debug)]
pub struct Shape {
    accepts: Option<Accepts>,
    /// Whether it may be coded: a rule may say no.
    pub is_coded: bool,
    /// The image it asks for, if its path is that of one.
    image: Option<(image::Asked, Formats)>,
}

/// The query that key and origin get to see.
pub enum Query {
    /// The client's.
    AsAsked,
    /// What is left of it.
    Left(Option<String>),
}

impl Shape {
    /// Reads what a client wants, and puts what origins are told in its place. Gives the query that is left for key and
    /// origin, too.
    ///
    /// # Errors
    /// [`Refusal::BadImageQuery`].
    pub fn read(
        site: &Site,
        client: &Client,
        uri: &Uri,
        headers: &mut HeaderMap,
    ) -> Result<(Option<Box<Shape>>, Query), Refusal> {
        let settings = &site.transform;
        if settings.compress.is_none() && settings.images.is_none() {
            return Ok((None, Query::AsAsked));
        }
        let accepts = settings.compress.as_ref().map(|_| Accepts::read(headers));
        if let Some(accepts) = &accepts {
            headers.insert(header::ACCEPT_ENCODING, accepts.upstream());
        }
        if client.node.is_some() {
            return Ok((None, Query::AsAsked));
        }
        let may_transform = !compress::forbids(headers);
        let mut shape = Shape { accepts, is_coded: may_transform, image: None };
        let images = settings.images.as_ref();
        let asked = images.map(|images| image::asked(images, uri.path(), uri.query()));
        let (images, (asked, rest)) = match images.zip(asked) {
            Some((images, Ok(Some(asked)))) => (images, asked),
            Some((_, Err(image::BadAsk))) => return Err(Refusal::BadImageQuery),
            Some((_, Ok(None))) | None => return Ok((Some(Box::new(shape)), Query::AsAsked)),
        };
        let formats = image::accepted(images, headers).into_iter().collect();
        // The source is the same for everybody, and asked for as a whole.
        for name in [header::ACCEPT, header::RANGE, header::IF_RANGE] {
            headers.remove(name);
        }
        shape.image = Some((asked, formats)).filter(|_| may_transform);
        Ok((Some(Box::new(shape)), Query::Left(rest)))
    }

    /// Whether it is worth waiting for a source that is arriving.
    pub(super) fn wants_image(&self) -> bool {
        self.image.is_some()
    }

    fn compress<'a>(&self, exchange: &'a Exchange, object: &Object) -> Option<&'a Compress> {
        let settings = exchange.site.transform.compress.as_ref().filter(|_| self.is_coded)?;
        // Of an answer to HEAD the content's length is not the store's to know.
        let is_head = object.meta().content == Content::HeadOnly;
        let length = object.length().filter(|_| !is_head);
        compress::concerns(settings, object.meta(), length).then_some(settings)
    }

    /// Says of a source that goes out as it is what else could have been chosen.
    pub(super) fn label(&self, exchange: &Exchange, object: &Object, fields: &mut HeaderMap) {
        if self.compress(exchange, object).is_some() {
            compress::vary_by("Accept-Encoding", fields);
        }
        if exchange
            .site
            .transform
            .images
            .as_ref()
            .is_some_and(|images| chooses_by_accept(self, images, object))
        {
            compress::vary_by("Accept", fields);
        }
    }
}

/// Types of which images are made.
fn is_image(object: &Object) -> bool {
    let media = compress::media_type(&object.meta().headers);
    media.is_some_and(|media| matches!(media.as_str(), "image/jpeg" | "image/png" | "image/webp"))
}

fn chooses_by_accept(shape: &Shape, images: &Images, object: &Object) -> bool {
    shape.image.is_some() && !images.formats.is_empty() && is_image(object)
}

/// The answer made of a stored response.
///
/// # Errors
/// The response itself is the answer, and why, where there is more to say of it.
pub(super) async fn answer(
    exchange: &Arc<Exchange>,
    shape: &Shape,
    object: &Arc<Object>,
    serve: &Serve,
    account: &CacheStatus,
    outcome: Outcome,
) -> Result<Answer, Option<&'static str>> {
    if let (Some((asked, formats)), Some(images)) = (&shape.image, &exchange.site.transform.images)
        && (asked.is_anything() || !formats.is_empty())
        && is_image(object)
        && compress::may_be_transformed(object.meta())
        && object.meta().content != Content::HeadOnly
    {
        let recipe = Recipe::Image(*asked, formats.clone());
        let made = image(exchange, images, object, &recipe).await.map_err(Some)?;
        return Ok(as_image(exchange, object, &made, serve, account, outcome, &recipe));
    }
    as_coded(exchange, shape, object, serve, account, outcome).await.ok_or(None)
}

/// The image that was asked for, made now if it is not there.
///
/// # Errors
/// Why the original is the answer.
async fn image(
    exchange: &Exchange,
    images: &Images,
    object: &Arc<Object>,
    recipe: &Recipe,
) -> Result<Arc<Object>, &'static str> {
    const ORIGINAL: &str = "image-original";
    let (workshop, cache) = (&exchange.edge.workshop, &exchange.edge.cache);
    match workshop.find(cache, object, recipe).await {
        Some(Found::Made(made, _)) => return Ok(made),
        Some(Found::Useless) => return Err(ORIGINAL),
        None => {}
    }
    // Of unknown length it may still be arriving, or turn out to be too long.
    if object.length().is_none_or(|length| length > images.bytes_max) || !object.is_whole() {
        return Err(ORIGINAL);
    }
    let Ok(order) = workshop.order(cache, object, recipe, Urgency::Now) else { return Err("image-busy") };
    if !order.wait(images.wait).await {
        workshop.stats.ended(recipe.kind(), End::Late);
        return Err("image-late");
    }
    match workshop.find(cache, object, recipe).await {
        Some(Found::Made(made, _)) => Ok(made),
        Some(Found::Useless) => Err(ORIGINAL),
        // The store has no room, or the pool had none.
        None => Err("image-busy"),
    }
}

/// The source's fields with those of the image in their place. It is a representation of its own: its conditions and
/// ranges are.
fn as_image(
    exchange: &Arc<Exchange>,
    object: &Object,
    made: &Arc<Object>,
    serve: &Serve,
    account: &CacheStatus,
    outcome: Outcome,
    recipe: &Recipe,
) -> Answer {
    exchange.edge.workshop.stats.of(recipe.kind()).served.fetch_add(1, Relaxed);
    let mut fields = headers::from_store(object.meta(), serve);
    fields.remove(header::CONTENT_LENGTH);
    for name in [header::CONTENT_TYPE, header::ETAG] {
        match made.meta().headers.get(&name) {
            Some(value) => drop(fields.insert(name, value.clone())),
            None => drop(fields.remove(name)),
        }
    }
    if exchange.site.transform.images.as_ref().is_some_and(|images| !images.formats.is_empty()) {
        compress::vary_by("Accept", &mut fields);
    }
    let precondition = conditional::evaluate(&exchange.method, &exchange.headers, made.meta(), now());
    let serve = Serve { precondition, ..serve.clone() };
    deliver::object_with(exchange, made, &serve, fields, account, outcome)
}

/// The stored response in the coding that the client likes best; `None`: as it is.
async fn as_coded(
    exchange: &Exchange,
    shape: &Shape,
    object: &Arc<Object>,
    serve: &Serve,
    account: &CacheStatus,
    outcome: Outcome,
) -> Option<Answer> {
    let settings = shape.compress(exchange, object)?;
    if range::parse(&exchange.headers).is_some() || object.meta().content == Content::HeadOnly {
        return None;
    }
    let coding = shape.accepts?.choose(&settings.codings)?;
    let made = match serve.precondition {
        Precondition::NotModified => None,
        Precondition::Proceed => Some(coded(exchange, object, coding).await?),
    };
    let mut fields = headers::from_store(object.meta(), serve);
    let status = object.meta().status;
    exchange.site.rules.for_client(exchange.target.path(), status, &mut fields);
    compress::dress(coding, &mut fields);
    compress::vary_by("Accept-Encoding", &mut fields);
    let (status, body) = match made {
        None => {
            fields = headers::not_modified(fields);
            (StatusCode::NOT_MODIFIED, Body::empty())
        }
        Some(made) => {
            exchange.edge.workshop.stats.of(Kind::Coded(coding)).served.fetch_add(1, Relaxed);
            if let Some(length) = made.length() {
                fields.insert(header::CONTENT_LENGTH, length.into());
            }
            (status, deliver::whole(&exchange.method, &made))
        }
    };
    deliver::append_account(&mut fields, account);
    Some(Answer { response: deliver::respond(status, fields, body), outcome })
}

/// The coded content of an object, made now if it is not there and that is done soon.
async fn coded(exchange: &Exchange, object: &Arc<Object>, coding: Coding) -> Option<Arc<Object>> {
    let (workshop, cache) = (&exchange.edge.workshop, &exchange.edge.cache);
    let recipe = Recipe::Coded(coding);
    match workshop.find(cache, object, &recipe).await {
        Some(Found::Made(made, Level::Better)) => return Some(made),
        Some(Found::Made(made, Level::Fast)) => {
            // Its better form was refused, or lost with an earlier process.
            let _ = workshop.order(cache, object, &recipe, Urgency::Later);
            return Some(made);
        }
        Some(Found::Useless) => return None,
        None => {}
    }
    // What is still arriving is not waited for: the client gets it as it comes, and the next one has it coded.
    let length = object.length().filter(|length| object.bytes_held() == *length)?;
    if length > CODED_NOW_BYTES_MAX {
        let _ = workshop.order(cache, object, &recipe, Urgency::Later);
        return None;
    }
    let order = workshop.order(cache, object, &recipe, Urgency::Now).ok()?;
    if !order.wait(CODED_WAIT_MAX).await {
        workshop.stats.ended(recipe.kind(), End::Late);
        return None;
    }
    match workshop.find(cache, object, &recipe).await {
        Some(Found::Made(made, _)) => Some(made),
        Some(Found::Useless) | None => None,
    }
}
