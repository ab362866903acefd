use super::*;
use crate::cluster::faults;
use crate::cluster::site::Kind;
use crate::cluster::strategy::{self, Weft};
use crate::cluster::studies::HELIOS;

fn job(submit_seconds: u64, duration_seconds: u64, workers: u32, gpus: u32) -> Job {
    Job { submit_seconds, duration_seconds, ask: Ask::of_job(workers, gpus, None) }
}

fn whole(seconds: u64) -> Window {
    Window { from_seconds: 0, to_seconds: seconds }
}

/// Replays with Weft on HGX nodes.
fn weft(nodes: usize, jobs: &[Job], faults: &[Fault], seconds: u64) -> Outcome {
    let site = Site::of(&vec![Kind::Hgx; nodes]).unwrap();
    let mut weft = Weft::new(&site).unwrap();
    replay(site, &mut weft, jobs, faults, whole(seconds)).unwrap()
}

#[test]
fn three_jobs_on_one_node_start_when_the_ones_before_end() {
    // The second needs the whole node and waits for the first; the third fits beside the first and ends before it.
    let jobs = [job(0, 100, 1, 4), job(10, 50, 1, 8), job(20, 60, 1, 2)];
    let outcome = weft(1, &jobs, &[], 200);
    assert_eq!(outcome.waits[2].seconds, [90]);
    assert_eq!(outcome.waits[1].seconds, [0, 0]);
    // 4 × 100 + 8 × 50 + 2 × 60 GPU seconds of 8 × 200.
    assert!((outcome.utilisation - 920.0 / 1600.0).abs() < 1e-12);
    assert_eq!((outcome.started, outcome.left_waiting), (3, 0));
}

#[test]
fn a_job_that_would_delay_the_head_waits_behind_it() {
    // As above, but the third would outlast the first: it starts when the second has ended.
    let jobs = [job(0, 100, 1, 4), job(10, 50, 1, 8), job(20, 90, 1, 2)];
    let outcome = weft(1, &jobs, &[], 1_000);
    assert_eq!(outcome.waits[2].seconds, [90]);
    assert_eq!(outcome.waits[1].seconds, [0, 130]);
}

#[test]
fn a_job_that_leaves_the_head_its_room_may_outlast_its_start() {
    // Two nodes: the head needs one of them whole when the first job ends; the third sits on the other for longer.
    let jobs = [job(0, 100, 1, 4), job(0, 1_000, 1, 5), job(10, 50, 1, 8), job(20, 900, 1, 3)];
    let outcome = weft(2, &jobs, &[], 1_000);
    assert_eq!(outcome.waits[2].seconds, [90]);
    assert_eq!(outcome.waits[1].seconds, [0, 0, 0]);
}

#[test]
fn gpus_that_are_idle_but_in_pieces_are_counted_as_lost() {
    // Two nodes with five of eight GPUs in use each: six idle GPUs, and a job for six waits for 3,600 s.
    let jobs = [job(0, 3_600, 2, 5), job(0, 100, 1, 6)];
    let outcome = weft(2, &jobs, &[], 7_200);
    assert!((outcome.lost_gpu_hours - 6.0).abs() < 1e-9, "{}", outcome.lost_gpu_hours);
    // A job for seven needs more than there is: nothing is lost on it.
    let jobs = [job(0, 3_600, 2, 5), job(0, 100, 1, 7)];
    assert_eq!(weft(2, &jobs, &[], 7_200).lost_gpu_hours, 0.0);
}

/// On the first node, from 50 s to 80 s.
const GPU_3_FAILS: Fault = Fault { at_seconds: 50, repaired_seconds: 80, host: 0, gpu: Some(3) };

#[test]
fn a_worker_on_a_failed_gpu_goes_elsewhere_at_once_if_there_is_room() {
    // The second job comes after the repair, to the node that the first was on.
    let jobs = [job(0, 100, 1, 8), job(90, 100, 1, 8)];
    let outcome = weft(2, &jobs, &[GPU_3_FAILS], 1_000);
    assert_eq!((outcome.replaced, outcome.interrupted), (1, 0));
    assert_eq!(outcome.waits[2].seconds, [0, 0]);
}

#[test]
fn a_job_whose_failed_worker_has_no_room_waits_and_runs_on_for_the_time_it_had_left() {
    // 50 s before the failure, 50 s after the repair at 80: the GPUs are free for the second job at 130.
    let jobs = [job(0, 100, 1, 8), job(60, 10, 1, 8)];
    let outcome = weft(1, &jobs, &[GPU_3_FAILS], 1_000);
    assert_eq!((outcome.replaced, outcome.interrupted), (0, 1));
    assert_eq!(outcome.waits[2].seconds, [0, 70]);
}

#[test]
fn a_node_that_fails_takes_only_its_own_workers_and_counts_as_broken() {
    let fault = Fault { at_seconds: 0, repaired_seconds: 400, host: 2, gpu: None };
    let outcome = weft(3, &[job(10, 100, 2, 8)], &[fault], 400);
    assert_eq!((outcome.replaced, outcome.interrupted), (0, 0));
    // 16 GPUs for 100 s of the 16 that worked for 400 s.
    assert!((outcome.utilisation - 0.25).abs() < 1e-12, "{}", outcome.utilisation);
}

#[test]
fn a_job_has_full_nvlink_if_all_of_its_workers_have_and_jobs_of_single_gpus_do_not_count() {
    // Cards in bridged pairs: of two nodes, one with a single GPU of each pair free.
    let site = Site::of(&[Kind::Bridged; 2]).unwrap();
    let share = |seats: &[(usize, [usize; 2])]| {
        let jobs = [job(0, 10, seats.len() as u32, 2), job(0, 10, 1, 1)];
        let seat = |(n, &(host, gpus)): (usize, &(usize, [usize; 2]))| {
            (n as u32, Seat { host, gpus: gpus.into_iter().collect() })
        };
        let mut tally = Tally::new("by hand", &jobs, whole(100));
        tally.started(0, 0, &seats.iter().enumerate().map(seat).collect(), &site);
        tally.started(1, 0, &vec![(0, Seat { host: 0, gpus: [3].into_iter().collect() })], &site);
        tally.finish().jobs_with_full_nvlink
    };
    assert_eq!(share(&[(0, [0, 1])]), 1.0);
    assert_eq!(share(&[(0, [0, 1]), (1, [2, 3])]), 1.0);
    // Half of its workers are linked in full, so the job is not.
    assert_eq!(share(&[(0, [0, 1]), (1, [1, 2])]), 0.0);
}

#[test]
fn waits_of_gangs_for_nvl72_nodes_are_counted_for_themselves_too() {
    let gang = |submit_seconds| Job { ask: Ask::of_job(2, 4, None).on_nvl72(), ..job(submit_seconds, 100, 2, 4) };
    let site = Site::of(&[Kind::Nvl72; 2]).unwrap();
    let mut weft = Weft::new(&site).unwrap();
    let jobs = [gang(0), gang(10), job(210, 10, 1, 1)];
    let outcome = replay(site, &mut weft, &jobs, &[], whole(300)).unwrap();
    assert_eq!(outcome.nvl72_waits.seconds, [0, 90]);
    assert_eq!(outcome.waits[2].seconds, [0, 90]);
    assert_eq!(outcome.waits[0].seconds, [0]);
}

#[test]
fn a_full_replay_gives_no_gpu_away_twice_and_the_same_result_for_the_same_seed() {
    let window = Window { from_seconds: 6 * 3_600, to_seconds: 36 * 3_600 };
    let run = |seed| -> Vec<Outcome> {
        let site = Site::new(64).unwrap();
        let jobs = HELIOS.jobs(&site, 0.95, window, seed);
        let faults = faults::draw(&site, faults::PER_THOUSAND_NODE_DAYS, window.to_seconds, seed);
        // `Site::take` fails on a GPU that is in use or broken.
        let strategies = strategy::all(&site, seed).unwrap();
        strategies.into_iter().map(|mut s| replay(site.clone(), s.as_mut(), &jobs, &faults, window).unwrap()).collect()
    };
    let same = |a: &Outcome, b: &Outcome| {
        (a.utilisation, a.lost_gpu_hours, a.jobs_with_full_nvlink, &a.waits, &a.racks, a.decisions, a.started)
            == (b.utilisation, b.lost_gpu_hours, b.jobs_with_full_nvlink, &b.waits, &b.racks, b.decisions, b.started)
    };
    let (first, again, other) = (run(1), run(1), run(2));
    for (a, b) in first.iter().zip(&again) {
        assert!(same(a, b), "{}", a.strategy);
        assert!(a.utilisation > 0.5 && a.utilisation <= 1.0, "{} {}", a.strategy, a.utilisation);
        assert!(a.series.iter().all(|&(busy, lost)| busy + lost <= 1.0 + 1e-9), "{}", a.strategy);
    }
    assert!(!same(&first[0], &other[0]));
}
