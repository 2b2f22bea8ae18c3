//! Samples and what may be said of them on a shared machine: ratios of quantiles, how well they are known,
//! and what noise is.

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

/// Times that samples are drawn anew for [`spread`].
const DRAWS: usize = 200;

/// Where nine in ten of the ratios of medians lie when both sides' samples are drawn anew from what was
/// measured (the bootstrap): how well the ratio is known. The draws are the same in every run.
#[must_use]
pub fn spread(subject: &Samples, floor: &Samples) -> (f64, f64) {
    // Knuth's generator; its upper bits are good enough to choose a sample by.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut median = |samples: &Samples| {
        let mut draw = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            samples.0.get((state >> 33) as usize % samples.len().max(1)).copied().unwrap_or(f64::NAN)
        };
        Samples((0..samples.len()).map(|_| draw()).collect()).quantile(0.5)
    };
    let ratios = Samples((0..DRAWS).map(|_| median(subject) / median(floor)).collect());
    (ratios.quantile(0.05), ratios.quantile(0.95))
}

/// One figure: a subject against the floor, and the floor against itself.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Of what it was measured beside the floor.
    pub subject: String,
    /// The samples' unit.
    pub unit: &'static str,
    /// Samples of the subject.
    pub samples: usize,
    /// Half of the floor's samples were no larger.
    pub floor_p50: f64,
    /// 99 % of the floor's samples were no larger.
    pub floor_p99: f64,
    /// Likewise for the subject.
    pub p50: f64,
    /// Likewise for the subject.
    pub p99: f64,
    /// Subject to floor, at p50.
    pub ratio_p50: f64,
    /// Nine in ten of the ratios at p50 that could as well have been measured lie between these.
    pub ratio_between: (f64, f64),
    /// Subject to floor, at p99.
    pub ratio_p99: f64,
    /// The floor a second time to the floor, at p50: how far from 1.0 is chance.
    pub noise_p50: f64,
    /// The floor a second time to the floor, at p99.
    pub noise_p99: f64,
    /// What the specification promises of `ratio_p50`, at most; nothing is promised of other monitors.
    pub promised: Option<f64>,
}

impl Figure {
    /// Compares a subject with the floor, and the floor (`floor[0]`) with itself (`floor[1]`); all took turns.
    #[must_use]
    pub fn compare(
        name: &str,
        subject: &str,
        unit: &'static str,
        promised: Option<f64>,
        floor: [&Samples; 2],
        samples: &Samples,
    ) -> Self {
        let [first, again] = floor;
        let at = |quantile: f64| (first.quantile(quantile), again.quantile(quantile), samples.quantile(quantile));
        let (middle, tail) = (at(0.5), at(0.99));
        Self {
            name: name.to_owned(),
            subject: subject.to_owned(),
            unit,
            samples: samples.len(),
            floor_p50: middle.0,
            floor_p99: tail.0,
            p50: middle.2,
            p99: tail.2,
            ratio_p50: middle.2 / middle.0,
            ratio_between: spread(samples, first),
            ratio_p99: tail.2 / tail.0,
            noise_p50: middle.1 / middle.0,
            noise_p99: tail.1 / tail.0,
            promised,
        }
    }

    /// Whether the promise, if there is one, holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.promised.is_none_or(|promised| self.ratio_p50 <= promised)
    }
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
        let floor = [&samples(2.0), &samples(2.0)];
        let figure = Figure::compare("x", "partition", "us", Some(1.5), floor, &samples(3.0));
        assert!(figure.holds());
        assert_eq!(figure.ratio_between, (1.5, 1.5));
        assert!(!Figure { promised: Some(1.4), ..figure.clone() }.holds());
        assert!(Figure { promised: None, ..figure }.holds());
    }

    #[test]
    fn a_ratio_of_scattered_samples_is_known_less_well() {
        let samples = |step: f64| Samples((0..40).map(|index| 10.0 + step * f64::from(index % 10)).collect());
        let (narrow, wide) = (spread(&samples(0.1), &samples(0.1)), spread(&samples(2.0), &samples(2.0)));
        assert!(narrow.0 <= 1.0 && narrow.1 >= 1.0 && wide.0 < narrow.0 && wide.1 > narrow.1, "{narrow:?} {wide:?}");
    }
}
