//! Best fit by counts, as Kueue documents its topology-aware scheduling (KEP 2724): the workers that fit are counted on
//! every node and summed over every domain; then, greedily,
//!
//! - with a required or preferred level, the domain with the least room that is enough; if there is none and the level is
//!   only preferred, one level further out, and at the outermost as few domains as possible, those with the most room
//!   first, the last one by best fit;
//! - from there down, level by level, the children of all chosen domains are pooled and as few as possible taken, again
//!   those with the most room first and the last one by best fit;
//! - without a level, the node with the least room that holds everything, else nodes from the least room upwards.
//!
//! Room is counted in workers, so a node with three free GPUs is as good for one worker of two as one with two. Ties go to
//! the first. Nothing is known of the wires within a node.

use super::{Ask, Split, View};

/// Workers by node, or none if there is no room that this finds.
pub fn place(view: &View, ask: &Ask) -> Option<Split> {
    let hosts: Vec<u32> = view.hosts.iter().map(|host| host.room(ask)).collect();
    let Some(level) = ask.required.or(ask.preferred).filter(|&level| level < view.children.len()) else {
        let all = (0..hosts.len()).map(|host| (host as u32, hosts[host])).collect();
        return least_free(all, ask.workers);
    };
    let mut rooms: Vec<Vec<u32>> = vec![hosts];
    for domains in view.children.iter().rev() {
        let below = &rooms[rooms.len() - 1];
        rooms.push(domains.iter().map(|children| children.iter().map(|&child| below[child as usize]).sum()).collect());
    }
    // By depth, outermost first; the last are the nodes.
    rooms.reverse();

    let outermost = if ask.required.is_some() { level } else { 0 };
    let fits = |depth: usize| {
        let enough = rooms[depth].iter().enumerate().filter(|&(_, &room)| room >= ask.workers);
        enough.min_by_key(|&(_, &room)| room).map(|(domain, _)| domain as u32)
    };
    let one = (outermost..=level).rev().find_map(|depth| Some((depth, vec![(fits(depth)?, ask.workers)])));
    let (depth, mut chosen) = match one {
        Some(found) => found,
        None if ask.required.is_some() => return None,
        None => {
            let all = rooms[0].iter().enumerate().map(|(domain, &room)| (domain as u32, room)).collect();
            (0, fewest(all, ask.workers)?)
        }
    };
    for depth in depth..view.children.len() {
        let pooled = chosen.iter().flat_map(|&(domain, _)| &view.children[depth][domain as usize]);
        let pooled = pooled.map(|&child| (child, rooms[depth + 1][child as usize])).collect();
        chosen = fewest(pooled, ask.workers)?;
    }
    Some(chosen.into_iter().map(|(host, workers)| (host as usize, workers)).collect())
}

/// Those with the most room first, and as soon as one holds the rest, the one with the least room that does.
fn fewest(mut all: Vec<(u32, u32)>, workers: u32) -> Option<Vec<(u32, u32)>> {
    all.sort_by_key(|&(id, room)| (std::cmp::Reverse(room), id));
    let mut rest = workers;
    let mut chosen = Vec::new();
    for (at, &(id, room)) in all.iter().enumerate() {
        if room >= rest {
            let (id, _) = *all[at..].iter().filter(|&&(_, room)| room >= rest).min_by_key(|&&(_, room)| room)?;
            chosen.push((id, rest));
            return Some(chosen);
        }
        chosen.push((id, room));
        rest -= room;
    }
    None
}

/// The one with the least room that holds everything; else from the least room upwards.
fn least_free(mut all: Vec<(u32, u32)>, workers: u32) -> Option<Split> {
    all.retain(|&(_, room)| room > 0);
    if let Some(&(host, _)) = all.iter().filter(|&&(_, room)| room >= workers).min_by_key(|&&(_, room)| room) {
        return Some(vec![(host as usize, workers)]);
    }
    all.sort_by_key(|&(id, room)| (room, id));
    let mut rest = workers;
    let mut split = Split::new();
    for (host, room) in all {
        let part = room.min(rest);
        split.push((host as usize, part));
        rest -= part;
        if rest == 0 {
            return Some(split);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rivals::Host;

    /// Two racks of two nodes in one block; free GPUs by node.
    fn view(free: [u32; 4]) -> View {
        let host = |n: usize| Host { free: free[n], gpus: 8, kind: 1, domains: vec![0, n as u32 / 2] };
        View::new((0..4).map(host).collect())
    }

    fn ask(workers: u32, gpus: u32) -> Ask {
        Ask { workers, gpus, kinds: 1, required: None, preferred: Some(1) }
    }

    #[test]
    fn the_rack_with_the_least_room_that_is_enough_is_taken() {
        assert_eq!(place(&view([8, 8, 8, 0]), &ask(1, 8)), Some(vec![(2, 1)]));
        assert_eq!(place(&view([8, 0, 8, 8]), &ask(2, 8)), Some(vec![(2, 1), (3, 1)]));
    }

    #[test]
    fn a_gang_larger_than_a_rack_goes_to_the_block_unless_the_rack_is_required() {
        assert_eq!(place(&view([8, 8, 8, 0]), &ask(3, 8)), Some(vec![(0, 1), (1, 1), (2, 1)]));
        let required = Ask { required: Some(1), ..ask(3, 8) };
        assert_eq!(place(&view([8, 8, 8, 0]), &required), None);
    }

    #[test]
    fn room_is_counted_in_workers_and_ties_go_to_the_first() {
        let anywhere = Ask { preferred: None, ..ask(1, 2) };
        assert_eq!(place(&view([8, 3, 2, 8]), &anywhere), Some(vec![(1, 1)]));
    }

    #[test]
    fn nodes_of_another_kind_have_no_room() {
        assert_eq!(place(&view([8; 4]), &Ask { kinds: 2, ..ask(1, 8) }), None);
    }
}
