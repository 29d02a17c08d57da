//! The scenario as it is written: TOML to [`Scenario`], collecting every mistake with its place.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderName, HeaderValue, Method};
use toml::Spanned;

use super::shape::{
    AbortAfter, AbortDocument, Document, FigureDocument, HttpText, KeyHeaderText, LimitDocument,
    RateText, RequestDocument, ShareDocument, SharesDocument,
};
use super::{
    Abort, Amount, ExpectedLimit, ExpectedShare, ExpectedShares, KeyHeader, Mistake, Protocol,
    Rate, RequestKind, Scenario,
};

/// A day: nothing in a scenario lasts longer.
const MAX_SECONDS: f64 = 86_400.0;
const MAX_RATE_PER_S: f64 = 10_000_000.0;
const MAX_BODY_BYTES: u32 = 64 << 20;
/// Bounds the table of interleaved kinds.
const MAX_TOTAL_WEIGHT: u32 = 10_000;

/// Parses and checks; all mistakes at once where the text is TOML of the right shape.
pub(super) fn parse(file: &str, text: &str) -> Result<Scenario, Vec<Mistake>> {
    let document: Document = toml::from_str(text).map_err(|error| vec![shape(text, &error)])?;
    let mut check = Check { text, mistakes: Vec::new() };
    let scenario = check.scenario(file, document);
    if check.mistakes.is_empty() { Ok(scenario) } else { Err(check.mistakes) }
}

/// A mistake in syntax, type or name, as serde reports it.
fn shape(text: &str, error: &toml::de::Error) -> Mistake {
    let at = error.span().map_or(0, |span| span.start);
    let message = error.message().trim().replace('\n', ", ");
    let named = ["missing field `", "unknown field `", "duplicate key `"]
        .iter()
        .find_map(|start| Some(message.split_once(start)?.1.split_once('`')?.0.to_owned()));
    let (line, column) = place(text, at);
    Mistake { line, column, key: named.unwrap_or_else(|| key_at(text, line)), message }
}

fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The key that a line assigns, or the header it is.
fn key_at(text: &str, line: usize) -> String {
    let content = text.lines().nth(line - 1).unwrap_or_default().trim();
    let key = content.split_once('=').map_or(content, |(key, _)| key.trim());
    key.trim_matches(['[', ']', '"', ' ']).to_owned()
}

struct Check<'a> {
    text: &'a str,
    mistakes: Vec<Mistake>,
}

impl Check<'_> {
    fn wrong(&mut self, at: usize, key: &str, message: impl Into<String>) {
        let (line, column) = place(self.text, at);
        self.mistakes.push(Mistake { line, column, key: key.to_owned(), message: message.into() });
    }

    fn scenario(&mut self, file: &str, document: Document) -> Scenario {
        let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str()).unwrap_or(file);
        if let Some(url) = &document.url
            && let Err(error) = url.get_ref().parse::<crate::target::Target>()
        {
            self.wrong(url.span().start, "url", error.to_string());
        }
        let rate = self.rate(&document.rate);
        let amount = self.amount(&document);
        let connections = self.count("connections", document.connections.as_ref(), 64, 10_000);
        let threads = self.count("threads", document.threads.as_ref(), 1, 64);
        let streams = self.count("streams", document.streams.as_ref(), 1, 1000);
        let protocol = match document.http {
            Some(HttpText::Two) => Protocol::Http2 { streams },
            _ => Protocol::Http1,
        };
        if let (Protocol::Http1, Some(streams)) = (protocol, &document.streams) {
            self.wrong(
                streams.span().start,
                "streams",
                "only HTTP/2 has streams: set http = \"2\"",
            );
        }
        if threads > connections {
            let at = document.threads.as_ref().map_or(0, |threads| threads.span().start);
            self.wrong(at, "threads", format!("{threads} threads for {connections} connections"));
        }
        let warmup = self.seconds("warmup_s", document.warmup_s.as_ref(), 0.0);
        let timeout = self.seconds("timeout_s", document.timeout_s.as_ref(), 10.0);
        let drain = self.seconds("drain_s", document.drain_s.as_ref(), 10.0);
        let requests = self.requests(document.request, protocol);
        let expect_limit = document.expect_limit.map(|limit| self.limit(limit, &requests));
        let expect_shares = document.expect_shares.map(|shares| self.shares(shares, &requests));
        Scenario {
            name: document.name.unwrap_or_else(|| stem.to_owned()),
            url: document.url.map(Spanned::into_inner),
            rate,
            amount,
            warmup,
            connections,
            protocol,
            threads,
            timeout,
            drain,
            requests,
            expect_limit,
            expect_shares,
        }
    }

    fn rate(&mut self, rate: &Spanned<RateText>) -> Rate {
        match *rate.get_ref() {
            RateText::Max => Rate::Max,
            RateText::PerSecond(value) => {
                if !(value > 0.0 && value <= MAX_RATE_PER_S) {
                    let says = format!("{value} is not between 0 and {MAX_RATE_PER_S}");
                    self.wrong(rate.span().start, "rate", says);
                }
                Rate::PerSecond(value)
            }
        }
    }

    fn amount(&mut self, document: &Document) -> Amount {
        match (&document.requests, &document.duration_s) {
            (Some(requests), None) => {
                if *requests.get_ref() == 0 {
                    self.wrong(requests.span().start, "requests", "must be at least 1");
                }
                Amount::Requests(*requests.get_ref())
            }
            (None, Some(seconds)) => {
                if *seconds.get_ref() <= 0.0 {
                    self.wrong(seconds.span().start, "duration_s", "must be more than 0");
                }
                Amount::Duration(self.seconds("duration_s", Some(seconds), 0.0))
            }
            (Some(_), Some(seconds)) => {
                let says = "either requests or duration_s ends the run, not both";
                self.wrong(seconds.span().start, "duration_s", says);
                Amount::Requests(1)
            }
            (None, None) => {
                self.wrong(0, "duration_s", "one of requests and duration_s must end the run");
                Amount::Requests(1)
            }
        }
    }

    fn count(&mut self, key: &str, value: Option<&Spanned<u32>>, usual: u32, most: u32) -> u32 {
        let Some(value) = value else { return usual };
        if !(1..=most).contains(value.get_ref()) {
            let says = format!("{} is not between 1 and {most}", value.get_ref());
            self.wrong(value.span().start, key, says);
        }
        *value.get_ref()
    }

    fn seconds(&mut self, key: &str, value: Option<&Spanned<f64>>, usual: f64) -> Duration {
        let Some(value) = value else { return Duration::from_secs_f64(usual) };
        if !(0.0..=MAX_SECONDS).contains(value.get_ref()) {
            let says = format!("{} is not between 0 and {MAX_SECONDS}", value.get_ref());
            self.wrong(value.span().start, key, says);
            return Duration::ZERO;
        }
        Duration::from_secs_f64(*value.get_ref())
    }

    fn requests(
        &mut self,
        documents: Vec<Spanned<RequestDocument>>,
        protocol: Protocol,
    ) -> Vec<RequestKind> {
        if documents.is_empty() {
            self.wrong(0, "request", "at least one [[request]] is needed");
        }
        let (mut names, mut total_weight) = (BTreeSet::new(), 0_u32);
        let mut kinds = Vec::with_capacity(documents.len());
        for document in documents {
            let at = document.span().start;
            let kind = document.into_inner();
            let name_at = kind.name.span().start;
            if !names.insert(kind.name.get_ref().clone()) {
                self.wrong(name_at, "name", format!("`{}` was used before", kind.name.get_ref()));
            }
            if let (Some(websocket), true) = (&kind.websocket, protocol != Protocol::Http1) {
                self.wrong(websocket.span().start, "websocket", "only HTTP/1.1 becomes one here");
            }
            let kind = self.request(kind);
            total_weight = total_weight.saturating_add(kind.weight);
            if total_weight > MAX_TOTAL_WEIGHT {
                self.wrong(at, "weight", format!("the weights add up to over {MAX_TOTAL_WEIGHT}"));
                break;
            }
            kinds.push(kind);
        }
        kinds
    }

    fn request(&mut self, document: RequestDocument) -> RequestKind {
        let method = document.method.map_or(Method::GET, |method| {
            Method::from_bytes(method.get_ref().as_bytes()).unwrap_or_else(|_| {
                self.wrong(method.span().start, "method", "not an HTTP method");
                Method::GET
            })
        });
        let path = document.path.get_ref();
        if !path.starts_with('/') || path.parse::<PathAndQuery>().is_err() {
            self.wrong(document.path.span().start, "path", "not a path such as /fixed/100?a=b");
        }
        if let Some(host) = &document.host
            && host.get_ref().parse::<Authority>().is_err()
        {
            self.wrong(host.span().start, "host", "not a host");
        }
        if let Some(key) = &document.key
            && key.get_ref().starts_with("orb_")
        {
            // Do not repeat it: it looks like a secret.
            self.wrong(key.span().start, "key", "this is a key: give its label in the keys file");
        }
        let body_bytes = document.body_bytes.map_or(0, |bytes| {
            if *bytes.get_ref() > MAX_BODY_BYTES {
                self.wrong(bytes.span().start, "body_bytes", format!("over {MAX_BODY_BYTES}"));
            }
            *bytes.get_ref()
        });
        let headers = document.headers.iter().filter_map(|(n, v)| self.header(n, v)).collect();
        let expect = document.expect.iter().filter_map(|status| self.status(status)).collect();
        RequestKind {
            name: document.name.into_inner(),
            weight: self.count("weight", document.weight.as_ref(), 1, MAX_TOTAL_WEIGHT),
            method,
            path: document.path.into_inner(),
            host: document.host.map(Spanned::into_inner),
            key: document.key.map(Spanned::into_inner),
            key_header: match document.key_header {
                Some(KeyHeaderText::XApiKey) => KeyHeader::ApiKey,
                _ => KeyHeader::Bearer,
            },
            body_bytes,
            headers,
            websocket: document.websocket.is_some_and(Spanned::into_inner),
            abort: document.abort.map_or(Abort::Never, |abort| self.abort(&abort)),
            expect,
            may_fail: document.may_fail,
            tenant: document.tenant,
            app: document.app,
            route: document.route,
            cost: document.cost,
            figure: document.figure.map(|FigureDocument { meter, thousandths }| {
                (meter, i128::from(thousandths) * 1_000_000)
            }),
            user: document.user,
        }
    }

    fn header(
        &mut self,
        name: &Spanned<String>,
        value: &Spanned<String>,
    ) -> Option<(HeaderName, HeaderValue)> {
        let parsed = HeaderName::from_bytes(name.get_ref().as_bytes()).ok();
        if parsed.is_none() {
            self.wrong(name.span().start, name.get_ref(), "not a header name");
        }
        let Ok(content) = HeaderValue::from_str(value.get_ref()) else {
            self.wrong(value.span().start, name.get_ref(), "not a header value");
            return None;
        };
        Some((parsed?, content))
    }

    fn status(&mut self, status: &Spanned<u16>) -> Option<u16> {
        // Of those below, one is final: the protocol is another afterwards.
        if !(200..=599).contains(status.get_ref()) && *status.get_ref() != 101 {
            self.wrong(
                status.span().start,
                "expect",
                format!("{} ends no answer", status.get_ref()),
            );
            return None;
        }
        Some(*status.get_ref())
    }

    fn abort(&mut self, abort: &Spanned<AbortDocument>) -> Abort {
        let AbortDocument { after, bytes, wait_ms } = abort.get_ref();
        let at = abort.span().start;
        if bytes.is_some() != (*after == AbortAfter::Body) {
            self.wrong(at, "abort.bytes", "belongs to after = \"body\", and is needed there");
        }
        if wait_ms.is_some() && *after != AbortAfter::Send {
            self.wrong(at, "abort.wait_ms", "belongs to after = \"send\" only");
        }
        match after {
            // A millisecond lets the request reach the socket before the client leaves.
            AbortAfter::Send => Abort::Sent(Duration::from_millis(wait_ms.unwrap_or(1).max(1))),
            AbortAfter::Header => Abort::Header,
            AbortAfter::Body => Abort::Body(bytes.unwrap_or(1).max(1)),
        }
    }

    fn limit(&mut self, limit: Spanned<LimitDocument>, kinds: &[RequestKind]) -> ExpectedLimit {
        let limit = limit.into_inner();
        let (rate, per_s) =
            (*limit.rate.get_ref(), limit.per_s.as_ref().map_or(1.0, |s| *s.get_ref()));
        if !(rate > 0.0 && rate <= MAX_RATE_PER_S) {
            self.wrong(limit.rate.span().start, "expect_limit.rate", "must be more than 0");
        }
        if let Some(period) = &limit.per_s
            && !(per_s > 0.0 && per_s.is_finite())
        {
            self.wrong(period.span().start, "expect_limit.per_s", "must be more than 0");
        }
        if *limit.burst.get_ref() == 0 {
            self.wrong(limit.burst.span().start, "expect_limit.burst", "must be at least 1");
        }
        for name in &limit.requests {
            if !kinds.iter().any(|kind| kind.name == *name.get_ref()) {
                let says = format!("no [[request]] has the name `{}`", name.get_ref());
                self.wrong(name.span().start, "expect_limit.requests", says);
            }
        }
        ExpectedLimit {
            rate,
            per_s,
            burst: limit.burst.into_inner(),
            level: limit.level,
            policy: limit.policy,
            requests: limit.requests.into_iter().map(Spanned::into_inner).collect(),
        }
    }

    fn shares(&mut self, shares: SharesDocument, kinds: &[RequestKind]) -> ExpectedShares {
        let positive = |rate: f64| rate > 0.0 && rate <= MAX_RATE_PER_S;
        let must = "must be more than 0";
        if !positive(*shares.per_s.get_ref()) {
            self.wrong(shares.per_s.span().start, "expect_shares.per_s", must);
        }
        let mut expected = Vec::with_capacity(shares.shares.len());
        for ShareDocument { request, per_s } in shares.shares {
            if !positive(*per_s.get_ref()) {
                self.wrong(per_s.span().start, "expect_shares.shares.per_s", must);
            }
            if !kinds.iter().any(|kind| kind.name == *request.get_ref()) {
                let says = format!("no [[request]] has the name `{}`", request.get_ref());
                self.wrong(request.span().start, "expect_shares.shares.request", says);
            }
            let (request, guarantee_per_s) = (request.into_inner(), per_s.into_inner());
            expected.push(ExpectedShare { request, guarantee_per_s });
        }
        ExpectedShares {
            per_s: shares.per_s.into_inner(),
            burst: shares.burst,
            guaranteed_burst: shares.guaranteed_burst,
            shares: expected,
        }
    }
}
