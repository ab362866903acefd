//! What places add to the objective of several groups.

use crate::place::ask::Question;
use crate::place::ranks::Place;
use crate::place::room::State;
use crate::place::terms::Layout;

pub(super) fn add_domain(
    state: &State<'_>,
    question: &Question<'_>,
    layout: &Layout,
    cost: &mut [i64],
    id: u32,
    depth: usize,
    counts: &[u32],
) {
    let gpus = question.gpus(counts) as i64;
    let left = i64::from(state.free_below(id)) - gpus;
    cost[layout.used[depth]] += i64::from(!state.domain_is_used(id));
    let opened = i64::from(state.domain_is_idle(id) && left > 0 && gpus > 0);
    cost[layout.nvlink] += if state.tree.domain(id).is_nvlink() { opened } else { 0 };
    cost[layout.left[depth]] += left;
    cost[layout.opened[depth]] += opened;
    add_groups(question, layout, cost, Place::Domain(id), depth, counts);
}

/// What single groups prefer of this place, and how even they are.
pub(super) fn add_groups(
    question: &Question<'_>,
    layout: &Layout,
    cost: &mut [i64],
    place: Place,
    depth: usize,
    counts: &[u32],
) {
    for &(nth, at) in &layout.preferred {
        let rule = &question.rules.preferred[nth];
        if rule.depth == depth && counts[rule.group] > 0 && rule.running(place) == 0 {
            cost[at] += 1;
        }
    }
    for &(nth, at) in &layout.balanced {
        let rule = &question.rules.balanced[nth];
        if rule.depth == depth {
            // With so many domains in use, the sum of squares is least where the numbers are most alike.
            let (new, running) = (i64::from(counts[rule.group]), i64::from(rule.running(place)));
            cost[at] += (new + running) * (new + running) - running * running;
        }
    }
}
