//! The manifests for Kubernetes, held against the schemas of its API and against the node's own configuration.

use std::process::Output;

use tokio::process::Command;

use super::file;
use super::prometheus::yaml;
use crate::node::Plan;
use crate::peers::installed;

const MANIFESTS: [&str; 5] = ["config", "services", "statefulset", "disruption", "network"];

fn manifest(name: &str) -> String {
    file(&format!("deploy/kubernetes/{name}.yaml")).display().to_string()
}

#[tokio::test]
async fn the_manifests_are_what_the_api_takes() {
    for version in ["1.31", "1.36"] {
        let mut command = Command::new(installed("venv/bin/kubernetes-validate"));
        command.args(["--strict", "-k", version]).args(MANIFESTS.map(manifest));
        let Output { status, stdout, stderr } = command.output().await.expect("kubernetes-validate");
        let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        assert!(status.success(), "Kubernetes {version}: {said}");
        assert_eq!(said.matches(" passed ").count(), MANIFESTS.len() + 1, "{said}");
    }
    let listed = yaml(&file("deploy/kubernetes/kustomization.yaml")).await;
    assert_eq!(listed[0]["resources"], serde_json::json!(MANIFESTS.map(|name| format!("{name}.yaml"))));
}

/// A node takes the configuration of the ConfigMap with the environment of the pod, and listens where the probes, the
/// services and the network policy look for it.
#[tokio::test]
async fn the_node_takes_what_the_pod_gives_it() {
    let [config, set] =
        [yaml(&file("deploy/kubernetes/config.yaml")).await, yaml(&file("deploy/kubernetes/statefulset.yaml")).await];
    let text = config[0]["data"]["node.toml"].as_str().expect("the configuration").to_owned();
    let node = Plan::sandbox().prepare();
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let path = directory.path().join("node.toml");
    std::fs::write(&path, &text).expect("a file");
    let pod = &set[0]["spec"]["template"]["spec"]["containers"][0];
    let mut command = node.command(&["config", "print", "--config", path.to_str().expect("a path")]);
    for variable in pod["env"].as_array().expect("an environment") {
        let name = variable["name"].as_str().expect("a name");
        let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
        let value = match (field, variable["value"].as_str()) {
            (Some("metadata.labels['apps.kubernetes.io/pod-index']"), _) => "2".to_owned(),
            (Some("metadata.name"), _) => "construct-2".to_owned(),
            (_, Some(value)) => value.replace("$(POD_NAME)", "construct-2").replace("$(CONSTRUCT__NODE__ID)", "2"),
            other => panic!("{name}: {other:?}"),
        };
        command.env(name, value);
    }
    let printed = command.output().await.expect("the binary runs");
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let printed: toml::Table = String::from_utf8_lossy(&printed.stdout).parse().expect("TOML");
    let set_to = |section: &str, key: &str| printed[section][key].clone();
    assert_eq!(set_to("node", "id").as_integer(), Some(2));
    assert_eq!(set_to("cluster", "address").as_str(), Some("construct-2.construct-nodes:8082"));
    let join = set_to("cluster", "join").as_array().cloned().expect("a list");
    assert!(join.contains(&set_to("cluster", "address")), "{join:?}");
    let mounts = pod["volumeMounts"].as_array().expect("mounts");
    let token_file = set_to("cluster", "token_file");
    let token_file = token_file.as_str().expect("a path");
    let mounted = mounts.iter().find(|mount| mount["name"] == "join").expect("a mount")["mountPath"].as_str();
    assert_eq!(token_file.strip_suffix("/2"), mounted);
    let work = pod["workingDir"].as_str().expect("a directory");
    assert_eq!(set_to("node", "data_dir").as_str().and_then(|dir| dir.strip_prefix(work)), Some("/data"));
    assert!(mounts.iter().any(|mount| mount["name"] == "data" && mount["mountPath"] == work));
    for (section, port) in [("gateway", "http"), ("cluster", "cluster"), ("telemetry", "telemetry")] {
        let ports = pod["ports"].as_array().expect("ports");
        let found = ports.iter().find(|known| known["name"] == port).expect("a port")["containerPort"].as_i64();
        let listen = set_to(section, "listen");
        let (_, listens) = listen.as_str().and_then(|address| address.rsplit_once(':')).expect("an address");
        assert_eq!(listens.parse::<i64>().ok(), found, "{section}");
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(pod[probe]["httpGet"]["port"], "telemetry", "{probe}");
    }
}
