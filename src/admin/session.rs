//! Log-ins of the status page: a cookie that scripts cannot read, and a proof that does not travel with cookies.
//!
//! Cookies are shared by all ports of a host. Whatever else listens on an operator's machine is sent ours, and its pages are
//! "same site". The proof is kept in one tab, where only pages of our own origin can read it, and is sent in a header that no other
//! page can set. Neither is of use alone: stealing the cookie opens nothing, and a script in the page cannot carry the session away.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use http::request::Parts;
use http::{HeaderMap, Method};
use openexec_protocol::refusal::{Code, Refusal};
use openexec_protocol::timestamp;
use parking_lot::Mutex;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Admin;
use super::executions::invalid;
use super::token::{Fingerprint, Role, bearer};
use crate::execute::intake::{self, Bounds};
use crate::execute::{early, respond};

/// The proof's header.
const PROOF: &str = "openexec-session";
/// As long as a shift.
const LIFETIME: Duration = Duration::from_secs(12 * 3_600);
/// A page that is open asks far more often.
const IDLE: Duration = Duration::from_secs(3_600);
/// With one token; the one that was opened first gives way. A reader does not end an operator's.
const MOST: usize = 32;
/// Of one name, that are looked at.
const MOST_COOKIES: usize = 8;
/// A token and what it is wrapped in.
const LOG_IN_BYTES: usize = 4 << 10;

/// Those that are open. They end with the process, and with the token that they were opened with.
#[derive(Default)]
pub struct Sessions(Mutex<VecDeque<Session>>);

struct Session {
    cookie: Fingerprint,
    proof: Fingerprint,
    token: Fingerprint,
    opened: Instant,
    used: Instant,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.opened) > LIFETIME || now.duration_since(self.used) > IDLE
    }
}

impl Sessions {
    /// The cookie's value and the proof, which are kept nowhere here.
    fn open(&self, token: Fingerprint, now: Instant) -> (String, String) {
        let (cookie, proof) = (secret(), secret());
        let session =
            Session { cookie: Fingerprint::of(&cookie), proof: Fingerprint::of(&proof), token, opened: now, used: now };
        let mut sessions = self.0.lock();
        sessions.retain(|session| !session.is_over(now));
        if sessions.iter().filter(|session| session.token.is(&token)).count() >= MOST {
            let first = sessions.iter().position(|session| session.token.is(&token));
            first.and_then(|first| sessions.remove(first));
        }
        sessions.push_back(session);
        (cookie, proof)
    }

    /// The token that this session was opened with, and how long it lasts.
    fn find(&self, presented: &Presented, now: Instant) -> Option<(Fingerprint, Duration)> {
        let mut sessions = self.0.lock();
        sessions.retain(|session| !session.is_over(now));
        let session = sessions.iter_mut().find(|session| presented.opens(session))?;
        session.used = now;
        Some((session.token, LIFETIME.saturating_sub(now.duration_since(session.opened))))
    }

    fn close(&self, presented: &Presented) {
        self.0.lock().retain(|session| !presented.opens(session));
    }
}

/// Both halves. Of the cookie there may be several: another port of the host can set one of the same name.
struct Presented {
    cookies: Vec<Fingerprint>,
    proof: Fingerprint,
}

impl Presented {
    /// `None`: not both of them.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let cookies: Vec<_> = cookies(headers).take(MOST_COOKIES).map(Fingerprint::of).collect();
        let proof = headers.get(PROOF).and_then(|proof| proof.to_str().ok()).map(Fingerprint::of)?;
        (!cookies.is_empty()).then_some(Presented { cookies, proof })
    }

    fn opens(&self, session: &Session) -> bool {
        session.proof.is(&self.proof) && self.cookies.iter().any(|cookie| session.cookie.is(cookie))
    }
}

/// 244 random bits.
fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

impl Admin {
    /// Whether the caller has this role: by a token, or by a session that was opened with one.
    pub(super) fn require(&self, needed: Role, header: &Parts) -> Result<(), Refusal> {
        self.caller(header)?.0.allows(needed)
    }

    /// Who asks, and for how long this is known; without an end for a token.
    fn caller(&self, header: &Parts) -> Result<(Role, Option<Duration>), Refusal> {
        let headers = &header.headers;
        let config = self.config.get();
        let tokens = &config.admin_tokens;
        if let Some(token) = bearer(headers) {
            let role = tokens.role(&Fingerprint::of(token)).ok_or_else(|| self.wrong_token())?;
            return Ok((role, None));
        }
        if cookies(headers).next().is_none() {
            return Err(Refusal::new(Code::CallerUnauthenticated, "An admin token is needed, as a bearer token"));
        }
        let over = || Refusal::new(Code::CallerUnauthenticated, "This session is over: log in again");
        let presented = Presented::of(headers).ok_or_else(over)?;
        if header.method != Method::GET && header.method != Method::HEAD {
            require_own_origin(headers)?;
        }
        let (token, left) = self.sessions.find(&presented, Instant::now()).ok_or_else(over)?;
        // Taken out of the configuration meanwhile, it opens nothing any more.
        let role = tokens.role(&token).ok_or_else(over)?;
        Ok((role, Some(left)))
    }

    fn wrong_token(&self) -> Refusal {
        self.metrics.unauthenticated();
        Refusal::new(Code::CallerUnauthenticated, "The admin token is not one of this server's")
    }

    /// `/session`: what is open, logging in, and logging out.
    pub(super) async fn session(&self, session: &mut ServerSession) {
        match self.answer_session(session).await {
            Ok((document, cookie)) => {
                let cookie = cookie.map(|cookie| ("Set-Cookie", cookie));
                let headers: Vec<_> = cookie.iter().map(|(name, value)| (*name, value.as_str())).collect();
                respond::document_with(session, "application/json", &headers, document.to_string()).await;
            }
            Err(refusal) => early::refuse(session, &refusal).await,
        }
    }

    async fn answer_session(&self, session: &mut ServerSession) -> Result<(Value, Option<String>), Refusal> {
        if !self.config.get().admin_tokens.any() {
            return Err(Refusal::new(Code::NotFound, "No such path"));
        }
        let header = session.req_header();
        match header.method {
            Method::GET => {
                let (role, left) = self.caller(header)?;
                Ok((json!({"role": role.as_str(), "expires_at": left.map(end)}), None))
            }
            Method::POST => {
                let text = self.log_in(session).await?;
                let token = Fingerprint::of(&text);
                let role = self.config.get().admin_tokens.role(&token).ok_or_else(|| self.wrong_token())?;
                if let Some(before) = Presented::of(&session.req_header().headers) {
                    self.sessions.close(&before);
                }
                let (cookie, proof) = self.sessions.open(token, Instant::now());
                tracing::info!(role = role.as_str(), "somebody logged in to the status page");
                let document = json!({"role": role.as_str(), "proof": proof, "expires_at": end(LIFETIME)});
                let headers = &session.req_header().headers;
                Ok((document, Some(set_cookie(headers, &cookie, LIFETIME))))
            }
            Method::DELETE => {
                self.caller(header)?;
                if let Some(presented) = Presented::of(&header.headers) {
                    self.sessions.close(&presented);
                }
                Ok((json!({}), Some(set_cookie(&header.headers, "", Duration::ZERO))))
            }
            _ => Err(respond::method_not_allowed("GET, POST, DELETE")),
        }
    }

    /// The token: `{"token": "..."}`.
    async fn log_in(&self, session: &mut ServerSession) -> Result<String, Refusal> {
        require_own_origin(&session.req_header().headers)?;
        let bounds = Bounds { bytes: LOG_IN_BYTES, time: self.config.get().limits.body_time };
        let body = intake::read(session, bounds, &self.memory).await?;
        let body: Value = serde_json::from_slice(&body.bytes).map_err(|_| invalid("not JSON".to_owned()))?;
        let token = body["token"].as_str().ok_or_else(|| invalid("`token` must be a string".to_owned()))?;
        Ok(token.to_owned())
    }
}

fn end(left: Duration) -> String {
    timestamp::print(Utc::now() + TimeDelta::from_std(left).unwrap_or_default())
}

/// What a browser sends for a page of this server. Programs send no origin, and are asked for no more than the rest.
fn require_own_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_own = match (text("origin"), text("host")) {
        (None, _) => text("sec-fetch-site").is_none_or(|site| site == "same-origin"),
        (Some(origin), Some(host)) => {
            let name = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
            name.is_some_and(|name| name.eq_ignore_ascii_case(host))
        }
        (Some(_), None) => false,
    };
    if is_own {
        Ok(())
    } else {
        Err(Refusal::new(Code::CallerNotAllowed, "Asked for by a page of another origin, or a proxy changes `Host`"))
    }
}

/// Two servers behind two ports of one host must not take each other's.
fn cookie_name(headers: &HeaderMap) -> String {
    let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
    let port = host.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    format!("openexec-session-{}", port.unwrap_or("default"))
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let name = cookie_name(headers);
    let all = headers.get_all("cookie").into_iter().filter_map(|value| value.to_str().ok());
    let pairs = all.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.filter(move |(found, _)| *found == name).map(|(_, value)| value)
}

/// RFC 6265. The listener speaks plain HTTP; behind a proxy that adds TLS, the cookie is for TLS only.
fn set_cookie(headers: &HeaderMap, value: &str, age: Duration) -> String {
    let is_tls = headers.get("origin").is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    let secure = if is_tls { "; Secure" } else { "" };
    let (name, age) = (cookie_name(headers), age.as_secs());
    format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn presented(cookies: &[&str], proof: &str) -> Presented {
        let cookies = cookies.iter().map(|cookie| Fingerprint::of(cookie)).collect();
        Presented { cookies, proof: Fingerprint::of(proof) }
    }

    #[test]
    fn a_session_needs_both_halves_and_the_first_gives_way() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let open = |token: &str| sessions.open(Fingerprint::of(token), now);
        let is_open = |cookie: &str, proof: &str| sessions.find(&presented(&[cookie], proof), now).is_some();
        let ((cookie, proof), (other_cookie, other_proof)) = (open("token"), open("token"));
        let found = sessions.find(&presented(&["tossed", &cookie], &proof), now);
        assert!(found.is_some_and(|(token, _)| token.is(&Fingerprint::of("token"))));
        assert!(!is_open(&cookie, &other_proof) && !is_open(&other_cookie, &proof));
        assert!(!is_open(&cookie, &cookie) && !is_open(&cookie, "") && !is_open("", &proof));
        sessions.close(&presented(&[&other_cookie], &proof));
        assert!(is_open(&other_cookie, &other_proof), "whoever closes one has both halves, too");
        sessions.close(&presented(&[&other_cookie], &other_proof));
        assert!(!is_open(&other_cookie, &other_proof) && is_open(&cookie, &proof));
        (0..2 * MOST).for_each(|_| drop(open("a reader's")));
        assert!(is_open(&cookie, &proof), "another's are not in the way");
        (1..MOST).for_each(|_| drop(open("token")));
        let last = open("token");
        assert!(!is_open(&cookie, &proof) && is_open(&last.0, &last.1));
        assert_eq!(sessions.0.lock().len(), 2 * MOST);
    }

    #[test]
    fn a_session_ends_by_its_age_and_by_rest() {
        let (sessions, opened) = (Sessions::default(), Instant::now());
        let open = || {
            let (cookie, proof) = sessions.open(Fingerprint::of("token"), opened);
            presented(&[&cookie], &proof)
        };
        let ours = open();
        let left = |at: Instant| sessions.find(&ours, at).map(|(_, left)| left);
        let mut at = opened;
        while at + IDLE <= opened + LIFETIME {
            at += IDLE;
            assert_eq!(left(at), Some(LIFETIME - (at - opened)));
        }
        assert_eq!(left(opened + LIFETIME + Duration::from_millis(1)), None);
        assert!(sessions.find(&open(), opened + IDLE + Duration::from_millis(1)).is_none());
    }

    #[test]
    fn origins_are_compared_as_a_whole() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect::<HeaderMap>()
        };
        for own in [
            &[("host", "localhost:5001"), ("origin", "http://localhost:5001")][..],
            &[("host", "gate.example"), ("origin", "https://gate.example")],
            &[("host", "localhost:5001"), ("sec-fetch-site", "same-origin")],
            &[("host", "localhost:5001")],
        ] {
            assert!(require_own_origin(&headers(own)).is_ok(), "{own:?}");
        }
        for other in [
            &[("host", "localhost:5001"), ("origin", "http://localhost:50011")][..],
            &[("host", "localhost:5001"), ("origin", "http://localhost")],
            &[("host", "localhost:5001"), ("origin", "null")],
            &[("host", "localhost:5001"), ("origin", "http://evil.example/http://localhost:5001")],
            &[("host", "localhost:5001"), ("sec-fetch-site", "same-site")],
            &[("origin", "http://localhost:5001")],
        ] {
            assert!(require_own_origin(&headers(other)).is_err(), "{other:?}");
        }
    }
}
