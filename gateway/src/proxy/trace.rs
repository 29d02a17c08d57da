//! Request ids and W3C trace context (<https://www.w3.org/TR/trace-context/>).

use std::cell::Cell;

/// 128 random bits that name one request everywhere: header, event, problem body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(pub [u8; 16]);

thread_local! {
    /// State of this thread's generator; seeded by the operating system at first use.
    static STATE: Cell<[u64; 2]> = Cell::new(seed());
}

fn seed() -> [u64; 2] {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has randomness once it is up");
    let (low, high) = bytes.split_at(8);
    let word = |half: &[u8]| u64::from_ne_bytes(half.try_into().expect("eight bytes"));
    [word(low), word(high) | 1]
}

/// The next 64 random bits: a Weyl sequence through the SplitMix64 finaliser, one for each half
/// of the state. Unique and well spread, which is all an id needs; not for secrets.
fn random() -> u64 {
    STATE.with(|state| {
        let [value, step] = state.get();
        let value = value.wrapping_add(step);
        state.set([value, step]);
        let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

impl RequestId {
    /// A new one.
    pub fn generate() -> RequestId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&random().to_be_bytes());
        id[8..].copy_from_slice(&random().to_be_bytes());
        RequestId(id)
    }

    /// 32 hexadecimal digits.
    pub fn hex(&self) -> [u8; 32] {
        let mut text = [0; 32];
        write_hex(&self.0, &mut text);
        text
    }
}

fn write_hex(bytes: &[u8], text: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// Length of a version 00 `traceparent`.
const TRACEPARENT: usize = 55;

/// The `traceparent` to send on: the client's trace with a new parent id, or a new trace named
/// after the request.
pub fn traceparent(from_client: Option<&[u8]>, id: &RequestId) -> [u8; TRACEPARENT] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-01";
    match from_client.and_then(valid) {
        Some(client) => {
            text[3..35].copy_from_slice(&client[3..35]);
            text[53..].copy_from_slice(&client[53..55]);
        }
        None => text[3..35].copy_from_slice(&id.hex()),
    }
    // The id must not be all zeros.
    write_hex(&(random() | 1).to_be_bytes(), &mut text[36..52]);
    text
}

/// Whether a client's `traceparent` can be continued.
pub fn valid(text: &[u8]) -> Option<&[u8]> {
    let head = text.get(..TRACEPARENT)?;
    let lower_hex = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let set = |part: &[u8]| part.iter().any(|b| *b != b'0');
    let (version, trace, parent, flags) = (&head[..2], &head[3..35], &head[36..52], &head[53..]);
    let dashes = head[2] == b'-' && head[35] == b'-' && head[52] == b'-';
    // Later versions may append fields after another dash; version ff is forbidden.
    let length = match text.get(TRACEPARENT) {
        None => true,
        Some(next) => *next == b'-' && version != b"00",
    };
    let digits = [version, trace, parent, flags].into_iter().all(lower_hex);
    (dashes && length && digits && version != b"ff" && set(trace) && set(parent)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::{RequestId, traceparent, valid};

    const CLIENT: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    #[test]
    fn a_valid_trace_goes_on_with_a_new_parent() {
        let sent = traceparent(Some(CLIENT), &RequestId::generate());
        assert_eq!(sent[..35], CLIENT[..35]);
        assert_ne!(sent[36..52], CLIENT[36..52]);
        assert_eq!(sent[52..], *b"-00");
        assert!(valid(&sent).is_some());
    }

    #[test]
    fn an_invalid_one_starts_a_trace_named_after_the_request() {
        for bad in [
            &b""[..],
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-00",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-00",
            b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            b"00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-x",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7-00",
        ] {
            let id = RequestId::generate();
            let sent = traceparent(Some(bad), &id);
            assert_eq!(sent[3..35], id.hex(), "{}", String::from_utf8_lossy(bad));
            assert!(valid(&sent).is_some());
        }
    }

    #[test]
    fn ids_differ_across_threads() {
        let mut ids: Vec<[u8; 16]> = std::thread::scope(|scope| {
            let make = || (0..1_000).map(|_| RequestId::generate().0).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
            threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
        });
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4_000);
    }
}
