//! How the numbers of each parameter and of its gradient are distributed.

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};
use heddle_hybrid::{EachParameter, for_each_parameter};

use crate::result::Histogram;

/// Buckets of a histogram.
const BUCKETS: usize = 30;

/// Histograms of every parameter and of its gradient, `parameters/PATH` and `gradients/PATH`, in the model's order.
pub fn histograms<M: Module>(model: &M, gradients: &GradientsParams) -> Vec<(String, Histogram)> {
    let mut visit = Visit { gradients, found: vec![] };
    for_each_parameter(model, &mut visit);
    visit.found
}

struct Visit<'a> {
    gradients: &'a GradientsParams,
    found: Vec<(String, Histogram)>,
}

impl EachParameter for Visit<'_> {
    fn parameter<const D: usize>(&mut self, path: &str, param: &Param<Tensor<D>>) {
        self.found.push((format!("parameters/{path}"), Histogram::of(&param.val().into_data())));
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.found.push((format!("gradients/{path}"), Histogram::of(&gradient.into_data())));
        }
    }
}

impl Histogram {
    /// Counts finite numbers in buckets of equal width between the smallest and the largest.
    ///
    /// ```
    /// use burn::tensor::TensorData;
    /// use experiments::result::Histogram;
    ///
    /// let of = Histogram::of(&TensorData::new(vec![0.0f32, 1.0, 1.0, 3.0], [4]));
    /// assert_eq!((of.min, of.max, of.sum, of.sum_squares), (0.0, 3.0, 5.0, 11.0));
    /// assert_eq!(of.counts.iter().sum::<u64>(), 4);
    /// assert_eq!(of.limits().last(), Some(&3.0));
    /// ```
    pub fn of(numbers: &TensorData) -> Self {
        let numbers: Vec<f64> = numbers.iter::<f32>().map(f64::from).filter(|number| number.is_finite()).collect();
        let min = numbers.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let max = numbers.iter().copied().reduce(f64::max).unwrap_or(0.0);
        let mut counts = vec![0; BUCKETS];
        let per_bucket = (max - min) / BUCKETS as f64;
        for number in &numbers {
            let bucket = if per_bucket > 0.0 { ((number - min) / per_bucket) as usize } else { BUCKETS - 1 };
            counts[bucket.min(BUCKETS - 1)] += 1;
        }
        let (sum, sum_squares) = (numbers.iter().sum(), numbers.iter().map(|number| number * number).sum());
        Self { min, max, sum, sum_squares, counts }
    }

    /// The upper end of each bucket.
    pub fn limits(&self) -> Vec<f64> {
        let buckets = self.counts.len();
        let inner = |bucket: usize| self.min + (self.max - self.min) * bucket as f64 / buckets as f64;
        (1..buckets).map(inner).chain([self.max]).collect()
    }
}
