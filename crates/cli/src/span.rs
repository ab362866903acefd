//! Spans of time and sets of indices as people read them.

use jiff::Timestamp;

/// The time from `then` to `now`, in its largest unit or two: `45s`, `12m`, `3h20m`, `5d`. A clock that is ahead counts as none.
pub fn since(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(then).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 120 => format!("{minutes}m"),
        () if hours < 10 => format!("{hours}h{}m", minutes % 60),
        () if hours < 48 => format!("{hours}h"),
        () => format!("{days}d"),
    }
}

/// `0-3,6` for 0, 1, 2, 3 and 6.
pub fn indices(mut all: Vec<u32>) -> String {
    all.sort_unstable();
    all.dedup();
    let runs = all.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] if last - first > 1 => format!("{first}-{last}"),
        run => run.iter().map(u32::to_string).collect::<Vec<_>>().join(","),
    });
    runs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_given_in_the_unit_that_a_person_would_use() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| since(Timestamp::from_second(1_000_000 - seconds).unwrap(), now);
        let said: Vec<_> = [-5, 0, 119, 120, 7199, 7200, 12_000, 36_000, 172_800].into_iter().map(ago).collect();
        assert_eq!(said, ["0s", "0s", "119s", "2m", "119m", "2h0m", "3h20m", "10h", "2d"]);
    }

    #[test]
    fn runs_of_indices_are_joined() {
        assert_eq!(indices(vec![6, 0, 1, 3, 2]), "0-3,6");
        assert_eq!(indices(vec![0, 1, 4, 5]), "0,1,4,5");
        assert_eq!(indices(vec![]), "");
    }
}
