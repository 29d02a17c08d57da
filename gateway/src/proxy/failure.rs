//! What the gateway answers when a request could not be forwarded, or its answer not brought back.

use http::StatusCode;
use pingora::{Error, ErrorSource, ErrorType};

use super::exchange::Exchange;
use super::intake;
use super::problem::Problem;
use super::refusal;

/// The answer to a request that could not be forwarded; `None`: nobody is there to read it.
pub(super) fn answer(error: &Error, ctx: &Exchange) -> Option<Problem> {
    use ErrorType::{ConnectTimedout, HTTPStatus, ReadTimedout, WriteTimedout};
    let timed_out = matches!(error.etype(), ConnectTimedout | ReadTimedout | WriteTimedout);
    let problem = match (error.etype(), error.esource()) {
        _ if ctx.too_large => intake::body_too_large(),
        _ if ctx.no_room.is_some() => refusal::no_room(ctx)?,
        (HTTPStatus(code), _) => {
            let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::BAD_GATEWAY);
            Problem::new(status, "not-forwarded", "The request could not be forwarded.")
        }
        (_, ErrorSource::Upstream) if timed_out => {
            let detail = "The upstream did not answer in time.";
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "upstream-timeout", detail)
        }
        (_, ErrorSource::Downstream) if timed_out => {
            let detail = "The request did not arrive in time.";
            Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", detail)
        }
        (
            ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed,
            ErrorSource::Downstream,
        ) => return None,
        (_, ErrorSource::Downstream) => {
            let detail = "The request is not valid HTTP.";
            Problem::new(StatusCode::BAD_REQUEST, "bad-request", detail)
        }
        (_, ErrorSource::Upstream) => {
            let detail = "The upstream could not be reached or gave no valid answer.";
            Problem::new(StatusCode::BAD_GATEWAY, "upstream-failed", detail)
        }
        (ErrorType::ConnectNoRoute, _) => {
            let detail = "No server of the upstream is known.";
            Problem::new(StatusCode::BAD_GATEWAY, "upstream-failed", detail)
        }
        _ => {
            let detail = "The gateway failed to serve the request.";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
        }
    };
    Some(problem)
}
