//! Where load may go: plain HTTP to a loopback address, nothing else.
//!
//! A generator that can saturate a machine must not be pointed at somebody else's by a typing
//! mistake, so the address is checked before the first connection and there is no override.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use http::Uri;
use thiserror::Error;

/// A loopback HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    address: SocketAddr,
    authority: String,
}

/// Why a URL is not a target.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// Not a URL with a host.
    #[error("`{0}` is not a URL such as http://127.0.0.1:8080")]
    Malformed(String),
    /// TLS, or another scheme.
    #[error("`{url}` uses the scheme `{scheme}`: only plain http to loopback is driven")]
    Scheme {
        /// The URL as given.
        url: String,
        /// Its scheme.
        scheme: String,
    },
    /// A path, a query or user information where only an origin belongs.
    #[error("`{0}` has more than a host and a port: paths belong in the scenario")]
    NotAnOrigin(String),
    /// An address of another machine.
    #[error("`{host}` is not a loopback address: only 127.0.0.0/8, [::1] and localhost are driven")]
    NotLoopback {
        /// The host as given.
        host: String,
    },
}

impl Target {
    /// The address to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Host and port as they were written, for the `Host` header.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Target, TargetError> {
        let malformed = || TargetError::Malformed(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| malformed())?;
        let scheme = uri.scheme_str().ok_or_else(malformed)?;
        if scheme != "http" {
            return Err(TargetError::Scheme { url: url.to_owned(), scheme: scheme.to_owned() });
        }
        let authority = uri.authority().ok_or_else(malformed)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || url.contains('@') {
            return Err(TargetError::NotAnOrigin(url.to_owned()));
        }
        let ip = loopback(authority.host())
            .ok_or_else(|| TargetError::NotLoopback { host: authority.host().to_owned() })?;
        let address = SocketAddr::new(ip, authority.port_u16().unwrap_or(80));
        Ok(Target { address, authority: authority.as_str().to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

/// `localhost` is taken as 127.0.0.1 without asking a resolver, which could answer anything.
fn loopback(host: &str) -> Option<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().ok().filter(IpAddr::is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_in_every_spelling() {
        for (url, address) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://127.3.2.1:1/", "127.3.2.1:1"),
            ("http://localhost:81", "127.0.0.1:81"),
            ("http://[::1]:82", "[::1]:82"),
            ("http://127.0.0.1", "127.0.0.1:80"),
        ] {
            let target: Target = url.parse().expect("a loopback URL is a target");
            assert_eq!(target.address().to_string(), address, "{url}");
        }
    }

    #[test]
    fn everything_else_is_refused_and_says_why() {
        for (url, says) in [
            ("http://10.0.0.1:80", "not a loopback"),
            ("http://example.com", "not a loopback"),
            ("http://127.0.0.1.example.com", "not a loopback"),
            ("http://[::ffff:10.0.0.1]:80", "not a loopback"),
            ("https://127.0.0.1", "only plain http"),
            ("127.0.0.1:80", "not a URL"),
            ("http://127.0.0.1/x", "more than a host"),
            ("http://a@127.0.0.1:80", "more than a host"),
        ] {
            let error = url.parse::<Target>().expect_err(url).to_string();
            assert!(error.contains(says), "{url}: {error}");
        }
    }
}
