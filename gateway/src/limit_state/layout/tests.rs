//! The bytes: what is written is read, and nothing that was not written is.

use super::*;

/// One record of every kind.
fn body(now: Nanos) -> Vec<u8> {
    let mut body = Vec::new();
    let mut buckets = 0;
    for record in records() {
        buckets += note(&record, now, &mut body);
    }
    assert_eq!(buckets, 4);
    body
}

const fn debt(interval_ns: u64, ahead_ns: u64, arrears_ns: u64) -> Debt {
    Debt { terms: Terms { interval_ns, burst: 8 }, ahead_ns, arrears_ns }
}

fn records() -> [Record<'static>; 5] {
    const SPENT: &[Held<'static>] = &[
        Held { name: "requests", spent: Spent::Tokens(debt(7, 70, 700)) },
        Held { name: "full", spent: Spent::Tokens(debt(9, 0, 0)) },
    ];
    [
        Record::Limits { owner: Owner::Tenant("acme"), limits: SPENT },
        Record::Limits { owner: Owner::Plan { tenant: "acme", plan: "business" }, limits: SPENT },
        Record::Limits { owner: Owner::Key("abcdefghi1"), limits: &SPENT[..1] },
        Record::Dynamic { subject: 1 << 100, debt: debt(3, 33, 5) },
        Record::Emptied { ago_ns: 5_000 },
    ]
}

#[test]
fn what_is_written_is_read() {
    // The limits were emptied before this process's time began.
    for now in [Nanos(1_000), Nanos(1_000_000)] {
        let mut read = Vec::new();
        each(&body(now), now, &mut |record| read.push(format!("{record:?}"))).expect("sound");
        assert_eq!(read, records().map(|record| format!("{record:?}")));
    }
}

#[test]
fn a_body_in_which_nothing_was_taken_stays_the_same() {
    let mut later = Vec::new();
    for record in [
        Record::Dynamic { subject: 1 << 100, debt: debt(3, 23, 5) },
        Record::Emptied { ago_ns: 5_010 },
    ] {
        note(&record, Nanos(1_010), &mut later);
    }
    assert!(body(Nanos(1_000)).ends_with(&later));
}

#[test]
fn any_bytes_may_come_in() {
    let good = body(Nanos(1_000));
    for at in 0..good.len() {
        for value in [0, 1, 4, 0x7f, 0xff, good[at] ^ 1] {
            let mut bad = good.clone();
            bad[at] = value;
            // Whether it still means something or not, it must not panic.
            let _either = each(&bad, Nanos(1_000), &mut |_| {});
        }
        let cut = each(&good[..at], Nanos(1_000), &mut |_| {});
        let (mut at_a_record, mut start) = (false, Vec::new());
        for record in records() {
            at_a_record |= start.len() == at;
            note(&record, Nanos(1_000), &mut start);
        }
        assert_eq!(cut.is_ok(), at_a_record, "cut at {at}");
    }
    let of_another_kind = [TENANT, 1, b'a', 1, 1, b'n', 9];
    assert_eq!(each(&of_another_kind, Nanos(0), &mut |_| {}), Err(Damage::Record { at: 0 }));
}

#[test]
fn every_damaged_byte_of_a_header_is_noticed() {
    let stamp = Stamp { boot: 1 << 90, boot_ns: 5, unix_us: -1 };
    let written = Header { hash_key: [0xab; 16], stamp, now: Nanos(77) };
    let good = header(&written, b"body");
    let (read, length, checksum) = read_header(&good).expect("sound");
    assert!(read == written && length == 4 && checksum == crc32fast::hash(b"body"));
    for at in 0..good.len() {
        let mut bad = good;
        bad[at] ^= 0x10;
        let damage = read_header(&bad).err();
        let expected = match at {
            0..8 => Damage::Magic,
            8..12 => {
                let found = u32::from_le_bytes([bad[8], bad[9], bad[10], bad[11]]);
                Damage::Version { found }
            }
            _ => Damage::Header,
        };
        assert_eq!(damage, Some(expected), "byte {at}");
        assert_eq!(read_header(&good[..at]).err(), Some(Damage::Short), "cut at {at}");
    }
}
