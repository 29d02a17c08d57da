//! A request's query parameters, read strictly: what is not understood is refused by its name.

use http::StatusCode;

use crate::proxy::problem::Problem;

/// As much of a client's own text as a problem repeats, in characters.
const SHOWN: usize = 64;

/// The parameters of one request, each known and at most once.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a query string, of which only the `known` names are understood.
    pub(super) fn read(query: Option<&str>, known: &[&str]) -> Result<Parameters, Box<Problem>> {
        let mut read: Vec<(String, String)> = Vec::new();
        let pairs = query.into_iter().flat_map(|query| query.split('&'));
        for pair in pairs.filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = decode(name) else {
                return Err(invalid("", "a parameter's name is not percent-encoded UTF-8"));
            };
            if !known.contains(&name.as_str()) {
                let list = known.join(", ");
                return Err(invalid(&name, format!("is not known here; known are: {list}")));
            }
            if read.iter().any(|(other, _)| *other == name) {
                return Err(invalid(&name, "is there more than once"));
            }
            match decode(value) {
                Some(value) if !value.is_empty() => read.push((name, value)),
                Some(_) => return Err(invalid(&name, "is empty")),
                None => return Err(invalid(&name, "is not percent-encoded UTF-8")),
            }
        }
        Ok(Parameters(read))
    }

    /// A parameter's value.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// A parameter that is one of these words; the first of them when it is not there.
    pub(super) fn word<T: Copy>(
        &self,
        name: &str,
        words: &[(&'static str, T)],
    ) -> Result<T, Box<Problem>> {
        let Some(value) = self.get(name) else { return Ok(words[0].1) };
        let found = words.iter().find(|(word, _)| *word == value).map(|(_, meant)| *meant);
        found.ok_or_else(|| {
            let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            invalid(name, format!("is not one of {}", all.join(", ")))
        })
    }

    /// A parameter that is a whole number from 1 to `most`.
    pub(super) fn number(&self, name: &str, default: u32, most: u32) -> Result<u32, Box<Problem>> {
        let Some(value) = self.get(name) else { return Ok(default) };
        let digits = value.bytes().all(|byte| byte.is_ascii_digit());
        let number = value.parse().ok().filter(|number| digits && (1..=most).contains(number));
        number.ok_or_else(|| invalid(name, format!("is not a whole number from 1 to {most}")))
    }
}

/// The answer to a parameter that cannot be used; `what` goes on after its name.
pub(super) fn invalid(name: &str, what: impl AsRef<str>) -> Box<Problem> {
    let name: String = name.chars().take(SHOWN).collect();
    let detail = format!("The parameter `{name}`: {}.", what.as_ref());
    let problem = Problem::new(StatusCode::BAD_REQUEST, "invalid-parameter", detail);
    Box::new(problem.with("parameter", name))
}

/// Undoes the encoding of a query string (WHATWG URL, 5.1); `None` where it is none.
fn decode(text: &str) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let (pair, after) = rest.split_first_chunk::<2>()?;
                bytes.push((digit(pair[0])? << 4 | digit(pair[1])?) as u8);
                rest = after;
            }
            b'+' => bytes.push(b' '),
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["tenant", "limit"];

    fn refused(query: &str) -> String {
        let problem = Parameters::read(Some(query), KNOWN).err().expect(query);
        assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
        problem.detail().to_owned()
    }

    #[test]
    fn what_is_known_is_read() {
        let read = |query| Parameters::read(query, KNOWN).ok().expect("readable");
        assert_eq!(read(None).get("tenant"), None);
        assert_eq!(read(Some("")).get("tenant"), None);
        let both = read(Some("limit=5&&%74enant=a%2Bb+c%C3%A9"));
        assert_eq!((both.get("limit"), both.get("tenant")), (Some("5"), Some("a+b cé")));
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let unknown = refused("tennant=a");
        assert_eq!(
            unknown,
            "The parameter `tennant`: is not known here; known are: tenant, limit."
        );
        assert!(refused("tenant=a&tenant=a").contains("`tenant`: is there more than once"));
        assert!(refused("tenant").contains("`tenant`: is empty"));
        assert!(refused("=a").contains("``: is not known"));
        assert!(refused("tenant=%zz").contains("percent-encoded"));
        assert!(refused("tenant=%2").contains("percent-encoded"));
        assert!(refused("tenant=%ff").contains("percent-encoded"));
        assert!(refused("%=1").contains("percent-encoded"));
        assert!(refused(&"x".repeat(10_000)).len() < 200, "a client's text is not sent back whole");
    }

    #[test]
    fn words_and_numbers_are_exact() {
        let read = |query| Parameters::read(Some(query), KNOWN).ok().expect("readable");
        let words = &[("day", 1), ("hour", 2)][..];
        assert_eq!(read("tenant=hour").word("tenant", words).ok(), Some(2));
        assert_eq!(read("").word("tenant", words).ok(), Some(1));
        assert!(read("tenant=Hour").word("tenant", words).is_err());
        assert_eq!(read("limit=10").number("limit", 5, 10).ok(), Some(10));
        assert_eq!(read("").number("limit", 5, 10).ok(), Some(5));
        for wrong in ["0", "11", "-1", "+1", "1.0", "1e1", "99999999999999999999"] {
            let query = format!("limit={}", wrong.replace('+', "%2B"));
            let parameters = Parameters::read(Some(&query), KNOWN).ok().expect("readable");
            assert!(parameters.number("limit", 5, 10).is_err(), "{wrong}");
        }
    }
}
