//! Signs of life, from which the probes answer truthfully.
//!
//! They are given by the tasks that do the work and read by the one that serves the probes, so that a loop that stands still
//! cannot say that it is well.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A leader's loop that did not turn for so long hangs: it turns every [`crate::controller::LONGEST_PAUSE`] without work, and
/// a pass of work is bounded.
const STANDS_STILL: Duration = Duration::from_secs(60);
/// How long after the API server's last answer about the lease an operator still counts as ready to take over.
const OUT_OF_TOUCH: Duration = Duration::from_secs(30);

/// Signs of life; a clone gives and reads the same.
#[derive(Clone, Debug, Default)]
pub struct Pulse {
    signs: Arc<Mutex<Signs>>,
}

#[derive(Debug, Default)]
struct Signs {
    /// When the leader's loop turned last; none on a standby.
    turned: Option<Instant>,
    /// When the API server last answered about the lease.
    answered: Option<Instant>,
    /// There is no lease, and so no answer about one.
    alone: bool,
}

impl Pulse {
    /// The leader's loop turned.
    pub fn turned(&self) {
        self.change(|signs| signs.turned = Some(Instant::now()));
    }

    /// There is no leader's loop any more.
    pub fn stands_by(&self) {
        self.change(|signs| signs.turned = None);
    }

    /// The API server answered about the lease, whatever it said.
    pub fn answered(&self) {
        self.change(|signs| signs.answered = Some(Instant::now()));
    }

    /// This operator leads without a lease.
    pub fn is_alone(&self) {
        self.change(|signs| signs.alone = true);
    }

    /// Whether the work goes on. A standby has none to do.
    pub fn is_alive(&self) -> bool {
        self.signs().turned.is_none_or(|at| at.elapsed() < STANDS_STILL)
    }

    /// Whether this operator works or could take over: a standby that reaches the API server is as ready as the leader.
    pub fn is_ready(&self) -> bool {
        let in_touch = |signs: &Signs| signs.alone || signs.answered.is_some_and(|at| at.elapsed() < OUT_OF_TOUCH);
        self.is_alive() && in_touch(&self.signs())
    }

    fn change(&self, change: impl FnOnce(&mut Signs)) {
        change(&mut self.signs());
    }

    fn signs(&self) -> std::sync::MutexGuard<'_, Signs> {
        self.signs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_stands_still_is_not_alive_and_a_standby_is() {
        let pulse = Pulse::default();
        assert!(pulse.is_alive());
        pulse.turned();
        tokio::time::advance(STANDS_STILL).await;
        assert!(!pulse.is_alive());
        pulse.turned();
        assert!(pulse.is_alive());
        tokio::time::advance(STANDS_STILL).await;
        pulse.stands_by();
        assert!(pulse.is_alive());
    }

    #[tokio::test(start_paused = true)]
    async fn an_operator_is_ready_while_the_api_server_answers() {
        let pulse = Pulse::default();
        assert!(!pulse.is_ready(), "nothing is known yet");
        pulse.answered();
        assert!(pulse.is_ready());
        tokio::time::advance(OUT_OF_TOUCH).await;
        assert!(!pulse.is_ready());
        pulse.is_alone();
        assert!(pulse.is_ready(), "without a lease nothing is said about one");
    }
}
