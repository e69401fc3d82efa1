//! Reports of the failed checks of a source's transport stream: one event for each check that begins to fail, and fewer
//! and fewer while it goes on failing.

use crate::media::{TransportCheck, TransportErrors};
use std::time::{Duration, Instant};

/// Interval between the first two reports of a check. It doubles with each further report.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum interval between two reports of a check. After as much time without a failure, a check begins anew.
const MAX_INTERVAL: Duration = Duration::from_secs(60);

/// State of the reports of one check.
#[derive(Clone, Copy, Debug, Default)]
struct CheckReports {
    /// Failures that have been reported.
    reported: u64,
    /// Time and interval of the last report.
    last: Option<(Instant, Duration)>,
}

/// State of the reports of all checks.
#[derive(Debug, Default)]
pub(super) struct TransportReports([CheckReports; TransportCheck::ALL.len()]);

impl TransportReports {
    /// Returns the reports that are due at `now`: each failed check, with the number of failures since its last report.
    pub(super) fn due(
        &mut self,
        errors: &TransportErrors,
        now: Instant,
    ) -> impl Iterator<Item = (TransportCheck, u64)> {
        TransportCheck::ALL.into_iter().zip(&mut self.0).filter_map(move |(check, reports)| {
            let failures = errors.of(check);
            let count = failures.saturating_sub(reports.reported);
            let interval = match reports.last {
                None => FIRST_INTERVAL,
                Some((last, interval)) => {
                    let since = now.saturating_duration_since(last);
                    if count == 0 {
                        if since >= MAX_INTERVAL {
                            reports.last = None;
                        }
                        return None;
                    }
                    if since < interval {
                        return None;
                    }
                    (interval * 2).min(MAX_INTERVAL)
                }
            };
            if count == 0 {
                return None;
            }
            *reports = CheckReports { reported: failures, last: Some((now, interval)) };
            Some((check, count))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a check fail once a second for so long, and returns when it was reported, and how often it had failed.
    fn reports_of(
        reports: &mut TransportReports,
        errors: &mut TransportErrors,
        start: Instant,
        seconds: u64,
    ) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        for second in 0..seconds {
            errors.pcr_repetition += 1;
            let now = start + Duration::from_secs(second);
            for (check, count) in reports.due(errors, now) {
                assert_eq!(check, TransportCheck::PcrRepetition);
                found.push((second, count));
            }
        }
        found
    }

    #[test]
    fn transport_errors_that_go_on_are_reported_less_and_less_and_none_is_forgotten() {
        let start = Instant::now();
        let mut reports = TransportReports::default();
        let mut errors = TransportErrors::default();
        let found = reports_of(&mut reports, &mut errors, start, 200);
        let at: Vec<u64> = found.iter().map(|(second, _)| *second).collect();
        assert_eq!(at, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
        assert_eq!(found.iter().map(|(_, count)| count).sum::<u64>(), 184);
        // What is left is reported when its interval is over, also if nothing fails any more.
        let later = start + Duration::from_secs(243);
        assert_eq!(reports.due(&errors, later).collect::<Vec<_>>(), [(TransportCheck::PcrRepetition, 16)]);
        // After a minute without a failure, the next one is reported at once again, and the one after it a second later.
        let later = later + Duration::from_secs(61);
        assert_eq!(reports.due(&errors, later).count(), 0);
        let found = reports_of(&mut reports, &mut errors, later, 3);
        assert_eq!(found, [(0, 1), (1, 1)]);
    }
}
