//! The response bodies of the fake upstreams: slices of one static block, so that an answer of any
//! length allocates nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use thiserror::Error;
use tokio::time::Sleep;

/// The longest single chunk.
pub(super) const FILL_BYTES: u64 = 1 << 20;
static FILL: [u8; FILL_BYTES as usize] = [b'x'; FILL_BYTES as usize];
/// A long body is handed over in pieces of this size.
const PIECE_BYTES: u64 = 64 << 10;

/// A response body.
pub(super) enum Payload {
    /// One piece, or none.
    Whole(Option<Bytes>),
    /// This many bytes, announced.
    Fill { left: u64 },
    /// Chunks of equal length, not announced.
    Chunks { left: u64, bytes: u64, pause: Option<Duration>, sleep: Option<Pin<Box<Sleep>>> },
    /// Announces `promised`, gives half, and breaks.
    Cut { promised: u64, given: bool, flushed: bool },
    /// The other body, and then a field.
    Trailed { body: Box<Payload>, trailer: Option<(HeaderName, HeaderValue)> },
}

/// The body ends here although more was announced, as asked.
#[derive(Debug, Error)]
#[error("the answer was cut short, as the path asked")]
pub(super) struct CutShort;

impl Payload {
    pub(super) fn empty() -> Payload {
        Payload::Whole(None)
    }

    pub(super) fn whole(bytes: Bytes) -> Payload {
        Payload::Whole(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    pub(super) fn fill(bytes: u64) -> Payload {
        Payload::Fill { left: bytes }
    }

    pub(super) fn chunks(chunks: u64, bytes: u64, pause: Option<Duration>) -> Payload {
        // A chunk of no bytes would end a chunked body early.
        let left = if bytes == 0 { 0 } else { chunks };
        let pause = pause.filter(|pause| !pause.is_zero());
        Payload::Chunks { left, bytes, pause, sleep: None }
    }

    pub(super) fn with_trailer(self, trailer: (HeaderName, HeaderValue)) -> Payload {
        Payload::Trailed { body: Box::new(self), trailer: Some(trailer) }
    }

    pub(super) fn cut(promised: u64) -> Payload {
        Payload::Cut { promised, given: false, flushed: false }
    }
}

fn fill(bytes: u64) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(&FILL[..bytes as usize]))
}

impl Body for Payload {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        match self.get_mut() {
            Payload::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Payload::Fill { left: 0 } | Payload::Chunks { left: 0, .. } => Poll::Ready(None),
            Payload::Fill { left } => {
                let piece = (*left).min(PIECE_BYTES);
                *left -= piece;
                Poll::Ready(Some(Ok(fill(piece))))
            }
            Payload::Chunks { left, bytes, pause, sleep } => {
                if let Some(sleep) = sleep {
                    ready!(sleep.as_mut().poll(context));
                }
                *left -= 1;
                if let Some(pause) = *pause {
                    match sleep {
                        Some(sleep) => {
                            let next = sleep.deadline() + pause;
                            sleep.as_mut().reset(next);
                        }
                        None => *sleep = Some(Box::pin(tokio::time::sleep(pause))),
                    }
                }
                Poll::Ready(Some(Ok(fill(*bytes))))
            }
            Payload::Cut { promised, given: given @ false, .. } => {
                *given = true;
                Poll::Ready(Some(Ok(fill(*promised / 2))))
            }
            Payload::Cut { flushed: flushed @ false, .. } => {
                // One more turn, so that the first half leaves before the connection closes.
                *flushed = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Payload::Cut { .. } => Poll::Ready(Some(Err(CutShort))),
            Payload::Trailed { body, trailer } => {
                match ready!(Pin::new(&mut **body).poll_frame(context)) {
                    Some(frame) => Poll::Ready(Some(frame)),
                    None => Poll::Ready(
                        trailer
                            .take()
                            .map(|field| Ok(Frame::trailers(HeaderMap::from_iter([field])))),
                    ),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Payload::Whole(bytes) => bytes.is_none(),
            Payload::Fill { left } | Payload::Chunks { left, .. } => *left == 0,
            Payload::Cut { .. } => false,
            Payload::Trailed { trailer, .. } => trailer.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Payload::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Payload::Fill { left } | Payload::Cut { promised: left, .. } => {
                SizeHint::with_exact(*left)
            }
            Payload::Chunks { .. } | Payload::Trailed { .. } => SizeHint::default(),
        }
    }
}
