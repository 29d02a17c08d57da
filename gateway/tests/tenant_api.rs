//! What tenants see of themselves, by a whole `orbit up` with the real engine: the numbers are
//! those of the rows, page by page, and keys and tokens open only what they are for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "support/up.rs"]
mod up;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use up::Up;

/// A running `orbit up` on the example configuration.
struct Orbit {
    up: Up,
    home: PathBuf,
}

impl Orbit {
    fn start(home: &Path, upstream: &str) -> Orbit {
        up::example(home, upstream);
        let up = Up::start(&home.join("orbit.toml"), &home.join("data"));
        Orbit { up, home: home.to_owned() }
    }

    fn key(&self, tenant: &str) -> String {
        up::demo_key(&self.home.join("data"), tenant)
    }

    async fn get(&self, path: &str, key: &str) -> (StatusCode, String) {
        get(&format!("http://{}{path}", self.up.proxy), key).await
    }

    /// Asks until the key may.
    async fn allowed(&self, path: &str, key: &str) -> String {
        loop {
            match self.get(path, key).await {
                (StatusCode::TOO_MANY_REQUESTS, _) => tokio::task::yield_now().await,
                (status, text) => {
                    assert_eq!(status, StatusCode::OK, "{text}");
                    return text;
                }
            }
        }
    }

    /// When it is, by the gateway's clock.
    async fn now(&self, key: &str) -> String {
        let limits: Value =
            serde_json::from_str(&self.allowed("/orbit/v1/limits", key).await).unwrap();
        limits["at"].as_str().unwrap().to_owned()
    }

    /// Asks until the key may, and until what happened before `until` is all there.
    async fn complete(&self, path: &str, key: &str, until: &str) -> Value {
        loop {
            let answer: Value = serde_json::from_str(&self.allowed(path, key).await).unwrap();
            if answer["complete_until"].as_str().is_some_and(|complete| complete > until) {
                return answer;
            }
        }
    }

    /// What the finance user sees.
    async fn query(&self, sql: &str) -> String {
        let password = up::secret(&self.home, "data/clickhouse/finance.password");
        let request = Request::post(format!("http://{}/", self.up.database))
            .header("x-clickhouse-user", "finance")
            .header("x-clickhouse-key", password)
            .body(Full::new(Bytes::from(sql.to_owned())))
            .unwrap();
        let (status, text) = send(request).await;
        assert_eq!(status, StatusCode::OK, "{sql}: {text}");
        text.trim_end().to_owned()
    }
}

async fn send(request: Request<Full<Bytes>>) -> (StatusCode, String) {
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let (parts, body) = client.request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, String::from_utf8_lossy(&body).into_owned())
}

async fn get(url: &str, bearer: &str) -> (StatusCode, String) {
    let request = Request::get(url).header("authorization", format!("Bearer {bearer}"));
    send(request.body(Full::default()).unwrap()).await
}

/// Answers "hello" to everything.
async fn upstream() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let app = axum::Router::new().fallback(|| async { "hello" });
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

fn sum(answer: &Value, member: &str) -> u64 {
    answer["rows"].as_array().unwrap().iter().map(|row| row[member].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_sees_what_the_rows_say_and_nobody_elses() {
    let home = tempfile::tempdir().unwrap();
    let orbit = Orbit::start(home.path(), &upstream().await);
    let (web, padaria) = (orbit.key("ACME_WEB"), orbit.key("PADARIA"));
    let from = format!("from={}", orbit.now(&web).await);
    let (mut granted, mut limited) = (0, 0);
    for path in ["/crm/a", "/projects/b"].into_iter().cycle() {
        match orbit.get(path, &web).await.0 {
            StatusCode::OK => granted += 1,
            status => {
                assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
                limited += 1;
            }
        }
        if limited == 3 {
            break;
        }
    }
    assert_eq!(orbit.get("/ai/chat", &web).await.0, StatusCode::FORBIDDEN);
    for _ in 0..5 {
        assert_eq!(orbit.get("/crm/c", &padaria).await.0, StatusCode::OK);
    }
    let done = orbit.now(&web).await;

    let usage = orbit.complete(&format!("/orbit/v1/usage?per=total&{from}"), &web, &done).await;
    assert_eq!(sum(&usage, "requests"), granted, "{usage:#}");
    let meters = usage["rows"].as_array().unwrap();
    let row = meters.iter().find(|row| row["meter"] == "api_calls").expect("it asked");
    let of_web = "FROM orbit.usage_events WHERE tenant = 'acme-web' AND kind = 'request'";
    let rows = orbit
        .query(&format!(
            "SELECT sum(requests), toString(sum(quantity)), sum(request_bytes), \
             sum(response_bytes) {of_web} AND meter = 'api_calls'"
        ))
        .await;
    let told = ["requests", "quantity", "request_bytes", "response_bytes"]
        .map(|member| row[member].to_string().replace('"', ""));
    assert_eq!(told.join("\t"), rows);

    // Broken down, and read page by page, it is the same.
    let by_route = format!("/orbit/v1/usage?by=route&per=hour&{from}");
    let routes = orbit.complete(&by_route, &web, &done).await;
    assert_eq!(sum(&routes, "requests"), granted);
    assert!(routes["rows"].as_array().unwrap().len() >= 2, "{routes:#}");
    let (mut pages, mut next) = (Vec::new(), String::new());
    loop {
        let path = format!("{by_route}&limit=1{next}");
        let page = orbit.complete(&path, &web, &done).await;
        pages.extend(page["rows"].as_array().unwrap().clone());
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        next = format!("&cursor={cursor}");
    }
    assert_eq!(&pages, routes["rows"].as_array().unwrap());

    let refusals = orbit.complete("/orbit/v1/refusals", &web, &done).await;
    let mut reasons: Vec<(String, u64)> = Vec::new();
    for row in refusals["rows"].as_array().unwrap() {
        assert_eq!(row["tenant"], "acme-web", "S1");
        let (reason, count) = (row["reason"].as_str().unwrap(), row["refusals"].as_u64().unwrap());
        match reasons.iter_mut().find(|(known, _)| known == reason) {
            Some((_, sum)) => *sum += count,
            None => reasons.push((reason.to_owned(), count)),
        }
    }
    reasons.sort();
    assert_eq!(reasons, [("not_entitled".to_owned(), 1), ("rate_limited".to_owned(), 3)]);

    // Nothing of the levels above, of which the key's tenant is the lowest.
    let mut limits = Value::Null;
    for path in ["/orbit/v1/limits", "/orbit/v1/usage?by=tenant", "/orbit/v1/refusals?per=total"] {
        let text = orbit.allowed(path, &web).await;
        for above in ["\"acme\"", "acme/", "acme-brasil", "acme-retail", "acme-marketing"] {
            assert!(!text.contains(above), "S1: {above} is in the answer to {path}: {text}");
        }
        if path.ends_with("limits") {
            limits = serde_json::from_str(&text).unwrap();
        }
    }
    assert!(limits["limits"].as_array().unwrap().iter().any(|limit| limit["level"] == "holding"));

    let other = orbit
        .complete(&format!("/orbit/v1/usage?per=total&by=tenant&{from}"), &padaria, &done)
        .await;
    assert_eq!((sum(&other, "requests"), &other["rows"][0]["tenant"]), (5, &"padaria".into()));
    a_level_that_was_reported_lasts(&orbit, &web).await;
    tokens_and_keys_open_what_they_are_for(&orbit, &web).await;
    // None of the questions is a row.
    let rows = orbit.query(&format!("SELECT sum(requests) {of_web}")).await;
    assert_eq!(rows, granted.to_string());
}

async fn a_level_that_was_reported_lasts(orbit: &Orbit, key: &str) {
    let event = serde_json::json!({
        "specversion": "1.0", "id": "1", "source": "/erp", "type": "storage",
        "subject": "acme-web", "data": { "quantity": 5_000_000 },
    });
    let token = up::secret(&orbit.home, "data/ingest.token");
    let request = Request::post(format!("http://{}/v1/events", orbit.up.ingest))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/cloudevents+json")
        .body(Full::new(Bytes::from(event.to_string())))
        .unwrap();
    let (status, body) = send(request).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    let now = orbit.now(key).await;
    let usage = orbit.complete("/orbit/v1/usage?per=month&by=tenant", key, &now).await;
    let rows = usage["rows"].as_array().unwrap();
    let storage = rows.iter().find(|row| row["meter"] == "storage").unwrap();
    assert_eq!((&storage["aggregate"], &storage["unit"]), (&"gauge".into(), &"bytes".into()));
    assert_eq!((&storage["peak"], &storage["level"]), (&"5000000".into(), &"5000000".into()));
    assert_eq!((&storage["tenant"], &storage["requests"]), (&"acme-web".into(), &1.into()));
    let hours: f64 = storage["quantity"].as_str().unwrap().parse().unwrap();
    assert!((0.0..5_000_000.0).contains(&hours), "not yet an hour: {hours}");
    assert_eq!(usage["zone"], "America/Sao_Paulo", "{usage}");
}

async fn tokens_and_keys_open_what_they_are_for(orbit: &Orbit, key: &str) {
    let token = up::secret(&orbit.home, "data/admin.token");
    let (status, body) = orbit.get("/orbit/v1/limits", &token).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{body}");
    let tenants = format!("http://{}/v1/tenants/acme-web/usage", orbit.up.admin);
    assert_eq!(get(&tenants, key).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&tenants, &token).await.0, StatusCode::OK);
    let metrics = get(&format!("http://{}/metrics", orbit.up.admin), &token).await.1;
    let counted = "orbit_tenant_api_requests_total{endpoint=\"limits\",status=\"401\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}
