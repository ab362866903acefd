//! Reads a program from YAML or JSON text: a bare program, or a whole `GpuJob` that contains one.

use serde::Deserialize;

use crate::Program;

/// Why a text is not a program.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not YAML, or a field is unknown, missing or of the wrong type. The parser's message names the line.
    #[error("{0}")]
    Syntax(#[from] serde_yaml_ng::Error),
    /// A Kubernetes object of another kind.
    #[error("this is a {0}: give a GpuJob with spec.program, or a bare program")]
    OtherKind(String),
    /// A GpuJob that runs a pod template.
    #[error("this GpuJob has no spec.program: its containers run in Kubernetes only")]
    NoProgram,
    /// Several documents in one file, of which more than one holds a program, or none does.
    #[error("this file holds {0} programs: give one")]
    NotOne(usize),
}

#[derive(Deserialize)]
struct Job {
    spec: Option<Spec>,
}

#[derive(Deserialize)]
struct Spec {
    program: Option<Program>,
}

/// Reads the one program in `text`.
///
/// # Errors
/// [`DocumentError`], whose text names the line where there is one.
pub fn parse(text: &str) -> Result<Program, DocumentError> {
    let documents: Vec<&str> = split_documents(text).into_iter().filter(|document| has_content(document)).collect();
    match documents[..] {
        // The parser counts lines from the start of what it is given: one document keeps the file's own numbers.
        [_] => parse_one(text),
        _ => {
            let mut programs = Vec::new();
            for document in &documents {
                match parse_one(document) {
                    Ok(program) => programs.push(program),
                    Err(DocumentError::OtherKind(_) | DocumentError::NoProgram) => {}
                    Err(error) => return Err(error),
                }
            }
            let count = programs.len();
            match programs.pop() {
                Some(program) if count == 1 => Ok(program),
                _ => Err(DocumentError::NotOne(count)),
            }
        }
    }
}

fn split_documents(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" {
            documents.push(&text[start..at]);
            start = at + line.len();
        }
        at += line.len();
    }
    documents.push(&text[start..]);
    documents
}

fn has_content(document: &str) -> bool {
    document.lines().any(|line| !matches!(line.trim_start().chars().next(), None | Some('#')))
}

fn parse_one(text: &str) -> Result<Program, DocumentError> {
    let value: serde_yaml_ng::Value = serde_yaml_ng::from_str(text)?;
    match value.get("kind").and_then(|kind| kind.as_str()) {
        None => Ok(serde_yaml_ng::from_str(text)?),
        Some("GpuJob") => {
            // From the text, not from `value`: only then does an error name its line.
            let job: Job = serde_yaml_ng::from_str(text)?;
            job.spec.and_then(|spec| spec.program).ok_or(DocumentError::NoProgram)
        }
        Some(kind) => Err(DocumentError::OtherKind(kind.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str =
        "arrays: [{name: x, dtype: f32, shape: [4]}]\nsteps: [{check: {array: x, equals: {constant: 0}}}]\n";

    #[test]
    fn a_bare_program_is_read() {
        assert_eq!(parse(BARE).unwrap().arrays[0].name, "x");
    }

    #[test]
    fn the_program_of_a_job_is_read_among_other_objects() {
        let job = format!("kind: GpuJob\nspec:\n  groups: []\n  program:\n    {}\n", BARE.replace('\n', "\n    "));
        assert_eq!(parse(&job).unwrap().steps.len(), 1);
        let two = format!("# comment\n---\nkind: ConfigMap\ndata: {{}}\n---\n{job}");
        assert_eq!(parse(&two).unwrap().steps.len(), 1);
    }

    #[test]
    fn other_texts_are_refused_with_a_sentence() {
        assert!(parse("kind: Pod\n").unwrap_err().to_string().contains("this is a Pod"));
        assert!(parse("kind: GpuJob\nspec: {groups: []}\n").unwrap_err().to_string().contains("no spec.program"));
        let unknown = parse("arrays: []\nsteps: []\nspeps: []\n").unwrap_err().to_string();
        assert!(unknown.contains("unknown field `speps`") && unknown.contains("line 3"), "{unknown}");
        assert!(parse(&format!("{BARE}---\n{BARE}")).unwrap_err().to_string().contains("2 programs"));
    }
}
