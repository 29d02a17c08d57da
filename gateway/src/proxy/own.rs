//! Requests that the gateway answers itself: what tenants ask about themselves.
//!
//! They are no usage: nothing is taken from a limit, no row is written, and none is waited for.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{Method, StatusCode};
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::proxy::Session;

use super::exchange::Exchange;
use super::{Edge, intake};
use crate::tenant_api::Asked;

/// Answers one such request.
pub(super) async fn answer(edge: &Edge, session: &mut Session, ctx: &mut Exchange) -> Result<()> {
    // The watermark need not wait for what has no row.
    ctx.leave_open();
    let header = session.req_header();
    let asked = Asked {
        method: header.method.as_str(),
        path: header.uri.path(),
        query: header.uri.query(),
        key: intake::presented_key(&header.headers).0,
        at: ctx.started,
    };
    let answered = edge.tenant_api.answer(&asked).await;
    // A body that came along is not read.
    let keep = session.is_body_empty();
    match answered {
        Ok(json) => send(session, json, &ctx.id.hex(), keep).await,
        Err(problem) => problem.send(session, &ctx.id, keep).await,
    }
}

async fn send(session: &mut Session, json: Bytes, id: &[u8], keep: bool) -> Result<()> {
    let mut header = ResponseHeader::build(StatusCode::OK, Some(4))?;
    header.insert_header(CONTENT_TYPE, "application/json")?;
    header.insert_header(CONTENT_LENGTH, json.len().to_string())?;
    header.insert_header(CACHE_CONTROL, "no-store")?;
    header.insert_header("X-Request-Id", id)?;
    if !keep {
        session.set_keepalive(None);
    }
    let no_body = session.req_header().method == Method::HEAD;
    session.write_response_header(Box::new(header), no_body).await?;
    if !no_body {
        session.write_response_body(Some(json), true).await?;
    }
    Ok(())
}
