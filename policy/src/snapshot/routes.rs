//! Which route a request takes: exact host before wildcard before any host, then the longest
//! path prefix on segment boundaries, then a rule for the method before one for all methods.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

/// Index of a route in [`Snapshot::routes`](super::Snapshot::routes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteIndex(pub u32);

/// Why a request has no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoute {
    /// No rule fits host and path: 404.
    NotFound,
    /// A rule fits host and path, none the method: 405.
    MethodNotAllowed,
    /// An upstream might read the path as another one (`..`, `//`, `%2f`, `%73`, `;`): 400. What
    /// we would route by is then not what it would serve.
    AmbiguousPath,
}

#[derive(Debug)]
struct Rule {
    methods: Box<[Box<str>]>,
    route: RouteIndex,
}

/// The rules of a host.
#[derive(Debug, Default)]
struct Paths {
    /// By path prefix without a trailing slash; the root is the empty text.
    by_prefix: HashMap<Box<str>, Vec<Rule>, FixedState>,
    /// Bytes of the longest prefix: what is longer need not be looked up.
    longest: usize,
}

#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    exact: HashMap<Box<str>, Paths, FixedState>,
    /// `example.com` for `*.example.com`.
    wildcard: HashMap<Box<str>, Paths, FixedState>,
    any: Paths,
}

#[derive(Default)]
pub(crate) struct RouteTableBuilder(RouteTable);

impl RouteTableBuilder {
    /// False if there is a rule for the same host, path and method already.
    pub(crate) fn add(
        &mut self,
        host: Option<&str>,
        path: &str,
        methods: &[&str],
        route: RouteIndex,
    ) -> bool {
        let table = &mut self.0;
        let paths = match host {
            None => &mut table.any,
            Some(host) => {
                let host = host.to_ascii_lowercase();
                match host.strip_prefix("*.") {
                    Some(suffix) => table.wildcard.entry(suffix.into()).or_default(),
                    None => table.exact.entry(host.into()).or_default(),
                }
            }
        };
        let prefix = path.trim_end_matches('/');
        paths.longest = paths.longest.max(prefix.len());
        let rules = paths.by_prefix.entry(prefix.into()).or_default();
        let taken = rules.iter().any(|rule| {
            rule.methods.is_empty() && methods.is_empty()
                || rule.methods.iter().any(|method| methods.contains(&&**method))
        });
        let methods = methods.iter().map(|method| Box::from(*method)).collect();
        rules.push(Rule { methods, route });
        // Rules for named methods come before the rule for all.
        rules.sort_by_key(|rule| rule.methods.is_empty());
        !taken
    }

    pub(crate) fn build(self) -> RouteTable {
        self.0
    }
}

impl RouteTable {
    pub(crate) fn find(&self, host: &str, path: &str, method: &str) -> Result<RouteIndex, NoRoute> {
        if is_ambiguous(path) {
            return Err(NoRoute::AmbiguousPath);
        }
        let host = host.rsplit_once(':').map_or(host, |(name, port)| {
            if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }
        });
        let mut miss = NoRoute::NotFound;
        if !(self.exact.is_empty() && self.wildcard.is_empty()) {
            let mut buffer = [0; 253];
            if let Some(host) = lower_case(host, &mut buffer) {
                if let Some(paths) = self.exact.get(host)
                    && let Some(route) = longest(paths, path, method, &mut miss)
                {
                    return Ok(route);
                }
                let mut rest = host;
                while let Some((_, suffix)) = rest.split_once('.') {
                    if let Some(paths) = self.wildcard.get(suffix)
                        && let Some(route) = longest(paths, path, method, &mut miss)
                    {
                        return Ok(route);
                    }
                    rest = suffix;
                }
            }
        }
        longest(&self.any, path, method, &mut miss).ok_or(miss)
    }
}

fn lower_case<'b>(host: &str, buffer: &'b mut [u8; 253]) -> Option<&'b str> {
    let buffer = buffer.get_mut(..host.len())?;
    buffer.copy_from_slice(host.as_bytes());
    buffer.make_ascii_lowercase();
    std::str::from_utf8(buffer).ok()
}

fn longest(paths: &Paths, path: &str, method: &str, miss: &mut NoRoute) -> Option<RouteIndex> {
    let mut prefix = path.trim_end_matches('/');
    loop {
        if prefix.len() <= paths.longest
            && let Some(rules) = paths.by_prefix.get(prefix)
        {
            for rule in rules {
                if rule.methods.is_empty() || rule.methods.iter().any(|m| &**m == method) {
                    return Some(rule.route);
                }
            }
            *miss = NoRoute::MethodNotAllowed;
        }
        // Whatever is longer than the longest is left out in one step.
        let ends = &prefix.as_bytes()[..prefix.len().min(paths.longest + 1)];
        let end = ends.iter().rposition(|byte| *byte == b'/')?;
        prefix = &prefix[..end];
    }
}

/// Whether an upstream might read the path as another one: a segment is empty (but for a trailing
/// slash), `.` or `..`; something is percent-encoded that need not be (RFC 3986, section 2.3), or
/// that would be structure when decoded; or there are path parameters, which some servers strip.
fn is_ambiguous(path: &str) -> bool {
    let bytes = path.as_bytes();
    let mut start = usize::MAX;
    for (index, byte) in bytes.iter().chain(std::iter::once(&b'/')).enumerate() {
        match byte {
            b'/' | b'\\' => {
                if start != usize::MAX {
                    let segment = &bytes[start..index];
                    let last = index == bytes.len();
                    if segment.is_empty() && !last || matches!(segment, b"." | b"..") {
                        return true;
                    }
                }
                start = index + 1;
            }
            b';' => return true,
            b'%' if is_needless(bytes.get(index + 1..index + 3)) => return true,
            _ => {}
        }
    }
    false
}

/// Whether two hexadecimal digits stand for an unreserved character, a separator, a percent sign
/// or NUL; or are not two hexadecimal digits.
fn is_needless(digits: Option<&[u8]>) -> bool {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let Some(&[high, low]) = digits else { return true };
    let (Some(high), Some(low)) = (digit(high), digit(low)) else { return true };
    let decoded = (high << 4 | low) as u8;
    decoded.is_ascii_alphanumeric() || b"-._~/\\;%\0".contains(&decoded)
}

#[cfg(test)]
mod tests;
