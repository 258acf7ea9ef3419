//! An AdmissionReview (admission.k8s.io/v1): a pod comes, what is to be changed in it goes back.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::inject::settings::Sidecar;
use crate::inject::{Namespace, Outcome, Refused, inject};

/// The one version that is spoken.
const VERSION: &str = "admission.k8s.io/v1";
/// A warning that is longer is cut by some clients.
const LONGEST_WARNING: usize = 256;

/// What the API server asks.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    uid: String,
    kind: Kind,
    #[serde(default)]
    sub_resource: String,
    operation: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    version: String,
    kind: String,
}

/// What is answered, and what is to be said of it in metrics and log.
pub struct Answer {
    /// The whole document.
    pub document: Value,
    /// See [`Verdict`].
    pub verdict: Verdict,
    /// The pod's namespace, and its name or what its name begins with.
    pub pod: (String, String),
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It gets the gate; with a ledger of its own, or not.
    Injected {
        /// It dies with the pod.
        local_ledger: bool,
    },
    /// It has it already, as it is to be.
    Unchanged,
    /// It stays as it is, for this reason.
    Skipped(&'static str),
    /// It must not run, for this reason.
    Refused(&'static str),
}

/// Nothing of this is a pod that is created, and nobody should have asked.
pub const NOT_A_POD: &str = "not_a_pod_creation";

impl Verdict {
    /// In metrics and log.
    pub fn words(&self) -> (&'static str, &'static str) {
        match self {
            Verdict::Injected { .. } => ("injected", ""),
            Verdict::Unchanged => ("unchanged", ""),
            Verdict::Skipped(reason) => ("skipped", reason),
            Verdict::Refused(reason) => ("refused", reason),
        }
    }
}

/// Answers a review.
///
/// # Errors
/// It is none: why not.
pub fn answer(body: &[u8], settings: &Sidecar, namespace: Namespace) -> Result<Answer, String> {
    let review: Review =
        serde_json::from_slice(body).map_err(|error| format!("this is no AdmissionReview: {error}"))?;
    if review.api_version != VERSION || review.kind != "AdmissionReview" {
        return Err(format!("only AdmissionReview of {VERSION} is answered"));
    }
    let Some(request) = review.request else { return Err("this AdmissionReview has no request".to_owned()) };
    let (response, verdict) = judge(&request, settings, namespace);
    let metadata = &request.object["metadata"];
    let name = metadata["name"].as_str().or(metadata["generateName"].as_str()).unwrap_or_default();
    // Whoever asks may be anybody, and the log has the names.
    let pod = (named(&request.namespace), named(name));
    let mut response = response;
    response["uid"] = request.uid.into();
    let document = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response});
    Ok(Answer { document, verdict, pod })
}

fn judge(request: &Request, settings: &Sidecar, namespace: Namespace) -> (Value, Verdict) {
    let Kind { group, version, kind } = &request.kind;
    let is_pod = group.is_empty() && version == "v1" && kind == "Pod" && request.sub_resource.is_empty();
    if !is_pod || request.operation != "CREATE" {
        return (json!({"allowed": true}), Verdict::Skipped(NOT_A_POD));
    }
    match inject(&request.object, settings, namespace) {
        Ok(Outcome::Skipped(skip)) => (json!({"allowed": true}), Verdict::Skipped(skip.as_str())),
        Ok(Outcome::Injected(injected)) => {
            let mut response = json!({"allowed": true});
            let warnings: Vec<_> = injected.warnings.iter().map(|warning| short(warning)).collect();
            if !warnings.is_empty() {
                response["warnings"] = warnings.into();
            }
            let patch = json_patch::diff(&request.object, &injected.pod);
            if patch.is_empty() {
                return (response, Verdict::Unchanged);
            }
            let patch = serde_json::to_vec(&patch).expect("a patch is JSON");
            response["patchType"] = "JSONPatch".into();
            response["patch"] = STANDARD.encode(patch).into();
            (response, Verdict::Injected { local_ledger: injected.local_ledger })
        }
        Err(refused) => (refusal(&refused), Verdict::Refused(refused.reason())),
    }
}

fn refusal(refused: &Refused) -> Value {
    let status = json!({"code": 403, "reason": "Forbidden", "message": format!("openexec: {refused}")});
    json!({"allowed": false, "status": status})
}

/// As long as a name can be.
fn named(text: &str) -> String {
    text.chars().take(253).collect()
}

fn short(warning: &str) -> String {
    format!("openexec: {warning}").chars().take(LONGEST_WARNING).collect()
}
