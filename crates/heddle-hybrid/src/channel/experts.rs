//! A mixture of experts.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use heddle_kernels::{Init, SettingsError, linear, sigmoid};
use serde::{Deserialize, Serialize};

use super::{Activation, ChannelMixer, ChannelSettings, SwiGlu, inner_width};
use crate::layer::scaled;

/// Settings of [`Experts`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_hybrid::{ChannelMixer, ExpertsSettings, Init};
///
/// let device = Device::flex();
/// let build = |settings: ExpertsSettings| {
///     let mut table = serde_json::to_value(settings).unwrap();
///     table["kind"] = "moe".into();
///     ChannelMixer::build(table.as_object().unwrap(), 16, &mut Init::new(0, &device))
/// };
/// let settings = ExpertsSettings { experts: 4, active: 1, expand: 2.0, ..Default::default() };
/// let layer = build(settings.clone()).unwrap().unwrap();
/// // Three of four experts, of three maps each, leave a token alone.
/// assert_eq!(layer.idle_parameters(), 3 * 3 * 16 * 32);
///
/// let error = build(ExpertsSettings { active: 5, ..settings }).unwrap_err();
/// assert_eq!(error.to_string(), "`active`: a token cannot be sent to 5 of 4 experts; use 1 up to `experts`");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExpertsSettings {
    /// Number of experts.
    pub experts: usize,
    /// Experts that a token is sent to.
    pub active: usize,
    /// Inner width of an expert as a multiple of the model's width.
    pub expand: f64,
    /// Whether an expert is a gated layer; if not, a plain one, `W_down act(W_up x)` (Nemotron-H).
    pub gated: bool,
    /// What an expert applies to its gate, or without one to its inner channels.
    pub activation: Activation,
    /// How the router's logits become weights.
    pub scores: RouterScores,
    /// Whether a number of each expert is added to its weight for the choice alone (arXiv:2408.15664, eq. 3). No gradient
    /// reaches it.
    pub selection_bias: bool,
    /// Multiplier of the weights of a token's experts, behind their normalisation (arXiv:2412.19437, §2.1.2).
    pub route_scale: f64,
    /// Whether the weights of a token's experts are made to sum to one, as Mixtral's are and Jamba's are not.
    pub normalize: bool,
    /// Inner width, as a multiple of the model's, of an expert that every token is sent to (arXiv:2401.06066, §3.2); none
    /// means no such expert.
    pub shared_expand: Option<f64>,
    /// Whether a sigmoid gate of the token multiplies what that expert answers (Qwen2-MoE, Qwen3-Next).
    pub shared_gate: bool,
    /// Weight of the load-balancing loss.
    pub balance_loss: f64,
    /// Weight of the loss that keeps the router's logits small.
    pub router_z_loss: f64,
}

/// How the logits of a router become weights.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_hybrid::{ChannelMixer, ExpertsSettings, Init, RouterScores};
///
/// let device = Device::flex();
/// let answer = |scores| {
///     let (experts, active, normalize) = (1, 1, false);
///     let settings = ExpertsSettings { experts, active, normalize, scores, ..Default::default() };
///     let mut table = serde_json::to_value(settings).unwrap();
///     table["kind"] = "moe".into();
///     let built = ChannelMixer::build(table.as_object().unwrap(), 16, &mut Init::new(0, &device));
///     built.unwrap().unwrap().forward(Tensor::ones([1, 1, 16], &device)).0.abs().sum().into_scalar::<f32>()
/// };
/// // A single expert has all of the softmax, and part of a sigmoid.
/// assert!(answer(RouterScores::Sigmoid) < answer(RouterScores::Softmax));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterScores {
    /// Over all experts, summing to one.
    Softmax,
    /// Each expert's by itself (arXiv:2412.19437, eq. 15).
    Sigmoid,
}

impl Default for ExpertsSettings {
    fn default() -> Self {
        Self {
            experts: 8,
            active: 2,
            expand: 8.0 / 3.0,
            gated: true,
            activation: Activation::Silu,
            scores: RouterScores::Softmax,
            selection_bias: false,
            route_scale: 1.0,
            normalize: true,
            shared_expand: None,
            shared_gate: false,
            balance_loss: 1e-2,
            router_z_loss: 1e-3,
        }
    }
}

impl ChannelSettings for ExpertsSettings {
    fn init(&self, d_model: usize, init: &mut Init) -> Result<ChannelMixer, SettingsError> {
        if self.active == 0 || self.active > self.experts {
            let problem = format!("a token cannot be sent to {} of {} experts", self.active, self.experts);
            return Err(SettingsError::new("active", problem, "use 1 up to `experts`"));
        }
        for (key, weight) in [("balance_loss", self.balance_loss), ("router_z_loss", self.router_z_loss)] {
            if !(weight >= 0.0 && weight.is_finite()) {
                return Err(SettingsError::new(key, format!("{weight} is no weight"), "use 0 or more"));
            }
        }
        if self.route_scale == 0.0 || !self.route_scale.is_finite() {
            let problem = format!("{} is no multiplier", self.route_scale);
            return Err(SettingsError::new("route_scale", problem, "use a number other than 0"));
        }
        let width = inner_width(self.expand, d_model)?;
        let shared_width = self.shared_expand.map(|expand| inner_width(expand, d_model)).transpose();
        let shared_width = shared_width.map_err(|error| SettingsError { key: "shared_expand".into(), ..error })?;
        if self.shared_gate && shared_width.is_none() {
            let problem = "there is no shared expert that a gate could multiply";
            return Err(SettingsError::new(
                "shared_gate",
                problem,
                "state `shared_expand`, or use `shared_gate = false`",
            ));
        }
        Ok(ChannelMixer::Experts(Experts {
            router: init.linear(d_model, self.experts, false),
            experts: (0..self.experts).map(|_| self.expert([width, d_model], init)).collect(),
            shared: shared_width.map(|width| self.expert([width, d_model], init)),
            shared_gate: self.shared_gate.then(|| init.linear(d_model, 1, false)),
            selection_bias: self.selection_bias.then(|| init.constant([self.experts], 0.0)),
            settings: self.clone(),
        }))
    }
}

impl ExpertsSettings {
    fn expert(&self, widths: [usize; 2], init: &mut Init) -> SwiGlu {
        match self.gated {
            true => SwiGlu::new(widths, false, self.activation, init),
            false => SwiGlu::plain(widths, self.activation, init),
        }
    }
}

/// A mixture of experts: a router sends each token to a few of many feed-forward layers (arXiv:1701.06538, §2;
/// arXiv:2401.04088, §2.1).
///
/// ```text
/// w = softmax(W_r x)      y = Σ_{i ∈ top-k(w)} w_i SwiGLU_i(x) + σ(W_s x) SwiGLU_s(x)
/// ```
///
/// The settings may ask for a sigmoid instead of the softmax, for plain experts, and for a bias of the choice.
/// The last term is there if the settings ask for an expert that every token is sent to, and its gate likewise.
/// No token is dropped: an expert takes as many as are sent to it, so a token's result does not depend on its company.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_hybrid::{ChannelMixer, Init, KindTable};
///
/// let device = Device::flex();
/// let table: KindTable = serde_json::from_str(r#"{"kind": "moe", "experts": 4, "active": 2}"#).unwrap();
/// let built = ChannelMixer::build(&table, 16, &mut Init::new(0, &device)).unwrap();
/// let Some(ChannelMixer::Experts(experts)) = built else { panic!("this is a mixture of experts") };
/// let tokens = Init::new(1, &device).normal([1, 6, 16], 1.0).val();
/// let (all, _) = experts.forward(tokens.clone());
/// let (first, _) = experts.forward(tokens.narrow(1, 0, 1));
/// // A token is answered as if it were alone.
/// assert!((all.narrow(1, 0, 1) - first).abs().max().into_scalar::<f32>() < 1e-6);
/// ```
#[derive(Module, Debug)]
pub struct Experts {
    router: Linear,
    experts: Vec<SwiGlu>,
    shared: Option<SwiGlu>,
    shared_gate: Option<Linear>,
    selection_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    settings: ExpertsSettings,
}

/// Where a layer's tokens were sent.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use heddle_hybrid::{ChannelMixer, Init, KindTable};
///
/// let device = Device::flex();
/// let table: KindTable = serde_json::from_str(r#"{"kind": "moe", "experts": 4, "active": 1}"#).unwrap();
/// let channel = ChannelMixer::build(&table, 16, &mut Init::new(0, &device)).unwrap().unwrap();
/// // Six tokens that are all alike go to the same expert.
/// let routing = channel.forward(Tensor::ones([1, 6, 16], &device)).1.unwrap();
/// assert_eq!((routing.counts.len(), routing.counts.iter().max()), (4, Some(&6)));
/// assert_eq!(routing.shares().into_iter().fold(0.0, f64::max), 1.0);
/// ```
#[derive(Clone, Debug)]
pub struct Routing {
    /// What training adds to its loss, weights included: `[1]`.
    ///
    /// Balance (arXiv:2101.03961, eq. 4–6): `E Σ_i f_i P_i`, where `f_i` is the share of expert `i` in what was sent and
    /// `P_i` its mean weight; 1 if all experts get the same. Router (arXiv:2202.08906, eq. 5): the mean of
    /// `(log Σ_i exp x_i)²`.
    pub loss: Tensor<1>,
    /// Tokens sent to each expert.
    pub counts: Vec<u64>,
}

impl Routing {
    /// The share of each expert in what was sent.
    pub fn shares(&self) -> Vec<f64> {
        let sent = self.counts.iter().sum::<u64>() as f64;
        self.counts.iter().map(|&count| count as f64 / sent).collect()
    }
}

/// The experts of each token, and the same sorted by expert. A slot is one of a token's `k` choices.
struct Plan {
    /// Slots in the order of experts, and of tokens within an expert.
    sorted: Vec<usize>,
    /// Expert of each slot.
    chosen: Vec<usize>,
    /// Slots of each expert.
    counts: Vec<usize>,
}

impl Plan {
    /// The `k` largest of each row of `weights`; of equal ones the first.
    fn new(weights: &[f32], [experts, k]: [usize; 2]) -> Self {
        let mut chosen = Vec::with_capacity(weights.len() / experts * k);
        for row in weights.chunks_exact(experts) {
            let mut order: Vec<usize> = (0..experts).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            chosen.extend_from_slice(&order[..k]);
        }
        let mut sorted: Vec<usize> = (0..chosen.len()).collect();
        sorted.sort_by_key(|&slot| chosen[slot]);
        let mut counts = vec![0; experts];
        chosen.iter().for_each(|&expert| counts[expert] += 1);
        Self { sorted, chosen, counts }
    }

    /// Where each slot went in the sorted order.
    fn inverse(&self) -> Vec<usize> {
        let mut inverse = vec![0; self.sorted.len()];
        self.sorted.iter().enumerate().for_each(|(place, &slot)| inverse[slot] = place);
        inverse
    }
}

fn indices(values: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.into_iter().map(|x| x as i64).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

impl Experts {
    /// Sends each token to its experts and adds up what they answer.
    ///
    /// # Shapes
    /// - `x`, and the returned tensor: `[b, l, d]`
    pub fn forward(&self, x: Tensor<3>) -> (Tensor<3>, Routing) {
        let [b, l, d] = x.dims();
        let (tokens, experts, k) = (b * l, self.experts.len(), self.settings.active);
        let device = x.device();
        let shared = self.shared_answer(x.clone());
        let rows: Tensor<2> = x.reshape([tokens, d]);
        let logits = linear(rows.clone(), &self.router);
        let weights = match self.settings.scores {
            RouterScores::Softmax => activation::softmax(logits.clone(), 1),
            RouterScores::Sigmoid => sigmoid(logits.clone()),
        };
        let preferred = match &self.selection_bias {
            Some(bias) => weights.clone().detach() + bias.val().detach().unsqueeze(),
            None => weights.clone(),
        };
        let values: Vec<f32> = preferred.to_data().convert::<f32>().try_to_vec().expect("converted to f32");
        let plan = Plan::new(&values, [experts, k]);

        let sorted = rows.select(0, indices(plan.sorted.iter().map(|slot| slot / k), &device));
        let mut answers = Vec::with_capacity(experts);
        let mut start = 0;
        for (expert, &count) in self.experts.iter().zip(&plan.counts) {
            if count > 0 {
                answers.push(expert.forward(sorted.clone().narrow(0, start, count)));
            }
            start += count;
        }
        let answers = Tensor::cat(answers, 0).select(0, indices(plan.inverse(), &device));

        let places = plan.chosen.iter().enumerate().map(|(slot, expert)| slot / k * experts + expert);
        let chosen: Tensor<2> =
            weights.clone().reshape([tokens * experts]).select(0, indices(places, &device)).reshape([tokens, k]);
        let chosen = if self.settings.normalize { chosen.clone() / chosen.sum_dim(1) } else { chosen };
        let chosen = scaled(chosen, self.settings.route_scale);
        let y: Tensor<3> = answers.reshape([tokens, k, d]) * chosen.reshape([tokens, k, 1]);
        let routing = self.routing(logits, weights, &plan.counts);
        let y = y.sum_dim(1).reshape([b, l, d]);
        (if let Some(shared) = shared { y + shared } else { y }, routing)
    }

    /// What the expert answers that every token is sent to.
    fn shared_answer(&self, x: Tensor<3>) -> Option<Tensor<3>> {
        let answer = self.shared.as_ref()?.forward(x.clone());
        Some(match &self.shared_gate {
            Some(gate) => sigmoid(linear(x, gate)) * answer,
            None => answer,
        })
    }

    fn routing(&self, logits: Tensor<2>, weights: Tensor<2>, counts: &[usize]) -> Routing {
        let (experts, sent) = (counts.len() as f64, counts.iter().sum::<usize>() as f64);
        let shares: Vec<f32> = counts.iter().map(|&count| (count as f64 / sent) as f32).collect();
        let shares = Tensor::<1>::from_data(shares.as_slice(), &logits.device());
        // The share of each expert in a token's weights (arXiv:2412.19437, eq. 18); a softmax gives shares.
        let weights = match self.settings.scores {
            RouterScores::Softmax => weights,
            RouterScores::Sigmoid => weights.clone() / weights.sum_dim(1),
        };
        let balance = (weights.mean_dim(0).reshape([counts.len()]) * shares).sum() * experts;
        let largest = logits.clone().max_dim(1).detach();
        let normalisers = (logits - largest.clone()).exp().sum_dim(1).log() + largest;
        let router = normalisers.square().mean();
        let loss = balance * self.settings.balance_loss + router * self.settings.router_z_loss;
        Routing { loss, counts: counts.iter().map(|&count| count as u64).collect() }
    }

    pub(super) fn idle_parameters(&self) -> u64 {
        self.experts.iter().skip(self.settings.active).map(|expert| expert.num_params() as u64).sum()
    }

    pub(super) fn flops(&self) -> u64 {
        let active: u64 = self.experts.iter().take(self.settings.active).map(SwiGlu::flops).sum();
        let gate = self.shared_gate.as_ref().map_or(0, |gate| gate.weight.shape().num_elements());
        let shared = self.shared.as_ref().map_or(0, SwiGlu::flops);
        active + shared + 2 * (self.router.weight.shape().num_elements() + gate) as u64
    }
}

#[cfg(test)]
mod tests;
