//! Leadership: of several operators one works, by holding a `Lease`.
//!
//! ```text
//!          acquired                     renewed every RENEW_EVERY
//! standby ──────────▶ leader until ───▶ leader until (later)
//!    ▲                  │    │ not renewed in time, or taken: the token is cancelled BEFORE the lease can be another's
//!    └──────────────────┴────┘
//! ```
//!
//! The rules are those of client-go's leader election: only the local clock is used. A foreign lease counts as expired when
//! its record has not changed for its whole duration since *we* first saw it so; our own leadership ends [`MARGIN`] before
//! the duration counted from when we *sent* the last successful renewal. Who wants to write asks [`Term::is_valid`] just
//! before: so no write starts after another operator may have begun.

use crate::pulse::Pulse;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a lease lasts without renewal: the longest time without an operator after a power cut.
pub const LEASE_DURATION: Duration = Duration::from_secs(10);
/// How often the leader renews.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How often a standby looks: the longest pause in a rolling update, where the old leader releases.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long before the lease's end the leader stops writing: longer than any request may take that was already sent.
const MARGIN: Duration = Duration::from_secs(3);
/// How long one request to the API server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// One turn of leadership.
#[derive(Clone, Debug)]
pub struct Term {
    until: Arc<Mutex<Instant>>,
    ended: CancellationToken,
}

impl Term {
    fn new(until: Instant) -> Self {
        Self { until: Arc::new(Mutex::new(until)), ended: CancellationToken::new() }
    }

    /// A term that does not end by itself: for an operator that runs alone, without election.
    pub fn endless() -> Self {
        Self::new(Instant::now() + Duration::from_secs(u64::from(u32::MAX)))
    }

    /// Whether a write may still be sent.
    pub fn is_valid(&self) -> bool {
        !self.ended.is_cancelled() && Instant::now() < self.until()
    }

    /// Completes when the term has ended, for whatever reason.
    pub async fn ended(&self) {
        loop {
            let until = self.until();
            tokio::select! {
                () = self.ended.cancelled() => return,
                () = tokio::time::sleep_until(until) => {
                    if Instant::now() >= self.until() {
                        self.ended.cancel();
                        return;
                    }
                }
            }
        }
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Ends the term now: nothing is written any more.
    pub fn end(&self) {
        self.ended.cancel();
    }
}

/// What a standby saw of somebody else's lease, and since when.
struct Seen {
    record: (Option<String>, Option<MicroTime>),
    at: Instant,
}

/// The right to hold one lease under one name.
pub struct Candidate {
    api: Api<Lease>,
    lease: String,
    identity: String,
    pulse: Pulse,
    seen: Option<Seen>,
}

impl Candidate {
    /// A candidate named `identity` (the pod's name) for the lease `lease` in `namespace`.
    pub fn new(client: Client, namespace: &str, lease: &str, identity: &str, pulse: Pulse) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, lease: lease.to_owned(), identity: identity.to_owned(), pulse, seen: None }
    }

    /// Waits until the lease is ours. Errors of the API server are logged and tried again: a standby has nothing else to do.
    pub async fn acquire(&mut self) -> Term {
        let mut failing = false;
        loop {
            let sent = Instant::now();
            match self.try_acquire().await {
                Ok(true) => return Term::new(sent + LEASE_DURATION - MARGIN),
                Ok(false) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(lease = self.lease, %error, "cannot read or take the lease, trying again");
                }
                Err(_) => {}
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    }

    /// Renews until the term ends: because it was taken, could not be renewed in time, or was ended by [`Term::end`]. However
    /// this ends, a panic included, the term ends with it.
    pub async fn hold(&mut self, term: &Term) {
        let _end = term.ended.clone().drop_guard();
        loop {
            tokio::select! {
                () = term.ended() => return,
                () = tokio::time::sleep(RENEW_EVERY) => {}
            }
            let sent = Instant::now();
            match self.try_acquire().await {
                Ok(true) => term.extend(sent + LEASE_DURATION - MARGIN),
                Ok(false) => {
                    tracing::warn!(lease = self.lease, "another operator took the lease");
                    return term.end();
                }
                Err(error) => tracing::warn!(lease = self.lease, %error, "cannot renew the lease, trying again"),
            }
        }
    }

    /// Gives the lease back, so that a standby takes it at once. Call it after the last write.
    pub async fn release(&self) {
        let released = async {
            let Some(mut lease) = self.api.get_opt(&self.lease).await? else { return Ok(()) };
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.identity) {
                return Ok(());
            }
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
            self.api.replace(&self.lease, &PostParams::default(), &lease).await.map(drop)
        };
        if let Err(error) = limited(released).await {
            tracing::warn!(lease = self.lease, %error, "cannot release the lease; the next operator waits until it expires");
        }
    }

    /// Takes or renews the lease if it is ours to take. The resource version in the update makes it one of several who wins.
    async fn try_acquire(&mut self) -> kube::Result<bool> {
        let won = limited(self.try_acquire_unlimited()).await?;
        self.pulse.answered();
        Ok(won)
    }

    async fn try_acquire_unlimited(&mut self) -> kube::Result<bool> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.api.get_opt(&self.lease).await? else {
            let metadata = ObjectMeta { name: Some(self.lease.clone()), ..ObjectMeta::default() };
            let spec = self.claim(LeaseSpec::default(), now);
            let lease = Lease { metadata, spec: Some(spec) };
            return won(self.api.create(&PostParams::default(), &lease).await);
        };
        let spec = lease.spec.take().unwrap_or_default();
        if !self.may_take(&spec, Instant::now()) {
            return Ok(false);
        }
        lease.spec = Some(self.claim(spec, now));
        won(self.api.replace(&self.lease, &PostParams::default(), &lease).await)
    }

    /// Whether the lease is ours, free, or expired by our own clock.
    fn may_take(&mut self, spec: &LeaseSpec, now: Instant) -> bool {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.identity {
            return true;
        }
        let record = (spec.holder_identity.clone(), spec.renew_time.clone());
        match &self.seen {
            Some(seen) if seen.record == record => {
                let duration = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
                now >= seen.at + Duration::from_secs(duration)
            }
            _ => {
                self.seen = Some(Seen { record, at: now });
                false
            }
        }
    }

    fn claim(&self, spec: LeaseSpec, now: MicroTime) -> LeaseSpec {
        let renewal = spec.holder_identity.as_deref() == Some(&self.identity);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_DURATION.as_secs()).ok(),
            acquire_time: if renewal { spec.acquire_time } else { Some(now.clone()) },
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0) + i32::from(!renewal)),
            renew_time: Some(now),
            ..spec
        }
    }
}

/// A conflict means that somebody else was faster.
fn won<T>(result: kube::Result<T>) -> kube::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

async fn limited<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(result) => result,
        Err(_) => Err(kube::Error::Service("the API server does not answer in time".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::client::Body;

    fn candidate(identity: &str) -> Candidate {
        let service = tower::service_fn(|_: http::Request<Body>| async {
            Err::<http::Response<Body>, std::io::Error>(std::io::Error::other("no server in this test"))
        });
        Candidate::new(Client::new(service, "default"), "weft-system", "weft-operator", identity, Pulse::default())
    }

    fn held_by(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(10),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_foreign_lease_is_taken_only_after_it_stood_still_for_its_duration() {
        let mut b = candidate("b");
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!b.may_take(&held_by("a", 1), at(0)), "seen for the first time");
        assert!(!b.may_take(&held_by("a", 1), at(9)), "not yet expired");
        assert!(!b.may_take(&held_by("a", 2), at(9)), "renewed meanwhile");
        assert!(!b.may_take(&held_by("a", 2), at(18)));
        assert!(b.may_take(&held_by("a", 2), at(19)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_or_own_lease_is_taken_at_once() {
        let mut b = candidate("b");
        assert!(b.may_take(&LeaseSpec::default(), Instant::now()));
        assert!(b.may_take(&held_by("b", 1), Instant::now()));
        let taken = b.claim(held_by("a", 1), MicroTime(Timestamp::from_second(5).unwrap()));
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("b"), Some(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_that_is_not_renewed_ends_before_the_lease_does() {
        let mut a = candidate("a");
        let start = Instant::now();
        let term = Term::new(start + LEASE_DURATION - MARGIN);
        assert!(term.is_valid());
        a.hold(&term).await; // the API server answers no renewal
        assert!(!term.is_valid());
        let lasted = start.elapsed();
        assert!(lasted < LEASE_DURATION && lasted >= LEASE_DURATION - MARGIN, "{lasted:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_term_ends_with_the_task_that_renews_it() {
        let mut a = candidate("a");
        let term = Term::new(Instant::now() + LEASE_DURATION - MARGIN);
        let held = term.clone();
        let renewing = tokio::spawn(async move { a.hold(&held).await });
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(term.is_valid());
        renewing.abort();
        assert!(renewing.await.is_err());
        assert!(!term.is_valid(), "at once, not when it runs out");
    }
}
