//! The chart, against a real API server: what it renders is accepted, wrong values are not, and install, upgrade, uninstall and install again keep
//! what is people's.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use weft_cluster::{Cluster, Options};

use crate::progress::Console;
use crate::{process, tools};

/// The control plane that this test makes and removes: no nodes, so it is there after seconds.
const CLUSTER: &str = "chart";
const NAMESPACE: &str = "weft-system";
/// The job that must survive all of this.
const JOB: &str = "gang.yaml";
const POLICY_PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

/// Values that must be refused before anything is applied, and the word by which the message names them.
const WRONG_VALUES: [(&str, &str); 6] = [
    ("image.pulPolicy=Always", "pulPolicy"),
    ("driver.root=opt/driver", "/driver/root"),
    ("topology.levels[0].name=host", "/topology/levels/0/name"),
    ("operator.replicas=two", "/operator/replicas"),
    ("agent.updateStrategy.rollingUpdate.maxSurge=1", "/agent/updateStrategy/rollingUpdate/maxSurge"),
    ("metrics.podMonitor.enabled=maybe", "/metrics/podMonitor/enabled"),
];

/// What needs no API server.
pub fn lint() -> Result<()> {
    let helm = tools::helm()?;
    process::run("helm lint", Command::new(&helm).arg("lint").arg("--strict").arg(chart()))?;
    for (value, named) in WRONG_VALUES {
        let refused = process::output(Command::new(&helm).args(["template", "weft", "--set", value]).arg(chart()));
        match refused {
            Ok(_) => bail!("the chart's schema accepts --set {value}"),
            Err(error) if error.to_string().contains(named) => {}
            Err(error) => bail!("the message about --set {value} does not name {named}: {error}"),
        }
    }
    println!("    {} wrong values are refused and named", WRONG_VALUES.len());
    Ok(())
}

/// What needs one, which it makes.
pub fn lifecycle() -> Result<()> {
    let cluster = Cluster::up(Options::new(CLUSTER), &Console::new())?;
    let result = install_upgrade_uninstall(&cluster);
    weft_cluster::down(CLUSTER, &Console::new())?;
    result
}

fn install_upgrade_uninstall(cluster: &Cluster) -> Result<()> {
    let older = older_chart()?;
    let older = older.path().to_string_lossy().into_owned();
    let chart = chart().to_string_lossy().into_owned();
    let examples = tools::workspace_root().join("deploy/examples").to_string_lossy().into_owned();
    let helm = |verb: &str, chart: &str, more: &[&str]| {
        cluster.helm(&[&[verb, "weft", chart, "--namespace", NAMESPACE], more].concat())
    };
    let get = |what: &[&str]| cluster.kubectl(&[&["get"], what].concat());
    let first_column =
        ["crd", "gpujobs.weft.dev", "-o", "jsonpath={.spec.versions[0].additionalPrinterColumns[0].name}"];

    helm("install", &older, &["--create-namespace"]).context("first install")?;
    ensure!(get(&first_column)? != "Phase", "the older chart is not older: its CRD has the column Phase");
    ensure!(
        get(&["gputopology", "default", "-o", "jsonpath={.spec.levels[*].name}"])? == "zone rack",
        "the default levels are not there"
    );
    println!("    installed; applying every example, as a dry run");
    cluster.kubectl(&["apply", "--dry-run=server", "-f", &examples])?;
    cluster.kubectl(&["apply", "-f", &format!("{examples}/{JOB}")])?;

    let levels =
        ["--set", "topology.levels[0].name=building", "--set", "topology.levels[0].nodeLabel=example.com/building"];
    helm("upgrade", &chart, &levels).context("upgrade")?;
    let column = get(&first_column)?;
    ensure!(column == "Phase", "helm upgrade did not upgrade the CRD: its first column is {column:?}");
    let levels = get(&["gputopology", "default", "-o", "jsonpath={.spec.levels[*].name}"])?;
    ensure!(levels == "building", "helm upgrade did not change the levels: {levels:?}");
    get(&["gpujob", "gang"]).context("the job did not survive the upgrade")?;
    println!("    upgraded: the CRD has its new column, the job is still there");

    cluster.helm(&["uninstall", "weft", "--namespace", NAMESPACE])?;
    let left = get(&[
        "daemonsets,deployments,serviceaccounts",
        "-n",
        NAMESPACE,
        "-l",
        "app.kubernetes.io/name=weft",
        "-o",
        "name",
    ])?;
    ensure!(left.is_empty(), "helm uninstall left {left}");
    let rules = get(&[
        "clusterroles,clusterrolebindings,validatingadmissionpolicies",
        "-l",
        "app.kubernetes.io/name=weft",
        "-o",
        "name",
    ])?;
    ensure!(rules.is_empty(), "helm uninstall left {rules}");
    get(&["gpujob", "gang"]).context("the job did not survive the uninstall")?;
    get(&["gputopology", "default"]).context("the levels did not survive the uninstall")?;
    println!("    uninstalled: nothing is left but the CRDs, the levels and the job");

    helm("install", &chart, &[]).context("install over what an uninstall keeps")?;
    println!("    installed again over what was kept");
    own_node_only(cluster)?;
    ordinary_roles(cluster)
}

/// Who may edit a namespace may make jobs there and sees no other's; who may view it reads them.
fn ordinary_roles(cluster: &Cluster) -> Result<()> {
    for role in ["edit", "view"] {
        let user = format!("--user={role}or");
        cluster.kubectl(&["create", "rolebinding", role, "--clusterrole", role, &user, "--namespace", "default"])?;
    }
    let can = |user: &str, verb: &str, what: &str, namespace: &str| -> Result<bool> {
        let words = ["auth", "can-i", verb, what, "--as", user, "--namespace", namespace];
        // Its exit status says the same, as an error.
        Ok(cluster.kubectl_command()?.args(words).output()?.stdout.starts_with(b"yes"))
    };
    // The controller manager joins the roles within seconds.
    let deadline = Instant::now() + POLICY_PATIENCE;
    while !can("editor", "create", "gpujobs.weft.dev", "default")? {
        ensure!(Instant::now() < deadline, "who may edit the namespace default may not create GpuJobs there");
        std::thread::sleep(LOOK);
    }
    ensure!(can("viewor", "list", "gpujobs.weft.dev", "default")?, "who may view the namespace cannot read its jobs");
    let wrong = [
        ("viewor", "create", "gpujobs.weft.dev", "default"),
        ("editor", "create", "gpujobs.weft.dev", "kube-system"),
        ("editor", "list", "gpunodes.weft.dev", "default"),
    ];
    for (user, verb, what, namespace) in wrong {
        ensure!(!can(user, verb, what, namespace)?, "{user} may {verb} {what} in {namespace}");
    }
    println!("    the roles view and edit cover GpuJobs, in their namespace alone");
    Ok(())
}

/// The agent's identity may write the GpuNode of its own node and no other.
fn own_node_only(cluster: &Cluster) -> Result<()> {
    let agent = format!("system:serviceaccount:{NAMESPACE}:weft-agent");
    let write = |node: &str| {
        let file = tempfile::NamedTempFile::new()?;
        fs::write(
            file.path(),
            format!("apiVersion: weft.dev/v1alpha1\nkind: GpuNode\nmetadata: {{name: {node}}}\nspec: {{}}\n"),
        )?;
        let mut kubectl = cluster.kubectl_command()?;
        kubectl.args([
            "apply",
            "--server-side",
            "--as",
            &agent,
            "--as-user-extra",
            "authentication.kubernetes.io/node-name=node-1",
            "-f",
        ]);
        process::output(kubectl.arg(file.path()))
    };
    write("node-1").context("the agent of node-1 must be able to write GpuNode node-1")?;
    // The API server takes up a new policy within seconds, not at once.
    let deadline = Instant::now() + POLICY_PATIENCE;
    loop {
        match write("node-2") {
            Err(error) if error.to_string().contains("may write only its own GpuNode") => break,
            Err(error) => return Err(error.context("the agent of node-1 writing GpuNode node-2")),
            Ok(_) if Instant::now() > deadline => bail!("the agent of node-1 can write GpuNode node-2"),
            Ok(_) => std::thread::sleep(LOOK),
        }
    }
    println!("    an agent writes its own GpuNode and no other");
    Ok(())
}

/// The chart with a CRD of GpuJob that lacks its first column, as an earlier version might.
fn older_chart() -> Result<tempfile::TempDir> {
    let older = tempfile::tempdir()?;
    let copy = Command::new("cp").arg("--recursive").arg(chart().join(".")).arg(older.path()).status()?;
    ensure!(copy.success(), "cannot copy the chart to {}", older.path().display());
    let file = older.path().join("files/crds/weft.dev_gpujobs.yaml");
    let column = "    - jsonPath: .status.phase\n      name: Phase\n      type: string\n";
    let definition = fs::read_to_string(&file)?;
    ensure!(definition.contains(column), "{} has no column Phase: this test wants one to leave out", file.display());
    fs::write(&file, definition.replace(column, ""))?;
    Ok(older)
}

fn chart() -> PathBuf {
    tools::workspace_root().join("charts/weft")
}
