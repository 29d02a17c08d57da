//! The row against generated events, cut and altered bytes.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
struct Owned {
    numbers: (i64, [u8; 16], u16, u8, u32, i128),
    sizes: (u64, u64, u32, u32),
    kind: Kind,
    method: Method,
    labels: Vec<String>,
}

impl Owned {
    fn event(&self) -> Event<'_> {
        let (ts_us, request_id, status, flags, requests, quantity_nano) = self.numbers;
        let (request_bytes, response_bytes, duration_us, upstream_us) = self.sizes;
        Event {
            ts_us,
            request_id,
            kind: self.kind,
            method: self.method,
            status,
            flags: Flags::from_bits(flags),
            requests,
            quantity_nano,
            request_bytes,
            response_bytes,
            duration_us,
            upstream_us,
            tenant: &self.labels[0],
            path: &self.labels[1],
            plan: &self.labels[2],
            key_id: &self.labels[3],
            app: &self.labels[4],
            route: &self.labels[5],
            meter: &self.labels[6],
            reason: &self.labels[7],
        }
    }
}

fn any_event() -> impl Strategy<Value = Owned> {
    let numbers = (
        EARLIEST_TS_US..LATEST_TS_US,
        any::<[u8; 16]>(),
        any::<u16>(),
        any::<u8>(),
        any::<u32>(),
        any::<i128>(),
    );
    let labels = prop::collection::vec("\\PC{0,24}", 8);
    (numbers, any::<(u64, u64, u32, u32)>(), 1_u8..=3, 0_u8..=9, labels).prop_map(
        |(numbers, sizes, kind, method, labels)| Owned {
            numbers,
            sizes,
            kind: Kind::from_number(kind).expect("1 to 3 are kinds"),
            method: Method::from_number(method).expect("0 to 9 are methods"),
            labels,
        },
    )
}

fn row_of(event: &Event<'_>) -> Vec<u8> {
    let mut row = vec![0xAA; event.encoded_len().expect("generated within bounds")];
    event.encode(&mut row);
    row
}

proptest! {
    #[test]
    fn a_row_reads_back_unchanged(owned in any_event()) {
        let row = row_of(&owned.event());
        let view = View::decode(&row).expect("just encoded");
        prop_assert_eq!(view.event(), owned.event());
    }

    #[test]
    fn a_row_cut_anywhere_or_lengthened_is_an_error(owned in any_event(), cut in any::<prop::sample::Index>()) {
        let mut row = row_of(&owned.event());
        prop_assert!(View::decode(&row[..cut.index(row.len())]).is_err());
        row.push(b'x');
        prop_assert!(View::decode(&row).is_err());
    }

    #[test]
    fn any_bytes_decode_or_fail(row in prop::collection::vec(any::<u8>(), 0..400)) {
        if let Ok(view) = View::decode(&row) {
            prop_assert_eq!(row_of(&view.event()).len(), row.len());
        }
    }

    #[test]
    fn a_row_with_changed_bytes_decodes_or_fails(
        owned in any_event(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut row = row_of(&owned.event());
        for (at, byte) in changes {
            let at = at.index(row.len());
            row[at] = byte;
        }
        if let Ok(view) = View::decode(&row) {
            prop_assert_eq!(row_of(&view.event()).len(), row.len());
        }
    }

    #[test]
    fn equal_label_bytes_mean_equal_strings(mut one in any_event(), other in any_event(), share in any::<bool>()) {
        if share {
            one.labels.clone_from(&other.labels);
        }
        let (left, right) = (row_of(&one.event()), row_of(&other.event()));
        let left = View::decode(&left).expect("just encoded");
        let right = View::decode(&right).expect("just encoded");
        prop_assert_eq!(left.labels() == right.labels(), one.labels == other.labels);
    }
}

#[test]
fn what_no_row_can_hold_is_refused() {
    let long = "x".repeat(65_536);
    let mut owned = Owned {
        numbers: (0, [0; 16], 200, 0, 1, 0),
        sizes: (0, 0, 0, 0),
        kind: Kind::Request,
        method: Method::Get,
        labels: vec![String::new(); 8],
    };
    assert_eq!(owned.event().encoded_len(), Ok(MIN_ROW_BYTES));
    owned.numbers.0 = LATEST_TS_US;
    assert_eq!(owned.event().encoded_len(), Err(EncodeError::Time { ts_us: LATEST_TS_US }));
    owned.numbers.0 = -1;
    assert!(owned.event().encoded_len().is_err());
    owned.numbers.0 = 0;
    owned.labels = vec![long[..65_535].to_owned(); 8];
    assert_eq!(owned.event().encoded_len(), Ok(MAX_ROW_BYTES));
    let row = row_of(&owned.event());
    assert_eq!(View::decode(&row).expect("just encoded").event(), owned.event());
    owned.labels[5] = long;
    let refused = EncodeError::TooLong { field: "route", bytes: 65_536 };
    assert_eq!(owned.event().encoded_len(), Err(refused));
}

#[test]
fn strings_split_inside_a_character_are_named() {
    let mut owned = Owned {
        numbers: (0, [0; 16], 200, 0, 1, 0),
        sizes: (0, 0, 0, 0),
        kind: Kind::Request,
        method: Method::Get,
        labels: vec![String::new(); 8],
    };
    owned.labels[2] = "é".to_owned();
    let mut row = row_of(&owned.event());
    row[74 + 2 * 2] = 1;
    row[74 + 2 * 3] = 1;
    assert_eq!(View::decode(&row).expect_err("é cut in two"), DecodeError::Text("plan"));
}

#[test]
fn the_latest_time_is_the_first_of_2200() {
    let first: jiff::Timestamp = "2200-01-01T00:00:00Z".parse().expect("a valid time");
    assert_eq!(first.as_microsecond(), LATEST_TS_US);
}
