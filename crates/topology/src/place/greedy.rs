//! Splitting workers over the children of a domain where the best way takes too long to find: as few children as can be, and
//! where nothing binds the gang, as few of *their* children as these let.

use super::fewest::enough;
use super::ranks::Place;
use super::table::{Split, Spread};

impl Spread<'_, '_> {
    /// Gaps first; then children where the gang has workers already, and in each case the child with the most room, as
    /// much as fits; the last part goes where it fits best. Whole slices fit wherever there is room for them, so this
    /// finds a split whenever there is one.
    pub(super) fn greedy(&mut self, id: u32, workers: u32, split: &mut Split) -> Option<()> {
        if let Some(parts) = self.pooled(id, workers) {
            return parts.into_iter().try_for_each(|(child, part)| self.fill(child, part, split));
        }
        // Number, whether it is new to the gang, what it takes, and for how many more it has room.
        let mut parts: Vec<(Place, bool, u32, u32)> = Vec::new();
        let mut rest = workers;
        for child in self.vacancy.below(id) {
            let (room, due) = (self.vacancy.room(child), self.vacancy.due(child));
            let is_new = match child {
                Place::Domain(id) => !self.state.domain_is_used(id),
                Place::Seat(id) => !self.state.seat_is_used(id),
            };
            rest = rest.checked_sub(due)?;
            parts.push((child, is_new, due, room.checked_sub(due)?));
        }
        let mut order: Vec<usize> = (0..parts.len()).collect();
        order.sort_by_key(|&nth| (parts[nth].1, std::cmp::Reverse(parts[nth].3)));
        let mut at = 0;
        while rest > 0 {
            let (_, is_new, _, more) = parts[*order.get(at)?];
            if more >= rest {
                let alike = order[at..].iter().filter(|&&nth| parts[nth].1 == is_new && parts[nth].3 >= rest);
                let last = *alike.min_by_key(|&&nth| parts[nth].3)?;
                parts[last].2 += rest;
                break;
            }
            parts[order[at]].2 += more;
            rest -= more;
            at += 1;
        }
        parts.into_iter().filter(|part| part.2 > 0).try_for_each(|(child, _, part, _)| self.fill(child, part, split))
    }

    /// What children take, in the order of the tree, if nothing of the gang runs and it has no slices: of as many children as
    /// are needed, those with the most room, and of what lies right below these the places with the most room, the last of them
    /// the one where the rest fits best.
    fn pooled(&self, id: u32, workers: u32) -> Option<Vec<(Place, u32)>> {
        if self.begun || !self.ask.slices.is_empty() {
            return None;
        }
        // Room, place, and which in the order of the tree.
        let children = self.vacancy.below(id).enumerate();
        let mut children: Vec<(u32, Place, usize)> =
            children.map(|(nth, place)| (self.room(place), place, nth)).collect();
        children.sort_by_key(|&(room, ..)| std::cmp::Reverse(room));
        let (fewest, _) = enough(children.iter().map(|&(room, ..)| room), workers)?;
        children.truncate(fewest);
        children.sort_unstable_by_key(|&(.., nth)| nth);
        let mut pool: Vec<(u32, usize)> = Vec::new();
        for (nth, &(_, child, _)) in children.iter().enumerate() {
            let Place::Domain(id) = child else { return None };
            pool.extend(self.vacancy.below(id).map(|place| (self.room(place), nth)));
        }
        pool.sort_by_key(|&(room, _)| std::cmp::Reverse(room));
        let mut parts: Vec<(Place, u32)> = children.iter().map(|&(_, child, _)| (child, 0)).collect();
        let mut rest = workers;
        for (at, &(room, nth)) in pool.iter().enumerate() {
            if room >= rest {
                let enough = pool[at..].partition_point(|&(room, _)| room >= rest);
                let (_, nth) = pool[at + enough - 1];
                parts[nth].1 += rest;
                return Some(parts);
            }
            parts[nth].1 += room;
            rest -= room;
        }
        None
    }
}
