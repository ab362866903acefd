//! Jobs drawn from what GPU clusters were published to run.
//!
//! Both studies are from the figures and the summary table that accompany *Characterization of Large Language Model
//! Development in the Datacenter* (Hu et al., NSDI 2024; <https://github.com/InternLM/AcmeTrace>, CC BY 4.0): the share of
//! jobs and of GPU time by number of GPUs, and the distribution of durations in powers of two, read off the curves.

use super::jobs::Job;
use super::simulation::Window;
use super::site::Site;
use crate::random::Random;
use crate::rivals::Ask;

/// A published workload.
pub struct Study {
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// GPUs of a job (a number stands for all above the one before it), per cent of jobs, mean duration in seconds. The mean
    /// is per cent of GPU time × GPU time of all jobs ÷ their number, ÷ per cent of jobs, ÷ GPUs.
    sizes: &'static [(u32, f64, f64)],
    /// Per cent of jobs that last at most 2⁰, 2¹, … 2²¹ seconds.
    durations: [f64; 22],
}

/// SenseTime's Helios, April to September 2020 (Hu et al., SC 2021): many users train models of many kinds. 1,580,464 GPU
/// jobs, 49,351 GPU seconds each on average, median duration 206 s.
pub const HELIOS: Study = Study {
    name: "helios",
    about: "many users' training, after SenseTime's Helios",
    sizes: &[
        (1, 72.189, 3_719.0),
        (2, 2.557, 16_607.0),
        (4, 5.725, 10_724.0),
        (8, 14.219, 12_671.0),
        (16, 3.031, 20_513.0),
        (32, 1.629, 23_789.0),
        (64, 0.383, 15_587.0),
        (128, 0.148, 8_082.0),
        (256, 0.064, 7_348.0),
    ],
    durations: [
        4.00, 4.93, 6.35, 7.70, 10.72, 16.15, 24.88, 37.81, 56.57, 67.58, 75.25, 84.10, 87.53, 90.75, 94.36, 96.26,
        97.77, 98.90, 99.55, 99.86, 99.96, 100.0,
    ],
};

/// Seren of Shanghai AI Laboratory's Acme, March to August 2023: language models are trained and evaluated. 663,813 GPU
/// jobs, 32,405 GPU seconds each on average, median duration 122 s.
pub const SEREN: Study = Study {
    name: "seren",
    about: "language models, after Shanghai AI Laboratory's Seren",
    sizes: &[
        (1, 54.038, 809.0),
        (2, 11.388, 630.0),
        (4, 2.520, 1_847.0),
        (8, 28.802, 1_344.0),
        (16, 1.113, 2_240.0),
        (32, 0.958, 6_304.0),
        (64, 0.497, 8_632.0),
        (128, 0.235, 15_159.0),
        (256, 0.182, 10_164.0),
        (512, 0.129, 6_560.0),
        (1024, 0.138, 6_959.0),
    ],
    durations: [
        2.18, 2.78, 5.62, 11.76, 23.38, 31.71, 37.12, 48.91, 65.63, 79.21, 88.03, 92.94, 95.99, 97.53, 98.44, 99.19,
        99.64, 99.83, 99.93, 99.98, 100.0, 100.0,
    ],
};

/// No job lasts longer: the longest of Acme's lasted 14 days.
const LONGEST_SECONDS: f64 = 14.0 * 86_400.0;

impl Study {
    /// Jobs that come at random times until the window's end, as many as ask for `load` times the site's GPU time within the
    /// window if none of them waits. Of the gangs of 16 to 64 GPUs as many ask for the nodes of NVLink domains as half fill those.
    pub fn jobs(&self, site: &Site, load: f64, window: Window, seed: u64) -> Vec<Job> {
        let mut random = Random::new(seed);
        let (from, to) = (window.from_seconds as f64, window.to_seconds as f64);
        let capacity = f64::from(site.gpus()) * (to - from);
        let on_nvl72 = self.share_on_nvl72(site);
        let base = self.mean_of_curve();
        let mut jobs = Vec::new();
        let mut offered = 0.0;
        while offered < load * capacity {
            let (gpus, mean) = self.draw_size(&mut random);
            let duration = (self.draw_duration(&mut random) * mean / base).clamp(1.0, LONGEST_SECONDS);
            let ask = if (16..=64).contains(&gpus) && random.unit() < on_nvl72 {
                Ask::of_job(gpus / 4, 4, None).on_nvl72()
            } else {
                Ask::of_job(gpus.div_ceil(8), gpus.min(8), None)
            };
            let submit = random.unit() * to;
            offered += f64::from(gpus) * ((submit + duration).min(to) - submit.max(from)).max(0.0);
            jobs.push(Job { submit_seconds: submit as u64, duration_seconds: duration as u64, ask });
        }
        jobs.sort_by_key(|job| job.submit_seconds);
        jobs
    }

    /// GPUs and the mean duration of such jobs.
    fn draw_size(&self, random: &mut Random) -> (u32, f64) {
        let mut at = random.unit() * self.sizes.iter().map(|size| size.1).sum::<f64>();
        for &(gpus, share, mean) in self.sizes {
            at -= share;
            if at < 0.0 {
                return (gpus, mean);
            }
        }
        // Rounding left a hair above the sum: the last class.
        self.sizes.last().map_or((1, 1.0), |&(gpus, _, mean)| (gpus, mean))
    }

    /// Between two powers of two, the logarithm is drawn evenly.
    fn draw_duration(&self, random: &mut Random) -> f64 {
        let at = random.unit() * 100.0;
        let above = self.durations.iter().position(|&share| at < share).unwrap_or(self.durations.len() - 1);
        let below = if above == 0 { 0.0 } else { self.durations[above - 1] };
        let part = (at - below) / (self.durations[above] - below);
        // Up to one second, everything is one second.
        if above == 0 { 1.0 } else { 2f64.powf(above as f64 - 1.0 + part) }
    }

    fn mean_of_curve(&self) -> f64 {
        let mut mean = self.durations[0] / 100.0;
        for above in 1..self.durations.len() {
            let share = (self.durations[above] - self.durations[above - 1]) / 100.0;
            // The mean of 2ˣ for x drawn evenly from a unit interval that starts at `above` − 1.
            mean += share * 2f64.powi(above as i32 - 1) / std::f64::consts::LN_2;
        }
        mean
    }

    fn share_on_nvl72(&self, site: &Site) -> f64 {
        let time = |&(gpus, share, mean): &(u32, f64, f64)| f64::from(gpus) * share * mean;
        let all: f64 = self.sizes.iter().map(time).sum();
        let gangs: f64 = self.sizes.iter().filter(|size| (16..=64).contains(&size.0)).map(time).sum();
        0.5 * site.share_of_nvl72() * all / gangs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { from_seconds: 86_400, to_seconds: 5 * 86_400 };

    #[test]
    fn the_jobs_offer_the_load_within_the_window_and_have_the_published_sizes() {
        let site = Site::new(640).unwrap();
        for study in [HELIOS, SEREN] {
            let jobs = study.jobs(&site, 0.9, WINDOW, 1);
            let within = |job: &Job| {
                let end = (job.submit_seconds + job.duration_seconds).min(WINDOW.to_seconds);
                u64::from(job.gpus()) * end.saturating_sub(job.submit_seconds.max(WINDOW.from_seconds))
            };
            let offered = jobs.iter().map(within).sum::<u64>() as f64 / f64::from(site.gpus()) / (4.0 * 86_400.0);
            assert!((offered - 0.9).abs() < 0.02, "{offered}");
            let single = jobs.iter().filter(|job| job.gpus() == 1).count() as f64 / jobs.len() as f64;
            assert!((single * 100.0 - study.sizes[0].1).abs() < 1.0, "{single}");
        }
    }

    #[test]
    fn drawn_durations_have_the_published_median_and_the_mean_of_their_curve() {
        let mut random = Random::new(3);
        let mut drawn: Vec<f64> = (0..200_000).map(|_| HELIOS.draw_duration(&mut random)).collect();
        drawn.sort_by(f64::total_cmp);
        assert!((150.0..260.0).contains(&drawn[100_000]), "median {}", drawn[100_000]);
        let mean = drawn.iter().sum::<f64>() / 200_000.0;
        assert!((mean / HELIOS.mean_of_curve() - 1.0).abs() < 0.05, "mean {mean} of {}", HELIOS.mean_of_curve());
        // 6,652 s in the summary table.
        assert!((5_500.0..8_000.0).contains(&HELIOS.mean_of_curve()), "{}", HELIOS.mean_of_curve());
    }

    #[test]
    fn the_same_seed_gives_the_same_jobs() {
        let site = Site::new(64).unwrap();
        assert_eq!(SEREN.jobs(&site, 0.5, WINDOW, 5), SEREN.jobs(&site, 0.5, WINDOW, 5));
        assert_ne!(SEREN.jobs(&site, 0.5, WINDOW, 5), SEREN.jobs(&site, 0.5, WINDOW, 6));
    }
}
