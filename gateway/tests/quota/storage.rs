//! Storage: a plan's figure to the byte under concurrent uploads, over `kill -9`, set by events, and
//! the same in ClickHouse (**P1**, **P3**).

use std::sync::atomic::{AtomicU64, Ordering};

use orbit_meter::clickhouse::queries;
use orbit_policy::ApiKey;
use serde_json::{Value, json};

use crate::orbit::{Home, Orbit, wait_until};

/// The plan's storage.
const GB: u64 = 1_000_000_000;
const CLIENTS: u64 = 16;

fn home() -> Home {
    Home::new("storage_gb = 1", &["north", "south"])
}

fn told(id: &str, tenant: &str, bytes: u64) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/storage", "type": "storage",
        "subject": tenant, "data": { "quantity": bytes },
    })
}

fn put(orbit: &Orbit, key: &ApiKey, path: &str, bytes: usize, chunk: Option<usize>) -> u16 {
    let path = format!("/docs{path}");
    let body = vec![b'x'; bytes];
    let Some(chunk) = chunk else { return orbit.send(key, "POST", &path, "", &body).0 };
    let mut chunks = Vec::new();
    for piece in body.chunks(chunk) {
        chunks.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunks.extend_from_slice(piece);
        chunks.extend_from_slice(b"\r\n");
    }
    chunks.extend_from_slice(b"0\r\n\r\n");
    orbit.send(key, "POST", &path, "Transfer-Encoding: chunked\r\n", &chunks).0
}

/// The level of the holding at the end of time, by the named query.
fn in_clickhouse(orbit: &Orbit) -> String {
    let query = queries::find("gauge_by_window").unwrap();
    let parameters = [
        ("from_us", "1700000000000000"),
        ("to_us", "4000000000000000"),
        ("tenant", "acme"),
        ("meter", "storage"),
    ];
    let target: String = parameters.map(|(name, value)| format!("&param_{name}={value}")).concat();
    let answer =
        orbit.ask_database(&format!("/?database=orbit&default_format=TSV{target}"), query.sql);
    answer.rsplit('\t').next().unwrap().to_owned()
}

#[test]
fn p1_p3_storage_to_the_byte_over_kills_and_in_clickhouse() {
    let home = home();
    let orbit = Orbit::start(&home);
    let [north, south] = &home.keys[..] else { panic!("two teams") };
    orbit.event(&told("1", "north", GB - 100_000));
    orbit.event(&told("2", "south", 40_000));
    // What is beyond the limit would show as nothing left.
    let used = |orbit: &Orbit| orbit.used(north, "storage");
    assert_eq!(used(&orbit), GB - 60_000);

    // Uploads of known and unknown length, of which every fifth fails, until nothing more fits.
    let stored = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (orbit, stored) = (&orbit, &stored);
            scope.spawn(move || {
                for turn in 0..12 {
                    let bytes = 100 + (client * 131 + turn * 977) % 900;
                    let key = [north, south][(turn % 2) as usize];
                    let path = if turn % 5 == 4 { "/reject" } else { "" };
                    let chunk = (turn % 3 == 0).then_some(97);
                    match put(orbit, key, path, bytes as usize, chunk) {
                        200 => _ = stored.fetch_add(bytes, Ordering::Relaxed),
                        // Refused in the middle of its pieces, a client may not read why.
                        507 | 429 | 0 => {}
                        status => panic!("{status}"),
                    }
                }
            });
        }
    });
    let stored = stored.into_inner();
    let level = GB - 60_000 + stored;
    wait_until(|| match used(&orbit) {
        used if used == level => Ok(()),
        used => Err(format!("{used} are in use, {level} are stored")),
    });
    assert!(level > GB - 2_000, "{level}: it was filled");

    // What is on its way when the process dies is not stored; the rest is there at once.
    let left = (GB - level) as usize;
    std::thread::scope(|scope| {
        let held = &orbit;
        let upload = scope.spawn(move || put(held, north, "/hold", left, None));
        home.gate.wait_for(1);
        assert_eq!(used(&orbit), GB);
        assert_eq!(put(&orbit, south, "", 1, None), 429);
        orbit.stop_hard();
        assert_eq!(upload.join().unwrap(), 0);
    });
    drop(orbit);
    let orbit = Orbit::start(&home);
    assert_eq!(used(&orbit), level, "P3");
    assert_eq!(put(&orbit, south, "", left + 1, None), 429);
    assert_eq!(put(&orbit, south, "", left, Some(64)), 200, "to the byte");
    assert_eq!(put(&orbit, south, "", 1, None), 429);
    assert_eq!(used(&orbit), GB);
    wait_until(|| match in_clickhouse(&orbit) {
        level if level == GB.to_string() => Ok(()),
        level => Err(format!("ClickHouse has {level}")),
    });

    // An event makes room, and one that is sent again or older does not.
    let mut older = told("3", "north", 5);
    let now = jiff::Timestamp::from_second(now_s() - 3_600).unwrap();
    older["time"] = now.to_string().into();
    orbit.event(&older);
    assert_eq!(used(&orbit), GB);
    orbit.event(&told("4", "north", 10));
    orbit.event(&told("1", "north", GB));
    let south_has = used(&orbit) - 10;
    assert!(south_has < 100_000);
    assert_eq!(put(&orbit, north, "", 5, None), 200);
    // Once all rows are read, and with nothing kept but them, it is the same.
    orbit.wait_for_reconciliation();
    assert_eq!(used(&orbit), south_has + 15);
    orbit.kill();
    std::fs::remove_dir_all(home.path("data/state")).unwrap();
    let orbit = Orbit::start(&home);
    wait_until(|| match used(&orbit) {
        used if used == south_has + 15 => Ok(()),
        used => Err(format!("{used} are in use")),
    });
    wait_until(|| match in_clickhouse(&orbit) {
        level if level == (south_has + 15).to_string() => Ok(()),
        level => Err(format!("ClickHouse has {level}")),
    });
}

fn now_s() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "compared with the gateway's own clock")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_secs().cast_signed()
}
