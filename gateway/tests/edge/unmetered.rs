//! M1: a request that is served although the journal takes no event is summed, and the next process
//! journals the sum.

use std::sync::Arc;

use orbit_meter::event::{Flags, Kind, View};
use orbit_meter::journal::{Journal, JournalSettings};
use orbit_meter::refusals::Refusals;

use crate::harness::Bench;

#[tokio::test]
async fn m1_answers_without_an_event_are_summed() {
    let bench = Bench::new("").await;
    bench.get("/fixed").await;
    assert_eq!(bench.edge.refusals.oldest_us(), None);
    // Not full, which would refuse the request, but as unwilling.
    bench.journal.close();
    for count in 1..=5 {
        let (status, _, _) = bench.get("/fixed").await;
        assert_eq!(status, 200);
        assert!(bench.edge.refusals.oldest_us().is_some(), "request {count}");
    }

    let journal = Journal::open(JournalSettings::new(bench.journal.directory())).unwrap();
    let refusals = Refusals::open(Arc::clone(&journal)).unwrap();
    refusals.flush(i64::MAX).unwrap();
    let mut served = 0;
    for key in journal.lanes() {
        let mut reader = journal.reader(key, None).unwrap();
        while let Some(frame) = reader.read().unwrap() {
            let row = View::decode(frame.row).unwrap();
            if row.flags() == Flags::UNMETERED {
                assert_eq!(
                    (row.kind(), row.status(), row.tenant()),
                    (Kind::Request, 200, "acme-web")
                );
                assert_eq!(row.quantity_nano(), i128::from(row.requests()) * 1_000_000_000);
                assert_eq!(row.reason(), "unmetered");
                served += row.requests();
            }
        }
    }
    assert_eq!(served, 5);
}
