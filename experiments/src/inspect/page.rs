//! The page: one file, its script and numbers included, without any address outside it.

use minijinja::{Environment, Value, context};
use serde_json::json;

use super::ask::By;
use super::sheets;
use super::view::{LayerMaps, View};
use crate::report::{ReportError, sheet_value};

/// Name that makes the template engine escape what it fills in.
const TEMPLATE: &str = "page.html";

/// The page of a view.
pub(crate) fn page(view: &View) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.add_template(TEMPLATE, include_str!("page.html"))?;
    let title = match &view.task {
        Some(task) => format!("Inside {}: {}, example {}", view.model, task.kind, task.example),
        None => format!("Inside {}", view.model),
    };
    let sheet = |(place, (title, sheet)): (usize, &(&str, _))| {
        context! { id => format!("table-{place}"), title => *title, sheet => sheet_value(sheet) }
    };
    let sheets: Value = sheets::all(view).iter().enumerate().map(sheet).collect();
    let page = environment.get_template(TEMPLATE)?.render(context! {
        title,
        task => view.task.as_ref().map(|task| context! {
            kind => task.kind, split => task.split.to_string(), slice => &task.slice, seed => task.seed,
            examples => task.examples,
        }),
        without => missing(view),
        sheets,
        // A `<` would end the script early.
        data => Value::from_safe_string(data(view).to_string().replace('<', "\\u003c")),
        style => Value::from_safe_string(include_str!("page.css").to_owned()),
        script => Value::from_safe_string(include_str!("page.js").to_owned()),
    })?;
    Ok(page)
}

/// The layers without a map, in words.
fn missing(view: &View) -> Vec<String> {
    let shown = |layer: usize| view.maps.iter().any(|maps| maps.layer == layer);
    let layers = view.layers.iter().enumerate().filter(|(layer, _)| !shown(*layer));
    layers.map(|(layer, name)| format!("{layer} ({name})")).collect()
}

/// What the script draws from.
fn data(view: &View) -> serde_json::Value {
    json!({
        "sentences": view.sentences,
        "rows": view.rows,
        "layers": view.maps.iter().map(layer).collect::<Vec<_>>(),
        "names": view.layers,
        "patching": view.patching.as_ref().map(|patching| &patching.turned),
    })
}

fn layer(maps: &LayerMaps) -> serde_json::Value {
    let coded: Vec<Vec<_>> = maps.weights.iter().map(|heads| heads.iter().map(|map| coded(map)).collect()).collect();
    json!({
        "layer": maps.layer,
        "name": maps.name,
        "channels": maps.by == By::Channels,
        "heads": maps.heads,
        "maps": coded,
        "delta": maps.delta,
    })
}

/// A map as two hexadecimal digits a weight, 0 to 255 of the largest; with signs, if any is negative, from −127 to 127.
fn coded(map: &[f32]) -> serde_json::Value {
    let most = map.iter().fold(0.0f32, |most, weight| most.max(weight.abs()));
    let signed = map.iter().any(|weight| *weight < 0.0);
    let steps = if signed { 127.0 } else { 255.0 };
    let code = |weight: &f32| {
        let step = if most > 0.0 { (weight / most * steps).round() as i32 } else { 0 };
        format!("{:02x}", if signed { step + 127 } else { step })
    };
    json!({"most": most, "signed": signed, "hex": map.iter().map(code).collect::<String>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_coded_by_the_largest() {
        let coded = |map: &[f32]| coded(map)["hex"].as_str().unwrap().to_owned();
        assert_eq!(coded(&[0.0, 0.5, 0.25]), "00ff80");
        assert_eq!(coded(&[-2.0, 0.0, 1.0, 2.0]), "007fbffe");
        assert_eq!(coded(&[0.0, 0.0]), "0000");
    }

    #[test]
    fn the_page_names_no_address_and_loads_nothing() {
        for part in [include_str!("page.html"), include_str!("page.css"), include_str!("page.js")] {
            for outside in ["http:", "https:", "src=", "url(", "@import", "<link", "fetch(", "import("] {
                assert!(!part.contains(outside), "the page contains {outside}");
            }
        }
    }
}
