//! Metrics in Prometheus's text format, and what two looks at them make: rates and quantiles.

use std::collections::BTreeMap;

/// Values by series, as the text spells them: `name{label="value"}`.
#[derive(Clone, Default)]
pub(super) struct Series(BTreeMap<String, f64>);

impl Series {
    /// Lines that are no series are left out.
    pub(super) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Series(series.collect())
    }

    /// Its value; 0 where it is not there.
    pub(super) fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Values of a metric by a label's value, of all its series whose other labels begin so.
    pub(super) fn by<'s>(&'s self, metric: &'s str, label: &str) -> BTreeMap<&'s str, f64> {
        let mut sums = BTreeMap::new();
        for (name, value) in self.of(metric) {
            if let Some(word) = label_of(name, label) {
                *sums.entry(word).or_default() += value;
            }
        }
        sums
    }

    /// The sum of all series of a metric.
    pub(super) fn sum(&self, metric: &str) -> f64 {
        self.of(metric).map(|(_, value)| value).sum()
    }

    fn of<'s>(&'s self, metric: &'s str) -> impl Iterator<Item = (&'s str, f64)> {
        let series = self.0.iter().map(|(name, value)| (name.as_str(), *value));
        series.filter(move |(name, _)| {
            name.strip_prefix(metric).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
        })
    }

    /// What was counted since then. A server that was started anew counts from zero.
    pub(super) fn since(&self, before: &Series) -> Series {
        let difference = |(name, value): (&String, &f64)| {
            let before = before.get(name);
            (name.clone(), if *value >= before { value - before } else { *value })
        };
        Series(self.0.iter().map(difference).collect())
    }

    /// Of a histogram, as Prometheus' `histogram_quantile` has it; `None` when nothing was observed.
    pub(super) fn quantile(&self, histogram: &str, quantile: f64) -> Option<f64> {
        let name = format!("{histogram}_bucket");
        let mut buckets: Vec<(f64, f64)> = self
            .of(&name)
            .filter_map(|(name, count)| Some((label_of(name, "le")?.replace("+Inf", "inf").parse().ok()?, count)))
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = buckets.last()?.1;
        if all <= 0.0 {
            return None;
        }
        let rank = quantile * all;
        let mut below = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= rank {
                // Nothing is known of what is above the last bound.
                let share = if count > below.1 { (rank - below.1) / (count - below.1) } else { 0.0 };
                return Some(if bound.is_infinite() { below.0 } else { below.0 + (bound - below.0) * share });
            }
            below = (bound, count);
        }
        None
    }
}

fn label_of<'n>(name: &'n str, label: &str) -> Option<&'n str> {
    let (_, rest) = name.split_once(&format!("{label}=\""))?;
    Some(rest.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP a_total What is counted
# TYPE a_total counter
a_total{reason=\"x\",verdict=\"refused\"} 3
a_total{reason=\"y\",verdict=\"refused\"} 4
a_totals 9
t_seconds_bucket{le=\"0.1\"} 5
t_seconds_bucket{le=\"0.2\"} 10
t_seconds_bucket{le=\"+Inf\"} 10
rubbish
";

    #[test]
    fn series_are_read_and_summed_by_a_label() {
        let series = Series::parse(TEXT);
        assert_eq!(series.sum("a_total"), 7.0);
        assert_eq!(series.by("a_total", "reason"), BTreeMap::from([("x", 3.0), ("y", 4.0)]));
        assert_eq!(series.get("nowhere"), 0.0);
    }

    #[test]
    fn what_was_counted_since_a_look_survives_a_restart() {
        let before = Series::parse("a_total 10\nb_total 1\n");
        let since = Series::parse("a_total 3\nb_total 4\n").since(&before);
        assert_eq!((since.get("a_total"), since.get("b_total")), (3.0, 3.0));
    }

    #[test]
    fn quantiles_are_prometheus_own() {
        let series = Series::parse(TEXT);
        assert_eq!(series.quantile("t_seconds", 0.5), Some(0.1));
        assert_eq!(series.quantile("t_seconds", 0.75), Some(0.15000000000000002));
        assert_eq!(series.quantile("t_seconds", 1.0), Some(0.2));
        assert_eq!(series.quantile("none", 0.5), None);
        let over = Series::parse("t_bucket{le=\"1\"} 0\nt_bucket{le=\"+Inf\"} 2\n");
        assert_eq!(over.quantile("t", 0.5), Some(1.0), "the last bound that is known");
    }
}
