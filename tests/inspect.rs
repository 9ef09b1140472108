//! Seeing inside a model, from the command line and in a browser.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::harness::{Bench, SMALL, root, text};
use crate::report::{chromium, seen, show};

/// A model of every kind of layer, trained for a moment on sentences in pairs.
const SENTENCES: &str = r#"
name = "sentences"

[task]
kind = "coreference"
nouns = 4
train = [{ length = 19 }]
validation = [{ length = 19, examples = 16 }]
test = [{ length = 19, examples = 16 }]

[model]
d_model = 16
layers = ["mamba", "mamba2", "lstm", "attention"]

[model.mixer.mamba]

[model.mixer.lstm]

[model.mixer.attention]
heads = 2

[model.mixer.mamba2]
head_dim = 16
d_state = 4

[train]
steps = 40
warmup = 5
batch = 8

[eval]
every = 40
batch = 16
"#;

/// Logits differ little after a few steps, and their differences are those of rounded numbers.
const NEAR: f64 = 1e-2;

/// A bench with a finished run, and its directory.
fn trained(config: &str, name: &str) -> (Bench, String) {
    let bench = Bench::new();
    bench.write("run.toml", config);
    bench.succeed(&["run", "run.toml"]);
    let run = bench.run_directory("runs", name).to_str().unwrap().to_owned();
    (bench, run)
}

fn inspected(bench: &Bench, args: &[&str]) -> Value {
    let args: Vec<&str> = ["inspect"].into_iter().chain(args.iter().copied()).chain(["--json"]).collect();
    serde_json::from_str(&bench.succeed(&args)).expect("it prints JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn a_pair_is_shown_whole_with_the_maps_of_every_layer_that_has_one() {
    let (bench, run) = trained(SENTENCES, "sentences");
    let view = inspected(&bench, &[&run, "--example", "3", "--ablate", "--patch", "--pairs", "--examples", "16"]);
    assert_eq!(view["sentences"].as_array().unwrap().len(), 2);
    assert_eq!(view["layers"], json!(["mamba", "mamba2", "lstm", "attention"]));
    let shown: Vec<&Value> = view["maps"].as_array().unwrap().iter().map(|maps| &maps["layer"]).collect();
    assert_eq!(shown, [&json!(0), &json!(1), &json!(3)]);
    let attention = &view["maps"][2];
    assert_eq!((&attention["heads"], &attention["by"]), (&json!(["0", "1"]), &json!("head")));
    assert_eq!((&attention["delta"], view["maps"][0]["delta"][1].as_array().unwrap().len()), (&Value::Null, 19));
    for map in attention["weights"].as_array().unwrap().iter().flat_map(|heads| heads.as_array().unwrap()) {
        for row in numbers(map).chunks(19) {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-2, "{row:?}");
        }
    }
    // A causal pronoun stands before the adjective and cannot tell the sentences apart.
    for turns in view["pairs"]["heads"].as_array().unwrap() {
        assert_eq!(turns["turns"]["of"], 8);
        assert!(turns["from"] != "pronoun" || turns["turns"]["right"] == 0, "{turns}");
    }
    // To patch the word that differs into the embedding is to read the other sentence.
    let sentences = view["sentences"].as_array().unwrap();
    let [one, other] = [0, 1].map(|form: usize| numbers(&sentences[form]["tokens"]));
    let differs = one.iter().zip(&other).position(|(one, other)| one != other).unwrap();
    let turned = numbers(&view["patching"]["turned"][0]);
    assert!((turned[differs] - 1.0).abs() < NEAR, "{turned:?}");
    assert!(turned.iter().enumerate().all(|(at, turned)| at == differs || turned.abs() < NEAR), "{turned:?}");
    // The mixer of each of the three layers, four and two heads.
    let without = view["ablation"]["without"].as_array().unwrap();
    assert_eq!(without.len(), 3 + 2 + 2);
    assert!(without.iter().all(|part| part["of"] == 16));
}

#[test]
fn chosen_rows_are_those_of_the_whole_map() {
    let (bench, run) = trained(SENTENCES, "sentences");
    let whole = inspected(&bench, &[&run, "--layers", "3"]);
    let rows = inspected(&bench, &[&run, "--layers", "3", "--heads", "1", "--rows", "18,4-5"]);
    assert_eq!((&rows["rows"], &rows["maps"][0]["heads"]), (&json!([4, 5, 18]), &json!(["1"])));
    let all = numbers(&whole["maps"][0]["weights"][0][1]);
    let expected: Vec<f64> = [4, 5, 18].iter().flat_map(|row| all[row * 19..(row + 1) * 19].to_vec()).collect();
    assert_eq!(numbers(&rows["maps"][0]["weights"][0][0]), expected);
}

#[test]
fn any_tokens_are_shown_and_pictures_are_drawn() {
    let (bench, run) = trained(SMALL, "small");
    let view = inspected(&bench, &[&run, "--tokens", "5,6,7,5,6"]);
    assert_eq!((&view["task"], &view["sentences"][0]["words"]), (&Value::Null, &json!(["5", "6", "7", "5", "6"])));
    assert_eq!(view["scores"].as_array().unwrap().len(), 1 + 2);
    bench.succeed(&["inspect", &run, "--png", "png", "--svg", "svg"]);
    let png = fs::read(bench.path("png/layer-1.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG") && png.len() > 2000);
    let svg = fs::read_to_string(bench.path("svg/layer-0.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("channels, mean"), "{}", &svg[..200]);
    let table = bench.succeed(&["inspect", &run]);
    assert!(table.contains("Scores of heads") && table.contains("1 attention+mlp"), "{table}");
}

#[test]
fn what_cannot_be_shown_is_told_with_what_to_do_instead() {
    let (bench, run) = trained(SENTENCES, "sentences");
    let complaint = |args: &[&str]| {
        let args: Vec<&str> = ["inspect"].into_iter().chain(args.iter().copied()).collect();
        bench.fail(2, &args)
    };
    for (args, part) in [
        (&["--layers", "2"][..], "layer 2 (lstm) has no map"),
        (&["--layers", "4"], "there is no layer 4; the model has layers 0 to 3"),
        (&["--heads", "7"], "no layer shown has a head 7; use 0 to 1"),
        (&["--layers", "0", "--heads", "1"], "leave `--heads` out"),
        (&["--rows", "19"], "there is no token 19; the sequence has tokens 0 to 18"),
        (&["--rows", "5-3"], "use numbers and ranges such as 3,8-11"),
        (&["--tokens", "1,99"], "token 99 is not one of the model's 50"),
        (&["--tokens", "1,2", "--ablate"], "`--ablate` is measured on a task"),
        (&["--text", "it"], "holds no tokenizer.json; give token ids with `--tokens 1,2,3`"),
        (&["--lengths", "300"], "with `--rows 292-299`"),
        (
            &["--task", "mqar", "--set", "vocab=16", "--set", "train=[{length=12, pairs=2}]", "--pairs"],
            "'mqar' has none",
        ),
    ] {
        let args: Vec<&str> = [run.as_str()].into_iter().chain(args.iter().copied()).collect();
        let complaint = complaint(&args);
        assert!(complaint.contains(part), "{args:?}: {complaint}");
    }
    fs::remove_dir_all(PathBuf::from(&run).join("checkpoint")).unwrap();
    assert!(complaint(&[&run]).contains("holds no checkpoint; import the model again, or finish the run"));
    let published = root().join("tests/fixtures/mamba");
    assert!(complaint(&[published.to_str().unwrap()]).contains("is no run, so it has no task of its own"));
}

/// Goes through the page as a reader does, and leaves what it saw in an attribute.
const VISIT: &str = r##"<script>
addEventListener("load", () => {
    const all = selector => [...document.querySelectorAll(selector)];
    const told = () => all(".told").map(told => told.textContent);
    const press = (element, key) => element.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const seen = { width: innerWidth, needed: document.documentElement.scrollWidth, heads: all("#heads button").length };
    seen.first = told();
    all("#heads button")[0].click();
    seen.otherHead = told();
    const tokens = all(".sentence:first-child .token");
    tokens[5].dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
    seen.hovered = told();
    tokens[5].focus();
    press(tokens[5], "ArrowRight");
    seen.next = told();
    seen.focused = tokens.indexOf(document.activeElement);
    press(document.activeElement, "Home");
    seen.home = told();
    const head = all("#heads button")[0];
    head.focus();
    press(head, "End");
    seen.checked = all("#heads button").map(button => button.getAttribute("aria-checked"));
    tokens[12].click();
    seen.arcs = all(".words path").length;
    seen.painted = all("canvas").map(canvas => {
        const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        return new Set(pixels).size > 3;
    });
    seen.patched = all("#patched tbody tr").length;
    seen.tables = all("section table").length;
    seen.reachable = all(".sentence").map(box => box.querySelectorAll('.token[tabindex="0"]').length);
    seen.small = all("#heads button").filter(button => button.getBoundingClientRect().height < 32).length;
    seen.page = getComputedStyle(document.body).backgroundColor;
    document.body.dataset.seen = JSON.stringify(seen);
});
</script>"##;

#[test]
fn a_browser_shows_whom_tokens_look_at_by_pointer_and_by_key() {
    let Some(browser) = chromium() else { return };
    let (bench, run) = trained(SENTENCES, "sentences");
    bench.succeed(&["inspect", &run, "--patch", "--pairs", "--ablate", "--examples", "16", "--html", "inside.html"]);
    let page = bench.path("inside.html");
    let plain = show(&browser, &page, 1200, false);
    assert!(plain.console.is_empty(), "{:?}", plain.console);
    assert!(plain.document.contains("aria-checked=\"true\""), "the script has not run");
    let mut backgrounds = vec![];
    for window in [(1200, false), (1200, true), (360, false), (360, true)] {
        let seen = seen(&browser, &page, VISIT, window);
        let at = format!("{window:?}: {seen:#}");
        assert_eq!(seen["width"], window.0, "{at}");
        assert!(seen["needed"].as_u64().unwrap() <= u64::from(window.0), "the page is too wide: {at}");
        // The mean of Mamba's channels, two heads of Mamba-2 and two of attention.
        assert_eq!((&seen["heads"], &seen["small"]), (&json!(5), &json!(0)), "{at}");
        assert_ne!(seen["first"], seen["otherHead"], "{at}");
        let told = |key: &str, sentence: usize| seen[key][sentence].as_str().unwrap().to_owned();
        for sentence in [0, 1] {
            assert!(told("hovered", sentence).contains("(5) takes"), "{at}");
            assert!(told("next", sentence).contains("(6) takes"), "{at}");
            assert!(told("home", sentence).contains("(0) takes"), "{at}");
        }
        assert_eq!(seen["focused"], 6, "{at}");
        assert_eq!(seen["checked"], json!(["false", "false", "false", "false", "true"]), "{at}");
        assert!(seen["arcs"].as_u64().unwrap() > 0, "{at}");
        assert_eq!((&seen["painted"], &seen["reachable"]), (&json!([true, true]), &json!([1, 1])), "{at}");
        assert!(seen["patched"] == 5 && seen["tables"].as_u64().unwrap() >= 4, "{at}");
        backgrounds.push(seen["page"].clone());
    }
    assert_ne!(backgrounds[0], backgrounds[1], "dark is light");
}

#[test]
fn a_page_of_four_layers_of_eight_heads_is_small() {
    let config = SENTENCES
        .replace("\"mamba\", \"mamba2\", \"lstm\", \"attention\"", "\"attention * 4\"")
        .replace("heads = 2", "heads = 8")
        .replace("length = 19", "length = 64");
    let (bench, run) = trained(&config, "sentences");
    let output = bench.heddle(&["inspect", &run, "--html", "inside.html"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let bytes = fs::metadata(bench.path("inside.html")).unwrap().len();
    assert!(bytes < 3_000_000, "{bytes} bytes");
}
