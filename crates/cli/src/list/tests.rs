use std::cell::RefCell;
use std::convert::Infallible;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use weft_api::GpuNode;

use super::*;

/// An API server that answers with one page after the other.
fn client(pages: &'static [fn() -> Value]) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| async move {
        let query = request.uri().query().unwrap_or_default().to_owned();
        assert!(query.contains("limit=500"), "{query}");
        let nth = query.split("continue=page-").nth(1).map_or(0, |nth| nth.parse::<usize>().unwrap());
        let token = if nth + 1 < pages.len() { format!("page-{}", nth + 1) } else { String::new() };
        let list = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "GpuNodeList",
            "metadata": {"continue": token}, "items": pages[nth](),
        });
        Ok::<_, Infallible>(Response::new(Body::from(list.to_string().into_bytes())))
    });
    Client::new(service, "default")
}

fn node(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "weft.dev/v1alpha1", "kind": "GpuNode", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn every_page_is_asked_for() {
    let pages: &[fn() -> Value] =
        &[|| json!([node("n1", json!({})), node("n2", json!({}))]), || json!([]), || json!([node("n3", json!({}))])];
    let mut names = Vec::new();
    let api: Api<GpuNode> = Api::all(client(pages));
    each(&api, |node| names.push(node.name_any())).await.unwrap();
    assert_eq!(names, ["n1", "n2", "n3"]);
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out_and_told_of() {
    let pages: &[fn() -> Value] = &[|| json!([node("n1", json!({})), node("n2", json!(7)), node("n3", json!({}))])];
    let told = RefCell::new(Vec::new());
    let nodes: Vec<GpuNode> = readable(&client(pages), |line| told.borrow_mut().push(line)).await.unwrap();
    assert_eq!(nodes.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["n1", "n3"]);
    let told = told.into_inner();
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("GpuNode n2 is left out: this version of kubectl-weft cannot read it ("),
        "{}",
        told[0]
    );
}
