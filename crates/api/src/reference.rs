//! Writes the reference pages of `docs/reference`, out of the same definitions that the API server checks by.

use crate::{CrdFile, GpuJob, GpuNode, GpuTopology};
use kube::CustomResourceExt;
use serde_json::{Map, Value};
use std::fmt::Write;

/// Fields of Kubernetes' own types, which are explained elsewhere.
const NOT_UNFOLDED: [&str; 1] = ["conditions"];

/// One page for each resource: `gpujob.md`, `gpunode.md`, `gputopology.md`.
///
/// # Errors
/// When a definition cannot be written as JSON, which no input decides.
pub fn reference() -> Result<Vec<CrdFile>, serde_json::Error> {
    [GpuJob::crd(), GpuNode::crd(), GpuTopology::crd()]
        .into_iter()
        .map(|crd| Ok(page(&serde_json::to_value(crd)?)))
        .collect()
}

fn page(crd: &Value) -> CrdFile {
    let kind = text(crd, "/spec/names/kind");
    let short = text(crd, "/spec/names/shortNames/0");
    let version = &crd["spec"]["versions"][0];
    let schema = &version["schema"]["openAPIV3Schema"];
    let scope = if text(crd, "/spec/scope") == "Namespaced" { "in a namespace" } else { "of the whole cluster" };
    let mut page = format!(
        "<!-- Generated from crates/api by `cargo xtask crds`: change the types, not this file. -->\n\n# {kind}\n\n"
    );
    let group = text(crd, "/spec/group");
    let _ = writeln!(page, "{}\n", text(schema, "/description"));
    let _ = writeln!(
        page,
        "`apiVersion: {group}/{}`, `kind: {kind}`, {scope}; `kubectl get {short}`.\n",
        text(version, "/name")
    );
    if let Some(rules) = rules(schema) {
        let _ = writeln!(page, "Refused, with these messages:\n\n{rules}");
    }
    for part in ["spec", "status"] {
        if let Some(object) = schema["properties"].get(part) {
            section(&mut page, part, object);
        }
    }
    CrdFile { name: format!("{}.md", kind.to_lowercase()), text: format!("{}\n", page.trim_end()) }
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The fields of one object as a table, then a section for each object below it.
fn section(page: &mut String, path: &str, object: &Value) {
    let Some(fields) = object["properties"].as_object().filter(|fields| !fields.is_empty()) else { return };
    let _ = writeln!(page, "## `{path}`\n");
    let about = one_line(text(object, "/description"));
    if !about.is_empty() {
        let _ = writeln!(page, "{about}\n");
    }
    page.push_str("| field | type | what it is |\n|---|---|---|\n");
    let required: Vec<&str> = object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in fields {
        let must = if required.contains(&name.as_str()) { " **Required.**" } else { "" };
        let said = if text(field, "/description").is_empty() {
            text(&field["items"], "/description")
        } else {
            text(field, "/description")
        };
        let about = format!("{}{must}{}", one_line(said), limits(field));
        let _ = writeln!(page, "| `{name}` | {} | {} |", type_of(field), about.trim_start());
    }
    page.push('\n');
    let below = fields.iter().filter(|(name, _)| !NOT_UNFOLDED.contains(&name.as_str()));
    let mut sections = Vec::new();
    let mut all_rules = rules(object).into_iter().collect::<Vec<_>>();
    for (name, field) in below {
        let (inner, suffix) = if field["type"] == "array" { (&field["items"], "[]") } else { (field, "") };
        all_rules.extend(rules(field));
        if inner["type"] == "object" && inner.get("properties").is_some() {
            sections.push((format!("{path}.{name}{suffix}"), inner));
        }
    }
    if !all_rules.is_empty() {
        let _ = writeln!(page, "Refused, with these messages:\n\n{}", all_rules.concat());
    }
    for (path, inner) in sections {
        section(page, &path, inner);
    }
}

/// The rules that the API server checks between fields, by their messages.
fn rules(schema: &Value) -> Option<String> {
    let rules = schema["x-kubernetes-validations"].as_array()?;
    Some(
        rules
            .iter()
            .map(|rule| format!("- Refused: `{}`\n", one_line(text(rule, "/message")).replace('`', "'")))
            .collect(),
    )
}

fn type_of(field: &Value) -> String {
    if field["x-kubernetes-int-or-string"] == true {
        return "quantity".to_owned();
    }
    match field["type"].as_str() {
        Some("array") => format!("list of {}", type_of(&field["items"])),
        Some("object") => match field["additionalProperties"].as_object() {
            Some(values) => format!("map to {}", type_of(&Value::Object(Map::clone(values)))),
            None => "object".to_owned(),
        },
        Some("string") if field["format"] == "date-time" => "time".to_owned(),
        Some(other) => other.to_owned(),
        None => "any".to_owned(),
    }
}

/// Allowed words, bounds and defaults, as a sentence with a space before it; nothing where there are none.
fn limits(field: &Value) -> String {
    let mut said = String::new();
    if let Some(words) = field["enum"].as_array() {
        let words: Vec<_> = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
        let _ = write!(said, " One of {}.", words.join(", "));
    }
    let number = |key: &str| field.get(key).and_then(Value::as_f64);
    match (number("minimum"), number("maximum")) {
        (Some(least), Some(most)) => drop(write!(said, " {least} to {most}.")),
        (Some(least), None) if least > 0.0 => drop(write!(said, " At least {least}.")),
        (None, Some(most)) => drop(write!(said, " At most {most}.")),
        _ => {}
    }
    if let Some(default) =
        field.get("default").filter(|default| !default.is_object() && **default != Value::String(String::new()))
    {
        let default = default.as_str().map_or_else(|| default.to_string(), ToOwned::to_owned);
        let _ = write!(said, " Default `{default}`.");
    }
    said
}

/// Without line breaks and with the one character that would end a table's cell made harmless.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_page_names_each_field_with_its_type_bounds_and_rules() {
        let pages = super::reference().unwrap();
        let job = &pages.iter().find(|page| page.name == "gpujob.md").unwrap().text;
        for part in [
            "## `spec.groups[]`",
            "| `replicas` | integer |",
            "**Required.** 1 to 10000.",
            "- Refused: `spec.groups: group names must be unique`",
        ] {
            assert!(job.contains(part), "{part:?} is not in\n{job}");
        }
    }
}
