//! A body of unknown length that arrives piece by piece.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Interval, MissedTickBehavior};

/// Yields `total` lines, one every `interval`.
pub(super) struct Pieces {
    sent: u32,
    total: u32,
    interval: Option<Interval>,
}

impl Pieces {
    /// A zero interval sends as fast as the client reads. Must be called within a runtime.
    pub(super) fn new(total: u32, interval: Duration) -> Pieces {
        let interval = (!interval.is_zero()).then(|| {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Pieces { sent: 0, total, interval }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent == self.total {
            return Poll::Ready(None);
        }
        if let Some(interval) = &mut self.interval {
            ready!(interval.poll_tick(context));
        }
        self.sent += 1;
        let line = format!("{{\"piece\":{},\"of\":{}}}\n", self.sent, self.total);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(line)))))
    }
}
