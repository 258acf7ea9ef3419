//! Giving the table to the kernel, by the program `nft`.
//!
//! Speaking netlink ourselves was rejected: it is a protocol of its own, for something that runs once in a pod's life.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use thiserror::Error;

use super::{Chain, Table};

/// Where it is looked for when it is nowhere in PATH.
const USUAL: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The table is not in force.
#[derive(Debug, Error)]
pub enum NftError {
    /// There is no such program.
    #[error("there is no nft in PATH, /usr/sbin or /sbin: install Debian's package nftables, or use OpenExec's image")]
    Missing,
    /// It is there, and cannot be run.
    #[error("{0} cannot be run: {1}")]
    Run(PathBuf, #[source] io::Error),
    /// The kernel did not let us.
    #[error("the network may not be changed: that needs the capability NET_ADMIN (nft: {0})")]
    NotPermitted(String),
    /// The kernel did not take it, whole or in part; then nothing of it is in force.
    #[error(
        "the kernel does not take the table; it needs nf_tables with nat, redirect, fib, reject and conntrack (nft: {0})"
    )]
    Refused(String),
    /// It was taken, and is not there.
    #[error("nft says that the table is in force, and it is not: {0}")]
    NotThere(String),
}

/// Puts the table into force in this network namespace, in the place of the one before, and reads it back.
///
/// # Errors
/// There is no `nft`, it may not or cannot do it, or what is read back is another table. If it was read back, it may be in
/// force all the same; otherwise nothing has changed.
pub fn apply(table: &Table) -> Result<(), NftError> {
    let nft = find().ok_or(NftError::Missing)?;
    run(&nft, &["-f", "-"], &format!("{table}\n"))?;
    let found = run(&nft, &["--json", "list", "table", "inet", "openexec"], "")?;
    let found = serde_json::from_slice(&found).map_err(|error| NftError::NotThere(error.to_string()))?;
    table.must_be(&found).map_err(NftError::NotThere)
}

fn find() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = USUAL.iter().map(PathBuf::from);
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .chain(usual)
        .map(|folder| folder.join("nft"))
        .find(|file| file.is_file())
}

/// Without our environment: nothing in it is meant for nft, and its words must not be translated.
fn run(nft: &Path, arguments: &[&str], input: &str) -> Result<Vec<u8>, NftError> {
    let failed = |error| NftError::Run(nft.to_owned(), error);
    let mut command = Command::new(nft);
    command.args(arguments).env_clear().env("LC_ALL", "C");
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(failed)?;
    // An nft that does not read it says why.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let Output { status, stdout, stderr } = child.wait_with_output().map_err(failed)?;
    if status.success() {
        return Ok(stdout);
    }
    let said = String::from_utf8_lossy(&stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    Err(if said.contains("Operation not permitted") { NftError::NotPermitted(said) } else { NftError::Refused(said) })
}

impl Table {
    /// The first difference that matters: a chain that is not there or hangs elsewhere, or has more or fewer rules. What a
    /// rule says is not compared: each version of nft writes it in its own way.
    fn must_be(&self, found: &Value) -> Result<(), String> {
        let all = found["nftables"].as_array().ok_or("nft lists nothing")?;
        for Chain { name, kind, hook, priority, policy, rules } in &self.chains {
            let chain = all.iter().map(|one| &one["chain"]).find(|chain| chain["name"] == *name);
            let chain = chain.ok_or_else(|| format!("there is no chain {name}"))?;
            let is = (&chain["type"], &chain["hook"], &chain["prio"], &chain["policy"]);
            if is != (&Value::from(*kind), &Value::from(*hook), &Value::from(*priority), &Value::from(*policy)) {
                return Err(format!("the chain {name} is another one"));
            }
            let count = all.iter().filter(|one| one["rule"]["chain"] == *name).count();
            if count != rules.len() {
                return Err(format!("the chain {name} has {count} rules of {}", rules.len()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Ports;
    use super::*;

    fn table() -> Table {
        Table::new(&Ports { app: 8080, gate: 5000, admin: 5001, allowed: Vec::new() }).unwrap()
    }

    /// As nft lists it.
    fn listed(table: &Table) -> Vec<Value> {
        let mut all = vec![json!({"metainfo": {"json_schema_version": 1}})];
        for Chain { name, kind, hook, priority, policy, rules } in &table.chains {
            all.push(json!({"chain": {"name": name, "type": kind, "hook": hook, "prio": priority, "policy": policy}}));
            all.extend(rules.iter().map(|_| json!({"rule": {"chain": name, "expr": []}})));
        }
        all
    }

    #[test]
    fn a_table_that_is_not_whole_is_noticed() {
        let table = table();
        let whole = listed(&table);
        assert_eq!(table.must_be(&json!({"nftables": whole})), Ok(()));
        assert!(table.must_be(&json!({})).is_err());
        // Each chain and each rule is missed, and the first line, which is neither, is not.
        for missing in 1..whole.len() {
            let mut part = whole.clone();
            part.remove(missing);
            assert!(table.must_be(&json!({"nftables": part})).is_err(), "{}", whole[missing]);
        }
        for (member, other) in
            [("policy", json!("none")), ("hook", json!("x")), ("prio", json!(7)), ("type", json!("y"))]
        {
            let mut changed = whole.clone();
            changed[1]["chain"][member] = other;
            assert_eq!(
                table.must_be(&json!({"nftables": changed})),
                Err("the chain from_outside is another one".to_owned())
            );
        }
        let mut more = whole.clone();
        more.push(json!({"rule": {"chain": "input", "expr": [{"accept": null}]}}));
        assert_eq!(table.must_be(&json!({"nftables": more})), Err("the chain input has 7 rules of 6".to_owned()));
    }
}
