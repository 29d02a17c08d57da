//! Where a list goes on: an opaque text that brings back what the first page was about.
//!
//! A cursor grants nothing: whoever makes one up is answered like somebody who asked for the same
//! with parameters. It holds the hours of the first page, so that a list that ends "now" does not
//! move under its reader.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::parameters::invalid;
use super::span::Span;
use crate::proxy::problem::Problem;

/// What a cursor says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cursor<P> {
    /// Which list, put together how.
    of: String,
    from_s: i64,
    to_s: i64,
    /// The last row of the page before.
    place: P,
}

/// The text of a cursor that goes on after `place`.
pub(super) fn write<P: Serialize>(of: &str, span: Span, place: P) -> String {
    let cursor = Cursor { of: of.to_owned(), from_s: span.from_s, to_s: span.to_s, place };
    let json = serde_json::to_vec(&cursor).expect("texts and numbers are always JSON");
    json.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(digit).collect()
}

/// Reads a cursor of the list `of`.
pub(super) fn read<P: DeserializeOwned>(text: &str, of: &str) -> Result<(Span, P), Box<Problem>> {
    let none = || invalid("cursor", "is not one that an answer gave");
    let bytes = bytes(text).ok_or_else(none)?;
    let cursor: Cursor<P> = serde_json::from_slice(&bytes).map_err(|_| none())?;
    if cursor.of != of {
        return Err(invalid("cursor", "is of another list: repeat the first page's parameters"));
    }
    let span = Span { from_s: cursor.from_s, to_s: cursor.to_s };
    if span.is_sound() { Ok((span, cursor.place)) } else { Err(none()) }
}

fn digit(value: u8) -> char {
    char::from(b"0123456789abcdef"[usize::from(value)])
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let value = |digit: u8| char::from(digit).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| Some((value(*high)? << 4 | value(*low)?) as u8);
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { from_s: 1_793_491_200, to_s: 1_793_494_800 };

    #[test]
    fn it_brings_back_what_was_put_in() {
        let place = (5_i64, "part".to_owned());
        let text = write("usage", SPAN, place.clone());
        assert_eq!(read::<(i64, String)>(&text, "usage").ok(), Some((SPAN, place)));
    }

    #[test]
    fn what_is_made_up_is_refused() {
        let of_another = write("refusals", SPAN, 1);
        let unsound = write("usage", Span { from_s: 1, to_s: 2 }, 1);
        let too_long = write("usage", Span { from_s: 1_793_491_200 - 500 * 86_400, ..SPAN }, 1);
        let place = write("usage", SPAN, "text");
        for text in [&*of_another, &unsound, &too_long, &place, "", "7", "zz", "7b7d", "\u{e9}"] {
            let problem = read::<i64>(text, "usage").expect_err(text);
            assert!(problem.detail().starts_with("The parameter `cursor`: is "), "{text}");
        }
    }
}
