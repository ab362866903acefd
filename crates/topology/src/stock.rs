//! What a node has of the GPUs that a worker may get, at each step from "there" to "free": enough to say whether it can take a
//! worker that asks for nothing else, and if not, for want of what. Domains count their nodes of each kind, so that a refusal
//! need not look at every node.

use crate::{GpuSet, Seat, Standing};

/// The GPUs of a node that suit a worker. (No node has more than 64.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stock {
    /// Why the node takes no work at all.
    closed: Option<Closed>,
    /// Whether it has GPUs, but none that suits.
    unsuitable: bool,
    pub(crate) suitable: u8,
    pub(crate) healthy: u8,
    /// Healthy and held by nobody.
    pub(crate) unheld: u8,
    /// Neither held nor planned.
    pub(crate) free: u8,
}

/// Why a node cannot take a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    Closed(Closed),
    Short(Short),
}

/// Why a node takes no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    NotReady,
    Cordoned,
}

/// Of what a node has too few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Short {
    /// None of its GPUs suits.
    Product,
    /// GPUs that suit.
    Gpus,
    /// Healthy ones.
    Healthy,
    /// Ones that no pod holds.
    Unheld,
    /// Ones that are not planned for other pods.
    Unplanned,
}

impl Stock {
    /// Of a seat's whole GPUs.
    pub(crate) fn of(seat: &Seat) -> Self {
        Self::among(seat, seat.whole, seat.free())
    }

    /// Of the `suitable` GPUs of a seat, when those `free` are free.
    pub(crate) fn among(seat: &Seat, suitable: GpuSet, free: GpuSet) -> Self {
        let less = |set: GpuSet| (set.len() as u8).saturating_sub(u8::try_from(seat.unidentified).unwrap_or(u8::MAX));
        let healthy = suitable.intersection(seat.healthy);
        Self {
            closed: match seat.member.standing {
                Standing::Ready => None,
                Standing::NotReady => Some(Closed::NotReady),
                Standing::Cordoned => Some(Closed::Cordoned),
            },
            unsuitable: suitable.is_empty() && !seat.member.node.gpus().is_empty(),
            suitable: suitable.len() as u8,
            healthy: healthy.len() as u8,
            unheld: less(healthy.difference(seat.taken)),
            free: less(free.intersection(suitable)),
        }
    }

    /// Why there is no worker of so many GPUs, at least one, that such a node could take.
    pub(crate) fn lack(self, gpus: u32) -> Option<Lack> {
        self.closed.map(Lack::Closed).or_else(|| self.short(gpus).map(Lack::Short))
    }

    /// The same of GPUs alone.
    pub(crate) fn short(self, gpus: u32) -> Option<Short> {
        let enough = |count: u8| u32::from(count) >= gpus;
        match self {
            Self { free, .. } if enough(free) => None,
            Self { unsuitable: true, .. } => Some(Short::Product),
            Self { suitable, .. } if !enough(suitable) => Some(Short::Gpus),
            Self { healthy, .. } if !enough(healthy) => Some(Short::Healthy),
            Self { unheld, .. } if !enough(unheld) => Some(Short::Unheld),
            _ => Some(Short::Unplanned),
        }
    }
}

/// How many nodes there are of each kind.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stocks(Vec<(Stock, u32)>);

impl Stocks {
    /// One node, if any, becomes another.
    pub(crate) fn replace(&mut self, before: Option<Stock>, now: Option<Stock>) {
        if before == now {
            return;
        }
        if let Some(at) = self.0.iter().position(|(stock, _)| before == Some(*stock)) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.swap_remove(at);
            }
        }
        let Some(now) = now else { return };
        match self.0.iter_mut().find(|(stock, _)| *stock == now) {
            Some((_, nodes)) => *nodes += 1,
            None => {
                self.0.reserve_exact(1);
                self.0.push((now, 1));
            }
        }
    }

    /// What nodes lack to take a worker of so many GPUs, and how many nodes; a lack may come several times.
    pub(crate) fn lacks(&self, gpus: u32) -> impl Iterator<Item = (Lack, u32)> {
        self.0.iter().filter_map(move |&(stock, nodes)| Some((stock.lack(gpus)?, nodes)))
    }
}
