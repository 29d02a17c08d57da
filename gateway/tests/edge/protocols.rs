//! HTTP/2 without and with TLS beside HTTP/1.1.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use orbit_gateway::settings::TlsListener;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::harness::Bench;

fn request(bench: &Bench, uri: String, body: &'static str) -> Request<Full<Bytes>> {
    Request::post(uri)
        .header("x-api-key", bench.key.reveal())
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_limited_and_recorded_like_http1() {
    let bench = Bench::new(r#"{ name = "requests", rate = 1, per = "day", burst = 30 }"#).await;
    let client: Client<_, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    for round in 0..30 {
        // An empty body ends with an empty DATA frame: the upstream connection must survive it.
        let body = if round % 2 == 0 { "" } else { "some body" };
        let uri = format!("http://{}/echo", bench.address);
        let answer = client.request(request(&bench, uri, body)).await.unwrap();
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_2));
        assert!(answer.headers().contains_key("ratelimit"));
        let echoed = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(echoed, body);
        assert_eq!(bench.events(), round + 1);
    }
    let uri = format!("http://{}/echo", bench.address);
    let answer = client.request(request(&bench, uri, "")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn tls_serves_http2_by_alpn_and_http1_without() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (certificate_file, key_file) =
        (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    std::fs::write(&certificate_file, certificate.cert.pem()).unwrap();
    std::fs::write(&key_file, certificate.signing_key.serialize_pem()).unwrap();
    let bench = Bench::with("", |server| {
        server.limits.header_timeout_ms = 500;
        server.tls = vec![TlsListener {
            listen: "127.0.0.1:0".parse().unwrap(),
            certificate_file,
            key_file,
        }];
    })
    .await;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.cert.der().clone()).unwrap();
    for (protocols, version) in
        [(vec![b"h2".to_vec()], Version::HTTP_2), (Vec::new(), Version::HTTP_11)]
    {
        let mut config =
            ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
        config.alpn_protocols = protocols;
        let stream = TcpStream::connect(bench.tls.unwrap()).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let io = TokioIo::new(stream);
        let request = request(&bench, "https://localhost/".to_owned(), "");
        let answer = if version == Version::HTTP_2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, version));
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    }
    assert_eq!(bench.events(), 2);

    // One that negotiates HTTP/2 and then says nothing is not waited for.
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(bench.tls.unwrap()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let mut rest = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
    let bound = std::time::Duration::from_secs(30);
    assert!(tokio::time::timeout(bound, closed).await.is_ok(), "still held");
}
