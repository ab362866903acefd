//! Lists of a whole cluster, page by page: what is not needed of an object is let go before the next page comes.

use std::fmt::Debug;

use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

/// Objects of one answer, as `kubectl` asks for them.
const PAGE: u32 = 500;

/// Hands over every object that the API server has.
pub async fn each<K>(api: &Api<K>, mut take: impl FnMut(K)) -> kube::Result<()>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        page.items.into_iter().for_each(&mut take);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(()),
        }
    }
}

/// All objects of one of Weft's kinds in all namespaces. Those that this version cannot read are left out, as the operator
/// leaves them out, and told of.
pub async fn readable<K>(client: &Client, tell: impl Fn(String)) -> kube::Result<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    let mut all = Vec::new();
    let unreadable = |kind: &str, name: &str, error: String| {
        tell(format!("{kind} {name} is left out: this version of kubectl-weft cannot read it ({error})"));
    };
    each(&api, |object| {
        let name = match object.namespace() {
            Some(namespace) => format!("{namespace}/{}", object.name_any()),
            None => object.name_any(),
        };
        match object.try_parse::<K>() {
            Ok(object) => all.push(object),
            Err(error) => unreadable(&K::kind(&()), &name, error.to_string()),
        }
    })
    .await?;
    Ok(all)
}

#[cfg(test)]
mod tests;
