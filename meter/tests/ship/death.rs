//! Kills: of the engine in the middle of a stream, and of the shipping process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::fixture::{Fixture, PATIENCE, event};

#[test]
fn an_engine_killed_in_the_middle_of_the_stream_loses_and_doubles_nothing() {
    const ROUNDS: u64 = 4;
    const EVENTS: u64 = 60_000;
    let mut fixture = Fixture::new();
    let shipper = fixture.ship();
    for round in 0..ROUNDS {
        let running = AtomicBool::new(true);
        thread::scope(|scope| {
            let (journal, running) = (std::sync::Arc::clone(&fixture.journal), &running);
            scope.spawn(move || {
                for number in round * EVENTS..(round + 1) * EVENTS {
                    journal.append(&event(number)).expect("room");
                }
                running.store(false, Ordering::Release);
            });
            // A moment that differs by round: after so many rows were acknowledged.
            let target = round * EVENTS + round * 15_000;
            while shipper.status().rows < target && running.load(Ordering::Acquire) {
                thread::yield_now();
            }
            fixture.kill_engine();
        });
        fixture.note_appended(EVENTS);
        fixture.start_engine();
    }
    shipper.flush(PATIENCE).expect("shipped");
    assert!(shipper.status().failures > 0, "the kills were felt");
    fixture.assert_exact();
}
