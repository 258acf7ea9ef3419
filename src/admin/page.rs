//! The status page: files in the binary, for whoever reaches the listener. What they show, they ask for with a session.

use http::Method;
use openexec_protocol::refusal::Refusal;
use pingora::protocols::http::ServerSession;

use super::no_such_path;
use crate::execute::respond;

/// Nothing but our own files, and no text that becomes markup or a script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";
const HEADERS: [(&str, &str); 5] = [
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
];

/// What used the port of an operator's machine before may have left a worker there, which would go on showing its own pages under
/// our address, and be told the tokens. Browsers ask for it anew, whatever its path is; this one ends it, with what it kept.
const WORKER: &str = "self.addEventListener('install', () => self.skipWaiting());
self.addEventListener('activate', () => self.registration.unregister());
";

/// Whether a browser asks for a worker. We have none.
pub(super) fn is_for_a_worker(session: &ServerSession) -> bool {
    let header = session.req_header();
    header.method == Method::GET && header.headers.contains_key("service-worker")
}

/// See [`WORKER`].
pub(super) async fn end_worker(session: &mut ServerSession) {
    let clear = [("Clear-Site-Data", "\"storage\""), HEADERS[1]];
    respond::document_with(session, "text/javascript; charset=utf-8", &clear, WORKER).await;
}

/// Where the files are.
pub(super) const PATH: &str = "/assets/";

macro_rules! files {
    ($($name:literal)*) => {
        &[$(($name, include_str!(concat!("assets/", $name)))),*]
    };
}

const INDEX: &str = include_str!("assets/index.html");
const FILES: &[(&str, &str)] = files! {
    "api.js" "app.js" "attention.js" "configuration.js" "denials.js" "detail.js" "dom.js" "executions.css"
    "executions.js" "head.js" "json.js" "login.js" "looks.js" "metrics.js" "overview.css" "overview.js" "parts.js" "plot.js"
    "receipt.js" "resolve.js" "rows.js" "style.css" "tables.css" "text.js" "theme.js" "words.js"
};

/// `/`, and a file below [`PATH`].
pub(super) async fn serve(session: &mut ServerSession) {
    match find(session) {
        Ok((content_type, text)) => respond::document_with(session, content_type, &HEADERS, text).await,
        Err(refusal) => respond::refusal(session, &refusal).await,
    }
}

fn find(session: &ServerSession) -> Result<(&'static str, &'static str), Refusal> {
    let header = session.req_header();
    if header.method != Method::GET && header.method != Method::HEAD {
        return Err(respond::method_not_allowed("GET, HEAD"));
    }
    let Some(name) = header.uri.path().strip_prefix(PATH) else {
        return Ok(("text/html; charset=utf-8", INDEX));
    };
    let (name, text) = FILES.iter().find(|(known, _)| *known == name).ok_or_else(no_such_path)?;
    let content_type =
        if name.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
    Ok((content_type, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_served() {
        let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/assets");
        let mut there: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "index.html")
            .collect();
        there.sort();
        assert!(FILES.iter().map(|(name, _)| *name).eq(there.iter().map(String::as_str)), "{there:?}");
    }
}
