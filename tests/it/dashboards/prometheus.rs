//! Debian's Prometheus, with the chart's rules.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::repository;
use crate::support::{free, tool};

/// Longer than a window of the dashboard and all that there is to ask for take on a machine that has more to do.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub struct Prometheus {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Prometheus {
    /// One that scrapes these admin listeners each second, each with its labels.
    pub fn start(targets: &[(SocketAddr, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = free();
        let mut config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\n\
             scrape_configs:\n  - job_name: openexec\n    static_configs:\n",
            repository("helm/openexec/rules/*.yaml").display()
        );
        for (target, labels) in targets {
            config += &format!("      - {{targets: ['{target}'], labels: {labels}}}\n");
        }
        let path = directory.path().join("prometheus.yaml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new(tool("prometheus"))
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut prometheus = Prometheus { child, address: address.parse().unwrap(), _directory: directory };
        let deadline = Instant::now() + PATIENCE;
        while prometheus.try_get("/-/ready").is_none_or(|(status, _)| status != 200) {
            assert!(prometheus.child.try_wait().unwrap().is_none(), "it has ended");
            assert!(Instant::now() < deadline, "not ready in time");
            std::thread::sleep(Duration::from_millis(20));
        }
        prometheus
    }

    /// By HTTP/1.0: an answer that ends with its connection.
    fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.try_get(path).unwrap();
        let document: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!((status, &document["status"]), (200, &json!("success")), "{path}: {body}");
        document["data"].clone()
    }

    /// What an expression gives now.
    pub fn query(&self, expression: &str) -> Vec<f64> {
        let data = self.get(&format!("/api/v1/query?query={}", encoded(expression)));
        let number = |sample: &Value| sample["value"][1].as_str().unwrap().parse().unwrap();
        data["result"].as_array().unwrap().iter().map(number).collect()
    }

    /// Grafana's `label_values(SELECTOR, LABEL)`.
    pub fn label_values(&self, function: &str) -> Vec<String> {
        let arguments = function.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
        let (selector, label) = arguments.rsplit_once(", ").unwrap();
        let data = self.get(&format!("/api/v1/label/{label}/values?match[]={}", encoded(selector)));
        serde_json::from_value(data).unwrap()
    }

    /// Names of alerts that wait for their time, or fire.
    pub fn alerts(&self) -> BTreeSet<String> {
        let data = self.get("/api/v1/alerts");
        let alerts = data["alerts"].as_array().unwrap().iter();
        alerts.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    /// Every rule has been evaluated, and without an error.
    pub fn must_evaluate_all_rules(&self, deadline: Instant) {
        loop {
            let data = self.get("/api/v1/rules");
            let groups = data["groups"].as_array().unwrap();
            let rules: Vec<_> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
            let bad: Vec<_> = rules.iter().filter(|rule| rule["health"] != "ok").collect();
            if bad.is_empty() {
                assert!(rules.len() > 40, "{}", rules.len());
                return;
            }
            assert!(Instant::now() < deadline, "{bad:#?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
