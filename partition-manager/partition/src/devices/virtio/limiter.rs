//! A limit of so much in a second, with what was not used saved up for a moment. Pure: time comes with each call.

use std::time::Duration;

const NANOSECONDS: u128 = 1_000_000_000;

/// A bucket that fills at a rate, and holds what the rate gives in a tenth of a second, or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    rate: u64,
    size: u64,
    /// What is in it; below nothing after a request that was larger than the bucket.
    level: i128,
    last: Duration,
}

impl Bucket {
    /// A full bucket at `now`; `rate` is for each second, not 0.
    #[must_use]
    pub fn new(rate: u64, now: Duration) -> Self {
        let size = (rate / 10).max(1);
        Self { rate: rate.max(1), size, level: i128::from(size) * NANOSECONDS as i128, last: now }
    }

    fn fill(&mut self, now: Duration) {
        let gained = now.saturating_sub(self.last).as_nanos().saturating_mul(self.rate.into());
        let most = i128::from(self.size) * NANOSECONDS as i128;
        self.level = self.level.saturating_add(i128::try_from(gained).unwrap_or(i128::MAX)).min(most);
        self.last = self.last.max(now);
    }

    /// How long to wait until something may be taken; none when it may be now.
    pub fn wait(&mut self, now: Duration) -> Option<Duration> {
        self.fill(now);
        let missing = u128::try_from(-self.level).ok()?;
        let nanoseconds = (missing / u128::from(self.rate)).saturating_add(1);
        Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }

    /// Takes `amount`, also more than there is: what comes after waits the longer for it.
    pub fn take(&mut self, amount: u64) {
        self.level = self.level.saturating_sub(i128::from(amount) * NANOSECONDS as i128);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_second_gives_more_than_the_rate_and_the_bucket(
            rate in 1..100_000u64, amounts in proptest::collection::vec(1..5_000u64, 1..300),
        ) {
            let mut now = Duration::ZERO;
            let mut bucket = Bucket::new(rate, now);
            let mut taken = vec![];
            for amount in amounts {
                while let Some(wait) = bucket.wait(now) {
                    prop_assert!(wait > Duration::ZERO);
                    now += wait;
                }
                bucket.take(amount);
                taken.push((now, amount));
            }
            // One request may exceed what is there; nothing follows it before that is made good.
            for (at, (begin, _)) in taken.iter().enumerate() {
                let within = taken.iter().skip(at).take_while(|(time, _)| *time < *begin + Duration::from_secs(1));
                let (sum, last) = within.fold((0, 0), |(sum, _), (_, amount)| (sum + amount, *amount));
                prop_assert!(sum - last <= rate + (rate / 10).max(1), "{sum} in a second at {rate}");
            }
        }
    }
}
