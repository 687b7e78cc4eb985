//! A client's description: one file of `data/`.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::repository;
use super::stage::Stage;

const DATA: &str = "vmm/tests/clients/data";

/// A program that drives Firecracker.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Client {
    /// Name of the file.
    #[serde(skip)]
    pub(super) name: String,
    /// Its name and version.
    pub(super) client: String,
    /// Where in its source this stands.
    pub(super) source: Vec<Source>,
    /// What else was found there.
    #[serde(default)]
    pub(super) found: Vec<String>,
    /// Files that it has made, in `{dir}`.
    #[serde(default)]
    pub(super) files: BTreeMap<String, File>,
    /// The arguments that the monitor gets.
    pub(super) start: Vec<String>,
    /// Arguments among them that are refused, each with the word behind it, and what the sentence says.
    #[serde(default)]
    pub(super) refused_arguments: BTreeMap<String, String>,
    /// The command line of the jailer that starts it, where the client cannot do without.
    pub(super) jailer: Option<Vec<String>>,
    /// What it writes to `{dir}/config.json`.
    pub(super) config: Option<Map<String, Value>>,
    /// Sections of that which are refused, and what the sentence says.
    #[serde(default)]
    pub(super) refused_sections: BTreeMap<String, String>,
    /// Lines of a request's head after the first: of one with a body, and of one without.
    pub(super) head: Option<Head>,
    /// What it sends, in order.
    #[serde(default)]
    pub(super) requests: Vec<Request>,
}

/// A place in a client's source.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    pub(super) repository: String,
    pub(super) commit: String,
    pub(super) file: String,
    pub(super) what: String,
}

/// What kind of file.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum File {
    /// Of 1 MiB, with holes.
    Disk,
    /// A file of no bytes.
    Empty,
    /// A FIFO that nobody reads yet.
    Fifo,
    /// An empty JSON object.
    Json,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    with_body: Vec<String>,
    without_body: Vec<String>,
    /// What stands behind the JSON of a body.
    #[serde(default)]
    body_ends: String,
}

/// A request, and what has to come back.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// Method and path.
    pub(super) send: String,
    /// The text of the body, which keeps its order and spaces.
    body: Option<Box<RawValue>>,
    /// Lines of the head, where they are other than usual.
    head: Option<Vec<String>>,
    /// The status of the answer.
    pub(super) status: u16,
    /// What the sentence of a refusal says.
    pub(super) refused: Option<String>,
    /// Parts of the answer that the client looks at.
    pub(super) holds: Option<Map<String, Value>>,
    /// What this host must have.
    pub(super) needs: Option<Needs>,
}

/// What not every host has.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Needs {
    /// KVM that runs a stock kernel. Nothing after such a request is sent without.
    Kvm,
    /// The right to make a TAP interface.
    Tap,
}

impl Needs {
    /// Whether it is here.
    pub(super) fn is_there(self) -> bool {
        match self {
            // ci/kvm-host says so.
            Needs::Kvm => std::env::var_os("AEROSTAT_KVM_HOST").is_some(),
            Needs::Tap => administers_network() && fs::metadata("/dev/net/tun").is_ok(),
        }
    }
}

/// Whether this process has CAP_NET_ADMIN.
fn administers_network() -> bool {
    const NET_ADMIN: u32 = 12;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or_default();
    u64::from_str_radix(effective.trim(), 16).is_ok_and(|set| set >> NET_ADMIN & 1 == 1)
}

impl Client {
    /// All that are known.
    pub(super) fn all() -> anyhow::Result<Vec<Self>> {
        let directory = repository().join(DATA);
        let mut clients = Vec::new();
        for entry in
            fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?
        {
            let path = entry?.path();
            let text = fs::read_to_string(&path)?;
            let mut client: Self =
                serde_json::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?;
            client.name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            client.check().with_context(|| format!("{} is not whole", path.display()))?;
            clients.push(client);
        }
        clients.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(clients)
    }

    /// Whether the data says all that a reader wants to know.
    fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.client.is_empty() && !self.start.is_empty(), "no name, or no command line");
        ensure!(!self.source.is_empty(), "no source");
        for source in &self.source {
            let texts = [&source.repository, &source.commit, &source.file, &source.what];
            ensure!(texts.iter().all(|text| !text.is_empty()), "an empty field: {source:?}");
        }
        ensure!(self.found.iter().all(|line| !line.is_empty()), "an empty line in found");
        ensure!(self.jailer.as_ref().is_none_or(|words| !words.is_empty()), "an empty jailer");
        let count = self.requests.len();
        let all = format!("sends {count} in all");
        ensure!(
            count >= 10 || self.found.iter().any(|line| line.contains(&all)),
            "{count} requests, and there are more"
        );
        for request in &self.requests {
            let is_refused = request.status >= 400;
            ensure!(
                request.refused.is_some() == is_refused,
                "{}: no sentence, or one too many",
                request.send
            );
        }
        Ok(())
    }

    /// The arguments, less those that are refused, but for one of these.
    pub(super) fn arguments(&self, but: Option<&str>) -> Vec<String> {
        let mut words = self.start.iter().cloned();
        let mut arguments = Vec::new();
        while let Some(word) = words.next() {
            if self.refused_arguments.contains_key(&word) && but != Some(&word) {
                words.next();
            } else {
                arguments.push(word);
            }
        }
        arguments
    }

    /// A request as it goes over the wire.
    pub(super) fn bytes(&self, request: &Request, stage: &Stage) -> anyhow::Result<Vec<u8>> {
        let head = self.head.as_ref().context("requests, but no head")?;
        let body = request.body.as_ref().map(|body| stage.fill(body.get()) + &head.body_ends);
        let usual = if body.is_some() { &head.with_body } else { &head.without_body };
        let body = body.unwrap_or_default();
        let mut text = format!("{} HTTP/1.1\r\n", stage.fill(&request.send));
        for line in request.head.as_ref().unwrap_or(usual) {
            text += &stage.fill(line).replace("{length}", &body.len().to_string());
            text += "\r\n";
        }
        Ok((text + "\r\n" + &body).into_bytes())
    }
}
