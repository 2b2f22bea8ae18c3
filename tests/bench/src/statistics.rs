//! Samples and what may be said of them on a shared machine: ratios of quantiles, beside what noise is.

use serde::Serialize;

/// Samples of one figure of one subject, in any unit.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The nearest-rank quantile, `0.0..=1.0`; NaN when there is no sample.
    #[must_use]
    pub fn quantile(&self, at: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (at * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

/// One figure: a subject against the floor, and the floor against itself.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// The samples' unit.
    pub unit: &'static str,
    /// Samples of each subject.
    pub samples: usize,
    /// Half of the floor's samples were no larger.
    pub floor_p50: f64,
    /// 99 % of the floor's samples were no larger.
    pub floor_p99: f64,
    /// Likewise for the partition.
    pub partition_p50: f64,
    /// Likewise for the partition.
    pub partition_p99: f64,
    /// Partition to floor, at p50.
    pub ratio_p50: f64,
    /// Partition to floor, at p99.
    pub ratio_p99: f64,
    /// The floor a second time to the floor, at p50: how far from 1.0 is chance.
    pub noise_p50: f64,
    /// The floor a second time to the floor, at p99.
    pub noise_p99: f64,
    /// What the specification promises of `ratio_p50`, at most.
    pub promised: f64,
}

impl Figure {
    /// Compares the partition with the floor, and the floor with itself; the three took turns.
    #[must_use]
    pub fn compare(
        name: &str,
        unit: &'static str,
        promised: f64,
        floor: &Samples,
        again: &Samples,
        partition: &Samples,
    ) -> Self {
        let at = |quantile: f64| (floor.quantile(quantile), again.quantile(quantile), partition.quantile(quantile));
        let (middle, tail) = (at(0.5), at(0.99));
        Self {
            name: name.to_owned(),
            unit,
            samples: partition.len(),
            floor_p50: middle.0,
            floor_p99: tail.0,
            partition_p50: middle.2,
            partition_p99: tail.2,
            ratio_p50: middle.2 / middle.0,
            ratio_p99: tail.2 / tail.0,
            noise_p50: middle.1 / middle.0,
            noise_p99: tail.1 / tail.0,
            promised,
        }
    }

    /// Whether the promise holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.ratio_p50 <= self.promised
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:<34} {:>9.2} {:>9.2} {:>9.2} {:>9.2} {:<3} {:>6.3} {:>6.3} {:>7.3} {:>6.3} {:>6.2}  {}",
            self.name,
            self.floor_p50,
            self.floor_p99,
            self.partition_p50,
            self.partition_p99,
            self.unit,
            self.ratio_p50,
            self.ratio_p99,
            self.noise_p50,
            self.noise_p99,
            self.promised,
            if self.holds() { "held" } else { "NOT HELD" }
        )
    }
}

/// The line above figures.
#[must_use]
pub fn header() -> String {
    format!(
        "{:<34} {:>19} {:>19}     {:>13} {:>14} {:>6}\n{:<34} {:>9} {:>9} {:>9} {:>9}     {:>6} {:>6} {:>7} {:>6} {:>6}",
        "",
        "floor",
        "partition",
        "ratio",
        "noise floor",
        "at",
        "figure",
        "p50",
        "p99",
        "p50",
        "p99",
        "p50",
        "p99",
        "p50",
        "p99",
        "most"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_rank() {
        let mut samples = Samples::default();
        assert!(samples.quantile(0.5).is_nan());
        (1..=100).rev().for_each(|sample| samples.push(f64::from(sample)));
        assert_eq!(samples.quantile(0.5), 50.0);
        assert_eq!(samples.quantile(0.99), 99.0);
        assert_eq!(samples.quantile(1.0), 100.0);
        assert_eq!(samples.quantile(0.0), 1.0);
    }

    #[test]
    fn a_promise_is_held_or_not() {
        let samples = |value: f64| Samples(vec![value; 3]);
        let figure = Figure::compare("x", "us", 1.5, &samples(2.0), &samples(2.0), &samples(3.0));
        assert!(figure.holds());
        assert!(!Figure { promised: 1.4, ..figure }.holds());
    }
}
