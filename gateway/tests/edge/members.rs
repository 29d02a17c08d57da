//! Rows of members: written with their requests, once a day, whatever comes of those (**M1**).

use std::collections::HashSet;

use http::StatusCode;
use orbit_meter::event::Flags;
use orbit_policy::ApiKey;
use orbit_policy::members::member_id;

use crate::harness::{Bench, policy_text, upstream};

/// An edge whose app names its end users by `X-User`.
async fn bench() -> Bench {
    let (upstream, seen) = upstream().await;
    let key = ApiKey::generate("test").unwrap();
    let text = policy_text(upstream, &key, "");
    let text = text.replacen("id = \"crm\"\n", "id = \"crm\"\nend_user_header = \"X-User\"\n", 1);
    Bench::of_policy(text, key, upstream, seen, |_| {})
}

async fn ask(bench: &Bench, path: &str, user: &str) -> StatusCode {
    let set = |request: &mut http::Request<_>| {
        if !user.is_empty() {
            request.headers_mut().insert("x-user", user.parse().unwrap());
        }
    };
    bench.send("GET", path, set).await.0
}

#[tokio::test]
async fn m1_a_member_has_one_row_a_day_beside_its_first_request() {
    let bench = bench().await;
    for user in ["ana", "bo", "ana", "", "ana", "bo"] {
        assert_eq!(ask(&bench, "/", user).await, StatusCode::OK);
    }
    let rows = bench.rows();
    let requests = rows.iter().filter(|row| !row.flags.contains(Flags::MEMBER));
    assert_eq!(requests.map(|row| row.requests).sum::<u32>(), 6);
    let members: Vec<_> = rows.iter().filter(|row| row.flags.contains(Flags::MEMBER)).collect();
    let ids: HashSet<_> = members.iter().map(|row| row.request_id).collect();
    let id = |user: &str| member_id("active_users", "acme", user.as_bytes());
    assert_eq!(ids, HashSet::from([id("ana"), id("bo"), id("")]));
    assert_eq!(members.len(), 3, "one row each: who does not say is one user");
    for row in members {
        assert_eq!((row.requests, row.quantity_nano), (0, 1_000_000_000));
        assert_eq!((row.request_bytes, row.response_bytes), (0, 0));
    }
}

#[tokio::test]
async fn m1_a_request_that_fails_after_its_admission_leaves_its_member_row() {
    let bench = bench().await;
    assert_eq!(ask(&bench, "/never", "ana").await, StatusCode::GATEWAY_TIMEOUT);
    let text = "GET /never HTTP/1.1\nHost: x\nX-Api-Key: {key}\nX-User: bo\n\n";
    let before = bench.seen.lock().unwrap().len();
    let waiting = bench.raw(text).await;
    while bench.seen.lock().unwrap().len() == before {
        tokio::task::yield_now().await;
    }
    drop(waiting);
    let rows = bench.rows_when(4).await;
    let members = rows.iter().filter(|row| row.flags.contains(Flags::MEMBER));
    assert_eq!(members.map(|row| row.request_id).collect::<HashSet<_>>().len(), 2);
    assert_eq!(ask(&bench, "/ai", "cy").await, StatusCode::FORBIDDEN);
    assert_eq!(bench.rows().len(), 4, "a refused request has no member");
}
