//! The file that a decision starts from and ends in: read back as it was written, and picky about what it does not know.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod brute;
mod machines;

use brute::clusters;
use machines::{racks_of_h100, zones_and_racks};
use proptest::prelude::*;
use weft_topology::*;

fn json(text: &str) -> Result<Situation, Unreadable> {
    Situation::read(&mut serde_json::Deserializer::from_str(text))
}

fn yaml(text: &str) -> Result<Situation, Unreadable> {
    Situation::read(serde_yaml_ng::Deserializer::from_str(text))
}

fn gang() -> impl Strategy<Value = Gang> {
    let level = || prop_oneof![Just("zone"), Just("block"), Just("rack"), Just("host")].prop_map(Level::from);
    let group = (
        1u32..=4,
        0u32..=4,
        prop::option::of(level()),
        prop::option::of(level()),
        prop::option::of((level(), prop::option::of(1u32..9))),
        prop::option::of(Just("H100".to_owned())),
    );
    let groups = prop::collection::vec(group, 1..=3);
    (groups, prop::option::of(level()), prop::option::of(level()), 0u8..4, level()).prop_map(
        |(groups, required, preferred, relation, at)| {
            let groups = groups.into_iter().enumerate().map(
                |(nth, (replicas, gpus, required, preferred, balanced, product))| Group {
                    min: (replicas > 2).then_some(1),
                    resources: Resources::new().with("cpu", u64::from(gpus) * 1_000),
                    required,
                    preferred,
                    balanced: balanced.map(|(level, most)| Balance { level, most }),
                    product,
                    slices: if replicas == 4 { vec![Slice { level: at.clone(), size: 2 }] } else { vec![] },
                    ..Group::new(&format!("g{nth}"), replicas, gpus)
                },
            );
            let groups: Vec<Group> = groups.collect();
            let names: Vec<String> = groups.iter().map(|group| group.name.clone()).collect();
            let relations = match (relation, names.len()) {
                (_, 1) | (0, _) => vec![],
                (1, _) => vec![Relation::Together { groups: names, level: at }],
                (2, _) => vec![Relation::Apart { groups: names, level: at }],
                _ => vec![Relation::Leader { leader: names[0].clone(), workers: names[1].clone(), level: at }],
            };
            Gang { groups, required, preferred, relations, ..Default::default() }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_situation_with_its_answers_comes_back_as_it_was_written(
        cluster in clusters(1..=6),
        gangs in prop::collection::vec(gang(), 1..=3),
        excluded in any::<u8>(),
    ) {
        let mut situation = Situation::of(cluster);
        situation.note = "why does a wait?".into();
        for (nth, gang) in gangs.into_iter().enumerate() {
            let nodes = situation.cluster.nodes().enumerate().filter(|(at, _)| excluded >> at & 1 == 1);
            let exclusion = Exclusion::Taint { detail: "x:NoSchedule".into() };
            let verdicts = nodes.map(|(_, seat)| Verdict { group: None, node: seat.name().clone(), exclusion: exclusion.clone() });
            let verdicts = verdicts.collect();
            situation.asked.push(Asked { verdicts, ..Asked::new(&format!("ns/{nth}"), gang) });
        }
        situation.decide();
        if let Some(placement) = &situation.asked[0].placement {
            let gang = &situation.asked[0].gang;
            let running = Running::started("ns/0", gang, placement, |w| format!("{}-{}", w.group, w.index).into());
            situation.jobs.push(running);
        }
        let text = serde_json::to_string(&situation).unwrap();
        let back = json(&text).unwrap();
        prop_assert!(situation.cluster.nodes().eq(back.cluster.nodes()));
        prop_assert_eq!(&back.asked, &situation.asked);
        prop_assert_eq!(&back.jobs, &situation.jobs);
        prop_assert_eq!(serde_json::to_string(&back).unwrap(), text);
        let back = yaml(&serde_yaml_ng::to_string(&situation).unwrap()).unwrap();
        prop_assert_eq!(serde_json::to_string(&back).unwrap(), serde_json::to_string(&situation).unwrap());
        // What was read is decided as what was written.
        let mut again = back;
        again.decide();
        prop_assert_eq!(again.asked, situation.asked);
    }
}

#[test]
fn a_field_that_is_not_known_is_refused_with_its_place() {
    let refused = |text: &str, at: &str, what: &str| {
        let error = yaml(text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{at} cannot be read: ")), "{error}");
        let why = error.split_once(" cannot be read: ").unwrap().1;
        assert!(why.starts_with(&format!("unknown field `{what}`, expected ")), "{error}");
        assert!(error.ends_with("; correct it, docs/placement.md lists all fields"), "{error}");
    };
    refused("version: 1\nclustr: {}\n", "clustr", "clustr");
    refused("version: 1\ncluster: {levels: [], nodez: []}\n", "cluster.nodez", "nodez");
    refused("version: 1\ncluster: {levels: [{name: rack, label: r, order: 1}]}\n", "cluster.levels[0].order", "order");
    let asked = |gang: &str| format!("version: 1\ncluster: {{levels: []}}\nasked: [{{name: j, gang: {gang}}}]\n");
    refused(&asked("{groups: [], reqired: rack}"), "asked[0].gang.reqired", "reqired");
    refused(&asked("{groups: [{name: w, replicas: 1, gpus: 1, gpu: 2}]}"), "asked[0].gang.groups[0].gpu", "gpu");
    let error = yaml("version: 7\ncluster: {levels: []}\n").unwrap_err().to_string();
    assert_eq!(error, "the file is of version 7 and this program reads version 1: use the program that wrote it");
    let error = yaml("version: 1\n").unwrap_err().to_string();
    assert!(error.starts_with("the file cannot be read: missing field `cluster`"), "{error}");
}

/// A situation with something of every stored type, decided.
fn of_all_types() -> Situation {
    let mut cluster = racks_of_h100(1, 2);
    let claim = Claim { gpus: vec!["GPU-r0-n0-1".into()], unidentified_gpus: 1, planned: true, ..Default::default() };
    cluster.claim(&"r0-n0".into(), "pod".into(), claim);
    cluster.claim(&"later".into(), "early".into(), Claim { unidentified_gpus: 2, ..Default::default() });
    let seen = cluster.member(&"r0-n1".into()).unwrap();
    let mut facts = NodeFacts::from(seen.node.clone());
    facts.gpus[0].health = Health::unhealthy("XID 79");
    facts.assumptions.push(Assumption::RepeatedGpu { uuid: "GPU-r0-n1-0".into() });
    let allocatable = Resources::new().with("cpu", 1);
    cluster.upsert(Member { node: Node::new(facts).unwrap(), allocatable, standing: Standing::Cordoned, ..seen });
    let mut situation = Situation::of(cluster);
    let relation = Relation::Apart { groups: vec!["a".into(), "b".into()], level: "host".into() };
    let mut groups = vec![Group::new("a", 2, 1), Group { joined_by: Some(Joined::Socket), ..Group::new("b", 2, 1) }];
    groups[0].slices = vec![Slice { level: "rack".into(), size: 2 }];
    groups[0].balanced = Some(Balance { level: "host".into(), most: Some(2) });
    groups[1].preferred = Some("rack".into());
    let placed = vec![Placed { group: "a".into(), index: 0, node: "r0-n0".into() }];
    let gang = Gang { groups, relations: vec![relation], placed, ..Default::default() };
    let taint = Exclusion::Taint { detail: "t".into() };
    let verdicts = vec![Verdict { group: None, node: "x".into(), exclusion: taint }];
    let small =
        Gang { groups: vec![Group { preferred: Some("rack".into()), ..Group::new("s", 1, 1) }], ..Default::default() };
    situation.asked.push(Asked { verdicts, ..Asked::new("no", gang.clone()) });
    let small = Gang { preferred: Some("rack".into()), ..small };
    situation.asked.push(Asked::new("yes", small));
    situation.asked.push(Asked::new("wrong", Gang::default()));
    situation.jobs.push(Running { name: "j".into(), gang, owners: vec!["o".into()], fixed: true });
    situation.decide();
    situation
}

#[test]
fn every_stored_type_refuses_what_it_does_not_know() {
    let situation = of_all_types();
    let value = serde_json::to_value(&situation).unwrap();
    assert!(json(&value.to_string()).is_ok());
    // A field more in any object, except where names are the keys, is refused.
    let mut paths = Vec::new();
    objects(&value, String::new(), &mut paths);
    assert!(paths.len() > 60, "{}", paths.len());
    for path in paths {
        let mut value = value.clone();
        let object = value.pointer_mut(&path).unwrap().as_object_mut().unwrap();
        // One word as a tag, and nothing else that could be told apart.
        let bare = object.len() == 1 && (object.contains_key("state") || object.contains_key("reason"));
        object.insert("colour".into(), "red".into());
        let read = json(&value.to_string());
        let named = path.ends_with("/labels") || path.ends_with("/allocatable") || path.ends_with("/resources");
        match read {
            Ok(_) => assert!(bare || named, "{path} takes any field"),
            Err(error) => assert!(named || error.to_string().contains("colour"), "{path}: {error}"),
        }
    }
}

fn objects(value: &serde_json::Value, path: String, paths: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                objects(value, format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), paths);
            }
            paths.push(path);
        }
        serde_json::Value::Array(values) => {
            for (nth, value) in values.iter().enumerate() {
                objects(value, format!("{path}/{nth}"), paths);
            }
        }
        _ => {}
    }
}

/// Where there is anything at all in a value.
fn places(value: &serde_json::Value, path: String, places: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            fields
                .iter()
                .for_each(|(key, value)| self::places(value, format!("{path}/{}", key.replace('/', "~1")), places));
        }
        serde_json::Value::Array(values) => {
            values.iter().enumerate().for_each(|(nth, value)| self::places(value, format!("{path}/{nth}"), places));
        }
        _ => {}
    }
    places.push(path);
}

#[test]
fn what_is_wrong_with_a_value_is_said_without_words_of_rust() {
    let value = serde_json::to_value(of_all_types()).unwrap();
    let mut all = Vec::new();
    places(&value, String::new(), &mut all);
    let mut refused = 0;
    for path in all {
        for wrong in ["\"red\"", "-1", "1.5", "true", "null", "[]", "[1]", "{}"] {
            let mut value = value.clone();
            *value.pointer_mut(&path).unwrap() = serde_json::from_str(wrong).unwrap();
            // YAML is read slowly, and says the same but for the place.
            let text = value.to_string();
            let reads = [Some(json(&text)), (wrong == "\"red\"").then(|| yaml(&text))];
            for error in reads.into_iter().flatten().filter_map(Result::err) {
                let error = error.to_string();
                refused += 1;
                for word in ["struct", "enum", "u32", "u64", "i64", "usize", "variant", "sequence", "tuple", "unit"] {
                    let of_rust = error.split(|c: char| !c.is_alphanumeric()).any(|other| other == word);
                    assert!(!of_rust, "{path} as {wrong}: {error}");
                }
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
    let said = |text: &str| yaml(text).unwrap_err().to_string();
    assert!(
        said("t/a")
            .starts_with("the file cannot be read: invalid type: string \"t/a\", expected an object with fields;")
    );
    let error = said("version: 1\ncluster: {levels: [], nodes: [{node: {name: n}, standing: ready}]}");
    assert!(
        error.contains(
            "cluster.nodes[0].standing cannot be read: invalid type: string \"ready\", expected an object with `state`"
        ),
        "{error}"
    );
}

/// The words in code quotes behind the word "expected".
fn expected(error: &str) -> Vec<String> {
    let Some((_, expected)) = error.split_once("expected ") else { return Vec::new() };
    let expected = expected.split("; correct it").next().unwrap_or_default();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_stored_field_and_kind_is_on_the_page() {
    let page = include_str!("../../../docs/placement.md");
    let page = page.split_once("\n## The file\n").unwrap().1.split_once("\n## ").unwrap().0;
    let value = serde_json::to_value(of_all_types()).unwrap();
    let mut all = Vec::new();
    places(&value, String::new(), &mut all);
    let mut words = std::collections::BTreeSet::new();
    // What could be there is told by what is refused: of a field, and of a word where there is a list of them.
    let mut refused = |value: &serde_json::Value| {
        let error = json(&value.to_string()).err().map(|error| error.to_string()).unwrap_or_default();
        let unknown = error.contains("unknown field `colour`") || error.contains("unknown value `colour`");
        let expected = if unknown { expected(&error) } else { Vec::new() };
        words.extend(expected.iter().cloned());
        expected
    };
    for path in &all {
        let mut changed = value.clone();
        let at = changed.pointer_mut(path).unwrap();
        let tag =
            ["state", "kind", "reason"].into_iter().find(|tag| at.get(tag).is_some_and(serde_json::Value::is_string));
        match at {
            serde_json::Value::Object(fields) => drop(fields.insert("colour".into(), 1.into())),
            serde_json::Value::String(word) => *word = "colour".into(),
            _ => continue,
        }
        refused(&changed);
        let Some(tag) = tag else { continue };
        *changed.pointer_mut(path).unwrap() = serde_json::json!({tag: "colour"});
        for kind in refused(&changed) {
            for other in
                [serde_json::json!({tag: kind, "colour": 1}), serde_json::json!({tag: kind, "what": {"colour": 1}})]
            {
                *changed.pointer_mut(path).unwrap() = other;
                refused(&changed);
            }
        }
    }
    for word in ["leader", "instead_of", "unidentifiedGpus", "nvlink", "minOutOfRange", "gpusUnhealthy", "domains"] {
        assert!(words.contains(word), "{word} is not among {words:?}");
    }
    let missing: Vec<_> = words
        .iter()
        .filter(|word| ![format!("`{word}`"), format!("`{word}[]`")].iter().any(|word| page.contains(word)))
        .collect();
    assert!(words.len() > 100 && missing.is_empty(), "of {} words not on the page: {missing:?}", words.len());
}

#[test]
fn a_short_file_by_hand_is_enough_to_ask() {
    let mut situation = yaml(
        "version: 1
cluster:
  levels: [{name: rack, label: rack}]
  nodes:
  - node: {name: n1, gpus: [{uuid: G0, index: 0, product: H100, memoryBytes: 1, pciBusId: \"0:1\"}]}
    labels: {rack: a}
asked:
- name: demo/one
  gang: {groups: [{name: w, replicas: 1, gpus: 1}], required: rack}
- name: demo/two
  gang: {groups: [{name: w, replicas: 1, gpus: 1}]}
  verdicts: [{node: n1, exclusion: {reason: taint, detail: \"x:NoSchedule\"}}]
",
    )
    .unwrap();
    situation.decide();
    let Some(placement) = &situation.asked[0].placement else { panic!("{:?}", situation.asked) };
    assert_eq!(placement.workers[0].node, "n1".into());
    let Some(why) = &situation.asked[1].no_placement else { panic!("{:?}", situation.asked) };
    assert_eq!(
        why.to_string(),
        "needs 1 worker × 1 GPU; no node has room for any; excluded: 1 node: taint (x:NoSchedule)"
    );
    assert!(zones_and_racks().nodes().next().is_none());
}
