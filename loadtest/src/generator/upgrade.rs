//! A request that becomes a WebSocket, over a connection of its own.
//!
//! It is whole when the upstream has switched protocols, has sent back what it was sent, and has
//! ended the connection after this side did. The frames are bytes like any others to a proxy, so
//! bytes are sent.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::target::Target;

use super::exchange::{finished, is_problem, request_id};
use super::link::connect;
use super::prepare::Prepared;
use super::record::{Failure, Outcome, Whole};

/// Sent after the upgrade, and awaited back.
const SENT: &[u8; 100] = &[b'w'; 100];
const SWITCHED: u16 = StatusCode::SWITCHING_PROTOCOLS.as_u16();

/// Sends the request, works with what it becomes, and ends it.
pub(super) async fn ask(target: &Target, kind: &Prepared) -> Outcome {
    let Some(stream) = connect(target).await else { return Outcome::Failed(Failure::Connect) };
    let Ok((mut sender, connection)) = http1::handshake(TokioIo::new(stream)).await else {
        return Outcome::Failed(Failure::Connect);
    };
    // Its end shows in the answer, or in the upgraded stream.
    tokio::spawn(async { drop(connection.with_upgrades().await) });
    let request: Request<Full<Bytes>> = kind.request();
    let Ok(mut response) = sender.send_request(request).await else {
        return Outcome::Failed(Failure::Closed);
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return finished(response, kind).await;
    }
    let id = request_id(response.headers());
    let problem = is_problem(response.headers());
    let Ok(upgraded) = hyper::upgrade::on(&mut response).await else {
        return Outcome::Failed(Failure::CutShort);
    };
    match echo(TokioIo::new(upgraded)).await {
        Ok(body_bytes) => {
            let (status, sent_bytes, refusal) = (SWITCHED, body_bytes, None);
            Outcome::Whole(Whole { status, id, problem, body_bytes, sent_bytes, refusal })
        }
        Err(_) => Outcome::Failed(Failure::CutShort),
    }
}

async fn echo(mut stream: TokioIo<hyper::upgrade::Upgraded>) -> std::io::Result<u64> {
    stream.write_all(SENT).await?;
    let mut back = [0; SENT.len()];
    stream.read_exact(&mut back).await?;
    if back != *SENT {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    stream.shutdown().await?;
    match stream.read(&mut back).await? {
        0 => Ok(SENT.len() as u64),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}
