//! A tree of lines.

use std::fmt;

/// A line with lines under it.
#[derive(Default)]
pub struct Tree {
    pub line: String,
    pub branches: Vec<Tree>,
}

impl Tree {
    /// A line with nothing under it.
    pub fn leaf(line: impl Into<String>) -> Self {
        Self { line: line.into(), branches: Vec::new() }
    }

    /// A line with lines under it.
    pub fn new(line: impl Into<String>, branches: Vec<Self>) -> Self {
        Self { line: line.into(), branches }
    }

    fn draw(&self, f: &mut fmt::Formatter<'_>, indent: &str) -> fmt::Result {
        let last = self.branches.len().saturating_sub(1);
        for (i, branch) in self.branches.iter().enumerate() {
            let (joint, below) = if i == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            writeln!(f, "{indent}{joint}{}", branch.line)?;
            branch.draw(f, &format!("{indent}{below}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.line)?;
        self.draw(f, "")
    }
}
