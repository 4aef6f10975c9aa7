//! How long a client may be waited for: a head's end, a body's next byte, the next request, its reading.
//!
//! One timer per connection serves all. It is moved only when it fires too early, so that a busy connection
//! does not touch the timer wheel for each request.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep};

use crate::{
    listen::{
        limits::{BODY_TIMEOUT, HEAD_TIMEOUT, IDLE_TIMEOUT, WRITE_STALL_TIMEOUT},
        pace::{Pace, Verdict},
    },
    stats::Turned,
};

/// What is waited for, since when.
#[derive(Default)]
pub struct Deadlines {
    reading: Option<(Turned, Instant)>,
    writing: Option<Instant>,
    /// How fast it takes what it takes.
    pace: Pace,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Deadlines {
    /// Of a client that has to take what it is sent at this pace.
    pub fn new(pace: Pace) -> Self {
        Deadlines { pace, ..Deadlines::default() }
    }

    /// The client's next bytes are awaited, or still awaited for the same reason.
    pub fn reading(&mut self, why: Turned) {
        if !self.reading.is_some_and(|(known, _)| known == why) {
            self.reading = Some((why, Instant::now()));
        }
    }

    /// They came. A head has one deadline from its first byte to its last.
    pub fn read(&mut self) {
        if !self.reading.is_some_and(|(why, _)| why == Turned::HeadTimeout) {
            self.reading = None;
        }
    }

    /// Nothing of the client's is awaited.
    pub fn not_reading(&mut self) {
        self.reading = None;
    }

    /// The client does not take what is sent.
    pub fn writing(&mut self) {
        let since = *self.writing.get_or_insert_with(Instant::now);
        self.pace.waits(since.into_std());
    }

    /// It took so much; whether that is fast enough.
    pub fn wrote(&mut self, bytes: usize) -> Verdict {
        if self.writing.take().is_some() {
            return self.pace.moved(bytes, Instant::now().into_std());
        }
        self.pace.took(bytes);
        Verdict::Fine
    }

    /// Nothing waits to be taken any more.
    pub fn flushed(&mut self) {
        self.writing = None;
        self.pace.rests();
    }

    /// Ready with the deadline that has passed.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turned> {
        loop {
            let Some((why, deadline)) = self.next() else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
            // A timer set for earlier stays: it fires, finds nothing due, and is moved then.
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(why);
            }
            timer.as_mut().reset(deadline);
        }
    }

    fn next(&self) -> Option<(Turned, Instant)> {
        let reading = self.reading.map(|(why, since)| {
            let limit = match why {
                Turned::HeadTimeout => HEAD_TIMEOUT,
                Turned::BodyTimeout => BODY_TIMEOUT,
                _ => IDLE_TIMEOUT,
            };
            (why, since + limit)
        });
        let writing = self.writing.map(|since| (Turned::WriteStall, since + WRITE_STALL_TIMEOUT));
        [reading, writing].into_iter().flatten().min_by_key(|&(_, deadline)| deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_head_has_one_deadline_and_a_body_one_per_byte() {
        let mut deadlines = Deadlines::default();
        let earlier = Instant::now() - Duration::from_secs(4);
        for (why, limit) in [(Turned::HeadTimeout, HEAD_TIMEOUT), (Turned::BodyTimeout, BODY_TIMEOUT)] {
            deadlines.reading = Some((why, earlier));
            deadlines.reading(why);
            assert_eq!(deadlines.next(), Some((why, earlier + limit)), "still awaited");
            deadlines.read();
            deadlines.reading(why);
            let restarted = deadlines.next() != Some((why, earlier + limit));
            assert_eq!(restarted, why == Turned::BodyTimeout, "{why:?}");
        }
        deadlines.not_reading();
        assert_eq!(deadlines.next(), None);
    }

    #[test]
    fn the_earlier_of_two_deadlines_counts() {
        let mut deadlines = Deadlines::default();
        deadlines.reading(Turned::Idle);
        deadlines.writing();
        assert_eq!(deadlines.next().map(|(why, _)| why), Some(Turned::WriteStall));
        deadlines.flushed();
        assert_eq!(deadlines.next().map(|(why, _)| why), Some(Turned::Idle));
    }

    #[tokio::test]
    async fn a_deadline_that_has_passed_is_told() {
        let mut deadlines =
            Deadlines { reading: Some((Turned::Idle, Instant::now())), ..Deadlines::default() };
        let early = tokio::time::timeout(Duration::ZERO, std::future::poll_fn(|cx| deadlines.poll(cx))).await;
        assert!(early.is_err());
        deadlines.reading = Some((Turned::Idle, Instant::now() - IDLE_TIMEOUT));
        assert_eq!(std::future::poll_fn(|cx| deadlines.poll(cx)).await, Turned::Idle);
    }
}
