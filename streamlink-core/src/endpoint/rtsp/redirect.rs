//! Address of the server of one connection: the configured one, or the target of a redirection.

use crate::{
    flow::{Credentials, HostPort, RTSP_PORT, RTSPS_PORT, shown_url},
    net::TlsClient,
    proto::rtsp::{User, split_scheme},
};
use percent_encoding::percent_decode_str;

/// Maximum number of redirections that are followed from the configured address on.
pub(super) const MAX_REDIRECTS: u32 = 5;

/// Address of a server, with the settings of a connection to it.
#[derive(Clone)]
pub(super) struct ServerAddress {
    pub(super) remote: HostPort,
    /// `None`: plain RTSP.
    pub(super) tls: Option<TlsClient>,
    /// URL without a password.
    pub(super) url: String,
    pub(super) user: Option<User>,
    /// Number of redirections that have led here.
    redirects: u32,
}

impl ServerAddress {
    pub(super) fn new(remote: HostPort, tls: Option<TlsClient>, url: String, user: Option<User>) -> Self {
        Self { remote, tls, url, user, redirects: 0 }
    }

    /// Returns the address that a redirection names. Its credentials are used for it alone, and those of `configured` if
    /// it has none. `tls` returns the configuration for a server with TLS.
    ///
    /// # Errors
    /// The reason why it is not followed, without secrets.
    pub(super) fn redirected(
        &self,
        url: &str,
        configured: &Self,
        tls: impl FnOnce() -> Result<TlsClient, String>,
    ) -> Result<Self, String> {
        let refuse = |why: &str| Err(format!("moved to {}, {why}", shown_url(url)));
        if self.redirects >= MAX_REDIRECTS {
            return refuse("but more than 5 redirections are not followed");
        }
        let Some((scheme, rest)) = split_scheme(url) else { return refuse("which is no address") };
        let scheme = scheme.to_ascii_lowercase();
        let is_secure = match scheme.as_str() {
            "rtsp" => false,
            "rtsps" => true,
            _ => return refuse("which is not an RTSP address"),
        };
        if configured.tls.is_some() && !is_secure {
            return refuse("which is not encrypted, as the configured address is");
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (login, authority) = match authority.rsplit_once('@') {
            Some((login, authority)) => (Some(login), authority),
            None => (None, authority),
        };
        let port = if is_secure { RTSPS_PORT } else { RTSP_PORT };
        let Ok(remote) = HostPort::parse(authority, Some(port)) else { return refuse("which is no address") };
        let tls = if is_secure {
            match configured.tls.clone().map_or_else(tls, Ok) {
                Ok(tls) => Some(tls),
                Err(why) => return refuse(&format!("but there is no TLS: {why}")),
            }
        } else {
            None
        };
        let user = login.and_then(user_of).or_else(|| configured.user.clone());
        let url = format!("{scheme}://{authority}{path}");
        Ok(Self { remote, tls, url, user, redirects: self.redirects + 1 })
    }
}

/// Returns the credentials of `user:password`, percent-decoded; `None` if they are not usable.
fn user_of(login: &str) -> Option<User> {
    let (name, password) = login.split_once(':').unwrap_or((login, ""));
    let decode = |text| percent_decode_str(text).decode_utf8().ok();
    let credentials = Credentials::new(decode(name)?.as_ref(), decode(password)?.as_ref()).ok()?;
    Some(User { name: credentials.user().to_owned(), password: credentials.password.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured() -> ServerAddress {
        let user = User { name: "me".into(), password: "own".into() };
        let remote = HostPort::parse("front", Some(RTSP_PORT)).unwrap();
        ServerAddress::new(remote, None, "rtsp://front/cam".into(), Some(user))
    }

    fn no_tls() -> Result<TlsClient, String> {
        Err("none here".into())
    }

    #[test]
    fn rtsp_redirects_are_followed_with_their_credentials() {
        let first = configured();
        for (url, remote, seen, password) in [
            ("rtsp://other/a", "other:554", "rtsp://other/a", "own"),
            ("RTSP://u:p%40w@Other:8554/a?x=1&y=u@v", "other:8554", "rtsp://Other:8554/a?x=1&y=u@v", "p@w"),
            ("rtsp://[::1]:1", "[::1]:1", "rtsp://[::1]:1", "own"),
            ("rtsp://other?x", "other:554", "rtsp://other?x", "own"),
        ] {
            let next = first.redirected(url, &first, no_tls).unwrap();
            let user = next.user.clone().unwrap();
            assert_eq!((next.remote.to_string(), next.url.as_str()), (remote.to_owned(), seen));
            assert_eq!(user.password.reveal(), password);
            // The credentials of one redirection are not those of the next.
            let after = next.redirected("rtsp://third/", &first, no_tls).unwrap();
            assert_eq!(after.user.unwrap().password.reveal(), "own");
        }
    }

    #[test]
    fn rtsp_redirects_elsewhere_or_in_circles_are_refused() {
        let first = configured();
        for url in ["http://other/", "rtsp://", "rtsp://h:x/", "/path", "rtsps://other/", "file:///etc/passwd"] {
            assert!(first.redirected(url, &first, no_tls).is_err(), "{url}");
        }
        let url = "http://u:hunter2@other/?token=hunter2";
        let refused = first.redirected(url, &first, no_tls).map(|_| ()).unwrap_err();
        assert_eq!(refused, format!("moved to {}, which is not an RTSP address", shown_url(url)));
        assert!(!refused.contains("hunter2"));
        let mut address = first.clone();
        for _ in 0..MAX_REDIRECTS {
            address = address.redirected("rtsp://front/cam", &first, no_tls).unwrap();
        }
        assert!(address.redirected("rtsp://front/cam", &first, no_tls).is_err());
    }
}
