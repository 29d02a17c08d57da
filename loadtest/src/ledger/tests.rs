//! The comparison bites: each test breaks one thing and sees exactly that reported.

use super::*;

fn id(number: u64) -> RequestId {
    RequestId(u128::from(number).to_be_bytes())
}

fn expectations() -> Vec<Expectation> {
    [("acme", "pix", 2), ("globex", "cards", 0)]
        .map(|(tenant, route, open)| Expectation {
            tenant: tenant.to_owned(),
            app: Some("payments".to_owned()),
            route: route.to_owned(),
            cost: if route == "pix" { 3 } else { 1 },
            figure: (route == "pix").then(|| ("weight".to_owned(), 2_500_000_000)),
            user: (route == "pix").then(|| "ana".to_owned()),
            open,
        })
        .to_vec()
}

/// 50 answers 200 of acme, 50 of globex, 10 refusals of globex.
fn answers() -> Vec<Answer> {
    (0..110)
        .map(|number| Answer {
            id: Some(id(number)),
            group: u16::from(number >= 50),
            status: if number < 100 { 200 } else { 429 },
            gateway_made: number >= 100,
            request_bytes: 20,
            response_bytes: 1000,
            ended_ns: number,
        })
        .collect()
}

fn request(number: u64) -> Row<'static> {
    let (tenant, route) = if number < 50 { ("acme", "pix") } else { ("globex", "cards") };
    Row {
        id: id(number),
        kind: RowKind::Request,
        tenant,
        app: "payments",
        route,
        meter: "calls",
        status: 200,
        flags: 0,
        requests: 1,
        quantity_nano: if number < 50 { 3_000_000_000 } else { 1_000_000_000 },
        request_bytes: 20,
        response_bytes: 1000,
    }
}

/// What a request of acme weighs.
fn figure(number: u64) -> Row<'static> {
    let (request_bytes, response_bytes) = (0, 0);
    let (meter, quantity_nano) = ("weight", 2_500_000_000);
    let beside = Row { flags: 32, requests: 0, request_bytes, response_bytes, ..request(number) };
    Row { meter, quantity_nano, ..beside }
}

fn member(number: u64) -> Row<'static> {
    Row { id: id(5_000 + number), flags: 64, meter: "active_users", ..figure(0) }
}

/// More of a request, with so many bytes of its answer.
fn part(number: u64, response_bytes: u64) -> Row<'static> {
    let (requests, quantity_nano, request_bytes) = (0, 0, 0);
    Row { flags: 8, requests, quantity_nano, request_bytes, response_bytes, ..request(number) }
}

/// A sum of requests of acme that had no room.
fn sum(requests: u32) -> Row<'static> {
    let count = u64::from(requests);
    Row {
        id: id(0),
        flags: 4,
        requests,
        quantity_nano: i128::from(requests) * 3_000_000_000,
        request_bytes: count * 20,
        response_bytes: count * 1000,
        ..request(7)
    }
}

/// The same of what they weigh.
fn figure_sum(requests: u32) -> Row<'static> {
    let quantity_nano = i128::from(requests) * 2_500_000_000;
    Row { id: id(0), flags: 4 | 32, quantity_nano, ..figure(7) }
}

fn refused(requests: u32) -> Row<'static> {
    let (id, kind) = (id(0), RowKind::Refused);
    Row { id, kind, status: 429, requests, ..request(60) }
}

/// The rows that belong to [`answers`].
fn rows() -> Vec<Row<'static>> {
    let beside = (0..50).map(figure).chain([member(0)]);
    (0..100).map(request).chain([refused(4), refused(6)]).chain(beside).collect()
}

fn lane() -> Lane {
    Lane { name: (1, 1, 0), rows: 153, distinct: 153, first: 0, last: 152 }
}

fn compare(answers: Vec<Answer>, rows: &[Row<'_>], lane: &Lane) -> LedgerVerdict {
    let mut ledger = Ledger::open(expectations(), answers);
    for row in rows {
        ledger.row(row);
    }
    ledger.lane(lane);
    ledger.close()
}

/// The findings as (check, id), of the right answers and these rows.
fn found(rows: &[Row<'_>]) -> Vec<(Check, Option<String>)> {
    let verdict = compare(answers(), rows, &lane());
    assert_eq!(verdict.is_clean(), verdict.findings.is_empty());
    verdict.findings.into_iter().map(|finding| (finding.check, finding.id)).collect()
}

fn named(number: u64) -> String {
    id(number).to_string()
}

#[test]
fn the_right_rows_are_clean_and_counted() {
    let verdict = compare(answers(), &rows(), &lane());
    assert!(verdict.is_clean(), "{verdict:?}");
    let checked: Vec<u64> = verdict.checks.iter().map(|line| line.checked).collect();
    assert_eq!(checked, [110, 153, 0, 0, 150, 100, 1, 10, 1]);
    let lines: Vec<_> = verdict
        .groups
        .iter()
        .map(|g| (&*g.tenant, g.status_class, g.answers, g.recorded))
        .collect();
    assert_eq!(lines, [("acme", 2, 50, 50), ("globex", 2, 50, 50), ("globex", 4, 10, 10)]);
}

#[test]
fn a_missing_row_is_found() {
    let is_missing = |row: &Row<'_>| row.id == id(7) && row.flags == 0;
    let rows: Vec<_> = rows().into_iter().filter(|row| !is_missing(row)).collect();
    assert_eq!(found(&rows), [(Check::Answers, Some(named(7)))]);
}

#[test]
fn a_double_row_is_found() {
    let mut rows = rows();
    rows.push(request(7));
    assert_eq!(found(&rows), [(Check::Doubles, Some(named(7)))]);
}

#[test]
fn a_double_row_of_an_answer_not_received_is_found() {
    let mut rows = rows();
    rows.extend([Row { id: id(999), ..request(0) }; 2]);
    assert_eq!(found(&rows), [(Check::Doubles, Some(named(999)))]);
}

#[test]
fn a_wrong_tenant_app_route_status_or_count_is_found() {
    let breaks: [fn(&mut Row<'static>); 5] = [
        |row| row.tenant = "globex",
        |row| row.app = "crm",
        |row| (row.route, row.quantity_nano) = ("cards", 1_000_000_000),
        |row| row.status = 500,
        |row| (row.requests, row.quantity_nano) = (2, 6_000_000_000),
    ];
    for break_it in breaks {
        let mut rows = rows();
        break_it(&mut rows[7]);
        assert_eq!(found(&rows), [(Check::Answers, Some(named(7)))]);
    }
}

#[test]
fn rows_of_aborted_requests_are_allowed_up_to_their_number() {
    let mut rows = rows();
    rows.extend([1000, 1001].map(|number| Row { id: id(number), ..request(0) }));
    assert_eq!(found(&rows), []);
    rows.push(Row { id: id(1002), ..request(0) });
    assert_eq!(found(&rows), [(Check::Others, None)]);
}

#[test]
fn a_row_nobody_asked_for_is_found() {
    for tenant in ["globex", "initech"] {
        let mut rows = rows();
        rows.push(Row { id: id(1000), tenant, ..request(60) });
        assert_eq!(found(&rows), [(Check::Others, None)], "{tenant}");
    }
}

#[test]
fn one_refusal_less_or_more_is_found() {
    let mut rows = rows();
    rows[101] = refused(5);
    assert_eq!(found(&rows), [(Check::Refusals, None)]);
    rows[101] = refused(7);
    assert_eq!(found(&rows), [(Check::Others, None)]);
}

#[test]
fn refusals_under_another_status_are_found() {
    let mut rows = rows();
    rows[101].status = 403;
    let checks: Vec<Check> = found(&rows).into_iter().map(|(check, _)| check).collect();
    assert_eq!(checks, [Check::Refusals, Check::Others]);
}

#[test]
fn an_answer_of_the_gateway_may_have_a_row_but_not_both() {
    let mut rows = rows();
    rows.push(Row { status: 429, ..request(100) });
    rows[101] = refused(5);
    assert_eq!(found(&rows), []);
    rows[101] = refused(6);
    assert_eq!(found(&rows), [(Check::Others, None)]);
}

#[test]
fn a_refusal_of_a_client_that_left_is_allowed() {
    let mut rows = rows();
    rows.push(Row { tenant: "acme", route: "pix", ..refused(2) });
    assert_eq!(found(&rows), []);
}

#[test]
fn more_of_a_request_belongs_to_the_row_that_counts_it() {
    let mut rows = rows();
    rows.extend([part(7, 400), part(7, 0)]);
    rows[7].response_bytes = 600;
    assert_eq!(found(&rows), []);
    rows.push(Row { id: id(1000), ..request(0) });
    rows.push(Row { id: id(1000), ..part(0, 9) });
    assert_eq!(found(&rows), [], "of a request without a whole answer");
    rows.push(Row { id: id(999), ..part(0, 9) });
    assert_eq!(found(&rows), [(Check::Parts, Some(named(999)))]);
    rows.pop();
    rows.push(Row { requests: 1, quantity_nano: 3_000_000_000, ..part(7, 0) });
    assert_eq!(found(&rows), [(Check::Parts, Some(named(7)))]);
    let rows: Vec<_> = rows.into_iter().filter(|row| row.id != id(7) || row.flags == 8).collect();
    let checks: Vec<Check> = found(&rows).into_iter().map(|(check, _)| check).collect();
    assert_eq!(checks, [Check::Parts, Check::Answers, Check::Parts]);
}

#[test]
fn more_of_a_request_that_is_in_a_sum_is_more_of_that_one_only() {
    let is_seven = |row: &Row<'_>| row.id == id(7);
    let mut rows: Vec<_> = rows().into_iter().filter(|row| !is_seven(row)).collect();
    rows.extend([sum(1), figure_sum(1), part(7, 0)]);
    assert_eq!(found(&rows), [], "of a whole answer");
    rows.push(Row { id: id(999), ..part(0, 9) });
    assert_eq!(found(&rows), [(Check::Parts, Some(named(999)))], "that one is in the sum already");
    rows.extend([sum(1), figure_sum(1)]);
    assert_eq!(found(&rows), [], "of a client that left");
    rows.push(Row { tenant: "globex", route: "cards", ..part(1000, 9) });
    assert_eq!(found(&rows), [(Check::Parts, Some(named(1000)))], "the sum is of another place");
}

#[test]
fn bytes_too_many_or_too_few_are_found() {
    let breaks: [fn(&mut Row<'static>); 4] = [
        |row| row.request_bytes = 19,
        |row| row.request_bytes = 21,
        |row| row.response_bytes = 999,
        |row| row.response_bytes = 1001,
    ];
    for break_it in breaks {
        let mut rows = rows();
        break_it(&mut rows[7]);
        assert_eq!(found(&rows), [(Check::Bytes, Some(named(7)))]);
    }
    let mut rows = rows();
    rows.push(part(60, 1));
    assert_eq!(found(&rows), [(Check::Bytes, Some(named(60)))]);
}

#[test]
fn quantities_too_many_or_too_few_are_found() {
    for (place, nano) in [(7, 2_999_999_999), (60, 3_000_000_000), (109, 2_500_000_001)] {
        let mut rows = rows();
        rows[place].quantity_nano = nano;
        let id = rows[place].id.to_string();
        assert_eq!(found(&rows), [(Check::Quantities, Some(id))]);
    }
    let mut rows = rows();
    rows.push(figure(7));
    assert_eq!(found(&rows), [(Check::Doubles, Some(named(7)))]);
    rows.retain(|row| row.id != id(7) || row.flags == 0);
    assert_eq!(found(&rows), [(Check::Quantities, Some(named(7)))]);
    // Of a request without a whole answer, and twice.
    rows.push(figure(7));
    rows.push(Row { id: id(1000), ..figure(7) });
    assert_eq!(found(&rows), []);
    rows.push(Row { id: id(1000), ..figure(7) });
    assert_eq!(found(&rows), [(Check::Doubles, Some(named(1000)))]);
}

#[test]
fn a_user_without_a_row_and_a_row_without_a_user_are_found() {
    let mut rows = rows();
    rows.push(member(0));
    assert_eq!(found(&rows), [], "once a day and start");
    rows.push(member(1));
    assert_eq!(found(&rows), [(Check::Members, None)]);
    rows.retain(|row| row.flags != 64);
    assert_eq!(found(&rows), [(Check::Members, None)]);
}

#[test]
fn figures_of_further_meters_and_members_say_nothing_of_an_answer() {
    let rows: Vec<_> = rows().into_iter().filter(|row| row.id != id(7) || row.flags != 0).collect();
    let checks: Vec<Check> = found(&rows).into_iter().map(|(check, _)| check).collect();
    assert_eq!(checks, [Check::Answers], "they stand for no answer");
    let mut rows = rows;
    rows.push(Row { meter: "processing", quantity_nano: 7, ..figure(7) });
    rows.push(request(7));
    assert_eq!(found(&rows), [], "nobody asked for that meter");
}

#[test]
fn a_sum_of_what_was_served_without_room_stands_for_so_many_answers() {
    let mut rows: Vec<_> =
        rows().into_iter().filter(|row| row.id > id(3) || row.status != 200).collect();
    let place = rows.len();
    rows.extend([sum(4), figure_sum(4)]);
    assert_eq!(found(&rows), []);
    let checks =
        |rows: &[Row<'_>]| found(rows).into_iter().map(|(check, _)| check).collect::<Vec<_>>();
    rows[place] = sum(3);
    assert_eq!(checks(&rows), [Check::Answers], "one is in no row and no sum");
    rows[place] = sum(4);
    rows[place + 1] = figure_sum(3);
    assert_eq!(checks(&rows), [Check::Quantities]);
    rows[place + 1] = figure_sum(7);
    assert_eq!(checks(&rows), [Check::Quantities], "two clients left, not three");
    rows[place + 1] = figure_sum(4);
    for spoil in
        [(|row| row.response_bytes -= 1) as fn(&mut Row<'static>), |row| row.request_bytes -= 1]
    {
        rows[place] = sum(4);
        spoil(&mut rows[place]);
        assert_eq!(checks(&rows), [Check::Bytes]);
    }
    rows[place] = sum(4);
    rows[place].quantity_nano += 1;
    assert_eq!(checks(&rows), [Check::Quantities]);
    // Two clients of this tenant and route left; a third request nobody made.
    rows[place] = sum(6);
    rows.push(sum(1));
    assert_eq!(found(&rows), [(Check::Others, None)]);
}

#[test]
fn bytes_that_are_in_a_sum_are_not_missing_and_no_more_than_that() {
    let mut rows = rows();
    rows[7].response_bytes = 300;
    let bytes = |response_bytes| Row { response_bytes, request_bytes: 0, ..sum(0) };
    let place = rows.len();
    rows.push(bytes(700));
    assert_eq!(found(&rows), []);
    rows[place] = bytes(699);
    assert_eq!(found(&rows), [(Check::Bytes, Some(named(7)))]);
    rows.pop();
    rows[7].response_bytes = 1000;
    rows.push(Row { tenant: "globex", route: "cards", ..bytes(1) });
    assert_eq!(found(&rows), [(Check::Bytes, None)], "none of that tenant and route left");
}

#[test]
fn refusals_for_want_of_room_name_no_tenant() {
    let mut answers = answers();
    answers[109].status = 503;
    let full = |requests| Row { tenant: "", route: "", status: 503, ..refused(requests) };
    let rows = |refusals| {
        let mut rows = rows();
        rows[101] = refused(5);
        rows.push(full(refusals));
        rows
    };
    let found = |refusals| {
        let verdict = compare(answers.clone(), &rows(refusals), &lane());
        verdict.findings.into_iter().map(|finding| finding.check).collect::<Vec<_>>()
    };
    assert_eq!(found(1), []);
    assert_eq!(found(0), [Check::Refusals]);
    assert_eq!(found(3), [], "clients of any kind that left may have been refused");
    assert_eq!(found(4), [Check::Others]);
}

#[test]
fn answers_without_id_or_with_the_same_are_found() {
    let mut twice = answers();
    twice[8].id = Some(id(7));
    let verdict = compare(twice, &rows(), &lane());
    assert!(verdict.findings.iter().any(|f| f.check == Check::Answers && f.id == Some(named(7))));

    let mut none = answers();
    none[0].id = None;
    assert!(!compare(none, &rows(), &lane()).is_clean());
}

#[test]
fn a_lane_that_is_not_dense_is_found() {
    let broken = [
        Lane { first: 1, rows: 101, distinct: 101, ..lane() },
        Lane { last: 102, ..lane() },
        Lane { rows: 103, ..lane() },
        Lane { distinct: 101, ..lane() },
        Lane { last: u64::MAX, ..lane() },
    ];
    for lane in broken {
        let verdict = compare(answers(), &rows(), &lane);
        assert_eq!(verdict.findings.len(), 1, "{lane:?}");
        assert_eq!(verdict.findings[0].check, Check::Sequences);
    }
}

#[test]
fn all_differences_are_counted_and_twenty_listed() {
    let verdict = compare(answers(), &[], &lane());
    assert_eq!(verdict.checks[0].wrong, 100);
    assert_eq!(verdict.findings.len(), 20);
}

#[test]
fn ids_are_hexadecimal_with_or_without_dashes() {
    let expected = RequestId(*b"\x01\x23\x45\x67\x89\xab\xcd\xef\x00\x11\x22\x33\x44\x55\x66\x77");
    for text in ["0123456789abcdef0011223344556677", "01234567-89AB-cdef-0011-223344556677"] {
        assert_eq!(RequestId::parse(text.as_bytes()), Some(expected));
    }
    assert_eq!(expected.to_string(), "01234567-89ab-cdef-0011-223344556677");
    for text in ["", "01", "0123456789abcdef00112233445566778", "x123456789abcdef0011223344556677"]
    {
        assert_eq!(RequestId::parse(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn of_upgraded_connections_a_few_may_lack_their_last_bytes() {
    let upgraded = |mut answers: Vec<Answer>, lacking: u64| {
        let mut rows = rows();
        for number in 0..100 {
            answers.push(Answer { id: Some(id(9_000 + number)), status: 101, ..answers[50] });
            let response_bytes = if number < lacking { 0 } else { 1000 };
            rows.push(Row { id: id(9_000 + number), status: 101, response_bytes, ..request(50) });
        }
        let verdict = compare(answers, &rows, &lane());
        verdict.findings.into_iter().map(|finding| finding.check).collect::<Vec<_>>()
    };
    assert_eq!(upgraded(answers(), 1), []);
    assert_eq!(upgraded(answers(), 2), [Check::Bytes]);
}
