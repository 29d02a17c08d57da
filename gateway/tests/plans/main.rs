//! Every row of the plan on the example configuration, by a whole `orbit up` with the real engine and
//! real HTTP: each figure of `config/policy` is refused at the very next unit and not before, each
//! right says what would grant it, and finance's figures are those of the traffic.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod dates;
mod meters;
mod quotas;
mod rates;
mod rights;
mod storage;
mod table;
mod tree;
#[path = "../support/up.rs"]
mod up;
mod upstream;
mod users;
mod world;

use table::Table;
use world::World;

/// Rows that are not looked at any more would be missed.
const ROWS: usize = 1_000;

#[test]
fn every_row_of_the_plan_holds_to_the_unit_on_the_example() {
    let mut world = World::start();
    let mut table = Table::default();
    meters::use_each_once(&world);
    rights::apps(&world, &mut table);
    rights::tiers(&world, &mut table);
    rights::addons(&mut world, &mut table);
    dates::figures_are_shown(&world, &mut table);
    dates::statuses_and_changes(&mut world, &mut table);
    users::to_the_user(&world, &mut table);
    storage::to_the_byte(&world, &mut table);
    rates::bursts(&world, &mut table);
    rates::parallel(&world, &mut table);
    tree::each_level_refuses(&world, &mut table);
    tree::a_guarantee_is_there(&world, &mut table);
    tree::one_person_cannot_take_it_all(&world, &mut table);
    quotas::to_the_call_and_told(&world, &mut table);
    meters::finance_has_each_figure(&world, &mut table);
    table.close(ROWS);
}
