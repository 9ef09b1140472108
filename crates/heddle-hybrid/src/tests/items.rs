//! A model that reads out items.

use super::*;

/// A model of an embedding, two layers, and a read-out of items.
fn with_items(device: &Device) -> Model {
    let config = config(json!({}));
    let mut init = Init::new(3, device);
    Model::new(&config, VOCAB, &MixerRegistry::default(), &mut init).unwrap().with_item_readout(&config, &mut init)
}

/// Scores of every item at the last position of each sequence.
fn item_scores(model: &Model, hidden: Tensor<3>) -> Tensor<2> {
    let ([b, l, d], device) = (hidden.dims(), hidden.device());
    let rows = (0..b * l).map(|row| (row / l * l + l - 1) as i32).collect::<Vec<_>>();
    let items = (0..b * l).map(|row| (row % l) as i32).collect::<Vec<_>>();
    let hidden = hidden.reshape([b * l, d]).select(0, Tensor::from_ints(rows.as_slice(), &device));
    model.item_logits(hidden, Tensor::from_ints(items.as_slice(), &device))
}

#[test]
fn the_other_parameters_stay_as_they_are() {
    let (plain, items) = (model(json!({})), with_items(&Device::flex()));
    let of = |model: &Model| parameters(model, None).into_iter().map(|it| (it.path, it.numbers.into_data()));
    let plain: Vec<_> = of(&plain).collect();
    let (added, kept): (Vec<_>, Vec<_>) = of(&items).partition(|(path, _)| path.starts_with("items."));
    assert_eq!(kept, plain);
    let added: Vec<_> = added.into_iter().map(|(path, _)| path).collect();
    let names = ["inner_norm.gamma", "inner.weight", "inner.bias", "outer_norm.gamma", "outer.weight", "outer.bias"];
    assert_eq!(added, names.map(|name| format!("items.{name}")));
}

#[test]
fn the_same_state_answers_differently_for_each_item_and_every_parameter_has_a_part_in_it() {
    let device = Device::flex().autodiff();
    let model = with_items(&device);
    let (hidden, _) = model.forward(tokens(&device), model.state(2, &device));
    let scores = item_scores(&model, hidden);
    let rows = scores.clone().inner();
    let apart = (rows.clone().narrow(0, 0, 1) - rows.narrow(0, 1, 1)).abs().max().into_scalar::<f32>();
    assert!(apart > 1e-2, "{apart}");
    let gradients = scores.powi_scalar(2).sum().backward();
    for found in parameters(&model, Some(&gradients)) {
        let gradient = found.gradient.unwrap_or_else(|| panic!("no gradient reaches `{}`", found.path));
        assert!(gradient.abs().max().into_scalar::<f32>() > 0.0, "`{}` changes nothing", found.path);
    }
}

#[test]
fn the_gradient_of_a_state_is_the_sum_over_its_items() {
    let device = Device::flex().autodiff();
    let model = with_items(&device);
    let embedding = |objective: Tensor<1>| model.embedding.val().grad(&objective.backward()).unwrap();
    let hidden = || model.forward(tokens(&device), model.state(2, &device)).0;
    let whole = embedding(item_scores(&model, hidden()).powi_scalar(2).sum());
    let one = |item: i32| {
        let last = hidden().narrow(1, 6, 1).reshape([2, 16]);
        embedding(model.item_logits(last, Tensor::from_ints([item, item], &device)).powi_scalar(2).sum())
    };
    assert_close(whole, (1..7).map(one).fold(one(0), |sum, more| sum + more));
}

#[test]
fn gradients_by_layer_are_the_same() {
    let device = Device::flex().autodiff();
    let model = with_items(&device);
    let objective = |hidden| item_scores(&model, hidden).powi_scalar(2).sum();
    let by_layer = model.gradients_by_layer(tokens(&device), objective).gradients;
    let (hidden, _) = model.forward(tokens(&device), model.state(2, &device));
    let whole = objective(hidden).backward();
    let expected = model.embedding.val().grad(&whole).unwrap();
    assert_close(by_layer.get::<2>(model.embedding.id).unwrap(), expected);
}

#[test]
#[should_panic(expected = "model: it reads out items, and scores no next token")]
fn it_scores_no_next_token() {
    let device = Device::flex();
    let model = with_items(&device);
    model.score_next(tokens(&device), model.state(2, &device));
}
