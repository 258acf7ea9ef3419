//! Where in the file a member stands, so that a problem can name its line.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser};

/// The line of every member, by its name as problems spell it: `upstreams.mail.addresses[0]`.
pub(super) struct Lines(BTreeMap<String, usize>);

/// What is being read.
enum Level {
    /// The name of the member whose value comes next, if that is what comes next.
    Mapping {
        member: String,
        key: Option<String>,
    },
    Sequence {
        member: String,
        next: usize,
    },
}

impl Lines {
    /// Of a text that is YAML; of what is none, the lines up to the mistake.
    pub(super) fn of(text: &str) -> Self {
        let mut lines = BTreeMap::new();
        let mut levels: Vec<Level> = Vec::new();
        for event in Parser::new_from_str(text) {
            let Ok((event, span)) = event else { break };
            let line = span.start.line();
            let opens = matches!(event, Event::MappingStart(..) | Event::SequenceStart(..));
            match event {
                Event::MappingEnd | Event::SequenceEnd => drop(levels.pop()),
                Event::Scalar(..) | Event::Alias(..) | Event::MappingStart(..) | Event::SequenceStart(..) => {
                    let member = match levels.last_mut() {
                        None => String::new(),
                        Some(Level::Sequence { member, next }) => {
                            *next += 1;
                            let member = format!("{member}[{}]", *next - 1);
                            lines.insert(member.clone(), line);
                            member
                        }
                        Some(Level::Mapping { member, key }) => match (key.take(), &event) {
                            (Some(key), _) => key,
                            (None, Event::Scalar(name, ..)) => {
                                let name =
                                    if member.is_empty() { name.to_string() } else { format!("{member}.{name}") };
                                lines.insert(name.clone(), line);
                                *key = Some(name);
                                continue;
                            }
                            // A key that is no text belongs to no member.
                            (None, _) => String::new(),
                        },
                    };
                    if opens {
                        levels.push(match event {
                            Event::SequenceStart(..) => Level::Sequence { member, next: 0 },
                            _ => Level::Mapping { member, key: None },
                        });
                    }
                }
                _ => {}
            }
        }
        Lines(lines)
    }

    /// The line of the member that the problem begins with, or of the one around it.
    pub(super) fn find(&self, problem: &str) -> Option<usize> {
        let names = |member: &str| {
            let rest = problem.strip_prefix(member)?;
            rest.chars().next().is_none_or(|next| " .:[,".contains(next)).then_some(member.len())
        };
        let found = self.0.iter().filter_map(|(member, line)| names(member).map(|length| (length, *line)));
        found.max().map(|(_, line)| line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_lines() {
        let lines = Lines::of(
            "# a comment\nmode: demo\nupstreams:\n  mail:\n    addresses: [\"a\",\n      \"b\"]\n    tls: {ca: x}\nactions:\n  \
             - one\n  - two: 2\n",
        );
        for (problem, line) in [
            ("mode must be", Some(2)),
            ("upstreams.mail.addresses[1]: no", Some(6)),
            ("upstreams.mail.tls.ca is", Some(7)),
            ("upstreams.mail.path is missing", Some(4)),
            ("actions[1].two", Some(10)),
            ("modes", None),
            ("OPENEXEC_MODE must be", None),
        ] {
            assert_eq!(lines.find(problem), line, "{problem}");
        }
    }

    #[test]
    fn what_is_no_yaml_has_the_lines_before_the_mistake() {
        assert_eq!(Lines::of("a: 1\nb: [").find("a"), Some(1));
    }
}
