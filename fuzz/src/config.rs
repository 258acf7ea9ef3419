//! The configuration file.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;

use jsonschema::Validator;
use openexec::config::{Config, env};
use serde_json::Value;

use crate::Seen;

/// In every secret of the environment.
const OF_ENVIRONMENT: &str = "swordfish";
/// In secrets of the file, where the fuzzer puts it.
const OF_FILE: &str = "hunter2";
/// Secrets that cannot be any text: a key in PEM, a URL, and a password that only a URL of PostgreSQL has a use for.
const NO_TEXT: [&str; 3] = [env::PUBLIC_KEY, env::DB_URL, env::DB_PASSWORD];

/// Loads a file.
///
/// No problem and no warning repeats a secret, and no configuration prints one. What loads has the published schema.
pub fn check(bytes: &[u8]) -> Seen {
    let text = String::from_utf8_lossy(bytes);
    // Files that never end, and the machine's own.
    if ["/dev", "/proc", "/sys"].iter().any(|place| text.contains(place)) {
        return Seen::from(["not for us"]);
    }
    let file = tempfile::Builder::new().tempfile().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let yaml = serde_saphyr::from_str::<Value>(&text).ok();
    let every = load(file.path(), &text, yaml.as_ref(), &env::SECRETS);
    assert!(every != "accepted", "rubbish was taken for a key in PEM and for a URL");
    let texts: Vec<&str> = env::SECRETS.into_iter().filter(|name| !NO_TEXT.contains(name)).collect();
    Seen::from([load(file.path(), &text, yaml.as_ref(), &texts)])
}

/// Loads it with rubbish in these secrets of the environment.
fn load(file: &Path, text: &str, yaml: Option<&Value>, secrets: &[&'static str]) -> &'static str {
    let secrets = secrets.iter().enumerate();
    let mut environment: HashMap<&str, String> =
        secrets.map(|(index, name)| (*name, format!("{OF_ENVIRONMENT}-0123456789-{index}"))).collect();
    environment.insert(env::TENANT_ID, "t".to_owned());
    let loaded = Config::load(Some(file), &environment);
    let (told, seen) = match &loaded {
        Ok(config) => (config.warnings.join("\n"), "accepted"),
        Err(error) => (error.to_string(), if yaml.is_some() { "refused" } else { "no YAML" }),
    };
    assert!(!told.contains(OF_ENVIRONMENT) || text.contains(OF_ENVIRONMENT), "{told}");
    if yaml.is_none_or(only_in_secrets) {
        assert!(!told.contains(OF_FILE), "{told}");
    }
    if let Ok(config) = loaded {
        assert!(!format!("{config:?}").contains(OF_ENVIRONMENT) || text.contains(OF_ENVIRONMENT));
        let yaml = yaml.unwrap();
        let problems: Vec<String> = SCHEMA.iter_errors(yaml).map(|problem| problem.to_string()).collect();
        assert!(yaml.is_null() || problems.is_empty(), "{problems:?}");
    }
    seen
}

/// As it is published.
static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
    let schema = serde_json::from_str(include_str!("../../config/openexec.schema.json")).unwrap();
    jsonschema::validator_for(&schema).unwrap()
});

/// Whether nothing but headers' values, addresses and the ledger's URL holds [`OF_FILE`]: names of members and of files
/// may be repeated.
fn only_in_secrets(file: &Value) -> bool {
    let mut file = file.clone();
    let clear = |value: Option<&mut Value>| drop(value.map(Value::take));
    let each = |value: Option<&mut Value>, clear: &dyn Fn(&mut Value)| {
        value.and_then(Value::as_object_mut).into_iter().flat_map(|members| members.values_mut()).for_each(clear);
    };
    clear(file.pointer_mut("/ledger/url"));
    each(file.get_mut("upstreams"), &|upstream| clear(upstream.get_mut("addresses")));
    each(file.get_mut("actions"), &|action| each(action.get_mut("headers"), &|header| clear(Some(header))));
    !file.to_string().contains(OF_FILE)
}
