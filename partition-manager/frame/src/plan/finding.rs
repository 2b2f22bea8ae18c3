//! Findings: why a plan is refused, or what the reader of a plan should know.

use crate::name::Name;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// A thing that is declared in a frame file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The frame itself.
    Frame,
    /// A shared processor pool.
    Pool(Name),
    /// A partition.
    Partition(Name),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame => f.write_str("the host"),
            Self::Pool(name) => write!(f, "pool {name}"),
            Self::Partition(name) => write!(f, "partition {name}"),
        }
    }
}

/// One party to a finding: who claims or holds what, and where the file says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Who claims.
    pub subject: Subject,
    /// The key that says so, as a path inside the subject's table, such as `processors.minimum`.
    pub key: Cow<'static, str>,
    /// What is claimed, such as `4 CPUs`.
    pub what: String,
}

/// Every rule that a plan can find something by.
pub const RULES: [&str; 25] = [
    "affinity",
    "amount",
    "cpus-exceeded",
    "cpus-missing",
    "duplicate",
    "guarded",
    "held",
    "host-shares",
    "idle-sibling",
    "inventory",
    "memory-block",
    "memory-exceeded",
    "overhead",
    "pages-missing",
    "pending",
    "pool-empty",
    "pool-missing",
    "pool-short",
    "reserve-exceeded",
    "reserve-short",
    "shortfall",
    "split-core",
    "undeclared",
    "unplaceable",
    "units-exceeded",
];

/// Something that a plan found: a reason to refuse, or a warning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Short stable name of the rule.
    pub rule: Cow<'static, str>,
    /// What happened, to what, and why.
    pub text: String,
    /// Who claims what; the largest claims when there are many.
    pub claims: Vec<Claim>,
    /// What to do.
    pub help: Option<String>,
}

/// A reason why there is no plan, or why a partition cannot be activated at present.
pub type Refusal = Finding;
/// Something that is legal, but that the reader should know.
pub type Warning = Finding;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        for (at, claim) in self.claims.iter().enumerate() {
            let lead = if at == 0 { ": " } else { ", " };
            write!(f, "{lead}{} {}", claim.subject, claim.what)?;
        }
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Finding {}

/// The claim of a partition by one of its keys.
pub(super) fn claim(name: &Name, key: &'static str, what: String) -> Claim {
    Claim { subject: Subject::Partition(name.clone()), key: key.into(), what }
}

/// A partition cannot be activated because of what is free: `free` ends with a verb.
pub(super) fn lacks(name: &Name, key: &'static str, needs: String, free: String) -> Box<Finding> {
    Box::new(Finding {
        rule: "held".into(),
        text: format!("partition {name} cannot be activated now: it needs {needs}, {free} free"),
        claims: vec![claim(name, key, format!("needs {needs}"))],
        help: None,
    })
}

/// A partition cannot be activated because nothing is left of a pool that it lives on.
pub(super) fn poolless(name: &Name, key: &'static str, pool: &Name) -> Box<Finding> {
    lacks(name, key, format!("pool {pool}, whose CPUs are held by others"), "nothing of it is".into())
}
