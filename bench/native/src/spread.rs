use serde::Serialize;

/// What interleaved rounds gave: median and quartiles.
#[derive(Clone, Copy, Serialize)]
pub struct Spread {
    pub median: f64,
    pub q1: f64,
    pub q3: f64,
    pub rounds: usize,
}

impl Spread {
    /// None without samples.
    pub fn of(samples: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let place = share * (sorted.len() - 1) as f64;
            let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        (!sorted.is_empty()).then(|| Spread {
            median: at(0.5),
            q1: at(0.25),
            q3: at(0.75),
            rounds: sorted.len(),
        })
    }
}
