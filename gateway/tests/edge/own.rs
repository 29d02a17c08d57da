//! What tenants ask about themselves: who may, about whom (S1), how often, and at what cost.

mod tree;

use std::collections::BTreeSet;
use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use orbit_policy::ApiKey;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use crate::harness::read_until;
use tree::{Tree, anonymous, json, limit};

#[tokio::test]
async fn limits_tell_what_is_left_and_what_a_request_took() {
    let tree = Tree::new().await;
    let (status, headers, before) = tree.ask("limits").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["x-request-id"].len(), 32);
    assert!(!headers.contains_key("ratelimit"), "nothing is taken from a limit");
    assert_eq!(before["tenant"], "acme-web");
    assert_eq!((&before["level"], &before["status"]), (&"team".into(), &"active".into()));
    let plan = &before["plan"];
    assert_eq!((&plan["id"], &plan["users"]), (&"business".into(), &200.into()));
    assert_eq!((&plan["app_count"], &plan["support"]), (&Value::Null, &"12/7".into()));
    assert_eq!(before["apps"], serde_json::json!([{ "id": "crm", "title": "CRM" }]));

    let own = limit(&before, "key", "own");
    assert_eq!((&own["burst"], &own["remaining"]), (&9.into(), &9.into()));
    let team = limit(&before, "team", "requests");
    assert_eq!((&team["tenant"], &team["remaining"]), (&"acme-web".into(), &50.into()));
    let parallel = limit(&before, "team", "parallel");
    assert_eq!((&parallel["max"], &parallel["remaining"]), (&7.into(), &7.into()));
    let each = limit(&before, "plan", "address");
    assert_eq!((&each["kind"], each.get("remaining")), (&"each".into(), None));

    for _ in 0..3 {
        assert_eq!(tree.bench.get("/x").await.0, StatusCode::OK);
    }
    let (_, _, after) = tree.ask("limits").await;
    assert_eq!(limit(&after, "key", "own")["remaining"], 6);
    assert_eq!(limit(&after, "team", "requests")["remaining"], 47);
    let (_, _, shop) = tree.ask("limits?tenant=shop").await;
    assert_eq!((&shop["tenant"], &shop["path"]), (&"shop".into(), &"acme-web/shop".into()));
    assert_eq!(limit(&shop, "team", "requests")["remaining"], 47, "shared with what is above");
    let names: Vec<&Value> =
        shop["limits"].as_array().unwrap().iter().map(|l| &l["name"]).collect();
    assert!(!names.contains(&&"own".into()), "the key's own limits hold nobody else");
}

#[tokio::test]
async fn quotas_tell_what_is_left_and_of_those_above_no_more_than_that() {
    let tree = Tree::new().await;
    for _ in 0..3 {
        assert_eq!(tree.bench.get("/x").await.0, StatusCode::OK);
    }
    let (_, _, answer) = tree.ask("limits").await;
    let quotas = answer["quotas"].as_array().unwrap();
    let of = |level: &str| {
        let found = |quota: &&Value| quota["level"] == level && quota["name"] == "calls";
        quotas.iter().find(found).unwrap()
    };
    let own = of("team");
    let numbers = ["limit", "used", "remaining", "grace"].map(|name| own[name].as_u64().unwrap());
    assert_eq!(numbers, [100, 3, 97, 5]);
    assert_eq!((&own["tenant"], &own["period"]), (&"acme-web".into(), &"year".into()));
    assert_eq!(own["thresholds"], serde_json::json!([80]));
    let above = of("holding");
    assert_eq!((&above["limit"], &above["remaining"]), (&1_000.into(), &997.into()));
    for member in ["tenant", "used", "thresholds"] {
        assert!(above.get(member).is_none(), "S1: {above}");
    }
}

#[tokio::test]
async fn s1_a_key_sees_its_part_of_the_tree_and_no_trace_of_the_rest() {
    let tree = Tree::new().await;
    let (status, _, nobody) = tree.ask("limits?tenant=no-such-tenant").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let nobody = anonymous(nobody);
    assert_eq!(nobody["type"], "urn:orbit:problem:tenant-not-found");
    // Each question with a key of its own: one key may not ask as often.
    let mut keys = tree.more.iter();
    for endpoint in ["limits", "usage", "refusals"] {
        // A sibling, the parent, another root, odd spellings.
        for id in ["stores", "acme", "globex", "gone", "acme-we", "acme-web/", "Acme-Web", "%00"] {
            let path = format!("{endpoint}?tenant={id}");
            let (status, _, problem) = tree.ask_as(keys.next().unwrap(), &path).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
            assert_eq!(anonymous(problem), nobody, "{path}");
        }
    }
    let (_, _, answer) = tree.ask("limits").await;
    // What holds it from above is there, without a name.
    let above = limit(&answer, "holding", "requests");
    let members: BTreeSet<&str> = above.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        members,
        BTreeSet::from(["burst", "kind", "level", "name", "per_second", "remaining"])
    );
    let text = answer.to_string().replace("acme-web", "");
    for id in ["acme", "stores", "globex", "gone", "poor"] {
        assert!(!text.contains(&format!("\"{id}")), "{id} in {text}");
    }
    // The same seen from the sibling.
    let (_, _, sibling) = tree.ask_as(&tree.stores, "limits").await;
    assert!(!sibling.to_string().contains("acme-web"), "{sibling}");
    assert_eq!(tree.ask_as(&tree.stores, "limits?tenant=shop").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn keys_are_asked_for_as_of_any_request() {
    let tree = Tree::new().await;
    for (value, kind) in [
        (None, "key-missing"),
        (Some("Bearer orb_nonsense".to_owned()), "key-malformed"),
        (Some(format!("Bearer {}", ApiKey::generate("x").unwrap().reveal())), "key-unknown"),
        (Some(format!("Bearer {}", tree.off.reveal())), "key-disabled"),
    ] {
        for path in ["/orbit/v1/limits", "/orbit/v1/nothing", "/orbit", "/orbit/v2/usage"] {
            let (status, headers, body) = tree
                .bench
                .send("GET", path, |request| {
                    let headers = request.headers_mut();
                    headers.remove("authorization");
                    if let Some(value) = &value {
                        headers.insert("authorization", value.parse().unwrap());
                    }
                })
                .await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{kind} {path}");
            assert_eq!(json(&body)["type"], format!("urn:orbit:problem:{kind}"));
            assert!(headers["www-authenticate"].to_str().unwrap().starts_with("Bearer "));
        }
    }
    let key = tree.bench.key.reveal().to_owned();
    let other_field = |request: &mut Request<BoxBody<Bytes, Infallible>>| {
        let headers = request.headers_mut();
        headers.remove("authorization");
        headers.insert("x-api-key", key.parse().unwrap());
    };
    let (status, _, body) = tree.bench.send("GET", "/orbit/v1/limits", other_field).await;
    assert_eq!((status, &json(&body)["tenant"]), (StatusCode::OK, &"acme-web".into()));
}

#[tokio::test]
async fn who_is_not_served_may_ask_why() {
    let tree = Tree::new().await;
    for (key, status) in [(&tree.gone, "suspended"), (&tree.poor, "unpaid")] {
        let (answered, _, answer) = tree.ask_as(key, "limits").await;
        assert_eq!((answered, &answer["status"]), (StatusCode::OK, &status.into()));
    }
}

#[tokio::test]
async fn the_document_needs_no_key_and_is_the_one_in_the_repository() {
    let tree = Tree::new().await;
    let without_key = |request: &mut Request<BoxBody<Bytes, Infallible>>| {
        request.headers_mut().remove("authorization");
    };
    let path = "/orbit/v1/openapi.json";
    let (status, headers, body) = tree.bench.send("GET", path, without_key).await;
    assert_eq!(
        (status, &headers["content-type"]),
        (StatusCode::OK, &"application/json".parse().unwrap())
    );
    assert_eq!(&*body, include_bytes!("../../openapi/tenant.json"));
    let (status, headers, _) = tree.bench.send("DELETE", path, without_key).await;
    assert_eq!(
        (status, headers["allow"].to_str().unwrap()),
        (StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD")
    );
}

#[tokio::test]
async fn what_is_wrong_is_a_problem_that_says_so() {
    let tree = Tree::new().await;
    let (status, _, problem) = tree.ask("nothing").await;
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::NOT_FOUND, &"urn:orbit:problem:not-found".into())
    );
    for (path, parameter) in [
        ("limits?colour=red", "colour"),
        ("limits?from=2026-11-01", "from"),
        ("limits?tenant=", "tenant"),
        ("usage?per=week", "per"),
        ("usage?by=colour", "by"),
        ("usage?limit=1001", "limit"),
        ("usage?from=2026-11-02&to=2026-11-01", "to"),
        ("refusals?by=app", "by"),
        ("refusals?from=today", "from"),
        ("refusals?cursor=7b7d", "cursor"),
    ] {
        let (status, headers, problem) = tree.ask(path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(problem["type"], "urn:orbit:problem:invalid-parameter", "{path}");
        assert_eq!(problem["parameter"], parameter, "{path}");
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let (status, headers, _) = tree.bench.send(method, "/orbit/v1/usage", |_| {}).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method}");
        assert_eq!(headers["allow"], "GET, HEAD");
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_a_503_and_limits_need_none() {
    let tree = Tree::new().await;
    for endpoint in ["usage", "refusals"] {
        let (status, headers, problem) = tree.ask(endpoint).await;
        assert_eq!(
            (status, &headers["retry-after"]),
            (StatusCode::SERVICE_UNAVAILABLE, &"1".parse().unwrap())
        );
        assert!(problem["type"].as_str().unwrap().ends_with("#temporary-reduced-capacity"));
        assert!(!problem.to_string().contains("127.0.0.1"), "nothing of the inside: {problem}");
    }
    assert_eq!(tree.ask("limits").await.0, StatusCode::OK);
}

#[tokio::test]
async fn asking_is_no_usage_reaches_no_upstream_and_head_has_no_body() {
    let tree = Tree::new().await;
    let (_, headers, answer) = tree.ask("limits").await;
    let length = headers["content-length"].clone();
    let (status, headers, body) = tree.bench.send("HEAD", "/orbit/v1/limits", |_| {}).await;
    assert_eq!((status, body.len()), (StatusCode::OK, 0));
    assert_eq!(headers["content-length"], length, "{answer}");
    // A refused request is counted within its second; what the gateway answers here never is.
    tree.bench.edge.refusals.flush(i64::MAX).unwrap();
    assert_eq!(tree.bench.events(), 0);
    assert_eq!(tree.bench.edge.metrics.oldest_open_us(), None, "nothing is waited for");
    assert!(tree.bench.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn p1_one_key_asks_twenty_times_at_once_and_no_more() {
    let tree = Tree::new().await;
    #[expect(clippy::disallowed_methods, reason = "what may come back meanwhile depends on it")]
    let begun = std::time::Instant::now();
    let mut granted = 0;
    loop {
        let (status, headers, problem) = tree.ask("limits").await;
        if status == StatusCode::OK {
            granted += 1;
            continue;
        }
        assert_eq!((status, headers["retry-after"].len()), (StatusCode::TOO_MANY_REQUESTS, 1));
        assert!(problem["type"].as_str().unwrap().ends_with("#quota-exceeded"));
        break;
    }
    // Ten come back in each second.
    let most = 21 + (begun.elapsed().as_secs_f64() * 10.0) as usize;
    assert!((20..=most).contains(&granted), "{granted} of at most {most}");
    // Another key of the gateway is not held by it, nor are the tenant's requests.
    assert_eq!(tree.ask_as(&tree.stores, "limits").await.0, StatusCode::OK);
    assert_eq!(tree.bench.get("/x").await.0, StatusCode::OK);
}

/// Ids of everybody whom the team's key must not hear of.
const OTHERS: [&str; 5] = ["acme", "stores", "globex", "gone", "poor"];

/// Whether an answer names somebody else than the key's own tenant: as a whole word, in its fields
/// or its body.
fn names_others(headers: &http::HeaderMap, body: &[u8]) -> Option<String> {
    let fields = headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
    let body = String::from_utf8_lossy(body).into_owned();
    let text = fields.chain([body]).collect::<Vec<_>>().join("\n").replace("acme-web", "");
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let found = words.into_iter().find(|word| OTHERS.contains(word));
    found.map(|word| format!("{word} is named by {text}"))
}

/// The answer when a limit of this name refuses: others that hold for moments are waited out.
async fn refused(tree: &Tree, key: &ApiKey, limit: &str) -> (http::HeaderMap, bytes::Bytes) {
    loop {
        let (status, headers, body) = tree.get_as(key, "/x").await;
        if status == StatusCode::TOO_MANY_REQUESTS && json(&body)["limit"] == limit {
            return (headers, body);
        }
    }
}

/// One rule for every answer: of levels above names, levels, limits and what is left of them, and
/// neither whose they are nor what others used.
#[tokio::test]
async fn s1_refusals_tell_no_more_than_limits_do() {
    let tree = Tree::new().await;
    // The siblings use up what the team shares with them.
    for _ in 0..2 {
        assert_eq!(tree.get_as(&tree.stores, "/report").await.0, StatusCode::OK);
    }
    let (status, headers, body) = tree.bench.get("/report").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    let problem = json(&body);
    assert_eq!((&problem["quota"], &problem["limit"]), (&"holding/reports".into(), &2.into()));
    assert_eq!((&problem["level"], problem.get("used")), (&"holding".into(), None));
    assert_eq!(problem.get("tenant"), None);
    assert!(problem["detail"].as_str().unwrap().starts_with("`holding/reports`, which is shared"));
    assert_eq!(names_others(&headers, &body), None);
    assert!(headers["ratelimit"].to_str().unwrap().starts_with("\"holding/reports\";r=0;"));

    let tree = Tree::new().await;
    refused(&tree, &tree.stores, "holding/requests").await;
    let (headers, body) = refused(&tree, &tree.more[0], "holding/requests").await;
    assert_eq!(json(&body).get("tenant"), None);
    assert_eq!(names_others(&headers, &body), None);

    // What stands at the team itself is named.
    let tree = Tree::new().await;
    let (headers, body) = refused(&tree, &tree.more[0], "team/requests").await;
    assert_eq!(json(&body)["tenant"], "acme-web");
    assert_eq!(names_others(&headers, &body), None);

    // Everything else that a key can be answered.
    let paths = ["/x", "/orbit/v1/limits", "/orbit/v1/usage", "/orbit/v1/refusals", "/orbit/v1/no"];
    for path in paths {
        let (_, headers, body) = tree.get_as(&tree.more[1], path).await;
        assert_eq!(names_others(&headers, &body), None, "{path}");
    }
}

#[tokio::test]
async fn http2_and_kept_connections_serve_both_kinds_of_request() {
    let tree = Tree::new().await;
    let http2: Client<_, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for path in ["/orbit/v1/limits", "/x", "/orbit/v1/limits?tenant=acme", "/orbit/v1/usage"] {
        let request = Request::get(format!("http://{}{path}", tree.bench.address))
            .version(Version::HTTP_2)
            .header("authorization", format!("Bearer {}", tree.bench.key.reveal()))
            .body(Empty::new())
            .unwrap();
        let (parts, body) = http2.request(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let expected = match path {
            "/orbit/v1/limits?tenant=acme" => 404,
            "/orbit/v1/usage" => 503,
            _ => 200,
        };
        assert_eq!(parts.status, expected, "{path}: {body:?}");
    }
    let first = "GET /orbit/v1/limits HTTP/1.1\nHost: x\nX-Api-Key: {key}\n\n";
    let mut kept = tree.bench.raw(first).await;
    let text = read_until(&mut kept, "}]}").await;
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    let key = tree.bench.key.reveal();
    let second = format!("GET /orbit/v1/nothing HTTP/1.1\r\nHost: x\r\nX-Api-Key: {key}\r\n\r\n");
    kept.write_all(second.as_bytes()).await.unwrap();
    let text = read_until(&mut kept, "}").await;
    assert!(text.starts_with("HTTP/1.1 404 Not Found"), "{text}");
}
