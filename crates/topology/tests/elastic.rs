//! Elastic groups: as many workers as fit, whole slices, no fewer than the minimum.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed expectation is the test's own message")]

mod brute;
mod machines;

use brute::{check, clusters};
use proptest::prelude::*;
use weft_topology::*;

/// The gang with so many workers of each group and nothing elastic.
fn of(gang: &Gang, workers: &[u32]) -> Gang {
    let mut gang = gang.clone();
    for (group, &workers) in gang.groups.iter_mut().zip(workers) {
        (group.replicas, group.min) = (workers, None);
    }
    gang
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn as_many_workers_beyond_the_minimum_are_placed_as_fit(
        cluster in clusters(1..=6),
        first in (1u32..=6, 1u32..=4, any::<u32>(), 1u32..=2),
        second in prop::option::of((1u32..=4, 0u32..=4, any::<u32>())),
        level in prop_oneof![Just("rack"), Just("host"), Just("zone")],
        required in prop::option::weighted(0.3, Just("zone")),
    ) {
        let (replicas, gpus, min, size) = first;
        let mut group = Group::new("first", replicas.next_multiple_of(size), gpus);
        if size > 1 {
            group.slices = vec![Slice { level: level.into(), size }];
        }
        group.min = Some(1 + min % group.replicas);
        let mut gang = Gang { groups: vec![group], required: required.map(Level::from), ..Default::default() };
        if let Some((replicas, gpus, min)) = second {
            gang.groups.push(Group { min: Some(1 + min % replicas), ..Group::new("second", replicas, gpus) });
        }
        let units: Vec<u32> = gang.groups.iter().map(|group| group.slices.first().map_or(1, |slice| slice.size)).collect();
        let fits = |workers: &[u32]| place(&cluster, &of(&gang, workers)).is_ok();
        let full: Vec<u32> = gang.groups.iter().map(|group| group.replicas).collect();
        let mut expected: Vec<u32> =
            gang.groups.iter().zip(&units).map(|(group, &unit)| group.min.unwrap().next_multiple_of(unit)).collect();
        let found = place(&cluster, &gang);
        if !fits(&expected) && !fits(&full) {
            prop_assert!(found.is_err());
            return Ok(());
        }
        // All of them, or group after group as many more as fit beside the minima.
        if fits(&full) {
            expected.clone_from(&full);
        } else {
            for group in 0..full.len() {
                let more = |workers: u32| {
                    let mut more = expected.clone();
                    more[group] = workers;
                    more
                };
                let step = (expected[group]..=full[group]).step_by(units[group] as usize);
                let most = step.filter(|&workers| fits(&more(workers))).max().unwrap();
                expected = more(most);
            }
        }
        let found = found.unwrap();
        let placed: Vec<u32> =
            gang.groups.iter().map(|group| found.workers.iter().filter(|w| w.group == group.name).count() as u32).collect();
        prop_assert_eq!(&placed, &expected);
        prop_assert_eq!(found.left_out, full.iter().sum::<u32>() - expected.iter().sum::<u32>());
        if gang.groups.len() == 1 {
            check(&cluster, &gang, &found);
        }
    }
}
