//! The body of `POST /execute`.

use sha2::{Digest, Sha256};

use crate::approval::{ActionHash, Artifact};
use crate::canonical::{CanonicalText, JsonError, Limits};
use crate::reader::{Key, Reader};

/// Bytes that an action's name may have.
pub const MAX_ACTION_BYTES: usize = 128;
/// Bytes that a nonce may have.
pub const MAX_NONCE_BYTES: usize = 256;

/// An action that somebody proposes, read strictly; what it hashes to is known.
#[derive(Clone, Debug)]
pub struct Request {
    action: String,
    nonce: String,
    payload: CanonicalText,
    artifact: Option<Artifact>,
    action_hash: ActionHash,
}

impl Request {
    /// Reads a body in one pass.
    ///
    /// # Errors
    /// JSON that is malformed or has more than one reading, a member that is missing or of the wrong type, or
    /// anything over its limit. Members that are not ours are read as strictly, and then ignored.
    pub fn parse(body: &[u8], limits: Limits) -> Result<Self, InvalidRequest> {
        let mut reader = Reader::new(body, limits)?;
        if reader.peek() != Some(b'{') {
            return Err(reader.error("no JSON object").into());
        }
        let mut members = Members::default();
        // Hardly ever more. To grow little by little costs more than to give back what was too much.
        let mut payload = Vec::with_capacity(body.len());
        let mut ignored = Vec::with_capacity(body.len());
        reader.object(&mut ignored, |reader, key, ignored| members.read(reader, key, &mut payload, ignored))?;
        reader.end()?;
        payload.shrink_to_fit();
        members.check(payload)
    }

    /// The name of the action.
    pub fn action(&self) -> &str {
        &self.action
    }

    /// The client's name for this execution.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// What the action is to be done with; `{}` where none was sent.
    pub fn payload(&self) -> &CanonicalText {
        &self.payload
    }

    /// The approval that came with it.
    pub fn artifact(&self) -> Option<&Artifact> {
        self.artifact.as_ref()
    }

    /// What an approval of exactly this action and payload names.
    pub fn action_hash(&self) -> &ActionHash {
        &self.action_hash
    }
}

/// Why a body is no request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    /// Not JSON, or JSON with more than one reading.
    #[error("The body is not acceptable JSON: {0}")]
    Json(#[from] JsonError),
    /// A member is absent, of the wrong type, or over its limit.
    #[error("`{member}` {problem}")]
    Member {
        /// Which one; an artifact's with a leading `approval_artifact.`
        member: &'static str,
        /// What it must be.
        problem: &'static str,
    },
}

const ACTION_RULE: &str = "must be a string of 1 to 128 bytes";
const NONCE_RULE: &str = "must be a string of 1 to 256 bytes without U+0000";

/// Members as they were found. A wrong type is kept until the JSON is known to be good.
#[derive(Default)]
struct Members {
    action: Option<String>,
    nonce: Option<String>,
    has_payload: bool,
    artifact: Option<ArtifactMembers>,
    wrong: Option<(&'static str, &'static str)>,
}

impl Members {
    fn read(
        &mut self,
        reader: &mut Reader<'_>,
        key: Key,
        payload: &mut Vec<u8>,
        ignored: &mut Vec<u8>,
    ) -> Result<(), JsonError> {
        let first = reader.peek();
        match reader.name(key) {
            "action" => match read_string(reader, ignored)? {
                Text::String(text) => self.action = Some(text),
                _ => self.wrong = Some(("action", ACTION_RULE)),
            },
            "nonce" => match read_string(reader, ignored)? {
                Text::String(text) => self.nonce = Some(text),
                _ => self.wrong = Some(("nonce", NONCE_RULE)),
            },
            "payload" => {
                reader.value(payload)?;
                match first {
                    Some(b'{') => self.has_payload = true,
                    Some(b'n') => {}
                    _ => self.wrong = Some(("payload", "must be an object, null or absent")),
                }
            }
            "approval_artifact" => match first {
                Some(b'{') => {
                    let mut artifact = ArtifactMembers::default();
                    reader.object(ignored, |reader, key, ignored| artifact.read(reader, key, ignored))?;
                    self.artifact = Some(artifact);
                }
                Some(b'n') => reader.value(ignored)?,
                _ => {
                    reader.value(ignored)?;
                    self.wrong = Some(("approval_artifact", "must be an object, null or absent"));
                }
            },
            _ => reader.value(ignored)?,
        }
        Ok(())
    }

    fn check(self, payload: Vec<u8>) -> Result<Request, InvalidRequest> {
        if let Some((member, problem)) = self.wrong {
            return Err(InvalidRequest::Member { member, problem });
        }
        let action = self
            .action
            .filter(|action| (1..=MAX_ACTION_BYTES).contains(&action.len()))
            .ok_or(InvalidRequest::Member { member: "action", problem: ACTION_RULE })?;
        let nonce = self
            .nonce
            .filter(|nonce| (1..=MAX_NONCE_BYTES).contains(&nonce.len()) && !nonce.contains('\0'))
            .ok_or(InvalidRequest::Member { member: "nonce", problem: NONCE_RULE })?;
        let payload =
            if self.has_payload { CanonicalText::from_printed(payload) } else { CanonicalText::empty_object() };
        let artifact = self.artifact.map(ArtifactMembers::check).transpose()?;
        let action_hash = action_hash(&action, &payload);
        Ok(Request { action, nonce, payload, artifact, action_hash })
    }
}

/// SHA-256 of the canonical text of `{"action": action, "payload": payload}`.
pub fn action_hash(action: &str, payload: &CanonicalText) -> ActionHash {
    let mut hash = Sha256::new();
    hash.update(br#"{"action":"#);
    hash.update(CanonicalText::string(action).as_str());
    hash.update(br#","payload":"#);
    hash.update(payload.as_str());
    hash.update(b"}");
    ActionHash::of_digest(hash.finalize().into())
}

/// An artifact's members as they were found.
#[derive(Default)]
struct ArtifactMembers {
    approval_id: Option<String>,
    action_hash: Option<String>,
    signature: Option<String>,
    issued_at: Option<String>,
    tenant_id: Option<String>,
    issued_by: Option<String>,
    expires_at: Option<String>,
    kid: Option<String>,
    wrong: Option<&'static str>,
}

impl ArtifactMembers {
    fn read(&mut self, reader: &mut Reader<'_>, key: Key, ignored: &mut Vec<u8>) -> Result<(), JsonError> {
        let (member, name) = match reader.name(key) {
            "approval_id" => (&mut self.approval_id, APPROVAL_ID),
            "action_hash" => (&mut self.action_hash, ACTION_HASH),
            "signature" => (&mut self.signature, SIGNATURE),
            "issued_at" => (&mut self.issued_at, ISSUED_AT),
            "tenant_id" => (&mut self.tenant_id, TENANT_ID),
            "issued_by" => (&mut self.issued_by, "approval_artifact.issued_by"),
            "expires_at" => (&mut self.expires_at, "approval_artifact.expires_at"),
            "kid" => (&mut self.kid, "approval_artifact.kid"),
            _ => return reader.value(ignored),
        };
        match read_string(reader, ignored)? {
            Text::String(text) => *member = Some(text),
            Text::Null => {}
            Text::Other => self.wrong = Some(name),
        }
        Ok(())
    }

    fn check(self) -> Result<Artifact, InvalidRequest> {
        if let Some(member) = self.wrong {
            return Err(InvalidRequest::Member { member, problem: "must be a string" });
        }
        let needed = |value: Option<String>, member| {
            value.ok_or(InvalidRequest::Member { member, problem: "is missing: it must be a string" })
        };
        Ok(Artifact {
            approval_id: needed(self.approval_id, APPROVAL_ID)?,
            action_hash: needed(self.action_hash, ACTION_HASH)?,
            signature: needed(self.signature, SIGNATURE)?,
            issued_at: needed(self.issued_at, ISSUED_AT)?,
            tenant_id: needed(self.tenant_id, TENANT_ID)?,
            issued_by: self.issued_by,
            expires_at: self.expires_at,
            kid: self.kid,
        })
    }
}

const APPROVAL_ID: &str = "approval_artifact.approval_id";
const ACTION_HASH: &str = "approval_artifact.action_hash";
const SIGNATURE: &str = "approval_artifact.signature";
const ISSUED_AT: &str = "approval_artifact.issued_at";
const TENANT_ID: &str = "approval_artifact.tenant_id";

enum Text {
    String(String),
    Null,
    Other,
}

fn read_string(reader: &mut Reader<'_>, ignored: &mut Vec<u8>) -> Result<Text, JsonError> {
    match reader.peek() {
        Some(b'"') => {
            reader.count_node()?;
            let key = reader.string(ignored)?;
            Ok(Text::String(reader.name(key).to_owned()))
        }
        first => {
            reader.value(ignored)?;
            Ok(if first == Some(b'n') { Text::Null } else { Text::Other })
        }
    }
}

impl Artifact {
    /// Reads an artifact alone, as `openexec mint` prints it.
    ///
    /// # Errors
    /// As [`Request::parse`].
    pub fn parse(text: &[u8], limits: Limits) -> Result<Self, InvalidRequest> {
        let mut reader = Reader::new(text, limits)?;
        if reader.peek() != Some(b'{') {
            return Err(reader.error("no JSON object").into());
        }
        let mut members = ArtifactMembers::default();
        reader.object(&mut Vec::new(), |reader, key, ignored| members.read(reader, key, ignored))?;
        reader.end()?;
        members.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(body: &str) -> String {
        Request::parse(body.as_bytes(), Limits::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_member_that_is_wrong_is_named() {
        for (body, message) in [
            (r#"{"nonce":"n"}"#, "`action` must be a string of 1 to 128 bytes"),
            (r#"{"action":null,"nonce":"n"}"#, "`action` must be a string of 1 to 128 bytes"),
            (r#"{"action":"a","nonce":"a\u0000"}"#, "`nonce` must be a string of 1 to 256 bytes without U+0000"),
            (r#"{"action":"a","nonce":"n","payload":1}"#, "`payload` must be an object, null or absent"),
            (
                r#"{"action":"a","nonce":"n","approval_artifact":[]}"#,
                "`approval_artifact` must be an object, null or absent",
            ),
            (
                r#"{"action":"a","nonce":"n","approval_artifact":{}}"#,
                "`approval_artifact.approval_id` is missing: it must be a string",
            ),
            (
                r#"{"action":"a","nonce":"n","approval_artifact":{"tenant_id":7}}"#,
                "`approval_artifact.tenant_id` must be a string",
            ),
            ("[]", "The body is not acceptable JSON: no JSON object at byte 0"),
            (r#"{"action":1,"nonce":"n"} x"#, "The body is not acceptable JSON: text after the value at byte 25"),
        ] {
            assert_eq!(problem(body), message, "{body}");
        }
        assert_eq!(
            problem(&format!(r#"{{"action":"{}","nonce":"n"}}"#, "é".repeat(65))),
            "`action` must be a string of 1 to 128 bytes"
        );
    }

    #[test]
    fn an_artifacts_null_member_is_an_absent_one() {
        let body = r#"{"action":"a","nonce":"n","approval_artifact":{"approval_id":"i","action_hash":"h",
            "signature":"s","issued_at":"t","tenant_id":"x","issued_by":null,"expires_at":null,"kid":null,"more":[1]}}"#;
        let request = Request::parse(body.as_bytes(), Limits::default()).unwrap();
        let artifact = request.artifact().unwrap();
        assert_eq!((&artifact.issued_by, &artifact.expires_at, &artifact.kid), (&None, &None, &None));
        assert!(problem(&body.replace("\"t\"", "null")).contains("approval_artifact.issued_at"));
    }

    #[test]
    fn names_may_be_spelled_with_escapes() {
        let body = r#"{"\u0061ction":"ec\u0068o","nonc\u0065":"\ud83d\ude00","payload":null}"#;
        let request = Request::parse(body.as_bytes(), Limits::default()).unwrap();
        assert_eq!((request.action(), request.nonce()), ("echo", "\u{1f600}"));
        assert_eq!(request.payload(), &CanonicalText::empty_object());
    }
}
