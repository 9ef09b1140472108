use super::*;

fn build(settings: &ExpertsSettings, device: &Device) -> Experts {
    match settings.init(12, &mut Init::new(1, device)).unwrap() {
        ChannelMixer::Experts(experts) => experts,
        other => panic!("{other:?}"),
    }
}

fn tokens(device: &Device) -> Tensor<3> {
    Init::new(2, device).normal([2, 9, 12], 1.0).val()
}

fn settings() -> ExpertsSettings {
    ExpertsSettings { experts: 5, active: 2, expand: 1.5, ..Default::default() }
}

/// Every expert on every token, and then the choice.
fn by_definition(experts: &Experts, x: Tensor<3>) -> Vec<f32> {
    let [b, l, d] = x.dims();
    let rows: Tensor<2> = x.reshape([b * l, d]);
    let weights = activation::softmax(experts.router.forward(rows.clone()), 1);
    let weights: Vec<f32> = weights.into_data().try_to_vec().unwrap();
    let answers: Vec<Vec<f32>> =
        experts.experts.iter().map(|e| e.forward(rows.clone()).into_data().try_to_vec().unwrap()).collect();
    let mut y = vec![0.0; b * l * d];
    for (t, row) in weights.chunks(experts.experts.len()).enumerate() {
        let bound = {
            let mut sorted = row.to_vec();
            sorted.sort_by(f32::total_cmp);
            sorted[sorted.len() - 2]
        };
        let seen: f32 = row.iter().filter(|w| **w >= bound).sum();
        let total = if experts.settings.normalize { seen } else { 1.0 };
        for (expert, w) in row.iter().enumerate().filter(|(_, w)| **w >= bound) {
            (0..d).for_each(|i| y[t * d + i] += w / total * answers[expert][t * d + i]);
        }
    }
    y
}

#[test]
fn each_token_gets_its_best_experts() {
    let device = Device::flex();
    for normalize in [false, true] {
        let experts = build(&ExpertsSettings { normalize, ..settings() }, &device);
        let (y, routing) = experts.forward(tokens(&device));
        let y: Vec<f32> = y.into_data().try_to_vec().unwrap();
        let truth = by_definition(&experts, tokens(&device));
        assert!(y.iter().zip(&truth).all(|(y, truth)| (y - truth).abs() < 1e-5));
        assert_eq!(routing.counts.iter().sum::<u64>(), 2 * 9 * 2);
        approx::assert_relative_eq!(routing.shares().iter().sum::<f64>(), 1.0, epsilon = 1e-12);
    }
}

#[test]
fn a_token_alone_gets_what_it_gets_in_company() {
    let device = Device::flex();
    let experts = build(&settings(), &device);
    let whole = experts.forward(tokens(&device)).0;
    for t in 0..9 {
        let alone = experts.forward(tokens(&device).narrow(1, t, 1)).0;
        assert!((alone - whole.clone().narrow(1, t, 1)).abs().max().into_scalar::<f32>() < 1e-6);
    }
}

#[test]
fn the_losses_are_those_of_the_papers() {
    let device = Device::flex();
    let only = |balance_loss, router_z_loss| ExpertsSettings { balance_loss, router_z_loss, ..settings() };
    let loss = |settings: &ExpertsSettings, scale: f64| -> f32 {
        let mut experts = build(settings, &device);
        experts.router.weight = experts.router.weight.map(|weight| weight * scale);
        experts.forward(tokens(&device)).1.loss.into_scalar()
    };
    // A router that prefers nothing: P_i = 1/5 whatever was sent, and the normaliser is log 5.
    approx::assert_relative_eq!(loss(&only(1.0, 0.0), 0.0), 1.0, epsilon = 1e-5);
    approx::assert_relative_eq!(loss(&only(0.0, 1.0), 0.0), 5f32.ln().powi(2), epsilon = 1e-5);
    // A router that always prefers the same is far from balance.
    let mut experts = build(&only(1.0, 0.0), &device);
    experts.router.bias = Some(Init::new(0, &device).from_fn([5], |_, i| if i < 2 { 20.0 } else { 0.0 }));
    let (_, routing) = experts.forward(tokens(&device));
    assert_eq!(routing.counts[2..], [0, 0, 0]);
    approx::assert_relative_eq!(routing.loss.into_scalar::<f32>(), 2.5, epsilon = 1e-3);
}

#[test]
fn a_bias_changes_who_is_chosen_and_not_what_they_weigh() {
    let device = Device::flex();
    let (scores, route_scale) = (RouterScores::Sigmoid, 2.5);
    let settings = ExpertsSettings { scores, route_scale, selection_bias: true, gated: false, ..settings() };
    let mut experts = build(&settings, &device);
    experts.selection_bias = Some(Init::new(0, &device).from_fn([5], |_, i| if i > 2 { 9.0 } else { 0.0 }));
    let (y, routing) = experts.forward(tokens(&device));
    assert_eq!(routing.counts, [0, 0, 0, 18, 18]);
    let weights = sigmoid(experts.router.forward(tokens(&device))).narrow(2, 3, 2);
    let weights = weights.clone() / weights.sum_dim(2) * route_scale;
    let answer = |i: usize| experts.experts[3 + i].forward(tokens(&device)) * weights.clone().narrow(2, i, 1);
    assert!((y - answer(0) - answer(1)).abs().max().into_scalar::<f32>() < 1e-5);
}

#[test]
fn a_shared_expert_answers_every_token() {
    let device = Device::flex();
    let shared_expand = Some(0.5);
    for shared_gate in [false, true] {
        let with = build(&ExpertsSettings { shared_expand, shared_gate, ..settings() }, &device);
        // It is drawn behind the others, which are the same without it.
        let without = build(&settings(), &device);
        let shared = with.shared.as_ref().unwrap().forward(tokens(&device));
        let shared = match &with.shared_gate {
            Some(gate) => sigmoid(gate.forward(tokens(&device))) * shared,
            None => shared,
        };
        let expected = without.forward(tokens(&device)).0 + shared;
        assert!((with.forward(tokens(&device)).0 - expected).abs().max().into_scalar::<f32>() < 1e-6);
        assert_eq!(with.flops() - without.flops(), 2 * (3 * 12 * 6 + if shared_gate { 12 } else { 0 }));
    }
}

#[test]
fn router_and_experts_learn() {
    let device = Device::flex().autodiff();
    let experts = build(&settings(), &device);
    let (y, routing) = experts.forward(tokens(&device));
    let gradients = (y.square().mean() + routing.loss).backward();
    let size = |x: Option<Tensor<2>>| x.map_or(0.0, |g| g.abs().sum().into_scalar::<f32>());
    assert!(size(experts.router.weight.val().grad(&gradients)) > 0.0);
    for (expert, count) in experts.experts.iter().zip(&routing.counts) {
        let learns = size(expert.down.weight.val().grad(&gradients)) > 0.0;
        assert_eq!(learns, *count > 0);
    }
}

#[test]
fn impossible_settings_are_refused_by_name() {
    let refused = |settings: ExpertsSettings, key: &str| {
        assert_eq!(settings.init(12, &mut Init::new(0, &Device::flex())).unwrap_err().key, key);
    };
    refused(ExpertsSettings { active: 6, ..settings() }, "active");
    refused(ExpertsSettings { active: 0, ..settings() }, "active");
    refused(ExpertsSettings { balance_loss: -1.0, ..settings() }, "balance_loss");
    refused(ExpertsSettings { expand: 0.0, ..settings() }, "expand");
    refused(ExpertsSettings { shared_expand: Some(0.0), ..settings() }, "shared_expand");
    refused(ExpertsSettings { route_scale: 0.0, ..settings() }, "route_scale");
    refused(ExpertsSettings { shared_gate: true, ..settings() }, "shared_gate");
}
