//! The best split of workers over what lies right below a domain, by dynamic programming.
//!
//! For a domain *d* let *f(d, t)* be the smallest objective with which exactly *t* workers fit below *d*. On a node it is
//! computed; for a domain it is *own(d, t)* plus the least Σ *f(child, tᵢ)* over all splits Σ *tᵢ = t*. The objective is a
//! vector compared term by term whose terms add up over the tree, and adding the same vector to two others keeps their
//! order, so the best split of the whole is made of best splits of the parts. Slices only take values of *t* away: at
//! their level a domain holds the gaps of the slices begun in it and whole slices.
//!
//! # What need not be tried
//! Where nothing of the gang runs yet, the first term that the split of a domain changes is how many of its children it
//! uses, so the best split uses as few as can be: *k*, the first number of largest rooms whose sum is enough. Then each child
//! used takes at least what the *k* − 1 roomiest others leave, and children with less room take nothing. Most often
//! that leaves one number per child, the same for all, and the best split is the *k* cheapest children.
//!
//! # The objective in few words
//! Terms lie next to each other in 64-bit words, the most important one at the top, each with enough bits for the most that
//! it can be here and one more. Then sums of vectors are sums of words, also where terms are negative, and comparing words
//! compares terms.

use std::collections::HashMap;

use super::ranks::Place;
use super::table::{Split, Spread, packed};
use crate::tree::BuildMixing;

/// Above this many steps of the dynamic programme (some 0.1 ms) a domain is split greedily, largest room first.
pub(super) const MOST_STEPS: u64 = 20_000;

/// Words for the objective where they are enough, else.
const FEW_WORDS: usize = 4;
const MANY_WORDS: usize = 12;

/// An objective, packed.
pub(super) type Row<const W: usize> = [i64; W];

/// What one child may take: nothing, or `least` to `most` workers.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) place: Place,
    /// The most that it has room for.
    pub(super) room: u32,
    pub(super) least: u32,
    pub(super) most: u32,
    /// Whether nothing is allowed, too.
    pub(super) optional: bool,
}

/// Where each term lies: its word and how far it is shifted.
pub(super) struct Layout {
    at: Vec<(u8, u8)>,
    words: usize,
}

impl Layout {
    /// For terms that are at most so large, their sign aside.
    fn new(most: &[u64]) -> Self {
        const BITS: u32 = 62;
        let mut at = vec![(0, 0); most.len()];
        let (mut word, mut used) = (0u8, 0u32);
        let mut widths = Vec::with_capacity(most.len());
        for &most in most {
            let bits = (u64::BITS - most.leading_zeros() + 2).min(BITS);
            if used + bits > BITS {
                (word, used) = (word + 1, 0);
            }
            used += bits;
            widths.push((word, used, bits));
        }
        // The last term of a word ends at bit 0.
        for (nth, &(word, end, _)) in widths.iter().enumerate() {
            let total = widths.iter().filter(|other| other.0 == word).map(|other| other.2).sum::<u32>();
            at[nth] = (word, (total - end) as u8);
        }
        Self { at, words: usize::from(word) + 1 }
    }

    pub(super) fn add<const W: usize>(&self, row: &mut Row<W>, term: usize, value: i64) {
        let (word, shift) = self.at[term];
        row[usize::from(word)] += value << shift;
    }
}

pub(super) fn sum<const W: usize>(a: &Row<W>, b: &Row<W>) -> Row<W> {
    std::array::from_fn(|word| a[word] + b[word])
}

/// *f(d, t)* for some *t*: where in [`Run::rows`].
pub(super) type Rows = std::ops::Range<usize>;

/// What one run of the dynamic programme knows.
pub(super) struct Run<const W: usize> {
    pub(super) layout: Layout,
    pub(super) steps: u64,
    /// Of all places, one after the other; none where so many workers cannot be there.
    pub(super) rows: Vec<Option<Row<W>>>,
    /// By signature of an idle domain, least and most workers. Where pods run, few domains look alike.
    known: HashMap<(u64, u32, u32), Rows, BuildMixing>,
    /// Lists to be used again.
    lists: Vec<Vec<Option<Row<W>>>>,
}

/// The programme took too many steps.
pub(super) struct TooLong;

impl Spread<'_, '_> {
    /// Splits exactly `workers` workers over the seats below a place, in the order of the tree.
    pub(super) fn fill(&mut self, place: Place, workers: u32, split: &mut Split) -> Option<()> {
        if workers == 0 && self.vacancy.due(place) == 0 {
            return Some(());
        }
        let id = match place {
            Place::Domain(id) => id,
            Place::Seat(id) => {
                split.push((id, workers));
                return (workers <= self.vacancy.room(place)).then_some(());
            }
        };
        let mut parts = self.parts(id, workers, workers)?;
        if parts.iter().map(|part| u64::from(part.room)).sum::<u64>() == u64::from(workers) {
            // Every child is full: there is nothing to choose.
            return parts.into_iter().try_for_each(|Part { place, room, .. }| {
                if room < self.vacancy.due(place) { None } else { self.fill(place, room, split) }
            });
        }
        let layout = self.layout(id, workers);
        let taken = match layout.words {
            words if words <= FEW_WORDS => self.best_parts::<FEW_WORDS>(layout, &mut parts, workers),
            words if words <= MANY_WORDS => self.best_parts::<MANY_WORDS>(layout, &mut parts, workers),
            _ => Err(TooLong),
        };
        match taken {
            Ok(taken) => {
                let mut taken = taken?.into_iter();
                parts.iter().try_for_each(|part| self.fill(part.place, taken.next()?, split))
            }
            Err(TooLong) => {
                self.exact = false;
                self.greedy(id, workers, split)
            }
        }
    }

    /// What the children of a domain may take of `low` to `high` workers; those that take nothing are left out. None if
    /// there is no room for `low`.
    fn parts(&mut self, id: u32, low: u32, high: u32) -> Option<Vec<Part>> {
        let mut parts = Vec::with_capacity(16);
        for place in self.vacancy.below(id) {
            let (room, due) = (self.vacancy.room(place), self.vacancy.due(place));
            let part = Part { place, room, least: due.max(1), most: room.min(high), optional: due == 0 };
            if part.least <= part.most {
                parts.push(part);
            } else if !part.optional {
                return None;
            }
        }
        if self.begun {
            return Some(parts);
        }
        let mut rooms = std::mem::take(&mut self.rooms);
        rooms.clear();
        rooms.extend(parts.iter().map(|part| part.room));
        rooms.sort_unstable_by(|a, b| b.cmp(a));
        // For each number of children that is the fewest for some number of workers: the room of the last of the roomiest,
        // and how much more than needed they have together at most.
        let mut fewest = std::mem::take(&mut self.fewest);
        fewest.clear();
        let (mut sum, mut workers) = (0u64, u64::from(low.max(1)));
        for &room in &rooms {
            sum += u64::from(room);
            if sum >= workers && workers <= u64::from(high) {
                fewest.push((room, (sum - workers) as u32));
                workers = sum + 1;
            }
        }
        let enough = !fewest.is_empty() || low == 0;
        parts.retain_mut(|part| {
            // What the roomiest others leave to this one.
            let least = fewest.iter().map(|&(last, more)| part.room.max(last) - more);
            let least = least.filter(|&least| least <= part.room).min();
            part.least = least.unwrap_or(u32::MAX);
            part.least <= part.most
        });
        (self.rooms, self.fewest) = (rooms, fewest);
        enough.then_some(parts)
    }

    /// The number of workers that each part takes, those of the best split.
    fn best_parts<const W: usize>(
        &mut self,
        layout: Layout,
        parts: &mut Vec<Part>,
        workers: u32,
    ) -> Result<Option<Vec<u32>>, TooLong> {
        let mut run =
            Run::<W> { layout, steps: 0, rows: Vec::with_capacity(64), known: HashMap::default(), lists: Vec::new() };
        // With as many steps of its own: where they are not enough, parts stay as they are.
        self.narrow(&mut run, parts, workers).ok();
        run.steps = 0;
        if let Some(each) = alike(parts) {
            if !workers.is_multiple_of(each) {
                return Ok(None);
            }
            let count = (workers / each) as usize;
            let cheapest = self.cheapest(&mut run, parts, each, count)?;
            if cheapest.len() < count {
                return Ok(None);
            }
            let mut taken = vec![0; parts.len()];
            cheapest[..count].iter().for_each(|&(_, nth)| taken[nth] = each);
            return Ok(Some(taken));
        }
        let width = workers as usize + 1;
        let mut taken = vec![0; parts.len() * width];
        let sums = self.sums(&mut run, parts, workers, Some(&mut taken))?;
        if sums[workers as usize].is_none() {
            return Ok(None);
        }
        let mut rest = workers as usize;
        let mut numbers = vec![0; parts.len()];
        for (number, taken) in numbers.iter_mut().zip(taken.chunks(width)).rev() {
            *number = taken[rest];
            rest -= taken[rest] as usize;
        }
        Ok(Some(numbers))
    }

    /// The knapsack itself: for each number of workers up to `most` the best sum over the parts. In `taken`, what each part
    /// takes then, if only parts up to it are there; one row for each part.
    fn sums<const W: usize>(
        &mut self,
        run: &mut Run<W>,
        parts: &[Part],
        most: u32,
        mut taken: Option<&mut [u32]>,
    ) -> Result<Vec<Option<Row<W>>>, TooLong> {
        let width = most as usize + 1;
        let mut reach = 0u32;
        for part in parts {
            run.steps += u64::from(reach + 1) * (u64::from(part.most - part.least) + 2);
            reach = reach.saturating_add(part.most).min(most);
        }
        if run.steps > MOST_STEPS {
            return Err(TooLong);
        }
        let mut sums = run.lists.pop().unwrap_or_default();
        sums.clear();
        sums.resize(width, None);
        sums[0] = Some([0; W]);
        let mut reach = 0;
        for (nth, part) in parts.iter().enumerate() {
            let rows = self.rows(run, part.place, part.least, part.most)?;
            let rows = &run.rows[rows];
            reach = (reach + part.most as usize).min(most as usize);
            // From the largest number down, so that what is read has not been written yet.
            for at in (0..=reach).rev() {
                let mut best = if part.optional { sums[at] } else { None };
                let mut number = 0;
                // Smallest part first: among equals, earlier children get more.
                for (own, row) in (part.least..=at as u32).zip(rows) {
                    if let (Some(row), Some(before)) = (row, sums[at - own as usize]) {
                        let total = sum(&before, row);
                        if best.is_none_or(|best| total < best) {
                            (best, number) = (Some(total), own);
                        }
                    }
                }
                sums[at] = best;
                if let Some(taken) = &mut taken {
                    taken[nth * width + at] = number;
                }
            }
        }
        Ok(sums)
    }

    /// *f(place, t)* for *t* from `least` to `most`.
    pub(super) fn rows<const W: usize>(
        &mut self,
        run: &mut Run<W>,
        place: Place,
        least: u32,
        most: u32,
    ) -> Result<Rows, TooLong> {
        let count = (most - least) as usize + 1;
        let depth = self.depth(place).unwrap_or(0);
        let id = match place {
            Place::Seat(id) => {
                for workers in least..=most {
                    let allowed = self.vacancy.allows(place, depth, workers);
                    let row = allowed.then(|| self.seat_row(&run.layout, id, workers));
                    run.rows.push(row);
                }
                return Ok(run.rows.len() - count..run.rows.len());
            }
            Place::Domain(id) => id,
        };
        let idle = self.state.tree.domain(id).busy == 0;
        let key = self.signature(place).filter(|_| idle).map(|signature| (signature, least, most));
        if let Some(known) = key.and_then(|key| run.known.get(&key)) {
            return Ok(known.clone());
        }
        let mut rows = run.lists.pop().unwrap_or_default();
        rows.clear();
        rows.resize(count, None);
        if let Some(parts) = self.parts(id, least, most) {
            if let Some(each) = alike(&parts) {
                let cheapest = self.cheapest(run, &parts, each, (most / each) as usize)?;
                let mut total = [0; W];
                for (row, workers) in cheapest.iter().zip((1..).map(|count| count * each)) {
                    total = sum(&total, &row.0);
                    if (least..=most).contains(&workers) {
                        rows[(workers - least) as usize] = Some(total);
                    }
                }
            } else {
                let sums = self.sums(run, &parts, most, None)?;
                rows.copy_from_slice(&sums[least as usize..]);
                run.lists.push(sums);
            }
        }
        for (row, workers) in rows.iter_mut().zip(least..) {
            if !self.vacancy.allows(place, depth, workers) {
                *row = None;
            }
            if let Some(row) = row {
                self.own(id, depth, workers, |term, value| run.layout.add(row, term, value));
            }
        }
        let at = run.rows.len()..run.rows.len() + count;
        run.rows.extend_from_slice(&rows);
        run.lists.push(rows);
        if let Some(key) = key {
            run.known.insert(key, at.clone());
        }
        Ok(at)
    }

    /// The `count` parts that cost least when each takes `each` workers, the cheapest first; with fewer, all there are.
    fn cheapest<const W: usize>(
        &mut self,
        run: &mut Run<W>,
        parts: &[Part],
        each: u32,
        count: usize,
    ) -> Result<Vec<(Row<W>, usize)>, TooLong> {
        let mut found: Vec<(Row<W>, usize)> = Vec::with_capacity(parts.len());
        let insert = |found: &mut Vec<(Row<W>, usize)>, one: (Row<W>, usize)| {
            let at = found.partition_point(|other| *other < one);
            found.insert(at, one);
        };
        // Nodes in the order of what is known of them before their GPUs are chosen. That is no more than what they cost, so
        // the rest need not be looked at once it exceeds the dearest that counts.
        let mut seats: Vec<(Row<W>, usize)> = Vec::with_capacity(parts.len());
        for (nth, part) in parts.iter().enumerate() {
            match part.place {
                Place::Domain(_) => {
                    let at = self.rows(run, part.place, each, each)?.start;
                    if let Some(row) = run.rows[at] {
                        insert(&mut found, (row, nth));
                    }
                }
                Place::Seat(id) => {
                    let depth = self.terms.levels - 1;
                    if self.vacancy.allows(part.place, depth, each) {
                        let mut row = [0; W];
                        self.outline(id, each, |term, value| run.layout.add(&mut row, term, value));
                        let least = i64::from(each) * self.most_wires();
                        run.layout.add(&mut row, self.terms.wires(), -least);
                        run.layout.add(&mut row, self.terms.worth(), -self.most_worth());
                        seats.push((row, nth));
                    }
                }
            }
        }
        seats.sort_unstable();
        for (least, nth) in seats {
            if count > 0 && found.get(count - 1).is_some_and(|dearest| dearest.0 < least) {
                break;
            }
            if let Place::Seat(id) = parts[nth].place {
                insert(&mut found, (self.seat_row(&run.layout, id, each), nth));
            }
        }
        Ok(found)
    }

    /// What so many workers on a seat cost.
    fn seat_row<const W: usize>(&mut self, layout: &Layout, id: u32, workers: u32) -> Row<W> {
        let mut row = [0; W];
        self.outline(id, workers, |term, value| layout.add(&mut row, term, value));
        let packed = packed(self.state, self.ask, self.packer, id, workers);
        self.exact &= packed.exact;
        layout.add(&mut row, self.terms.weak(), packed.weak);
        layout.add(&mut row, self.terms.wires(), -packed.wires);
        layout.add(&mut row, self.terms.worth(), packed.worth_lost);
        row
    }

    /// A layout for all that `workers` workers below a domain can come to.
    fn layout(&self, id: u32, workers: u32) -> Layout {
        let (workers, free) = (u64::from(workers), u64::from(self.state.free_below(id)));
        let terms = self.terms;
        let mut most = vec![workers; terms.width()];
        most[terms.weak()] = 2 * workers;
        (0..terms.levels).for_each(|depth| most[terms.left(depth)] = free);
        most[terms.wires()] = workers * self.most_wires() as u64;
        most[terms.worth()] = workers * self.most_worth() as u64;
        Layout::new(&most)
    }

    /// The most that wires within a worker count: 255 NVLinks between any two, and a path of 60.
    pub(super) fn most_wires(&self) -> i64 {
        let gpus = i64::from(self.ask.group.gpus);
        gpus * (gpus - 1).max(0) / 2 * MOST_SCORE
    }

    /// The most that a node can be worth to later jobs, and so lose: all its wires (see [`choose`](crate::choose())).
    pub(super) fn most_worth(&self) -> i64 {
        let most = crate::GpuSet::CAPACITY as i64;
        most * (most - 1) / 2 * MOST_SCORE
    }
}

/// The score of the best wire that can be written down.
const MOST_SCORE: i64 = 255 * 100 + 60;

/// The number that each part takes if it takes anything, where that is one number for all.
fn alike(parts: &[Part]) -> Option<u32> {
    let first = parts.first()?;
    parts
        .iter()
        .all(|part| part.optional && part.least == first.least && part.most == first.least)
        .then_some(first.least)
}
