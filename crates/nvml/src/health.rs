//! Whether a GPU may be given to a pod: a state machine fed with events and probes. Pure: it reads no clock and calls no
//! driver, so its rules are tested as a table.
//!
//! ```text
//!              XID that is not the application's fault,
//!              lost, silent, or the driver asks for a reset
//!   Healthy ───────────────────────────────────────────────▶ Unhealthy(fault, since)
//!      ▲                                                        │
//!      └── answers, driver asks for nothing, no new event ◀─────┘
//!          for `hold` in a row
//! ```
//!
//! **Recovery.** Driver 570 and newer say what a GPU needs (`NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`); there a GPU is
//! healthy again when it has answered every probe for [`HealthPolicy::hold`] and the driver asks for nothing. An older
//! driver does not say, and a GPU that merely answers proves little, so it must stay quiet for
//! [`HealthPolicy::hold_unconfirmed`]; and after an XID that only a reset clears it stays unhealthy until it was seen to
//! vanish and come back, which is what a reset looks like from here.
//!
//! **Hysteresis.** Each relapse within [`HealthPolicy::relapse_window`] doubles the hold, up to
//! [`HealthPolicy::hold_max`]: a GPU that fails every minute is not offered every minute.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, SystemTime};

/// XIDs that report a fault of the application, not of the GPU: graphics engine exception, page fault, stopped channel,
/// preemptive cleanup, video decoder exception, context switch timeout. NVIDIA's device plugin and DRA driver skip the
/// same six.
pub const APPLICATION_XIDS: [u64; 6] = [13, 31, 43, 45, 68, 109];

/// XIDs after which a GPU answers and computes wrongly or not at all until it is reset: 46 and 62 (stuck
/// microcontroller), 48, 64 and 95 (uncontained or unremappable memory errors), 79 (off the bus), 110, 119, 120 and 136,
/// 140, 143, 155, 156, 158, 162 (security, GSP, link and power faults).
/// Source: [NVIDIA's XID catalogue](https://docs.nvidia.com/deploy/xid-errors/), "immediate action: reset" or stronger.
const RESET_XIDS: [u64; 16] = [46, 48, 62, 64, 79, 95, 110, 119, 120, 136, 140, 143, 155, 156, 158, 162];

/// What the driver asks for (`nvmlDeviceGpuRecoveryAction_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryAction {
    /// Nothing: the GPU is fit for work.
    None,
    /// Reset the GPU.
    ResetGpu,
    /// Reboot the node.
    RebootNode,
    /// Drain the applications that use peer-to-peer traffic through this GPU.
    DrainPeerToPeer,
    /// It works at reduced capacity: drain it and reset it.
    DrainAndReset,
}

impl RecoveryAction {
    /// Reads NVML's number. An unknown number is not "nothing": it counts as a reset.
    pub fn from_nvml(action: u64) -> Self {
        match action {
            0 => RecoveryAction::None,
            2 => RecoveryAction::RebootNode,
            3 => RecoveryAction::DrainPeerToPeer,
            4 => RecoveryAction::DrainAndReset,
            _ => RecoveryAction::ResetGpu,
        }
    }
}

/// What is wrong with a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The driver reported this XID.
    Xid(u64),
    /// It fell off the bus.
    Lost,
    /// It must be reset before any use.
    ResetRequired,
    /// It has not answered the driver for a while.
    Silent,
    /// The driver asks for this.
    Action(RecoveryAction),
}

impl Fault {
    /// The fault in one word, for conditions and metrics.
    pub fn reason(&self) -> String {
        match self {
            Fault::Xid(xid) => format!("Xid{xid}"),
            Fault::Lost => "GpuLost".into(),
            Fault::ResetRequired => "ResetRequired".into(),
            Fault::Silent => "NotResponding".into(),
            Fault::Action(RecoveryAction::RebootNode) => "RebootRequired".into(),
            Fault::Action(RecoveryAction::DrainPeerToPeer | RecoveryAction::DrainAndReset) => "DrainRequired".into(),
            Fault::Action(_) => "ResetRequired".into(),
        }
    }

    /// Whether only a reset clears it.
    fn needs_reset(&self) -> bool {
        match self {
            Fault::Xid(xid) => RESET_XIDS.contains(xid),
            Fault::ResetRequired => true,
            Fault::Action(action) => *action != RecoveryAction::None,
            Fault::Lost | Fault::Silent => false,
        }
    }
}

/// The sentence for people: what happened and what to do.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Xid(79) => f.write_str("fell off the bus (XID 79): drain the node and reset it"),
            Fault::Xid(xid) if self.needs_reset() => {
                write!(f, "reported XID {xid}: drain the node and reset the GPU")
            }
            Fault::Xid(xid) => write!(f, "reported XID {xid}: it is used again once it stays quiet"),
            Fault::Lost => f.write_str("fell off the bus: drain the node and reset it"),
            Fault::ResetRequired => {
                f.write_str("must be reset before it can be used: drain the node and reset the GPU")
            }
            Fault::Silent => f.write_str("does not answer the driver: look for NVRM in the node's kernel log"),
            Fault::Action(RecoveryAction::RebootNode) => f.write_str("needs a reboot of the node, says the driver"),
            Fault::Action(RecoveryAction::DrainPeerToPeer) => {
                f.write_str("needs its peer-to-peer jobs drained, says the driver")
            }
            Fault::Action(RecoveryAction::DrainAndReset) => {
                f.write_str("works at reduced capacity and needs to be drained and reset, says the driver")
            }
            Fault::Action(_) => f.write_str("needs a reset, says the driver"),
        }
    }
}

/// Why a probe had no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// NVML says that the GPU is lost.
    Lost,
    /// NVML says that the GPU must be reset.
    ResetRequired,
    /// Any other error, or no answer in time.
    Error,
}

/// What one look at a GPU found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It answered. The action is `None` where the driver is too old to say.
    Answered(Option<RecoveryAction>),
    /// It did not.
    Unanswered(Unanswered),
}

/// The rules.
#[derive(Clone, Debug)]
pub struct HealthPolicy {
    /// XIDs that leave a GPU healthy.
    pub ignored_xids: BTreeSet<u64>,
    /// How long a GPU must answer without a new event before it is healthy again, where the driver says that it is fit.
    pub hold: Duration,
    /// The same where the driver does not say.
    pub hold_unconfirmed: Duration,
    /// The longest that repeated relapses can make a hold.
    pub hold_max: Duration,
    /// A fault this soon after the last recovery is a relapse.
    pub relapse_window: Duration,
    /// Probes in a row without an answer (and without the word "lost") that make a GPU unhealthy.
    pub silent_probes: u32,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        HealthPolicy {
            ignored_xids: APPLICATION_XIDS.into(),
            // Three probes: one may be answered from the driver's cache.
            hold: Duration::from_secs(3),
            hold_unconfirmed: Duration::from_secs(600),
            hold_max: Duration::from_secs(600),
            relapse_window: Duration::from_secs(600),
            silent_probes: 3,
        }
    }
}

/// The state that others see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// May be given to pods.
    Healthy,
    /// May not.
    Unhealthy {
        /// The worst fault so far.
        fault: Fault,
        /// When it became unhealthy.
        since: SystemTime,
    },
}

/// One GPU's health.
#[derive(Clone, Debug)]
pub struct Health {
    state: State,
    /// Since when it has answered without a new event, while unhealthy.
    quiet_since: Option<SystemTime>,
    /// It was unreachable since the fault: coming back from that is a reset.
    vanished: bool,
    unanswered: u32,
    relapses: u32,
    recovered_at: Option<SystemTime>,
}

impl Default for Health {
    fn default() -> Self {
        Health {
            state: State::Healthy,
            quiet_since: None,
            vanished: false,
            unanswered: 0,
            relapses: 0,
            recovered_at: None,
        }
    }
}

impl Health {
    /// The state now.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes over a fault that was seen before this process started, under the same driver. A GPU that already shows a fault
    /// keeps that. Returns whether the state changed.
    ///
    /// It recovers by the same rules as one that was just seen. A reset that happened while nobody watched cannot be told
    /// from none where the driver does not say what the GPU needs, and is not assumed.
    pub fn recall(&mut self, fault: Fault, since: SystemTime) -> bool {
        let changed = self.state == State::Healthy;
        if changed {
            self.state = State::Unhealthy { fault, since };
            self.quiet_since = None;
        }
        changed
    }

    /// The driver reported an XID. Returns whether the state changed.
    pub fn on_xid(&mut self, xid: u64, policy: &HealthPolicy, now: SystemTime) -> bool {
        if policy.ignored_xids.contains(&xid) {
            return false;
        }
        self.fail(Fault::Xid(xid), policy, now)
    }

    /// A probe came back. Returns whether the state changed.
    pub fn on_probe(&mut self, probe: Probe, policy: &HealthPolicy, now: SystemTime) -> bool {
        match probe {
            Probe::Unanswered(why) => {
                self.unanswered += 1;
                self.quiet_since = None;
                let fault = match why {
                    Unanswered::Lost => Fault::Lost,
                    Unanswered::ResetRequired => Fault::ResetRequired,
                    Unanswered::Error if self.unanswered >= policy.silent_probes => Fault::Silent,
                    Unanswered::Error => return false,
                };
                self.vanished = true;
                self.fail(fault, policy, now)
            }
            Probe::Answered(action) => {
                self.unanswered = 0;
                match action {
                    Some(action) if action != RecoveryAction::None => self.fail(Fault::Action(action), policy, now),
                    _ => self.quiet(action.is_some(), policy, now),
                }
            }
        }
    }

    fn fail(&mut self, fault: Fault, policy: &HealthPolicy, now: SystemTime) -> bool {
        self.quiet_since = None;
        if !matches!(fault, Fault::Lost | Fault::Silent | Fault::ResetRequired) {
            self.vanished = false;
        }
        match self.state {
            State::Healthy => {
                let relapse = self.recovered_at.is_some_and(|at| elapsed(at, now) <= policy.relapse_window);
                self.relapses = if relapse { self.relapses + 1 } else { 0 };
                self.state = State::Unhealthy { fault, since: now };
                true
            }
            // An XID tells more than the silence or the reset request that follows from it.
            State::Unhealthy { fault: known, since } => {
                let tells_more = matches!(fault, Fault::Xid(_)) || !matches!(known, Fault::Xid(_));
                let changed = tells_more && known != fault;
                if changed {
                    self.state = State::Unhealthy { fault, since };
                }
                changed
            }
        }
    }

    /// It answered and asks for nothing.
    fn quiet(&mut self, confirmed: bool, policy: &HealthPolicy, now: SystemTime) -> bool {
        let State::Unhealthy { fault, .. } = self.state else { return false };
        let quiet_since = *self.quiet_since.get_or_insert(now);
        let fit = confirmed || self.vanished || !fault.needs_reset();
        let base = if confirmed || self.vanished { policy.hold } else { policy.hold_unconfirmed };
        let hold = base.saturating_mul(1 << self.relapses.min(16)).min(policy.hold_max.max(base));
        if !fit || elapsed(quiet_since, now) < hold {
            return false;
        }
        self.state = State::Healthy;
        self.quiet_since = None;
        self.vanished = false;
        self.recovered_at = Some(now);
        true
    }
}

/// The clock may be set back; time then stands still rather than running negative.
fn elapsed(from: SystemTime, to: SystemTime) -> Duration {
    to.duration_since(from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIT: Probe = Probe::Answered(Some(RecoveryAction::None));
    const FIT_OLD_DRIVER: Probe = Probe::Answered(None);
    const LOST: Probe = Probe::Unanswered(Unanswered::Lost);

    /// A GPU with its own clock.
    struct Bench {
        health: Health,
        policy: HealthPolicy,
        now: SystemTime,
    }

    impl Bench {
        fn new() -> Self {
            Bench { health: Health::default(), policy: HealthPolicy::default(), now: SystemTime::UNIX_EPOCH }
        }
        fn xid(&mut self, xid: u64) -> &mut Self {
            self.health.on_xid(xid, &self.policy, self.now);
            self
        }
        /// One probe a second for `seconds`.
        fn probe(&mut self, probe: Probe, seconds: u64) -> &mut Self {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                self.health.on_probe(probe, &self.policy, self.now);
            }
            self
        }
        fn fault(&self) -> Option<Fault> {
            match self.health.state() {
                State::Healthy => None,
                State::Unhealthy { fault, .. } => Some(fault),
            }
        }
    }

    #[test]
    fn an_application_xid_leaves_the_gpu_healthy() {
        for xid in APPLICATION_XIDS {
            assert_eq!(Bench::new().xid(xid).fault(), None, "XID {xid}");
        }
    }

    #[test]
    fn any_other_xid_makes_it_unhealthy_at_once() {
        for xid in [48, 63, 74, 79, 94, 95, 119, 9999] {
            assert_eq!(Bench::new().xid(xid).fault(), Some(Fault::Xid(xid)));
        }
    }

    #[test]
    fn it_recovers_after_the_hold_when_the_driver_says_that_it_is_fit() {
        let mut gpu = Bench::new();
        gpu.xid(79).probe(FIT, 3);
        assert_eq!(gpu.fault(), Some(Fault::Xid(79)), "still holding");
        gpu.probe(FIT, 1);
        assert_eq!(gpu.fault(), None);
    }

    #[test]
    fn it_does_not_recover_while_the_driver_asks_for_a_reset() {
        let mut gpu = Bench::new();
        gpu.xid(48).probe(Probe::Answered(Some(RecoveryAction::ResetGpu)), 3600);
        assert_eq!(gpu.fault(), Some(Fault::Xid(48)));
    }

    #[test]
    fn a_request_of_the_driver_alone_makes_it_unhealthy() {
        let mut gpu = Bench::new();
        gpu.probe(Probe::Answered(Some(RecoveryAction::DrainAndReset)), 1);
        assert_eq!(gpu.fault(), Some(Fault::Action(RecoveryAction::DrainAndReset)));
    }

    #[test]
    fn under_an_old_driver_answering_is_not_enough_after_a_reset_xid() {
        let mut gpu = Bench::new();
        gpu.xid(48).probe(FIT_OLD_DRIVER, 86_400);
        assert_eq!(gpu.fault(), Some(Fault::Xid(48)));
        gpu.probe(LOST, 20).probe(FIT_OLD_DRIVER, 4);
        assert_eq!(gpu.fault(), None, "it vanished and came back: it was reset");
    }

    #[test]
    fn under_an_old_driver_a_contained_error_heals_by_long_quiet() {
        let mut gpu = Bench::new();
        gpu.xid(94).probe(FIT_OLD_DRIVER, 600);
        assert_eq!(gpu.fault(), Some(Fault::Xid(94)));
        gpu.probe(FIT_OLD_DRIVER, 1);
        assert_eq!(gpu.fault(), None);
    }

    #[test]
    fn a_lost_gpu_comes_back_when_it_answers_again() {
        let mut gpu = Bench::new();
        gpu.probe(LOST, 1);
        assert_eq!(gpu.fault(), Some(Fault::Lost));
        gpu.probe(FIT_OLD_DRIVER, 4);
        assert_eq!(gpu.fault(), None);
    }

    #[test]
    fn a_single_failed_call_is_forgiven_and_three_are_not() {
        let failed = Probe::Unanswered(Unanswered::Error);
        let mut gpu = Bench::new();
        gpu.probe(failed, 2).probe(FIT, 1).probe(failed, 2);
        assert_eq!(gpu.fault(), None);
        gpu.probe(failed, 1);
        assert_eq!(gpu.fault(), Some(Fault::Silent));
    }

    #[test]
    fn an_xid_is_not_overwritten_by_the_silence_that_follows() {
        let mut gpu = Bench::new();
        gpu.xid(79).probe(LOST, 5);
        assert_eq!(gpu.fault(), Some(Fault::Xid(79)));
    }

    #[test]
    fn every_relapse_doubles_the_hold_up_to_its_limit() {
        let mut gpu = Bench::new();
        gpu.xid(94).probe(FIT, 4).xid(94).probe(FIT, 6);
        assert_eq!(gpu.fault(), Some(Fault::Xid(94)), "six seconds, not three");
        gpu.probe(FIT, 1);
        assert_eq!(gpu.fault(), None);
        for _ in 0..20 {
            gpu.xid(94).probe(FIT, 601);
            assert_eq!(gpu.fault(), None, "never held longer than the limit");
        }
    }

    #[test]
    fn a_new_event_starts_the_hold_again() {
        let mut gpu = Bench::new();
        gpu.xid(94).probe(FIT, 3).xid(94).probe(FIT, 3);
        assert_eq!(gpu.fault(), Some(Fault::Xid(94)));
    }

    #[test]
    fn a_fault_of_before_a_restart_is_as_one_of_now() {
        let long_ago = SystemTime::UNIX_EPOCH;
        let recalled = |xid| {
            let mut gpu = Bench::new();
            gpu.now += Duration::from_secs(1_000_000);
            assert!(gpu.health.recall(Fault::Xid(xid), long_ago));
            gpu
        };
        assert_eq!(
            recalled(48).health.state(),
            State::Unhealthy { fault: Fault::Xid(48), since: SystemTime::UNIX_EPOCH }
        );
        assert_eq!(recalled(48).probe(FIT, 4).fault(), None, "the driver says that it is fit");
        assert_eq!(recalled(48).probe(FIT_OLD_DRIVER, 86_400).fault(), Some(Fault::Xid(48)));
        assert_eq!(recalled(48).probe(LOST, 1).probe(FIT_OLD_DRIVER, 4).fault(), None, "it was reset");
        assert_eq!(recalled(94).probe(FIT_OLD_DRIVER, 600).fault(), Some(Fault::Xid(94)), "its quiet begins now");
        assert_eq!(recalled(94).probe(FIT_OLD_DRIVER, 601).fault(), None);
    }

    #[test]
    fn a_fault_of_before_a_restart_does_not_hide_one_of_now() {
        let mut gpu = Bench::new();
        gpu.xid(79);
        assert!(!gpu.health.recall(Fault::Xid(94), SystemTime::UNIX_EPOCH));
        assert_eq!(gpu.fault(), Some(Fault::Xid(79)));
    }

    #[test]
    fn since_stays_the_first_moment() {
        let mut gpu = Bench::new();
        gpu.probe(LOST, 1).xid(79);
        assert_eq!(
            gpu.health.state(),
            State::Unhealthy { fault: Fault::Xid(79), since: SystemTime::UNIX_EPOCH + Duration::from_secs(1) }
        );
    }
}
