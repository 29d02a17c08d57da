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
            ended_ns: number,
        })
        .collect()
}

fn request(number: u64) -> Row<'static> {
    let (tenant, route) = if number < 50 { ("acme", "pix") } else { ("globex", "cards") };
    let (kind, app) = (RowKind::Request, "payments");
    Row { id: id(number), kind, tenant, app, route, status: 200, flags: 0, requests: 1 }
}

fn refused(requests: u32) -> Row<'static> {
    let (id, kind) = (id(0), RowKind::Refused);
    Row { id, kind, status: 429, requests, ..request(60) }
}

/// The rows that belong to [`answers`].
fn rows() -> Vec<Row<'static>> {
    (0..100).map(request).chain([refused(4), refused(6)]).collect()
}

fn lane() -> Lane {
    Lane { name: (1, 1, 0), rows: 102, distinct: 102, first: 0, last: 101 }
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
    assert_eq!(checked, [110, 102, 0, 0, 10, 1]);
    let lines: Vec<_> = verdict
        .groups
        .iter()
        .map(|g| (&*g.tenant, g.status_class, g.answers, g.recorded))
        .collect();
    assert_eq!(lines, [("acme", 2, 50, 50), ("globex", 2, 50, 50), ("globex", 4, 10, 10)]);
}

#[test]
fn a_missing_row_is_found() {
    let rows: Vec<_> = rows().into_iter().filter(|row| row.id != id(7)).collect();
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
        |row| row.route = "cards",
        |row| row.status = 500,
        |row| row.requests = 2,
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
    let part = |number| Row { requests: 0, flags: 8, ..request(number) };
    let mut rows = rows();
    rows.extend([part(7), part(7)]);
    assert_eq!(found(&rows), []);
    rows.push(Row { id: id(1000), ..request(0) });
    rows.push(part(1000));
    assert_eq!(found(&rows), [], "of a request without a whole answer");
    rows.push(part(999));
    assert_eq!(found(&rows), [(Check::Parts, Some(named(999)))]);
    rows.pop();
    rows.push(Row { requests: 1, ..part(7) });
    assert_eq!(found(&rows), [(Check::Parts, Some(named(7)))]);
    let rows: Vec<_> = rows.into_iter().filter(|row| row.id != id(7) || row.flags == 8).collect();
    let checks: Vec<Check> = found(&rows).into_iter().map(|(check, _)| check).collect();
    assert_eq!(checks, [Check::Parts, Check::Parts, Check::Answers]);
}

#[test]
fn figures_of_further_meters_and_members_say_nothing_of_an_answer() {
    let beside = |number, flags| Row { requests: 0, flags, ..request(number) };
    let mut rows = rows();
    rows.extend([beside(7, 32), beside(7, 32), beside(7, 33), beside(1000, 64)]);
    assert_eq!(found(&rows), []);
    let rows: Vec<_> = rows.into_iter().filter(|row| row.id != id(7) || row.flags != 0).collect();
    let checks: Vec<Check> = found(&rows).into_iter().map(|(check, _)| check).collect();
    assert_eq!(checks, [Check::Answers], "they stand for no answer either");
}

#[test]
fn a_sum_of_what_was_served_without_room_stands_for_so_many_answers() {
    let sum = |requests| Row { id: id(0), requests, flags: 4, ..request(7) };
    let mut rows: Vec<_> = rows().into_iter().filter(|row| row.id > id(3)).collect();
    rows.push(Row { kind: RowKind::Refused, status: 429, requests: 10, ..request(60) });
    rows.push(sum(4));
    assert_eq!(found(&rows), []);
    rows.pop();
    rows.push(sum(3));
    assert_eq!(found(&rows).len(), 1, "one answer is in no row and no sum");
    rows.pop();
    // Two clients of this tenant and route left; a third request nobody made.
    rows.extend([sum(6), sum(1)]);
    assert_eq!(found(&rows), [(Check::Others, None)]);
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
