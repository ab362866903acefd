//! The definitions in `crds/` are those of the types, and a real API server refuses what it should, naming the field.
//!
//! The sweep over `fixtures/` needs an API server with the definitions applied: it runs where `WEFT_TEST_KUBECONFIG` names one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's message")]

use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn files(folder: &Path) -> Vec<(String, String)> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<(String, String)> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn the_generated_definitions_are_in_step_with_the_types() {
    let generated: Vec<(String, String)> =
        weft_api::crds().unwrap().into_iter().map(|file| (file.name, file.text)).collect();
    let tracked = files(&folder("../../crds"));
    let names = |files: &[(String, String)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&tracked), names(&generated));
    for ((name, tracked), (_, generated)) in tracked.iter().zip(&generated) {
        assert!(
            tracked == generated,
            "crds/{name} is not what the types say: run `cargo run -p weft-api --bin crdgen`"
        );
    }
}

#[test]
fn jobs_that_shall_pass_are_read() {
    let examples = files(&folder("../../deploy/examples"));
    assert!(!examples.is_empty());
    for (name, text) in files(&folder("fixtures/pass")).into_iter().chain(examples) {
        let job: Result<weft_api::GpuJob, _> = serde_yaml_ng::from_str(&text);
        assert!(job.is_ok(), "{name}: {}", job.unwrap_err());
    }
}

#[test]
fn no_definition_has_a_format_that_the_api_server_warns_about() {
    for file in weft_api::crds().unwrap() {
        assert!(!file.text.contains("format: uint"), "{}", file.name);
    }
}

/// What the API server says to a job, by a dry run as strict as kubectl's.
async fn apply(client: &kube::Client, text: &str) -> Result<(), String> {
    let value: serde_json::Value = serde_yaml_ng::from_str(text).unwrap();
    let path = "/apis/weft.dev/v1alpha1/namespaces/default/gpujobs?dryRun=All&fieldValidation=Strict";
    let request = http::Request::post(path).header("content-type", "application/json");
    let request = request.body(serde_json::to_vec(&value).unwrap()).unwrap();
    match client.request::<serde_json::Value>(request).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("the API server does not answer: {error}"),
    }
}

/// Creates the first of two jobs, with its status if it has one, and tries the second in its place; what the API server says
/// to that. Nothing stays.
async fn update(client: &kube::Client, text: &str) -> Result<(), String> {
    let mut jobs = serde_yaml_ng::Deserializer::from_str(text).map(|job| serde_json::Value::deserialize(job).unwrap());
    let (before, mut after) = (jobs.next().unwrap(), jobs.next().unwrap());
    let folder = "/apis/weft.dev/v1alpha1/namespaces/default/gpujobs";
    let path = format!("{folder}/{}", before["metadata"]["name"].as_str().unwrap());
    let send = async |request: http::request::Builder, body: &serde_json::Value| {
        let request = request.header("content-type", "application/json").body(serde_json::to_vec(body).unwrap());
        client.request::<serde_json::Value>(request.unwrap()).await
    };
    let mut created = send(http::Request::post(folder), &before).await.unwrap();
    if let Some(status) = before.get("status") {
        created["status"] = status.clone();
        created = send(http::Request::put(format!("{path}/status")), &created).await.unwrap();
    }
    after["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
    let answer = send(http::Request::put(format!("{path}?dryRun=All&fieldValidation=Strict")), &after).await;
    send(http::Request::delete(&path), &serde_json::json!({})).await.unwrap();
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("the API server does not answer: {error}"),
    }
}

#[test]
fn jobs_before_and_after_a_change_are_read() {
    for (name, text) in files(&folder("fixtures/update")) {
        let jobs: Vec<weft_api::GpuJob> = serde_yaml_ng::Deserializer::from_str(&text)
            .map(|job| weft_api::GpuJob::deserialize(job).unwrap_or_else(|error| panic!("{name}: {error}")))
            .collect();
        assert_eq!(jobs.len(), 2, "{name}: one job before and one after");
        assert!(jobs[0].spec != jobs[1].spec, "{name}: nothing changes");
    }
}

#[test]
fn the_rule_that_lets_a_refused_job_be_corrected_knows_the_operators_words() {
    use weft_api::job::{Reason, condition};
    let definition = weft_api::crds().unwrap().into_iter().find(|file| file.name.contains("gpujobs")).unwrap().text;
    let text = serde_yaml_ng::from_str::<serde_json::Value>(&definition).unwrap().to_string();
    let words = [Reason::Invalid, Reason::InvalidTemplate].map(Reason::as_str);
    let failed = condition::FAILED;
    let rule = format!("c.type == '{failed}' && c.status == 'True' && c.reason in ['{}', '{}']", words[0], words[1]);
    assert_eq!(text.matches(&rule).count(), 2, "for groups and for runtime: {rule}");
}

#[tokio::test]
async fn an_api_server_takes_what_shall_pass_and_names_the_field_of_what_shall_not() {
    let Some(kubeconfig) = env::var_os("WEFT_TEST_KUBECONFIG") else {
        eprintln!("skipped: WEFT_TEST_KUBECONFIG names no API server");
        return;
    };
    let kubeconfig = kube::config::Kubeconfig::read_from(kubeconfig).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let client = kube::Client::try_from(config).unwrap();
    let mut wrong = Vec::new();
    for (name, text) in files(&folder("fixtures/pass")) {
        if let Err(message) = apply(&client, &text).await {
            wrong.push(format!("{name} shall pass: {message}"));
        }
    }
    for (name, text) in files(&folder("fixtures/fail")) {
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# refused with: ")).unwrap();
        match apply(&client, &text).await {
            Ok(()) => wrong.push(format!("{name} shall not pass")),
            Err(message) if !message.contains(expected) => wrong.push(format!("{name}: no {expected:?} in {message}")),
            Err(_) => {}
        }
    }
    for (name, text) in files(&folder("fixtures/update")) {
        let expected = text.lines().next().and_then(|line| line.strip_prefix("# refused with: "));
        match (update(&client, &text).await, expected) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => wrong.push(format!("{name} shall not pass")),
            (Err(message), None) => wrong.push(format!("{name} shall pass: {message}")),
            (Err(message), Some(expected)) if !message.contains(expected) => {
                wrong.push(format!("{name}: no {expected:?} in {message}"));
            }
            (Err(_), Some(_)) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
