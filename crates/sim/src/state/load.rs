//! How busy a GPU is, and what follows from that: temperature, power, clocks, energy, traffic.
//!
//! Nothing is sampled in the background. Finished work is written into spans of 100 ms, work under way is known by when it
//! began, and whoever asks adds the two up over the time that interests it.

use std::sync::atomic::Ordering::Relaxed;

use super::{
    Gpu,
    file::{SPANS, Window},
    now_ns,
};

const SPAN_NS: u64 = 100_000_000;
const MICROSECOND: u64 = 1_000;
/// What a real driver's utilisation looks back on.
const UTILISATION_NS: u64 = 1_000_000_000;
/// A cooler's answer: after this time, 63 % of the way to the new temperature.
const THERMAL_SECONDS: f64 = 6.0;
/// Even hard work leaves a real board a little under its limit.
const FULL_LOAD_OF_LIMIT: f64 = 0.93;
/// Kernels leave the memory bus idle for part of the time.
const MEMORY_OF_WORK: f64 = 0.55;

/// A GPU's readings at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Part of the last second in which something ran, 0 to 100.
    pub gpu_percent: u32,
    /// Part of the last second in which memory was read or written, 0 to 100.
    pub memory_percent: u32,
    /// °C.
    pub temperature_c: u32,
    /// °C of the memory chips.
    pub memory_temperature_c: u32,
    /// Milliwatts.
    pub power_mw: u32,
    /// Multiprocessor clock, MHz.
    pub clock_mhz: u32,
    /// Since the machine was made, millijoules; never goes back.
    pub energy_mj: u64,
    /// Nothing ran in the last second.
    pub idle: bool,
    /// Kernel launches since the machine was made.
    pub launches: u64,
    /// GPU time of all work since the machine was made, nanoseconds.
    pub busy_ns: u64,
}

/// What went over a GPU's links since the machine was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// GPU to host, bytes.
    pub pcie_tx_bytes: u64,
    /// Host to GPU, bytes.
    pub pcie_rx_bytes: u64,
    /// GPU to host in the last second, KiB.
    pub pcie_tx_kib_per_second: u64,
    /// Host to GPU in the last second, KiB.
    pub pcie_rx_kib_per_second: u64,
    /// Sent over NVLink, bytes.
    pub nvlink_tx_bytes: u64,
    /// Received over NVLink, bytes.
    pub nvlink_rx_bytes: u64,
}

impl Gpu<'_> {
    /// How busy the GPU is, and what a driver would read from its sensors.
    pub fn load(&self) -> Load {
        self.machine.reap();
        let (now, facts, record) = (now_ns(), self.facts, self.record);
        let board = &facts.board;
        let fraction = self.busy_fraction(now, UTILISATION_NS);
        let idle = fraction == 0.0;

        let span = |low: u32, high: f64| f64::from(low) + (high - f64::from(low)) * fraction;
        let full_load_watts = f64::from(board.power_watts.limit) * FULL_LOAD_OF_LIMIT;
        let heat = self.recent_work(now);
        let (cool, hot) = (f64::from(board.temperature_c.idle), f64::from(board.temperature_c.busy));
        // Boards further down the air stream are a little warmer.
        let temperature = cool + (hot - cool) * heat + f64::from(facts.index as u32 % 4);

        let busy_ns =
            record.busy_ns.load(Relaxed) + self.running(now).map(|since| now.saturating_sub(since)).sum::<u64>();
        let idle_watts = f64::from(board.power_watts.idle);
        let joules = idle_watts * self.machine.uptime_seconds() + (full_load_watts - idle_watts) * busy_ns as f64 / 1e9;
        let energy = (joules * 1e3) as u64;

        Load {
            gpu_percent: (fraction * 100.0).round() as u32,
            memory_percent: (fraction * MEMORY_OF_WORK * 100.0).round() as u32,
            temperature_c: temperature.round() as u32,
            memory_temperature_c: (temperature + 4.0 + 8.0 * heat).round() as u32,
            power_mw: (span(board.power_watts.idle, full_load_watts) * 1e3).round() as u32,
            clock_mhz: if idle && !self.machine.has_contexts(facts.index) {
                board.clocks_mhz.idle
            } else {
                board.clocks_mhz.max
            },
            energy_mj: record.energy_mj.fetch_max(energy, Relaxed).max(energy),
            idle,
            launches: record.launches.load(Relaxed),
            busy_ns,
        }
    }

    /// What went over the GPU's links.
    pub fn traffic(&self) -> Traffic {
        let (record, now) = (self.record, now_ns());
        let second = now.saturating_sub(UTILISATION_NS);
        Traffic {
            pcie_tx_bytes: record.pcie_tx_bytes.load(Relaxed),
            pcie_rx_bytes: record.pcie_rx_bytes.load(Relaxed),
            pcie_tx_kib_per_second: record.tx.sum(second, now),
            pcie_rx_kib_per_second: record.rx.sum(second, now),
            nvlink_tx_bytes: record.nvlink_tx_bytes.load(Relaxed),
            nvlink_rx_bytes: record.nvlink_rx_bytes.load(Relaxed),
        }
    }

    /// Part of the last `back_ns` in which something ran, 0 to 1.
    fn busy_fraction(&self, now: u64, back_ns: u64) -> f64 {
        let from = now.saturating_sub(back_ns);
        let finished = self.record.work.sum(from, now) * MICROSECOND;
        let running: u64 = self.running(now).map(|since| now.saturating_sub(since.max(from))).sum();
        ((finished + running) as f64 / back_ns as f64).min(1.0)
    }

    /// Work of the last seconds with the recent counting most, 0 to 1.
    fn recent_work(&self, now: u64) -> f64 {
        const STEP_NS: u64 = 5 * SPAN_NS;
        let (mut heat, mut whole) = (0.0, 0.0);
        for step in 0..(SPANS as u64 - 5) * SPAN_NS / STEP_NS {
            let to = now.saturating_sub(step * STEP_NS);
            let from = to.saturating_sub(STEP_NS);
            let running: u64 = self.running(to).map(|since| to.saturating_sub(since.max(from))).sum();
            let part = (self.record.work.sum(from, to) * MICROSECOND + running) as f64 / STEP_NS as f64;
            let weight = (-(step as f64) * STEP_NS as f64 / 1e9 / THERMAL_SECONDS).exp();
            heat += weight * part.min(1.0);
            whole += weight;
        }
        heat / whole
    }

    fn running(&self, now: u64) -> impl Iterator<Item = u64> {
        self.machine.running_since(self.facts.index).filter(move |since| *since < now)
    }
}

impl Window {
    /// Adds `amount` to the span of `at`.
    pub fn add(&self, at: u64, amount: u64) {
        let number = at / SPAN_NS;
        let tag = number << 32;
        let amount = amount.min(u64::from(u32::MAX));
        let _ignored_if_later_work_took_the_span =
            self.spans[number as usize % SPANS].fetch_update(Relaxed, Relaxed, |old| {
                let (old_tag, old_amount) = (old & !u64::from(u32::MAX), old & u64::from(u32::MAX));
                match old_tag.cmp(&tag) {
                    std::cmp::Ordering::Greater => None,
                    std::cmp::Ordering::Equal => Some(tag | (old_amount + amount).min(u64::from(u32::MAX))),
                    std::cmp::Ordering::Less => Some(tag | amount),
                }
            });
    }

    /// Spreads the microseconds from `from` to `to` over their spans; what is older than the window is forgotten.
    pub fn add_between(&self, from: u64, to: u64) {
        let mut at = from.max(to.saturating_sub((SPANS as u64 - 1) * SPAN_NS));
        while at < to {
            let end = ((at / SPAN_NS + 1) * SPAN_NS).min(to);
            self.add(at, (end - at).div_ceil(MICROSECOND));
            at = end;
        }
    }

    /// The amount between `from` and `to`, with the spans at both ends counted by the part that lies inside.
    pub fn sum(&self, from: u64, to: u64) -> u64 {
        (from / SPAN_NS..=to / SPAN_NS)
            .map(|number| {
                let span = self.spans[number as usize % SPANS].load(Relaxed);
                if span >> 32 != number & u64::from(u32::MAX) {
                    return 0;
                }
                let amount = span & u64::from(u32::MAX);
                let (start, end) = (number * SPAN_NS, (number + 1) * SPAN_NS);
                let inside = end.min(to.max(start)) - start.max(from);
                // The present span is not over: all that it has lies before now.
                if to < end && now_ns() < end { amount } else { amount * inside / SPAN_NS }
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window { spans: std::array::from_fn(|_| Default::default()) }
    }

    #[test]
    fn work_is_found_where_it_was_done() {
        let window = window();
        // Two seconds of work, from 5.05 s to 7.05 s of a clock that is long past.
        window.add_between(5_050_000_000, 7_050_000_000);
        let close = |from: u64, to: u64, want: u64| {
            let got = window.sum(from * 1_000_000, to * 1_000_000);
            assert!(got.abs_diff(want) < 60_000, "{from}..{to} ms: {got} µs, not {want}");
        };
        close(0, 5_000, 0);
        close(5_000, 7_100, 2_000_000);
        close(6_000, 7_000, 1_000_000);
        close(7_100, 9_000, 0);
    }

    #[test]
    fn a_span_is_forgotten_when_the_window_comes_round() {
        let window = window();
        window.add(1_000_000_000, 500);
        window.add(1_000_000_000 + SPANS as u64 * SPAN_NS, 7);
        window.add(1_000_000_000, 500);
        assert_eq!(window.sum(900_000_000, 1_200_000_000), 0);
    }
}
