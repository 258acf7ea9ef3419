//! Approvals that were signed, and then changed.

use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, NaiveDateTime, SubsecRound, TimeDelta, Utc};
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use openexec_protocol::approval::{self, Denial, Form, HmacKey, Key, Material, PrivateKey, Terms, Verifier};
use openexec_protocol::canonical::Limits;
use openexec_protocol::request::{InvalidRequest, Request};
use openexec_protocol::timestamp;
use regex::Regex;
use sha2::Sha256;

use crate::Seen;

/// What an approver signs, and what somebody makes of it.
#[derive(Arbitrary, Debug)]
struct Story<'a> {
    /// The first tells the form too, and for Ed25519 the second how long the approval is good: see [`Story::lifetime`].
    key: [u8; 2],
    approval_id: Text,
    tenant_id: Text,
    /// Whoever changes holds the key, and signs the text that the fields make, in their grammar or not.
    signed_again: bool,
    other_payload: bool,
    other_tenant: bool,
    /// Between what was signed and the verifier's clock.
    age_seconds: i16,
    age_nanos: i16,
    skew: u8,
    changes: (Option<Change>, Option<Change>, Option<Change>),
    issued_at: Time<'a>,
}

/// One of [`TEXTS`]: free text would leave few bytes for anything else.
#[derive(Arbitrary, Debug)]
struct Text(u8);

const TEXTS: [&str; 12] = [
    "a",
    "tenant-001",
    "8a2f5c1e-0f6f-4d0a-9a55-6f6f0c1f7b11",
    "A.Z_a~z-0",
    "clawshield",
    "2026-02-17T10:08:22Z",
    "b39f7741265bfb502d44159aa14f2ab6cea65973b18c903e2e1e34c6d860dc88",
    "",
    "a:b",
    "\u{e4}",
    "a\n",
    "a\0",
];

#[derive(Arbitrary, Debug)]
enum Time<'a> {
    /// Numbers that make a time, or nearly one.
    Parts {
        date: (u16, u8, u8),
        time: (u8, u8, u8),
        blank: bool,
        fraction: Option<(u32, u8)>,
        offset: Option<(bool, u8, u8)>,
        utc: bool,
    },
    Text(&'a str),
}

#[derive(Arbitrary, Debug)]
struct Change {
    /// One of [`NAMES`].
    member: u8,
    how: How,
}

#[derive(Arbitrary, Debug)]
enum How {
    Remove,
    Replace(Text),
    Insert {
        at: u8,
        char: char,
    },
    /// What is behind this place goes to the front of the next member.
    Shift {
        at: u8,
    },
}

/// The first four are signed in the HMAC form, joined in this order; in the Ed25519 form the end too.
const NAMES: [&str; 8] =
    ["approval_id", "action_hash", "tenant_id", "issued_at", "signature", "issued_by", "expires_at", "kid"];
const SIGNATURE: usize = 4;

type Members = [Option<String>; 8];

/// Mints an approval, changes it, and lets the verifier see it in a request.
///
/// It is accepted if, and only if, a second verifier says so. If nobody signed again, that is if the signed text is as it
/// was. Times are read as the grammar in the documents says.
pub fn check(bytes: &[u8]) -> Seen {
    let Ok(story) = Story::arbitrary_take_rest(Unstructured::new(bytes)) else { return Seen::from(["no story"]) };
    let issued_at = story.issued_at.text();
    let instant = check_time_text(&issued_at);
    let mut seen = Seen::from([if instant.is_some() { "a time" } else { "no time" }]);

    let expires_at = instant.map_or_else(String::new, |instant| timestamp::print(instant + story.lifetime()));
    let terms = Terms {
        approval_id: story.approval_id.get(),
        tenant_id: story.tenant_id.get(),
        issued_at: &issued_at,
        kid: None,
    };
    let proposed = request(&story, None);
    let may_be_signed = is_identifier(terms.approval_id)
        && is_identifier(terms.tenant_id)
        && instant.is_some()
        && (story.form() == Form::Hmac || (is_uuid(terms.approval_id) && self::instant(&expires_at) > instant));
    let (minted, material) = match story.form() {
        Form::Hmac => {
            let key = HmacKey::new(&story.key);
            (approval::mint(&key, proposed.action_hash(), &terms), Material::Hmac(key))
        }
        Form::Ed25519 => {
            let key = PrivateKey::from_seed(&story.seed());
            let minted = approval::mint_ed25519(&key, proposed.action_hash(), &terms, &expires_at);
            (minted, Material::Ed25519(key.public()))
        }
    };
    assert_eq!(minted.is_ok(), may_be_signed);
    let Ok(minted) = minted else {
        seen.insert(if terms.approval_id.contains(':') { "a separator is not minted" } else { "not minted" });
        return seen;
    };
    let was: Members = [
        Some(minted.approval_id),
        Some(minted.action_hash),
        Some(minted.tenant_id),
        Some(minted.issued_at),
        Some(minted.signature),
        minted.issued_by,
        minted.expires_at,
        None,
    ];
    let mut members = was.clone();
    let (first, second, third) = &story.changes;
    [first, second, third].into_iter().flatten().for_each(|change| change.apply(&mut members));
    if story.signed_again {
        members[SIGNATURE] = Some(signature(&members, &story));
    }

    let body = body(&story, Some(&members));
    let request = match Request::parse(body.as_bytes(), Limits::default()) {
        Ok(request) => request,
        Err(InvalidRequest::Member { .. }) => {
            assert!(members[..=SIGNATURE].iter().any(Option::is_none), "{body}");
            seen.insert("a member is missing");
            return seen;
        }
        Err(error) => panic!("{error}: {body}"),
    };
    let ours = if story.other_tenant { "another.tenant" } else { terms.tenant_id };
    let verifier = Verifier { tenant_id: ours.to_owned(), keys: vec![Key::always(material)] };
    let now = DateTime::UNIX_EPOCH;
    let hash = request.action_hash();
    let verdict = approval::authenticate(request.artifact().unwrap(), hash, &verifier, now);
    assert_eq!(verdict.is_ok(), is_authentic(&members, hash.as_str(), ours, &story), "{verdict:?}: {body}");
    let steps = approval::explain(request.artifact().unwrap(), hash, &verifier, now);
    assert_eq!(steps.iter().all(|(_, outcome)| outcome.is_ok()), verdict.is_ok());
    match verdict {
        Ok(authentic) => {
            let unchanged = signed_text(&members, story.form()) == signed_text(&was, story.form());
            assert!(unchanged || story.signed_again, "{body}");
            seen.insert(if unchanged { "authentic" } else { "signed again" });
            seen.insert(check_age(&authentic, &members, &story));
        }
        Err(Denial::HashMismatch) => drop(seen.insert("another hash")),
        Err(Denial::Signature) if story.signed_again && members[5..] == was[5..] => {
            seen.insert("signed outside of the grammar");
        }
        Err(Denial::Signature) => drop(seen.insert("not authentic")),
        Err(Denial::Tenant) => drop(seen.insert("another tenant")),
        Err(Denial::Issuer(_)) => drop(seen.insert("another issuer")),
        Err(Denial::NotConfigured(_)) => drop(seen.insert("another form")),
        Err(denial) => panic!("{denial}"),
    }
    seen
}

impl Story<'_> {
    fn form(&self) -> Form {
        if self.key[0].is_multiple_of(2) { Form::Hmac } else { Form::Ed25519 }
    }

    fn seed(&self) -> [u8; 32] {
        let mut seed = [self.key[0]; 32];
        seed[0] = self.key[1];
        seed
    }

    /// At most a day is allowed.
    fn lifetime(&self) -> TimeDelta {
        match self.key[1] % 4 {
            0 => TimeDelta::zero(),
            1 => TimeDelta::minutes(5),
            2 => TimeDelta::hours(24),
            _ => TimeDelta::hours(24) + TimeDelta::microseconds(1),
        }
    }
}

impl Time<'_> {
    fn text(&self) -> String {
        match self {
            Time::Text(text) => (*text).to_owned(),
            Time::Parts { date: (year, month, day), time: (hour, minute, second), blank, fraction, offset, utc } => {
                let mut text = format!("{:04}-{:02}-{:02}", year % 10_100, month % 14, day % 33);
                text.push(if *blank { ' ' } else { 'T' });
                text += &format!("{:02}:{:02}:{:02}", hour % 25, minute % 61, second % 62);
                if let Some((digits, width)) = fraction {
                    text += &format!(".{digits:0width$}", width = usize::from(width % 11));
                }
                if let Some((west, hours, minutes)) = offset {
                    text += &format!("{}{:02}:{:02}", if *west { '-' } else { '+' }, hours % 25, minutes % 61);
                }
                text + if *utc { "Z" } else { "" }
            }
        }
    }
}

impl Change {
    fn apply(&self, members: &mut Members) {
        let index = usize::from(self.member) % NAMES.len();
        let place = |text: &str, at: u8| text.char_indices().map(|(at, _)| at).nth(at.into()).unwrap_or(text.len());
        match self.how {
            How::Remove => members[index] = None,
            How::Replace(ref text) => members[index] = Some(text.get().to_owned()),
            How::Insert { at, char } => {
                let text = members[index].get_or_insert_default();
                text.insert(place(text, at), char);
            }
            How::Shift { at } => {
                let text = members[index].get_or_insert_default();
                let moved = text.split_off(place(text, at));
                members[(index + 1) % NAMES.len()].get_or_insert_default().insert_str(0, &moved);
            }
        }
    }
}

impl Text {
    fn get(&self) -> &'static str {
        TEXTS[usize::from(self.0) % TEXTS.len()]
    }
}

fn body(story: &Story<'_>, artifact: Option<&Members>) -> String {
    let payload = serde_json::json!({ "to": if story.other_payload && artifact.is_some() { "eve" } else { "ada" } });
    let artifact = artifact.map(|members| NAMES.into_iter().zip(members.clone()).collect::<serde_json::Value>());
    serde_json::json!({"action": "a", "payload": payload, "nonce": "n", "approval_artifact": artifact}).to_string()
}

fn request(story: &Story<'_>, artifact: Option<&Members>) -> Request {
    Request::parse(body(story, artifact).as_bytes(), Limits::default()).unwrap()
}

/// The text that is signed, whatever its parts are.
fn signed_text(members: &Members, form: Form) -> String {
    let of = |index: usize| members[index].as_deref().unwrap_or_default();
    match form {
        Form::Hmac => [of(0), of(1), of(2), of(3)].join(":"),
        Form::Ed25519 => [of(0), of(2), of(1), of(3), of(6)].concat(),
    }
}

fn signature(members: &Members, story: &Story<'_>) -> String {
    let text = signed_text(members, story.form());
    match story.form() {
        Form::Hmac => {
            let mut mac = Hmac::<Sha256>::new_from_slice(&story.key).unwrap();
            mac.update(text.as_bytes());
            hex::encode(mac.finalize().into_bytes())
        }
        // One text has one signature (RFC 8032), whoever computes it.
        Form::Ed25519 => STANDARD.encode(SigningKey::from_bytes(&story.seed()).sign(text.as_bytes()).to_bytes()),
    }
}

fn is_authentic(members: &Members, hash: &str, tenant: &str, story: &Story<'_>) -> bool {
    let [approval_id, action_hash, tenant_id, issued_at, signed, issued_by, expires_at, kid] = members.each_ref();
    let is_ours = |text: &Option<String>| text.as_deref().is_some_and(is_identifier);
    let has_form = match story.form() {
        Form::Hmac => expires_at.is_none() && issued_by.as_deref().is_none_or(|issuer| issuer == "clawshield"),
        Form::Ed25519 => {
            expires_at.is_some()
                && issued_by.is_none()
                && approval_id.as_deref().is_some_and(is_uuid)
                && issued_at.as_deref().and_then(instant).is_some()
        }
    };
    has_form
        && is_ours(approval_id)
        && is_ours(tenant_id)
        && tenant_id.as_deref() == Some(tenant)
        && action_hash.as_deref() == Some(hash)
        && signed.as_deref() == Some(&signature(members, story))
        && kid.is_none()
}

fn is_uuid(text: &str) -> bool {
    static GRAMMAR: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\A[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\z").unwrap());
    GRAMMAR.is_match(text)
}

fn is_identifier(text: &str) -> bool {
    static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\A[A-Za-z0-9._~-]{1,128}\z").unwrap());
    GRAMMAR.is_match(text)
}

/// Reads a time in two ways.
fn check_time_text(text: &str) -> Option<DateTime<Utc>> {
    let read = timestamp::parse(text);
    assert_eq!(read, instant(text), "{text:?}");
    if let Some(instant) = read {
        // Those of year 1 and year 9999 may be in another year in UTC, which is not printed with four digits.
        let printed = timestamp::print(instant);
        let reads_back = timestamp::parse(&printed) == Some(instant.trunc_subsecs(6));
        assert!(reads_back || printed.len() != "2026-02-17T10:08:22.000000Z".len() || printed.starts_with("0000"));
    }
    read
}

/// The grammar as it is written in the documents, and `chrono`'s calendar.
fn instant(text: &str) -> Option<DateTime<Utc>> {
    static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| {
        let date = "([0-9]{4}-[0-9][0-9]-[0-9][0-9])[T ]";
        let time = r"([0-9][0-9]:[0-9][0-9]:[0-9][0-9])(\.[0-9]{1,9})?";
        let offset = "(?:Z|([+-])([0-9][0-9]):([0-9][0-9]))?";
        Regex::new(&format!(r"\A{date}{time}{offset}\z")).unwrap()
    });
    let found = GRAMMAR.captures(text)?;
    if found[1].starts_with("0000") || found[2].ends_with("60") {
        return None; // no such year, and leap seconds are not read
    }
    let fraction = found.get(3).map_or("", |fraction| fraction.as_str());
    let local = format!("{}T{}{fraction}", &found[1], &found[2]);
    let local = NaiveDateTime::parse_from_str(&local, "%Y-%m-%dT%H:%M:%S%.f").ok()?;
    let number = |group| found.get(group).map_or(0, |digits| digits.as_str().parse().unwrap());
    let (hours, minutes): (i64, i64) = (number(5), number(6));
    if hours > 23 || minutes > 59 {
        return None;
    }
    let offset = TimeDelta::minutes(hours * 60 + minutes);
    let is_west = found.get(4).is_some_and(|sign| sign.as_str() == "-");
    Some(if is_west { local + offset } else { local - offset }.and_utc())
}

fn check_age(authentic: &approval::Authentic, members: &Members, story: &Story<'_>) -> &'static str {
    let age = TimeDelta::seconds(story.age_seconds.into()) + TimeDelta::nanoseconds(story.age_nanos.into());
    let skew = TimeDelta::seconds(story.skew.into());
    let issued_at = members[3].as_deref().and_then(instant);
    let expires_at = match (story.form(), issued_at) {
        (Form::Hmac, issued_at) => issued_at.map(|issued_at| issued_at + TimeDelta::minutes(5)),
        (Form::Ed25519, _) => members[6].as_deref().and_then(instant),
    };
    // Around its end in one of four, since ages are short.
    let late = if story.skew.is_multiple_of(4) { story.lifetime() } else { TimeDelta::zero() };
    let now = issued_at.unwrap_or_default() + age + late;
    let lifetime = TimeDelta::hours(24);
    let (expected, seen) = match (issued_at, expires_at) {
        (None, _) => (Err(Denial::Timestamp("issued_at")), "signed without a time"),
        (_, None) => (Err(Denial::Timestamp("expires_at")), "signed without an end"),
        (Some(issued_at), _) if issued_at - now > skew => (Err(Denial::NotYetValid), "from the future"),
        (Some(issued_at), Some(end)) if now > end || end < issued_at => (Err(Denial::Expired), "expired"),
        (Some(issued_at), Some(end)) if end - issued_at > lifetime => (Err(Denial::Lifetime), "good for too long"),
        (Some(issued_at), Some(_)) => {
            (Ok(issued_at), if story.form() == Form::Hmac { "fresh" } else { "fresh, by Ed25519" })
        }
    };
    assert_eq!(authentic.check_time(now, skew, lifetime).map(|fresh| fresh.issued_at()), expected);
    seen
}
