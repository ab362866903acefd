//! Which children of a domain need not be looked into for the best split, from what they cost at least.
//!
//! A split over the fewest children, *k*, in which one takes *t* of *w* workers costs at least what that child costs at least,
//! and what *k* − 1 children cost at least for the other *w* − *t*. If that is more than some split costs, the child does not
//! take *t* in the best one. So one promising split is worked out, and most other children are left unopened.

use super::fewest::fewest;
use super::knapsack::{MOST_STEPS, Part, Row, Run, TooLong, sum};
use super::ranks::Place;
use super::table::Spread;

/// With more children than this in a split, or more workers, bounds say too little for what they cost.
const MOST_CHILDREN: usize = 4;
const MOST_WORKERS: u32 = 128;

/// So many numbers of workers are many.
const MANY: usize = 100;

impl Spread<'_, '_> {
    /// Takes away what parts do not take in the best split of `workers` workers.
    pub(super) fn narrow<const W: usize>(
        &mut self,
        run: &mut Run<W>,
        parts: &mut Vec<Part>,
        workers: u32,
    ) -> Result<(), TooLong> {
        let children = fewest(parts.iter().map(|part| part.room).collect(), workers).len();
        let domains = parts.iter().all(|part| matches!(part.place, Place::Domain(_)) && part.optional);
        if self.begun || !domains || children > MOST_CHILDREN || workers > MOST_WORKERS {
            return Ok(());
        }
        let numbers = |parts: &[Part]| parts.iter().map(|part| (part.most - part.least) as usize + 1).sum::<usize>();
        // Where there are many, first by the domains below that each uses: that is known of all numbers at once.
        if numbers(parts) > MANY {
            let rows: Vec<Vec<Row<W>>> = parts.iter().map(|part| self.fewest_rows(run, part)).collect();
            self.narrow_by(run, parts, &rows, children, workers)?;
        }
        // A bound looks at all that is right below a part.
        let looks = |part: &Part| match part.place {
            Place::Domain(id) => {
                u64::from(part.most - part.least + 1) * self.state.tree.domain(id).children.len() as u64
            }
            Place::Seat(_) => 0,
        };
        run.steps += parts.iter().map(looks).sum::<u64>();
        if numbers(parts) > 2 * children && run.steps <= MOST_STEPS {
            let rows: Vec<Vec<Row<W>>> = parts.iter().map(|part| self.least_rows(run, part)).collect();
            self.narrow_by(run, parts, &rows, children, workers)?;
        }
        Ok(())
    }

    /// The same by `rows`: what each part costs at least with `least`, `least` + 1, … workers.
    fn narrow_by<const W: usize>(
        &mut self,
        run: &mut Run<W>,
        parts: &mut Vec<Part>,
        rows: &[Vec<Row<W>>],
        children: usize,
        workers: u32,
    ) -> Result<(), TooLong> {
        // By number of workers: what one child costs at least, what two cost, and so on up to one less than are used.
        let width = workers as usize + 1;
        let mut least: Vec<Vec<Option<Row<W>>>> = vec![vec![None; width]; children];
        least[0][0] = Some([0; W]);
        let mut one = vec![None; width];
        for (part, rows) in parts.iter().zip(rows) {
            for (taken, row) in (part.least as usize..).zip(rows) {
                keep_least(&mut one[taken], *row);
            }
        }
        for count in 1..children {
            for (taken, a) in one.iter().enumerate() {
                for others in 0..width - taken {
                    if let (Some(a), Some(b)) = (a, least[count - 1][others]) {
                        keep_least(&mut least[count][taken + others], sum(a, &b));
                    }
                }
            }
        }
        let Some(known) = self.promising(run, parts, rows, &least, workers)? else { return Ok(()) };
        let mut rows = rows.iter();
        parts.retain_mut(|part| {
            let Some(rows) = rows.next() else { return false };
            let others = &least[children - 1];
            let may = |&(taken, row): &(u32, &Row<W>)| {
                others[(workers - taken) as usize].is_some_and(|others| sum(row, &others) <= known)
            };
            let mut taken = (part.least..).zip(rows).filter(may).map(|(taken, _)| taken);
            let Some(first) = taken.next() else { return false };
            (part.least, part.most) = (first, taken.last().unwrap_or(first));
            true
        });
        Ok(())
    }

    /// What a part costs at least by the number of domains that it uses, its own included.
    fn fewest_rows<const W: usize>(&self, run: &Run<W>, part: &Part) -> Vec<Row<W>> {
        let Place::Domain(id) = part.place else { return Vec::new() };
        let depth = self.level(part.place);
        let children = &self.state.tree.domain(id).children;
        let rooms = children.iter().map(|&child| self.vacancy.at_most(Place::Domain(child))).collect();
        let rooms = fewest(rooms, part.most);
        let (mut used, mut sum) = (0, 0);
        let row = |taken: u32| {
            while sum < taken && used < rooms.len() {
                (used, sum) = (used + 1, sum.saturating_add(rooms[used]));
            }
            let mut row = [0; W];
            run.layout.add(&mut row, self.terms.used(depth - 1), 1);
            run.layout.add(&mut row, self.terms.used(depth), used.max(1) as i64);
            row
        };
        (part.least..=part.most).map(row).map(|row| self.less_wires(run, row, part.most)).collect()
    }

    /// What a part costs at least by all that bounds know.
    fn least_rows<const W: usize>(&self, run: &Run<W>, part: &Part) -> Vec<Row<W>> {
        let Place::Domain(id) = part.place else { return Vec::new() };
        // Of one number, bounds alone say nearly as much.
        let many = part.least < part.most && !self.state.tree.domain(id).children.is_empty();
        let children = if many { self.vacancy.least_free(id, part.most) } else { None };
        let row = |taken: u32| {
            let known = children.as_ref().map(|children| children.of(taken));
            let bound = self.bound_with(&[0; _], part.place, self.level(part.place), taken, known);
            let mut row = [0; W];
            for (term, &value) in bound.iter().enumerate().take(self.terms.wires()) {
                run.layout.add(&mut row, term, i64::from(value));
            }
            self.less_wires(run, row, taken)
        };
        (part.least..=part.most).map(row).collect()
    }

    /// Less the most that wires and worth can be.
    fn less_wires<const W: usize>(&self, run: &Run<W>, mut row: Row<W>, workers: u32) -> Row<W> {
        run.layout.add(&mut row, self.terms.wires(), -i64::from(workers) * self.most_wires());
        run.layout.add(&mut row, self.terms.worth(), -i64::from(workers) * self.most_worth());
        row
    }

    /// What a split costs in which each child has the least bound for what it takes. None if that finds none.
    fn promising<const W: usize>(
        &mut self,
        run: &mut Run<W>,
        parts: &[Part],
        rows: &[Vec<Row<W>>],
        least: &[Vec<Option<Row<W>>>],
        workers: u32,
    ) -> Result<Option<Row<W>>, TooLong> {
        let mut used = vec![false; parts.len()];
        let (mut rest, mut total) = (workers, [0; W]);
        for count in (0..least.len()).rev() {
            let value = |at: usize, taken: u32| {
                let others = least[count][(rest - taken) as usize]?;
                Some(sum(&rows[at][(taken - parts[at].least) as usize], &others))
            };
            let numbers = |at: usize| parts[at].least..=parts[at].most.min(rest);
            let open = (0..parts.len()).filter(|&at| !used[at]);
            let all = open.flat_map(|at| numbers(at).filter_map(move |taken| Some((value(at, taken)?, at, taken))));
            let Some((_, at, taken)) = all.min() else { return Ok(None) };
            let row = self.rows(run, parts[at].place, taken, taken)?.start;
            let Some(row) = run.rows[row] else { return Ok(None) };
            (used[at], rest, total) = (true, rest - taken, sum(&total, &row));
        }
        Ok((rest == 0).then_some(total))
    }
}

fn keep_least<const W: usize>(least: &mut Option<Row<W>>, row: Row<W>) {
    if least.is_none_or(|least| row < least) {
        *least = Some(row);
    }
}
