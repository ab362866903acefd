//! The fewest domains that have room for so many workers, and what these leave over.

/// More steps than this (some 5 µs) are not spent on one domain.
const MOST_STEPS: usize = 20_000;

/// More sets of domains than this (some 5 µs) are not gone through.
const MOST_SETS: u64 = 200;

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

/// The fewest of these nodes, given by their free GPUs, that have room for so many workers, or all that have any.
pub(super) fn hosts(by_free: &[u32], gpus: u32, workers: u32) -> u32 {
    let (mut rest, mut hosts) = (workers, 0);
    for (free, &nodes) in by_free.iter().enumerate().rev() {
        let room = free as u32 / gpus;
        if rest == 0 || room == 0 {
            break;
        }
        let taken = rest.div_ceil(room).min(nodes);
        hosts += taken;
        rest = rest.saturating_sub(taken.saturating_mul(room));
    }
    hosts
}

/// The fewest GPUs that workers leave over on so many of these nodes if no fewer have the room: each leaves at least what is
/// no whole worker.
pub(super) fn left_on(by_free: &[u32], gpus: u32, hosts: u32) -> u32 {
    let (mut left, mut rest) = (0, hosts);
    for over in 0..gpus {
        let nodes = by_free.iter().skip((gpus + over) as usize).step_by(gpus as usize).sum();
        let taken = rest.min(nodes);
        (left, rest) = (left + taken * over, rest - taken);
        if rest == 0 {
            break;
        }
    }
    left
}

/// A domain as far as sums tell: its room, its free GPUs, and how many nodes have how many.
#[derive(Clone, Copy)]
pub(super) struct Summed<'a> {
    pub(super) room: u32,
    pub(super) free: u32,
    pub(super) by_free: &'a [u32],
}

/// What workers use and leave over in some domains at least, the first that differs deciding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Least {
    pub(super) hosts: u32,
    pub(super) left_on_hosts: u32,
    pub(super) left: u32,
}

/// Of all sets of as few of these domains as have the room, what the workers use and leave over there at least. None if one
/// domain is enough, if all are not, or if there are too many sets.
pub(super) fn least_of_sets(domains: &[Summed<'_>], gpus: u32, workers: u32) -> Option<Least> {
    let mut domains: Vec<Summed<'_>> = domains.iter().copied().filter(|domain| domain.room > 0).collect();
    // The roomiest first: once these are not enough, nor are others.
    domains.sort_unstable_by_key(|domain| std::cmp::Reverse(domain.room));
    let (count, _) = enough(domains.iter().map(|domain| domain.room), workers)?;
    let sets = (1..=count as u64).try_fold(1, |sets, nth| {
        let sets = sets * (domains.len() as u64 + 1 - nth) / nth;
        (sets <= MOST_SETS).then_some(sets)
    });
    if count == 1 || sets.is_none() {
        return None;
    }
    let width = domains.iter().map(|domain| domain.by_free.len()).max().unwrap_or(0);
    let mut sets = Sets { domains: &domains, gpus, workers, by_free: vec![0; width], least: None };
    sets.grow(0, count, 0, 0);
    sets.least
}

/// Sets being gone through.
struct Sets<'a> {
    domains: &'a [Summed<'a>],
    gpus: u32,
    workers: u32,
    /// Of the domains in the set.
    by_free: Vec<u32>,
    least: Option<Least>,
}

impl Sets<'_> {
    /// Adds `count` of the domains from one on in every way.
    fn grow(&mut self, from: usize, count: usize, room: u64, free: u32) {
        if count == 0 {
            if room >= u64::from(self.workers) {
                let hosts = hosts(&self.by_free, self.gpus, self.workers);
                let left_on_hosts = left_on(&self.by_free, self.gpus, hosts);
                let least = Least { hosts, left_on_hosts, left: free.saturating_sub(self.gpus * self.workers) };
                self.least = Some(self.least.map_or(least, |other| other.min(least)));
            }
            return;
        }
        for at in from..=self.domains.len() - count {
            let domain = self.domains[at];
            let roomiest: u64 = self.domains[at..at + count].iter().map(|domain| u64::from(domain.room)).sum();
            if room + roomiest < u64::from(self.workers) {
                break;
            }
            self.by_free.iter_mut().zip(domain.by_free).for_each(|(sum, nodes)| *sum += nodes);
            self.grow(at + 1, count - 1, room + u64::from(domain.room), free.saturating_add(domain.free));
            self.by_free.iter_mut().zip(domain.by_free).for_each(|(sum, nodes)| *sum -= nodes);
        }
    }
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

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn of_the_smallest_sets_the_least_of_all_is_found(
            nodes in prop::collection::vec(prop::collection::vec(0usize..=6, 0..6), 1..7), gpus in 1u32..=3,
            workers in 1u32..=20, more in 0u32..=5,
        ) {
            let by_free = |nodes: &[usize]| {
                let most = nodes.iter().max().map_or(0, |most| most + 1);
                (0..most).map(|free| nodes.iter().filter(|&&node| node == free).count() as u32).collect::<Vec<u32>>()
            };
            let room = |nodes: &[usize]| nodes.iter().map(|&free| free as u32 / gpus).sum::<u32>();
            // Some GPUs are free that are not whole.
            let free = |nodes: &[usize]| nodes.iter().sum::<usize>() as u32 + more;
            let lists: Vec<Vec<u32>> = nodes.iter().map(|nodes| by_free(nodes)).collect();
            let domains: Vec<Summed<'_>> = nodes
                .iter()
                .zip(&lists)
                .map(|(nodes, by_free)| Summed { room: room(nodes), free: free(nodes), by_free })
                .collect();
            let sets = (0usize..1 << nodes.len()).filter_map(|set| {
                let all: Vec<&Vec<usize>> = nodes.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1).map(|one| one.1).collect();
                let together: Vec<usize> = all.iter().copied().flatten().copied().collect();
                if room(&together) < workers {
                    return None;
                }
                // The fewest nodes are the roomiest ones; so many of them leave the least that is no whole worker.
                let mut roomy = together.clone();
                roomy.sort_unstable_by_key(|&free| std::cmp::Reverse(free / gpus as usize));
                let mut rest = workers;
                let hosts = roomy.iter().take_while(|&&free| {
                    let open = rest > 0;
                    rest = rest.saturating_sub(free as u32 / gpus);
                    open
                });
                let hosts = hosts.count();
                let mut over: Vec<u32> = roomy.iter().map(|&free| free as u32).filter(|&free| free >= gpus).map(|free| free % gpus).collect();
                over.sort_unstable();
                let least = Least {
                    hosts: hosts as u32,
                    left_on_hosts: over[..hosts].iter().sum(),
                    left: all.iter().map(|nodes| free(nodes)).sum::<u32>() - gpus * workers,
                };
                Some((all.len(), least))
            });
            let best = sets.min();
            let expected = best.filter(|(count, _)| *count > 1).map(|(_, least)| least);
            prop_assert_eq!(least_of_sets(&domains, gpus, workers), expected);
        }
    }

    #[test]
    fn too_many_sets_are_not_gone_through() {
        let by_free = [0, 4];
        let domains = |many: usize| vec![Summed { room: 4, free: 4, by_free: &by_free }; many];
        assert_eq!(least_of_sets(&domains(20), 1, 8), Some(Least { hosts: 8, left_on_hosts: 0, left: 0 }));
        assert_eq!(least_of_sets(&domains(21), 1, 8), None);
    }

    #[test]
    fn what_takes_too_long_is_not_begun() {
        let domains = [(1, 8); 200];
        assert!(LeastFree::new(&domains, 8, 8).is_some());
        assert!(LeastFree::new(&domains, 128, 8).is_none());
    }
}
