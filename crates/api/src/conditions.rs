//! Conditions in the standard Kubernetes shape, kept so that `lastTransitionTime` changes only with the status.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Sets one condition in a list, by its type.
///
/// `lastTransitionTime` becomes `now` only when the status differs from what was there. Returns whether anything changed.
pub fn set(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: bool,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: &Time,
) -> bool {
    let status = if status { "True" } else { "False" };
    if let Some(old) = conditions.iter_mut().find(|c| c.type_ == type_) {
        let same_words = old.reason == reason && old.message == message && old.observed_generation == generation;
        if old.status == status && same_words {
            return false;
        }
        if old.status != status {
            old.status = status.to_owned();
            old.last_transition_time = now.clone();
        }
        reason.clone_into(&mut old.reason);
        message.clone_into(&mut old.message);
        old.observed_generation = generation;
    } else {
        conditions.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            observed_generation: generation,
            last_transition_time: now.clone(),
        });
    }
    true
}

/// Whether the condition of this type is there and `True`.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn transition_time_changes_only_with_the_status() {
        let mut list = Vec::new();
        assert!(set(&mut list, "Placed", false, "NoFit", "3 of 4 fit", Some(1), &at(1)));
        assert!(!set(&mut list, "Placed", false, "NoFit", "3 of 4 fit", Some(1), &at(2)));
        assert!(set(&mut list, "Placed", false, "NoFit", "2 of 4 fit", Some(1), &at(3)));
        assert_eq!(list[0].last_transition_time, at(1));
        assert!(set(&mut list, "Placed", true, "Placed", "", Some(1), &at(4)));
        assert_eq!((list[0].last_transition_time.clone(), list.len()), (at(4), 1));
        assert!(is_true(&list, "Placed"));
    }
}
