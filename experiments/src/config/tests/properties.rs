//! What holds of any input.

use proptest::prelude::*;

use super::*;

/// Run files of settings that are all within their ranges.
fn run_file() -> impl Strategy<Value = String> {
    let train = (1u64..10_000, 1usize..512, 1e-9f64..1e9, 0.0f64..1.0, any::<bool>(), 0.0f64..0.999);
    let rest = (any::<u64>(), "[a-z0-9][a-zA-Z0-9._-]{0,12}", prop::option::of(1u64..999), 1u64..16);
    let parts = (prop::option::of(1u64..99), "[a-z]{1,8}", prop::collection::vec("[a-z]{1,5}( \\* [1-9])?", 0..4));
    (train, rest, parts).prop_map(|((steps, batch, lr, floor, constant, beta), (seed, name, limit, pairs), parts)| {
        let (window, mixer, layers) = parts;
        let schedule = if constant { "constant" } else { "cosine" };
        let optional = |key: &str, value: Option<u64>| value.map_or(String::new(), |value| format!("{key} = {value}\n"));
        format!(
            "seed = {seed}\nname = '{name}'\nmodel.layers = {layers:?}\n\
             [train]\nsteps = {steps}\nwarmup = 0\nbatch = {batch}\nlr = {lr:?}\nlr_floor = {floor:?}\nbeta1 = {beta:?}\n\
             schedule = '{schedule}'\n[task]\npower = {beta:?}\nsegments = [{{length = 64, pairs = {pairs}}}]\n{}\
             [model.mixer.{mixer}]\nkind = 'attention'\n{}",
            optional("limit", limit),
            optional("window", window),
        )
    })
}

/// Turns a valid file into one that mostly is not.
fn mutated() -> impl Strategy<Value = String> {
    let cut = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), "\\PC{0,6}|[\\[\\]{}='\"#.,\n\r\t\0-]{1,3}");
    (run_file(), cut).prop_map(|(text, (a, b, insert))| {
        let (a, b) = (a.index(text.len()), b.index(text.len()));
        format!("{}{insert}{}", &text[..a.min(b)], &text[a.max(b)..])
    })
}

proptest! {
    #[test]
    fn the_stored_file_loads_back_to_the_same_run(text in run_file()) {
        let asked = run(&text, &[]);
        let stored = run(&asked.to_toml(), &[]);
        prop_assert_eq!(&stored, &asked);
        prop_assert_eq!(stored.hash(), asked.hash());
    }

    #[test]
    fn the_order_of_settings_does_not_change_the_hash(text in run_file()) {
        let asked = run(&text, &[]);
        let mut value = serde_json::to_value(&asked).unwrap();
        reverse(&mut value);
        let reversed: RunConfig = serde_json::from_value(value).unwrap();
        prop_assert_eq!(reversed.hash(), asked.hash());
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*|[\\[\\]{}='\"#.,\n a-e0-9_-]{0,80}", argument in "\\PC{0,40}") {
        let _ = try_load(&text, &[]).map_err(|error| error.to_string());
        let _ = try_load("", &[&argument, &format!("{argument}={text}")]).map_err(|error| error.to_string());
        let _ = try_load("", &[&format!("model.layers={argument}")]).map_err(|error| error.to_string());
    }

    #[test]
    fn no_damage_to_a_file_makes_it_panic(text in mutated()) {
        let _ = try_load(&text, &[]).map_err(|error| error.to_string());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, bytes).unwrap();
        let none = BTreeMap::new();
        let _ = load(&path, &[], &Kinds { tasks: &Tasks, mixers: &none, channels: &none }).map_err(|e| e.to_string());
    }
}

fn reverse(value: &mut Value) {
    if let Value::Object(table) = value {
        *table = std::mem::take(table).into_iter().rev().collect();
        table.values_mut().for_each(reverse);
    }
}

/// Every tree that differs from this one in one leaf.
fn changed(value: &Value) -> Vec<Value> {
    let Value::Object(table) = value else {
        return vec![match value {
            Value::Bool(flag) => json!(!flag),
            Value::Number(number) if number.is_f64() => json!(number.as_f64().unwrap() + 0.5),
            Value::Number(number) => json!(number.as_u64().unwrap() + 1),
            Value::String(text) if text == "cosine" => json!("constant"),
            Value::String(text) if text == "rms" => json!("layer"),
            Value::String(text) if text == "pre" => json!("post"),
            Value::String(text) if text == "stages" => json!([{"steps": 1, "weights": [1.0]}]),
            Value::String(text) if text == "slices" => json!([{"length": 512}]),
            Value::String(text) if text == "adamw" => json!("muon"),
            Value::String(text) if text == "linear" => json!("one_minus_sqrt"),
            Value::String(text) => json!(format!("{text}x")),
            Value::Null => json!(0.5),
            _ => json!(["other"]),
        }];
    };
    let change = |(key, value): (&String, &Value)| -> Vec<Value> {
        let value = match key.as_str() {
            "curriculum" => &json!("stages"),
            "monitor" => &json!("slices"),
            _ => value,
        };
        let with = |other| {
            let mut table = table.clone();
            table.insert(key.clone(), other);
            Value::Object(table)
        };
        changed(value).into_iter().map(with).collect()
    };
    table.iter().flat_map(change).collect()
}

#[test]
fn a_change_of_any_setting_changes_the_hash() {
    let asked = run("[model.mixer.mamba]", &[]);
    let others = changed(&serde_json::to_value(&asked).unwrap());
    let settings = others.len();
    let hashes = others.into_iter().map(|other| serde_json::from_value::<RunConfig>(other).unwrap().hash());
    let hashes: std::collections::BTreeSet<String> = hashes.chain([asked.hash()]).collect();
    assert!(settings > 30);
    assert_eq!(hashes.len(), settings + 1);
}

#[test]
fn minus_zero_names_the_run_that_zero_names() {
    assert_eq!(run("train.clip = -0.0", &[]).hash(), run("train.clip = 0", &[]).hash());
}

#[test]
fn deep_nesting_is_an_error_and_not_an_overflow() {
    let deep = "a.".repeat(100_000);
    let nested = "[".repeat(100_000);
    for text in [format!("{deep}a = 1"), format!("model.layers = {nested}"), format!("sweep.axes.'{deep}a' = [1]")] {
        assert!(try_load(&text, &[]).unwrap_err().to_string().len() < 1_000_000);
    }
    assert!(try_load("", &[&format!("{deep}a=1")]).is_err());
    assert!(try_load("", &[&format!("model.layers={nested}")]).is_err());
}
