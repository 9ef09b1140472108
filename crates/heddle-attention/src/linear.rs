//! Linear attention: a softmax replaced by features, and a cache by a sum.

use core::ops::Range;

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use heddle_kernels::{Init, Mixer, MixerSettings, SettingsError, SsdInput, linear, map_by_head, ssd, without_head_of};
use serde::{Deserialize, Serialize};

/// Settings of [`LinearAttention`].
///
/// ```
/// use burn::{module::Module, tensor::Device};
/// use heddle_attention::LinearAttentionSettings;
/// use heddle_kernels::{Init, MixerSettings};
///
/// let mut init = Init::new(0, &Device::flex());
/// let settings: LinearAttentionSettings = toml::from_str("heads = 2\nfeature_dim = 8").unwrap();
/// // Queries and keys of two heads of width 8, values and outputs of the model's width.
/// assert_eq!(settings.init(32, &mut init).unwrap().num_params(), 2 * 32 * (2 * 8) + 2 * 32 * 32);
///
/// let error = LinearAttentionSettings { heads: 3, ..settings }.init(32, &mut init).unwrap_err();
/// let expected = "`heads`: 3 heads do not divide the model's width 32; use a divisor of `d_model`";
/// assert_eq!(error.to_string(), expected);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinearAttentionSettings {
    /// Heads; they divide the model's width.
    pub heads: usize,
    /// Width of a head of queries and keys before the feature map; none means 16, or a value head's where that is smaller.
    pub feature_dim: Option<usize>,
    /// The feature map.
    pub feature_map: FeatureMap,
}

impl Default for LinearAttentionSettings {
    fn default() -> Self {
        Self { heads: 1, feature_dim: None, feature_map: FeatureMap::Taylor }
    }
}

/// What queries and keys become before their product is taken.
///
/// More features tell more keys apart, at the price of more state:
///
/// ```
/// use burn::tensor::Device;
/// use heddle_attention::{FeatureMap, LinearAttentionSettings};
/// use heddle_kernels::{Init, Mixer, MixerSettings};
///
/// let bytes = |feature_map| {
///     let settings = LinearAttentionSettings { heads: 1, feature_dim: Some(4), feature_map };
///     settings.init(8, &mut Init::new(0, &Device::flex())).unwrap().state_bytes(100, 8)
/// };
/// // For each feature of the key a sum of values, 8 wide, and one of weights.
/// assert_eq!(bytes(FeatureMap::Elu), 4 * (8 + 1) * 4);
/// assert_eq!(bytes(FeatureMap::Taylor), 4 * (8 + 1) * (1 + 4 + 16));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureMap {
    /// All products of up to two channels, whose product is `1 + s + s²/2` of the score `s = q·k / √f` (Based,
    /// arXiv:2402.18668): the start of `exp(s)`.
    Taylor,
    /// `elu(x) + 1` (arXiv:2006.16236, eq. 7).
    Elu,
}

impl FeatureMap {
    /// Features of a head of width `f`.
    fn width(self, f: usize) -> usize {
        match self {
            Self::Taylor => 1 + f + f * f,
            Self::Elu => f,
        }
    }

    /// `[b, l, h, f]` → `[b, l, h, features]`
    fn apply(self, x: Tensor<4>) -> Tensor<4> {
        let [b, l, h, f] = x.dims();
        match self {
            // elu(x) + 1 is x + 1 above zero and eˣ below.
            Self::Elu => x.clone().clamp_max(0.0).exp() + x.clamp_min(0.0),
            Self::Taylor => {
                let x = x * (f as f64).powf(-0.25);
                let rows: Tensor<5> = x.clone().reshape([b, l, h, f, 1]);
                let squares = (rows.clone() * rows.swap_dims(3, 4)).reshape([b, l, h, f * f]);
                let ones = Tensor::ones([b, l, h, 1], &x.device());
                Tensor::cat(vec![ones, x, squares * core::f64::consts::FRAC_1_SQRT_2], 3)
            }
        }
    }
}

/// Width of a head of queries and keys unless the settings or the block are narrower.
const FEATURE_DIM: usize = 16;

impl MixerSettings for LinearAttentionSettings {
    type Mixer = LinearAttention;

    fn init(&self, d_model: usize, init: &mut Init) -> Result<LinearAttention, SettingsError> {
        let h = self.heads;
        if h == 0 || !d_model.is_multiple_of(h) {
            let problem = format!("{h} heads do not divide the model's width {d_model}");
            return Err(SettingsError::new("heads", problem, "use a divisor of `d_model`"));
        }
        let f = self.feature_dim.unwrap_or(FEATURE_DIM.min(d_model / h));
        if f == 0 {
            return Err(SettingsError::new("feature_dim", "a head has no width", "use 1 or more"));
        }
        Ok(LinearAttention {
            query: init.linear(d_model, h * f, false),
            key: init.linear(d_model, h * f, false),
            value: init.linear(d_model, d_model, false),
            output: init.linear(d_model, d_model, false),
            heads: h,
            feature_map: self.feature_map,
        })
    }
}

/// Linear attention (arXiv:2006.16236, eq. 9–12): attention whose weights are products of features, so that all of the
/// past is one sum.
///
/// ```text
/// S_i = S_{i−1} + v_i φ(k_i)ᵀ      z_i = z_{i−1} + φ(k_i)      y_i = W_o [S_i φ(q_i) / (z_i·φ(q_i))]_heads
/// ```
///
/// It runs as state-space duality without decay, with `z` as one more row of `S`. The state is `S` and `z` of each head,
/// whatever the length.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_attention::LinearAttentionSettings;
/// use heddle_kernels::{Init, Mixer, MixerSettings, MixerState};
///
/// let device = Device::flex();
/// let settings = LinearAttentionSettings { heads: 2, feature_dim: Some(4), ..Default::default() };
/// let block = settings.init(32, &mut Init::new(0, &device)).unwrap();
/// let (y, state) = block.forward(Tensor::ones([1, 5, 32], &device), block.state(1, 32, &device));
/// assert_eq!((y.dims(), state.bytes()), ([1, 5, 32], 4 * 2 * (16 + 1) * (1 + 4 + 16)));
/// ```
#[derive(Module, Debug)]
pub struct LinearAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    feature_map: FeatureMap,
}

/// Keeps the quotient finite where no feature is there.
const LEAST_WEIGHT: f64 = 1e-6;

impl LinearAttention {
    /// Width of a value head, and features of a key head.
    fn sizes(&self) -> (usize, usize) {
        let f = self.query.weight.dims()[1] / self.heads;
        (self.value.weight.dims()[1] / self.heads, self.feature_map.width(f))
    }

    /// The sums of values that the tokens take, as state-space duality without decay.
    fn sums(&self, x: Tensor<3>) -> SsdInput {
        let ([b, l, _], h, (p, _)) = (x.dims(), self.heads, self.sizes());
        let device = x.device();
        let features = |map: &Linear| {
            let heads = linear(x.clone(), map);
            let f = heads.dims()[2] / h;
            self.feature_map.apply(heads.reshape([b, l, h, f]))
        };
        SsdInput {
            delta: Tensor::ones([b, l, h], &device),
            delta_bias: None,
            softplus: false,
            a: Tensor::zeros([h], &device),
            write: features(&self.key),
            read: features(&self.query),
            skip: None,
            x: linear(x.clone(), &self.value).reshape([b, l, h, p]),
        }
    }
}

/// The means of values, from their sums and the sum `z` of their weights: that of a value which is always 1.
fn means(sums: SsdInput, state: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let [b, l, h, p] = sums.x.dims();
    let ones = Tensor::ones([b, l, h, 1], &sums.x.device());
    let (sums, state) = ssd(SsdInput { x: Tensor::cat(vec![sums.x, ones], 3), ..sums }, state);
    let weight = sums.clone().narrow(3, p, 1) + LEAST_WEIGHT;
    (sums.narrow(3, 0, p) / weight, state)
}

impl Mixer for LinearAttention {
    /// `S` with `z` below it: `[b, h, p + 1, features]`.
    type State = Tensor<4>;

    fn state(&self, batch: usize, _d_model: usize, device: &Device) -> Tensor<4> {
        let (p, features) = self.sizes();
        Tensor::zeros([batch, self.heads, p + 1, features], device)
    }

    fn forward(&self, x: Tensor<3>, state: Tensor<4>) -> (Tensor<3>, Tensor<4>) {
        let dims = x.dims();
        let (mixed, state) = means(self.sums(x), state);
        (linear(mixed.reshape(dims), &self.output), state)
    }

    fn state_bytes(&self, _length: usize, _d_model: usize) -> u64 {
        let (p, features) = self.sizes();
        4 * (self.heads * (p + 1) * features) as u64
    }

    fn flops(&self, length: usize, d_model: usize) -> u64 {
        let ((p, features), [_, width]) = (self.sizes(), self.query.weight.dims());
        let matrices = d_model * (2 * width + 2 * d_model);
        2 * (length * (matrices + 2 * self.heads * (p + 1) * features)) as u64
    }

    /// The products of features over their sum, one map a head.
    fn attention_map(&self, x: Tensor<3>, rows: Range<usize>) -> Option<Tensor<4>> {
        let ([b, l, _], h, (_, features), device) = (x.dims(), self.heads, self.sizes(), x.device());
        let sums = self.sums(x);
        Some(map_by_head([b, l, h], &rows, &device, |values| {
            let state = Tensor::zeros([b, h, values.dims()[3] + 1, features], &device);
            means(SsdInput { x: values, ..sums.clone() }, state).0
        }))
    }

    fn without_head(&self, head: usize) -> Option<Self> {
        Some(Self { output: without_head_of(&self.output, head, self.heads)?, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;

    fn features(map: FeatureMap, x: &[f32]) -> Vec<f32> {
        let x = Tensor::from_data(TensorData::new(x.to_vec(), [1, 1, 1, x.len()]), &Device::flex());
        map.apply(x).into_data().try_to_vec().unwrap()
    }

    #[test]
    fn the_taylor_features_multiply_to_the_start_of_the_exponential() {
        let (q, k) = ([0.5, -1.0, 2.0, 0.25], [1.0, 0.5, 0.75, -2.0]);
        let [a, b] = [q, k].map(|x| features(FeatureMap::Taylor, &x));
        assert_eq!(a.len(), FeatureMap::Taylor.width(4));
        let score = q.iter().zip(&k).map(|(q, k)| q * k).sum::<f32>() / 2.0;
        let product: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
        approx::assert_relative_eq!(product, 1.0 + score + score * score / 2.0, max_relative = 1e-5);
    }

    #[test]
    fn the_elu_features_are_positive() {
        let features = features(FeatureMap::Elu, &[-2.0, 0.0, 3.0]);
        approx::assert_relative_eq!(features.as_slice(), [(-2f32).exp(), 1.0, 4.0].as_slice(), max_relative = 1e-6);
    }

    #[test]
    fn outputs_are_means_of_values_weighted_by_features() {
        let device = Device::flex();
        let mut init = Init::new(1, &device);
        let settings = LinearAttentionSettings { feature_map: FeatureMap::Elu, ..Default::default() };
        let mut block = settings.init(8, &mut init).unwrap();
        let identity = || burn::module::Param::from_tensor(Tensor::<2>::eye(8, &device));
        (block.value.weight, block.output.weight) = (identity(), identity());
        let x: Tensor<3> = init.normal([1, 6, 8], 1.0).val();
        let (y, _) = block.forward(x.clone(), block.state(1, 8, &device));
        let of = |map: &Linear| FeatureMap::Elu.apply(map.forward(x.clone()).reshape([1, 6, 1, 8])).reshape([6, 8]);
        let weights = of(&block.query).matmul(of(&block.key).transpose()).tril(0);
        let map = weights.clone() / weights.sum_dim(1);
        let truth = map.clone().matmul(x.clone().reshape([6, 8]));
        assert!((y.reshape([6, 8]) - truth).abs().max().into_scalar::<f32>() < 1e-5);
        let given = block.attention_map(x, 0..6).unwrap().reshape([6, 6]);
        assert!((given - map).abs().max().into_scalar::<f32>() < 1e-5);
    }

    #[test]
    fn the_map_by_the_values_is_the_means_of_every_head() {
        let device = Device::flex();
        let mut init = Init::new(1, &device);
        let block = LinearAttentionSettings { heads: 3, ..Default::default() }.init(24, &mut init).unwrap();
        let x: Tensor<3> = init.normal([2, 70, 24], 1.0).val();
        let sums = block.sums(x.clone());
        let values = sums.x.clone().swap_dims(1, 2);
        let means = means(sums, block.state(2, 24, &device)).0.swap_dims(1, 2);
        let map = block.attention_map(x, 0..70).unwrap();
        assert!((map.matmul(values) - means).abs().max().into_scalar::<f32>() < 1e-5);
    }
}
