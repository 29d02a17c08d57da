//! The whole product as processes: `orbit up` with the real engine, real traffic, a broken policy
//! file, a clean stop, and the rows of exactly those requests, with the figures of their meters.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[path = "support/up.rs"]
mod up;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use orbit_meter::clickhouse::queries;
use rustix::process::Signal;
use serde_json::{Value, json};
use up::{Up, demo_key};

/// After this a state that should come is not coming.
const BOUND: std::time::Duration = std::time::Duration::from_secs(30);

/// Starts everything on free ports and waits until it serves.
fn start(directory: &Path) -> Up {
    Up::start(&directory.join("orbit.toml"), &directory.join("data"))
}

async fn send(request: Request<Full<Bytes>>) -> (StatusCode, HeaderMap, String) {
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let (parts, body) = client.request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, parts.headers, String::from_utf8_lossy(&body).into_owned())
}

async fn get(url: String, bearer: Option<&str>) -> (StatusCode, HeaderMap, String) {
    let mut request = Request::get(url);
    if let Some(bearer) = bearer {
        request = request.header("authorization", format!("Bearer {bearer}"));
    }
    send(request.body(Full::default()).unwrap()).await
}

/// What the finance user sees.
async fn query(orbit: &Up, data: &Path, sql: &str) -> String {
    ask(orbit, data, sql, "").await
}

async fn ask(orbit: &Up, data: &Path, sql: &str, parameters: &str) -> String {
    let password = std::fs::read_to_string(data.join("clickhouse/finance.password")).unwrap();
    let request = Request::post(format!("http://{}/?database=orbit&{parameters}", orbit.database))
        .header("x-clickhouse-user", "finance")
        .header("x-clickhouse-key", password.trim())
        .body(Full::new(Bytes::from(sql.to_owned())))
        .unwrap();
    let (status, _, text) = send(request).await;
    assert_eq!(status, StatusCode::OK, "{sql}: {text}");
    text
}

/// Answers "hello" to everything, after 2.5 ms of work as it says; of `/crm/odd` it says nothing of
/// use.
async fn upstream() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let says =
        |work: &'static str| move || async move { ([("X-Orbit-Processing-Ms", work)], "hello") };
    let app = axum::Router::new()
        .route("/crm/odd", axum::routing::get(says("fast")))
        .fallback(says("2.5"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_serves_meters_survives_a_broken_policy_and_accounts_for_every_request() {
    let directory = tempfile::tempdir().unwrap();
    up::example(directory.path(), &upstream().await);
    let data = directory.path().join("data");
    let orbit = start(directory.path());
    let web = demo_key(&data, "ACME_WEB");
    let url = |path: &str| format!("http://{}{path}", orbit.proxy);

    let (status, headers, body) = get(url("/crm/hello"), Some(&web)).await;
    assert_eq!((status, &*body), (StatusCode::OK, "hello"));
    assert!(headers["ratelimit"].to_str().unwrap().contains(";r="));
    assert!(!headers.contains_key("x-orbit-processing-ms"), "that is for us: {headers:?}");
    assert!(headers["ratelimit-policy"].to_str().unwrap().contains("holding/requests"));
    let (status, headers, _) = get(url("/crm/odd"), Some(&web)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(!headers.contains_key("x-orbit-processing-ms"), "{headers:?}");
    assert_eq!(get(url("/crm/hello"), None).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(get(url("/ai/chat"), Some(&web)).await.0, StatusCode::FORBIDDEN);

    let mut answers: BTreeMap<u16, u64> = BTreeMap::new();
    for _ in 0..60 {
        let (status, ..) = get(url("/projects/x"), Some(&web)).await;
        *answers.entry(status.as_u16()).or_default() += 1;
    }
    assert_eq!(answers.keys().copied().collect::<Vec<_>>(), [200, 429]);

    broken_policy_is_refused_and_traffic_goes_on(&orbit, directory.path(), &data).await;
    report_usage(&orbit, &data).await;

    orbit.stop(Signal::TERM);
    let orbit = start(directory.path());
    let rows = "SELECT kind, tenant, status, reason, sum(requests) FROM orbit.usage_events \
                GROUP BY ALL ORDER BY ALL FORMAT TSV";
    let seen = query(&orbit, &data, rows).await;
    let expected = [
        "request\tpadaria\t200\t\t20".to_owned(),
        format!("request\tacme-web\t200\t\t{}", answers[&200] + 2),
        "refused\t\t401\tno_key\t1".to_owned(),
        "refused\tacme-web\t403\tnot_entitled\t1".to_owned(),
        format!("refused\tacme-web\t429\trate_limited\t{}", answers[&429]),
        "ingested\tacme\t0\t\t1".to_owned(),
        "ingested\tacme-web\t0\t\t4".to_owned(),
    ];
    for line in &expected {
        assert!(seen.lines().any(|row| row == line), "{line:?} is not in\n{seen}");
    }
    assert_eq!(seen.lines().count(), expected.len(), "{seen}");
    let dense = "SELECT count() FROM (SELECT node, epoch, lane, count() AS n, uniqExact(sequence) \
                 AS distinct, max(sequence) + 1 AS last FROM orbit.usage_events GROUP BY ALL \
                 HAVING n != distinct OR n != last)";
    assert_eq!(query(&orbit, &data, dense).await.trim(), "0", "sequences are dense");
    figures_are_right(&orbit, &data, answers[&200] + 2).await;
    let beside = directory.path().join("audit.toml");
    std::fs::write(&beside, "[clickhouse]\ndata = \"data/clickhouse\"\n").unwrap();
    let audit = Command::new(env!("CARGO_BIN_EXE_orbit"))
        .args(["audit", "--wait-s", "0", "--config"])
        .arg(&beside)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&audit.stdout);
    assert!(audit.status.success() && text.trim_end().ends_with("clean"), "{text}{audit:?}");
    orbit.stop(Signal::TERM);
}

/// Usage that the proxy does not see: a level, members, and a meter without a table.
async fn report_usage(orbit: &Up, data: &Path) {
    let token = std::fs::read_to_string(data.join("ingest.token")).unwrap();
    let event = |id: u32, meter: &str, subject: &str, data: Value| {
        json!({ "specversion": "1.0", "id": id.to_string(), "source": "/erp", "type": meter,
                "subject": subject, "data": data })
    };
    let events = json!([
        event(1, "active_integrations", "acme-web", json!({ "member": "sap" })),
        event(2, "active_integrations", "acme", json!({ "member": "sap" })),
        event(3, "active_integrations", "acme-web", json!({ "member": "shop" })),
        event(4, "storage", "acme-web", json!({ "quantity": 5_000_000 })),
        event(5, "exports", "acme-web", json!({ "quantity": "0.5" })),
    ]);
    for counted in ["\"accepted\":5", "\"duplicates\":5"] {
        let request = Request::post(format!("http://{}/v1/events", orbit.ingest))
            .header("authorization", format!("Bearer {}", token.trim()))
            .header("content-type", "application/cloudevents-batch+json")
            .body(Full::new(Bytes::from(events.to_string())))
            .unwrap();
        let (status, _, body) = send(request).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
        assert!(body.contains(counted), "{body}");
    }
}

/// Each meter's figure for the holding, as finance asks for it; `served` requests of `acme-web` were.
async fn figures_are_right(orbit: &Up, data: &Path, served: u64) {
    let figure = async |name: &str, meter: &str, how: &str| {
        let sql = queries::find(name).unwrap().sql;
        let parameters = format!(
            "param_from_us=0&param_to_us=7258118400000000&param_tenant=acme&param_meter={meter}\
             &param_aggregate={how}&default_format=TSV"
        );
        ask(orbit, data, sql, &parameters).await.trim().to_owned()
    };
    // One of them was told in words.
    let told = served - 1;
    let processing = told * 5;
    let processing = format!("{}{}", processing / 2, if processing % 2 == 1 { ".5" } else { "" });
    for (meter, how, value) in [
        ("api_calls", "sum", served.to_string()),
        ("api_calls", "count", served.to_string()),
        ("processing", "sum", processing),
        ("processing", "count", told.to_string()),
        ("processing", "max", "2.5".to_owned()),
        ("data_out", "sum", (served * 5).to_string()),
        ("data_in", "sum", "0".to_owned()),
        ("active_integrations", "distinct", "2".to_owned()),
        ("exports", "sum", "0.5".to_owned()),
    ] {
        assert_eq!(figure("meter_by_window", meter, how).await, value, "{how} of {meter}");
    }
    let storage = figure("gauge_by_window", "storage", "").await;
    let (_, level) = storage.split_once('\t').unwrap();
    assert_eq!(level, "5000000\t5000000", "peak and level: {storage}");
}

/// Every mistake shows in `/readyz`, the old policy goes on, and a good file comes into force.
async fn broken_policy_is_refused_and_traffic_goes_on(orbit: &Up, directory: &Path, data: &Path) {
    let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
    let padaria = demo_key(data, "PADARIA");
    let ready = || get(format!("http://{}/readyz", orbit.admin), Some(token.trim()));
    let bad = directory.join("policy/bad.toml");
    let mistakes = "[[tenant]]\nid = \"a\"\nparent = \"b\"\n[[tenant]]\nid = \"b\"\nparent = \"a\"\n\
                    [[tenant]]\nid = \"c\"\nplan = \"golden\"\ncolour = \"red\"\n\
                    [[plan]]\nid = \"p\"\nusers = \"many\"\n";
    std::fs::write(&bad, mistakes).unwrap();
    #[expect(clippy::disallowed_methods, reason = "a bound on the test, not a measurement")]
    let started = std::time::Instant::now();
    let expected = ["bad.toml:3:", "bad.toml:9:", "bad.toml:10:", "bad.toml:13:"];
    loop {
        let (status, _, body) = ready().await;
        let found = expected.iter().all(|place| {
            let (line, file) = (place.split(':').nth(1).unwrap(), "bad.toml");
            let json: Value = serde_json::from_str(&body).unwrap();
            let text = json.to_string();
            text.contains(file)
                && (text.contains(place) || text.contains(&format!("\"line\":{line}")))
        });
        assert_eq!(status, StatusCode::OK, "a refused policy does not make the gateway unready");
        if found {
            break;
        }
        assert!(started.elapsed() < BOUND, "not refused as it should be: {body}");
        tokio::task::yield_now().await;
    }
    for _ in 0..20 {
        let url = format!("http://{}/crm/x", orbit.proxy);
        assert_eq!(get(url, Some(&padaria)).await.0, StatusCode::OK);
    }
    let metrics = get(format!("http://{}/metrics", orbit.admin), Some(token.trim())).await.2;
    assert!(metrics.contains("orbit_policy_reloads_total{result=\"refused\"}"), "{metrics}");
    let invalid = "orbit_meter_values_invalid_total{meter=\"processing\"} 1";
    assert!(metrics.contains(invalid), "{metrics}");
    std::fs::remove_file(&bad).unwrap();
    let policy = || get(format!("http://{}/v1/policy", orbit.admin), Some(token.trim()));
    loop {
        let json: Value = serde_json::from_str(&policy().await.2).unwrap();
        if json["last_error"].is_null() {
            break;
        }
        tokio::task::yield_now().await;
    }
}
