//! One file for everything that a decision depends on, and for the decision: what `simulate` reads, what a bug report
//! contains, what tests and benchmarks start from.
//!
//! Any self-describing format that serde knows will do; by convention YAML or JSON. `docs/placement.md` describes the fields.
//! A field that is not known is refused with a sentence that says where it is: a misspelt `reqired` must not silently become
//! a gang that may go anywhere.

use std::collections::HashMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::what_if::Running;
use crate::{Cluster, Exclusion, Gang, Group, NoPlacement, NodeName, Placement, place_where};

/// The version that this crate reads and writes.
pub const VERSION: u32 = 1;

/// A cluster, the jobs on it, and gangs that are asked about.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Situation {
    /// The version of the format: 1.
    pub version: u32,
    /// Anything for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Levels, nodes and claims.
    pub cluster: Cluster,
    /// Jobs that run, for questions about moving and ending them. All that holds GPUs is among the cluster's claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<Running>,
    /// Gangs that are asked about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<Asked>,
}

/// A gang that is asked about, and the answer if it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Asked {
    /// The job's name: `namespace/name`.
    pub name: String,
    /// What it asks for.
    pub gang: Gang,
    /// Nodes that the caller ruled out (selectors, taints). All others will do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
    /// The answer, if there is a place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The answer, if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_placement: Option<NoPlacement>,
}

/// A node that the caller ruled out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verdict {
    /// For this group only; none for all of the gang.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The node.
    pub node: NodeName,
    /// Why.
    pub exclusion: Exclusion,
}

/// The text is no situation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A field is unknown, missing or of the wrong kind.
    #[error("{at} cannot be read: {why}; correct it, docs/placement.md lists all fields")]
    Field {
        /// Where: `cluster.nodes[2].node`.
        at: String,
        /// What is wrong there.
        why: String,
    },
    /// A version that this crate does not know.
    #[error("the file is of version {0} and this program reads version {VERSION}: use the program that wrote it")]
    Version(u32),
}

impl Situation {
    /// A situation without jobs and questions.
    pub fn of(cluster: Cluster) -> Self {
        Self { version: VERSION, note: String::new(), cluster, jobs: Vec::new(), asked: Vec::new() }
    }

    /// Reads one from any of serde's formats.
    ///
    /// # Errors
    /// [`Unreadable`] says where in the text what is wrong.
    pub fn read<'de, D: Deserializer<'de>>(text: D) -> Result<Self, Unreadable> {
        let read: Self = serde_path_to_error::deserialize(text).map_err(|error| {
            let path = error.path().to_string();
            let at = if path == "." { "the file".to_owned() } else { path };
            let why = error.inner().to_string();
            // YAML's errors begin with the place, too, or with what it is in.
            let why = match why.split_once(": ") {
                Some((place, why)) if at.starts_with(place) => why.to_owned(),
                _ => why,
            };
            Unreadable::Field { at, why: in_words(&why) }
        })?;
        if read.version == VERSION { Ok(read) } else { Err(Unreadable::Version(read.version)) }
    }

    /// Decides every question anew, in place of the answers that are there.
    pub fn decide(&mut self) {
        for asked in &mut self.asked {
            let rules = asked.rules();
            let eligible = |group: &Group, node: &NodeName| rules.admit(group, node);
            let decided = place_where(&self.cluster, &asked.gang, &eligible);
            (asked.placement, asked.no_placement) = match decided {
                Ok(placement) => (Some(placement), None),
                Err(why) => (None, Some(why)),
            };
        }
    }
}

/// What serde says of a value, without the names that only Rust has.
fn in_words(why: &str) -> String {
    let mut words = why.to_owned();
    for (rust, plain) in [
        ("unknown variant", "unknown value"),
        ("expected variant identifier", "expected one of the words that it can be"),
        ("unit value", "nothing"),
        ("invalid type: sequence", "invalid type: list"),
        ("expected a sequence", "expected a list"),
        ("expected a tuple of size 2", "expected a list of two"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u64", "expected a whole number from 0 on"),
        ("expected i64", "expected a whole number"),
    ] {
        words = words.replace(rust, plain);
    }
    // Which struct it is, the place says.
    if let Some((before, name)) = words.split_once("expected struct ") {
        let rest = name.trim_start_matches(|letter: char| letter.is_alphanumeric());
        words = format!("{before}expected an object with fields{rest}");
    }
    words
}

impl Asked {
    /// A gang that may go anywhere.
    pub fn new(name: &str, gang: Gang) -> Self {
        Self { name: name.to_owned(), gang, verdicts: Vec::new(), placement: None, no_placement: None }
    }

    /// [`Self::verdicts`] by node, for many questions.
    pub fn rules(&self) -> Rules<'_> {
        let mut by_node: HashMap<_, Vec<_>> = HashMap::new();
        for verdict in &self.verdicts {
            by_node.entry(&verdict.node).or_default().push(verdict);
        }
        Rules { by_node }
    }
}

/// Which nodes the caller ruled out.
pub struct Rules<'a> {
    by_node: HashMap<&'a NodeName, Vec<&'a Verdict>>,
}

impl Rules<'_> {
    /// Whether a node may take workers of a group.
    ///
    /// # Errors
    /// The first exclusion that applies.
    pub fn admit(&self, group: &Group, node: &NodeName) -> Result<(), Exclusion> {
        let of_node = self.by_node.get(node).into_iter().flatten();
        let mut applies = of_node.filter(|verdict| verdict.group.as_ref().is_none_or(|name| *name == group.name));
        applies.next().map_or(Ok(()), |verdict| Err(verdict.exclusion.clone()))
    }
}
