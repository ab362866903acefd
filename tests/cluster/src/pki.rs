//! Keys, certificates and kubeconfig files, made new for every cluster.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use base64::{Engine, prelude::BASE64_STANDARD as BASE64};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::{
    error::{Doing, Result, read, write},
    network::{API_SERVICE, CONTROL_PLANE, node_address},
};

/// The folder with a cluster's keys.
#[derive(Debug, Clone)]
pub(crate) struct Pki {
    folder: PathBuf,
}

/// One of the two authorities: of the cluster, and of the API server's aggregation layer.
#[derive(Clone, Copy)]
enum Authority {
    Cluster,
    FrontProxy,
}

impl Authority {
    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "ca",
            Self::FrontProxy => "front-proxy-ca",
        }
    }
}

impl Pki {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// The user's name for a node's kubelet, as the node authorizer wants it.
    pub fn node_user(node: &str) -> String {
        format!("kubelet-{node}")
    }

    /// Makes everything that the control plane needs.
    pub fn make(&self, api_port: u16) -> Result<()> {
        for authority in [Authority::Cluster, Authority::FrontProxy] {
            let key = KeyPair::generate()?;
            let certificate = authority_params(authority)?.self_signed(&key)?;
            self.save(authority.name(), &certificate.pem(), &key)?;
        }
        let accounts = KeyPair::generate()?;
        write(&self.path("service-accounts.pub"), accounts.public_key_pem())?;
        self.save_key("service-accounts", &accounts)?;

        let names = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "localhost",
        ];
        let addresses = [Ipv4Addr::LOCALHOST, CONTROL_PLANE, API_SERVICE];
        self.issue(Authority::Cluster, "apiserver", "kube-apiserver", None, &names, &addresses)?;
        self.issue(Authority::Cluster, "apiserver-kubelet", "apiserver-kubelet", Some("system:masters"), &[], &[])?;
        self.issue(Authority::FrontProxy, "front-proxy", "front-proxy", None, &[], &[])?;
        let users = [
            ("admin", "admin", Some("system:masters")),
            ("controller-manager", "system:kube-controller-manager", None),
            ("scheduler", "system:kube-scheduler", None),
            ("coredns", "weft:coredns", None),
        ];
        for (file, user, group) in users {
            self.issue(Authority::Cluster, file, user, group, &[], &[])?;
            self.kubeconfig(
                &self.path(&format!("{file}.kubeconfig")),
                file,
                &format!("https://{CONTROL_PLANE}:443"),
                false,
            )?;
        }
        // For people and programs outside of the cluster's network; complete in itself, so that it can be copied.
        self.kubeconfig(&self.path("host.kubeconfig"), "admin", &format!("https://127.0.0.1:{api_port}"), true)
    }

    /// Makes a kubelet's certificate (client and server) and kubeconfig.
    pub fn make_node(&self, index: usize, node: &str) -> Result<()> {
        let file = Self::node_user(node);
        let addresses = [node_address(index), Ipv4Addr::LOCALHOST];
        self.issue(
            Authority::Cluster,
            &file,
            &format!("system:node:{node}"),
            Some("system:nodes"),
            &[node],
            &addresses,
        )?;
        self.kubeconfig(
            &self.path(&format!("{file}.kubeconfig")),
            &file,
            &format!("https://{CONTROL_PLANE}:443"),
            false,
        )
    }

    fn issue(
        &self,
        authority: Authority,
        file: &str,
        user: &str,
        group: Option<&str>,
        names: &[&str],
        addresses: &[Ipv4Addr],
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(IpAddr::V4(*address))));
        params.distinguished_name = DistinguishedName::new();
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.distinguished_name.push(DnType::CommonName, user);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let authority_key = KeyPair::from_pem(&read(&self.path(&format!("{}.key", authority.name())))?)?;
        let issuer = Issuer::new(authority_params(authority)?, authority_key);
        let certificate = params.signed_by(&key, &issuer)?;
        self.save(file, &certificate.pem(), &key)
    }

    fn save(&self, name: &str, certificate: &str, key: &KeyPair) -> Result<()> {
        write(&self.path(&format!("{name}.crt")), certificate)?;
        self.save_key(name, key)
    }

    fn save_key(&self, name: &str, key: &KeyPair) -> Result<()> {
        let path = self.path(&format!("{name}.key"));
        write(&path, key.serialize_pem())?;
        owner_only(&path)
    }

    /// Writes a kubeconfig (JSON, which is YAML). `embed` puts keys into it, else it names their files.
    fn kubeconfig(&self, path: &Path, user: &str, server: &str, embed: bool) -> Result<()> {
        let (authority, certificate, key) =
            (self.path("ca.crt"), self.path(&format!("{user}.crt")), self.path(&format!("{user}.key")));
        let (cluster, user) = if embed {
            let data = |path: &Path| Ok::<_, crate::Error>(BASE64.encode(read(path)?));
            (
                serde_json::json!({"server": server, "certificate-authority-data": data(&authority)?}),
                serde_json::json!({"client-certificate-data": data(&certificate)?, "client-key-data": data(&key)?}),
            )
        } else {
            (
                serde_json::json!({"server": server, "certificate-authority": authority}),
                serde_json::json!({"client-certificate": certificate, "client-key": key}),
            )
        };
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "weft",
            "clusters": [{"name": "weft", "cluster": cluster}],
            "users": [{"name": "weft", "user": user}],
            "contexts": [{"name": "weft", "context": {"cluster": "weft", "user": "weft"}}],
        });
        write(path, format!("{config:#}\n"))?;
        owner_only(path)
    }
}

/// The same for every call, so that an authority can be used again from nothing but its key file.
fn authority_params(authority: Authority) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("weft-{}", authority.name()));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn owner_only(path: &Path) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).doing(|| format!("protecting {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_added_later_is_signed_by_the_same_authority() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new(folder.path().to_owned());
        pki.make(6443).unwrap();
        pki.make_node(4, "node-4").unwrap();
        let verified = std::process::Command::new("openssl")
            .args(["verify", "-CAfile"])
            .args([pki.path("ca.crt"), pki.path("kubelet-node-4.crt")])
            .output()
            .unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    }
}
