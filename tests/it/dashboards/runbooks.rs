//! docs/runbooks.md: a section for each alert, with commands that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use super::{read, rules};

const PATH: &str = "docs/runbooks.md";

#[test]
fn alerts_and_runbooks_belong_together() {
    let page = read(PATH);
    let sections: Vec<_> = page.split("\n## ").skip(1).collect();
    let mut titles = BTreeSet::new();
    for section in &sections {
        let title = section.lines().next().unwrap();
        titles.insert(title.to_owned());
        for part in ["**Means.**", "**Users.**", "**Look.**", "**Do.**"] {
            assert!(section.contains(part), "{title} has no {part}");
        }
    }
    let mut alerts = BTreeSet::new();
    for (name, severity, rule) in rules::alerts() {
        let anchor = format!("{PATH}#{}", name.to_lowercase());
        assert_eq!(rule["annotations"]["runbook"], anchor, "{name}");
        assert!(["critical", "warning"].contains(&severity.as_str()), "{name}");
        alerts.insert(name);
    }
    assert_eq!((titles.len(), titles), (sections.len(), alerts));
}

/// Commands in blocks and in the text, without what is not theirs.
fn commands(page: &str) -> BTreeSet<String> {
    let spans = page.split('`').flat_map(str::lines).map(str::trim);
    let commands = spans.filter(|span| span.starts_with("openexec ")).map(str::to_owned);
    commands.collect()
}

fn help(subcommands: &[&str]) -> Option<String> {
    let output = Command::new(env!("CARGO_BIN_EXE_openexec")).args(subcommands).arg("--help").output().unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// What a command lists below `Commands:`.
fn subcommands_of(help: &str) -> BTreeSet<&str> {
    let listed = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let listed = listed.lines().take_while(|line| !line.is_empty());
    listed.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty())).collect()
}

#[test]
fn the_commands_of_the_runbooks_exist() {
    let commands = commands(&read(PATH));
    assert!(commands.len() > 10, "{commands:?}");
    let mut helps = BTreeMap::new();
    for command in commands {
        let words: Vec<_> = command.split_whitespace().skip(1).collect();
        let mut path: Vec<&str> = Vec::new();
        let mut text = help(&[]).unwrap();
        for word in &words {
            let listed = subcommands_of(&text);
            if listed.is_empty() {
                break;
            }
            assert!(listed.contains(word), "{command}: there is no {word}");
            path.push(word);
            text = helps.entry(path.join(" ")).or_insert_with(|| help(&path).unwrap()).clone();
        }
        assert!(!path.is_empty(), "{command}");
        for flag in words.iter().filter(|word| word.starts_with('-')) {
            let has = text.split([' ', ',', '\n', '[', ']', '<', '|']).any(|word| word == *flag);
            assert!(has, "{command}: there is no {flag}");
        }
    }
}
