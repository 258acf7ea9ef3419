//! `openexec inject`: manifests in, manifests out. Documents with nothing to inject come out byte for byte.

use serde_json::Value;

use super::settings::Sidecar;
use super::{Namespace, Outcome, Refused, inject};

/// What came of a file of manifests.
pub struct Manifests {
    /// All of them.
    pub text: String,
    /// What whoever wrote them should know.
    pub warnings: Vec<String>,
}

/// Why a file is not injected.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not YAML.
    #[error("line {line}: {problem}")]
    Yaml {
        /// In the file.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// Pods that cannot have a gate.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
}

/// Where kinds have their pod's template.
const TEMPLATES: [(&str, &str, &str); 9] = [
    ("v1", "Pod", ""),
    ("v1", "PodTemplate", "/template"),
    ("v1", "ReplicationController", "/spec/template"),
    ("apps/v1", "Deployment", "/spec/template"),
    ("apps/v1", "StatefulSet", "/spec/template"),
    ("apps/v1", "DaemonSet", "/spec/template"),
    ("apps/v1", "ReplicaSet", "/spec/template"),
    ("batch/v1", "Job", "/spec/template"),
    ("batch/v1", "CronJob", "/spec/jobTemplate/spec/template"),
];

/// Gives every pod in a YAML or JSON text its gate.
///
/// # Errors
/// Nothing comes out if any pod cannot have one.
pub fn inject_all(text: &str, settings: &Sidecar, namespace: Namespace) -> Result<Manifests, ManifestError> {
    let mut filter = Filter { settings, namespace, warnings: Vec::new(), refused: Vec::new() };
    let mut out = String::new();
    for (line, document) in documents(text) {
        out.push_str(&filter.document(line, document)?);
    }
    if !filter.refused.is_empty() {
        return Err(ManifestError::Refused(filter.refused));
    }
    Ok(Manifests { text: out, warnings: filter.warnings })
}

/// Each with its first line's number. A line that begins with `---` begins one, whatever it is in (YAML 1.2, 9.1.4).
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut start, mut first_line, mut at) = (0, 1, 0);
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let begins = line.starts_with("---") && line[3..].chars().next().is_none_or(char::is_whitespace);
        if begins && at > start {
            found.push((first_line, &text[start..at]));
            (start, first_line) = (at, index + 1);
        }
        at += line.len();
    }
    found.push((first_line, &text[start..]));
    found
}

struct Filter<'s> {
    settings: &'s Sidecar,
    namespace: Namespace,
    warnings: Vec<String>,
    refused: Vec<String>,
}

impl Filter<'_> {
    fn document(&mut self, line: usize, text: &str) -> Result<String, ManifestError> {
        // As kubectl reads it: 0644 is a mode. One key twice is a mistake there too.
        let options = serde_saphyr::options! { legacy_octal_numbers: true };
        // Behind as many lines as there are before it, so that what is wrong has its line in the file.
        let placed = "\n".repeat(line - 1) + text;
        let value: Value =
            serde_saphyr::from_str_with_options(&placed, options).map_err(|error| ManifestError::Yaml {
                line: error.location().map_or(1, |location| location.line()),
                problem: error.without_snippet().to_string(),
            })?;
        let mut injected = value.clone();
        self.object(&mut injected);
        if injected == value {
            return Ok(text.to_owned());
        }
        // Scalars that YAML 1.1 would take for something else are quoted, and nothing is folded.
        let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
        let yaml = serde_saphyr::to_string_with_options(&injected, options).expect("JSON values have a form in YAML");
        Ok(format!("---\n{yaml}"))
    }

    fn object(&mut self, object: &mut Value) {
        if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
            return items.iter_mut().for_each(|item| self.object(item));
        }
        let kind =
            TEMPLATES.iter().find(|(version, kind, _)| object["apiVersion"] == *version && object["kind"] == *kind);
        let Some((_, kind, template)) = kind else { return };
        let name = object["metadata"]["name"].as_str().or(object["metadata"]["generateName"].as_str());
        let name = format!("{kind}/{}", name.unwrap_or_default());
        let injected = match object.pointer(template) {
            Some(pod) => inject(pod, self.settings, self.namespace),
            None => Err(Refused::NotAPod("it has no template")),
        };
        match injected {
            Ok(Outcome::Skipped(_)) => {}
            Ok(Outcome::Injected(injected)) => {
                self.warnings.extend(injected.warnings.iter().map(|warning| format!("{name}: {warning}")));
                if let Some(pod) = object.pointer_mut(template) {
                    *pod = injected.pod;
                }
            }
            Err(refused) => self.refused.push(format!("{name}: {refused}")),
        }
    }
}
