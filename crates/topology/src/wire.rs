//! What joins two GPUs of a node: a path over PCIe or between sockets, and NVLinks beside it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The way between two GPUs when no NVLink is used, from worst to best; `nvidia-smi topo -m` uses the same letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Path {
    /// Nobody could tell (`?`).
    #[default]
    Unknown,
    /// Over the interconnect between two sockets (`SYS`).
    CrossSocket,
    /// Within one NUMA node or socket, over the interconnect between its host bridges (`NODE`).
    SameNuma,
    /// Over one PCIe host bridge, that is through the processor (`PHB`).
    HostBridge,
    /// Over several PCIe switches, not through the processor (`PXB`).
    MultipleSwitches,
    /// Over a single PCIe switch (`PIX`).
    SingleSwitch,
    /// On one board, or slices of one GPU (`PSB`).
    SameBoard,
}

impl Path {
    /// All paths, worst first.
    pub const ALL: [Self; 7] = [
        Self::Unknown,
        Self::CrossSocket,
        Self::SameNuma,
        Self::HostBridge,
        Self::MultipleSwitches,
        Self::SingleSwitch,
        Self::SameBoard,
    ];

    /// 0 for unknown, then 10, 20, … 60: the values of NVIDIA's allocator, so that scores compare with it.
    pub const fn score(self) -> u32 {
        self as u32 * 10
    }

    /// The letters of `nvidia-smi topo -m`.
    pub const fn letters(self) -> &'static str {
        match self {
            Self::Unknown => "?",
            Self::CrossSocket => "SYS",
            Self::SameNuma => "NODE",
            Self::HostBridge => "PHB",
            Self::MultipleSwitches => "PXB",
            Self::SingleSwitch => "PIX",
            Self::SameBoard => "PSB",
        }
    }
}

/// All that joins two GPUs.
///
/// Its text form, also used in files, is `SYS`, `NV4+SYS` (four NVLinks from GPU to GPU) or `NVS18+NODE` (18 NVLinks of
/// each GPU into NVSwitches, over which any two GPUs of the node reach each other at full speed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Wire {
    /// The path beside the NVLinks.
    pub path: Path,
    /// NVLinks that carry traffic between the two; 0 for none.
    pub nvlinks: u8,
    /// Whether those NVLinks pass NVSwitches.
    pub nvswitch: bool,
}

impl Wire {
    /// Nothing is known.
    pub const UNKNOWN: Self = Self::over(Path::Unknown);

    /// A wire without NVLinks.
    pub const fn over(path: Path) -> Self {
        Self { path, nvlinks: 0, nvswitch: false }
    }

    /// A wire of `nvlinks` direct NVLinks beside `path`.
    pub const fn nvlink(nvlinks: u8, path: Path) -> Self {
        Self { path, nvlinks, nvswitch: false }
    }

    /// A wire of `nvlinks` NVLinks per GPU through NVSwitches beside `path`.
    pub const fn nvswitch(nvlinks: u8, path: Path) -> Self {
        Self { path, nvlinks, nvswitch: true }
    }

    /// 100 per NVLink plus the path's 0 to 60.
    ///
    /// The values are those of NVIDIA's go-gpuallocator, which however does not count NVLinks that pass an NVSwitch;
    /// they are counted here, because on HGX machines they are all there is.
    pub const fn score(self) -> u32 {
        self.nvlinks as u32 * 100 + self.path.score()
    }

    /// As `nvidia-smi topo -m` prints it: `NV18`, or the path's letters where there is no NVLink.
    pub fn short(self) -> String {
        if self.nvlinks > 0 { format!("NV{}", self.nvlinks) } else { self.path.letters().to_owned() }
    }

    /// In words, for sentences: `18 NVLinks through NVSwitch`, `one PCIe switch`.
    pub fn words(self) -> String {
        match (self.nvlinks, self.nvswitch) {
            (0, _) => match self.path {
                Path::Unknown => "an unknown path",
                Path::CrossSocket => "the link between sockets",
                Path::SameNuma => "the same socket",
                Path::HostBridge => "one host bridge",
                Path::MultipleSwitches => "several PCIe switches",
                Path::SingleSwitch => "one PCIe switch",
                Path::SameBoard => "the same board",
            }
            .to_owned(),
            (1, true) => "1 NVLink through NVSwitch".to_owned(),
            (n, true) => format!("{n} NVLinks through NVSwitch"),
            (1, false) => "1 NVLink".to_owned(),
            (n, false) => format!("{n} NVLinks"),
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nvlinks > 0 {
            write!(f, "{}{}+", if self.nvswitch { "NVS" } else { "NV" }, self.nvlinks)?;
        }
        f.write_str(self.path.letters())
    }
}

/// The text is no wire.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no wire between GPUs: write a path (SYS, NODE, PHB, PXB, PIX, PSB or ?), with NVLinks as NV4+SYS or NVS18+SYS"
)]
pub struct NotAWire(String);

impl FromStr for Wire {
    type Err = NotAWire;

    fn from_str(text: &str) -> Result<Self, NotAWire> {
        let wrong = || NotAWire(text.to_owned());
        let (links, path) = match text.rsplit_once('+') {
            Some((links, path)) => (Some(links), path),
            None => (None, text),
        };
        let path = Path::ALL.into_iter().find(|p| p.letters() == path).ok_or_else(wrong)?;
        let Some(links) = links else { return Ok(Self::over(path)) };
        let (count, nvswitch) = match (links.strip_prefix("NVS"), links.strip_prefix("NV")) {
            (Some(count), _) => (count, true),
            (None, Some(count)) => (count, false),
            (None, None) => return Err(wrong()),
        };
        match count.parse() {
            Ok(nvlinks) if nvlinks > 0 => Ok(Self { path, nvlinks, nvswitch }),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Wire {
    type Error = NotAWire;

    fn try_from(text: String) -> Result<Self, NotAWire> {
        text.parse()
    }
}

impl From<Wire> for String {
    fn from(wire: Wire) -> Self {
        wire.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wire_survives_its_text_form() {
        for path in Path::ALL {
            for wire in [Wire::over(path), Wire::nvlink(4, path), Wire::nvswitch(18, path)] {
                assert_eq!(wire.to_string().parse(), Ok(wire));
            }
        }
    }

    #[test]
    fn wrong_texts_are_named() {
        for text in ["", "NV", "NV4", "NV0+SYS", "NV999+SYS", "XX", "NV+SYS", "NV4+"] {
            let error = text.parse::<Wire>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn scores_are_those_of_the_field() {
        assert_eq!(Wire::over(Path::CrossSocket).score(), 10);
        assert_eq!(Wire::over(Path::SameBoard).score(), 60);
        assert_eq!(Wire::nvlink(2, Path::SingleSwitch).score(), 250);
        assert_eq!(Wire::nvswitch(18, Path::CrossSocket).score(), 1810);
        assert_eq!(Wire::UNKNOWN.score(), 0);
    }
}
