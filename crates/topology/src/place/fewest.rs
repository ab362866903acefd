//! The fewest domains that have room for so many workers, and what these leave over.

/// More steps than this (some 5 µs) are not spent on one domain.
const MOST_STEPS: usize = 20_000;

/// How many of these rooms, the largest first, are enough for so many workers, and what room that is; none if all are not.
pub(super) fn enough(rooms: impl Iterator<Item = u32>, workers: u32) -> Option<(usize, u64)> {
    let mut sum = 0u64;
    let last = rooms.enumerate().find_map(|(nth, room)| {
        sum += u64::from(room);
        (sum >= u64::from(workers)).then_some(nth)
    })?;
    Some((last + 1, sum))
}

/// The largest rooms, as many as are enough for so many workers, or all.
pub(super) fn fewest(mut rooms: Vec<u32>, workers: u32) -> Vec<u32> {
    rooms.sort_unstable_by(|a, b| b.cmp(a));
    if let Some((enough, _)) = enough(rooms.iter().copied(), workers) {
        rooms.truncate(enough);
    }
    rooms
}

/// For each number of workers, how few domains have room for them, and how few GPUs are free in so many that do.
///
/// A knapsack: with one domain after the other, for each number of domains taken and of workers, the fewest free GPUs.
pub(super) struct LeastFree {
    /// By number of domains, then by number of workers.
    free: Vec<i32>,
    width: usize,
    gpus: u32,
}

impl LeastFree {
    /// More than there are free; twice that is a number, too.
    const NONE: i32 = i32::MAX / 2;

    /// Of domains with some room and some free GPUs, for up to `most` workers of so many GPUs each. None if they have no room
    /// for these, or if it takes too long.
    pub(super) fn new(domains: &[(u32, u32)], most: u32, gpus: u32) -> Option<Self> {
        let used = fewest(domains.iter().map(|&(room, _)| room).collect(), most);
        let room: u64 = used.iter().map(|&room| u64::from(room)).sum();
        let (counts, width) = (used.len(), most as usize + 1);
        let free: u64 = domains.iter().map(|&(_, free)| u64::from(free)).sum();
        if room < u64::from(most) || domains.len() * counts * width > MOST_STEPS || free >= Self::NONE as u64 {
            return None;
        }
        let mut free = vec![Self::NONE; (counts + 1) * width];
        free[0] = 0;
        for &(room, own) in domains {
            let (room, own) = (room.min(most) as usize, own as i32);
            // From the largest number down, so that no domain is taken twice.
            for count in (1..=counts).rev() {
                let (before, now) = free[(count - 1) * width..(count + 1) * width].split_at_mut(width);
                // Up to `room` workers leave nothing to the others.
                now[..=room].iter_mut().for_each(|now| *now = (*now).min(before[0] + own));
                for (now, before) in now[room + 1..].iter_mut().zip(&before[1..]) {
                    *now = (*now).min(before + own);
                }
            }
        }
        Some(Self { free, width, gpus })
    }

    /// The fewest domains that have room for so many workers, and what is left over in so many at least.
    pub(super) fn of(&self, workers: u32) -> (u32, u32) {
        let column = self.free.iter().skip(workers as usize).step_by(self.width);
        let found = (0..).zip(column).find(|(_, free)| **free < Self::NONE);
        found.map_or((u32::MAX, 0), |(count, &free)| (count, (free as u32).saturating_sub(self.gpus * workers)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed expectation is the test's own message")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn of_all_sets_of_domains_none_is_smaller_or_leaves_less(
            domains in prop::collection::vec((0u32..=5, 0u32..=7), 1..8), most in 1u32..=20, gpus in 1u32..=4,
        ) {
            // With free GPUs for its room, and some that are no whole worker or that may not be used.
            let domains: Vec<(u32, u32)> = domains.into_iter().map(|(room, more)| (room, room * gpus + more)).collect();
            let least = LeastFree::new(&domains, most, gpus);
            let room: u32 = domains.iter().map(|&(room, _)| room).sum();
            prop_assert_eq!(least.is_some(), room >= most);
            let Some(least) = least else { return Ok(()) };
            for workers in 0..=most {
                let sets = (0u32..1 << domains.len()).map(|set| {
                    let of = |at: &usize| set >> at & 1 == 1;
                    let all = (0..domains.len()).filter(of).map(|at| domains[at]);
                    all.fold((0, 0, 0), |(count, room, free), own| (count + 1, room + own.0, free + own.1))
                });
                let roomy = sets.filter(|&(_, room, _)| room >= workers);
                let best = roomy.map(|(count, _, free)| (count, free - gpus * workers)).min().unwrap();
                prop_assert_eq!(least.of(workers), best, "{} workers in {:?}", workers, domains);
            }
        }
    }

    #[test]
    fn what_takes_too_long_is_not_begun() {
        let domains = [(1, 8); 200];
        assert!(LeastFree::new(&domains, 8, 8).is_some());
        assert!(LeastFree::new(&domains, 128, 8).is_none());
    }
}
