//! Minimum, median and 99th percentile of measurements.

use std::time::Duration;

/// Sorted measurements, in microseconds.
pub(crate) struct Spread(Vec<f64>);

impl Spread {
    /// The spread of these measurements; at least one.
    pub(crate) fn of(times: impl IntoIterator<Item = Duration>) -> Self {
        let mut micros: Vec<f64> = times.into_iter().map(|time| time.as_secs_f64() * 1e6).collect();
        micros.sort_by(f64::total_cmp);
        Self(micros)
    }

    /// The median.
    pub(crate) fn median(&self) -> f64 {
        self.0[self.0.len() / 2]
    }

    /// Prints one line, with the target for the median in microseconds, if any.
    pub(crate) fn print(&self, what: &str, target: Option<f64>) {
        let last = self.0.len() - 1;
        let p99 = self.0[last * 99 / 100];
        let verdict = target.map_or_else(String::new, |target| {
            let result = if self.median() <= target { "reached" } else { "MISSED" };
            format!("; target for the median {target:.3} µs: {result}")
        });
        let (count, min, median) = (self.0.len(), self.0[0], self.median());
        println!("{what}: n {count}, min {min:.3} µs, median {median:.3} µs, p99 {p99:.3} µs{verdict}");
    }
}
