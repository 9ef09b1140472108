//! The report's page in a browser: light, dark, on a desk and on a phone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::{Bench, SMALL, text};

/// Looks at the page once it is laid out, and leaves what it saw in an attribute.
///
/// The page allows no script, so this goes into a copy that does.
const MEASURE: &str = r#"<script>
addEventListener("load", () => {
    const visible = svg => svg.getBoundingClientRect().width > 0;
    const svgs = [...document.querySelectorAll("figure svg")].filter(visible);
    const clipped = [], overlapping = [];
    for (const svg of svgs) {
        const frame = svg.getBoundingClientRect();
        const texts = [...svg.querySelectorAll("text")].map(text => [text.textContent.trim(), text.getBoundingClientRect()]);
        texts.forEach(([name, box], place) => {
            if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
                clipped.push(name);
            for (const [other, its] of texts.slice(place + 1)) {
                const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
                const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
                if (across > 1 && down > box.height / 3) overlapping.push(`${name} / ${other}`);
            }
        });
    }
    const style = element => getComputedStyle(element);
    document.body.dataset.seen = JSON.stringify({
        width: innerWidth,
        needed: document.documentElement.scrollWidth,
        figures: document.querySelectorAll("figure").length,
        drawn: svgs.length,
        clipped, overlapping,
        page: style(document.body).backgroundColor,
        text: style(svgs[0].querySelector("text")).fill,
        unreachable: [...document.querySelectorAll(".scroll")].filter(box => box.tabIndex < 0).length,
        unnamed: svgs.filter(svg => !svg.getAttribute("aria-label")).length,
    });
});
</script>"#;

/// The browser, or nothing where there is none and none is demanded.
pub(crate) fn chromium() -> Option<PathBuf> {
    let found = std::env::var_os("HEDDLE_TEST_CHROMIUM").map(PathBuf::from);
    let demanded = std::env::var_os("CI").is_some();
    assert!(found.is_some() || !demanded, "HEDDLE_TEST_CHROMIUM is not set: start the tests with tests/run.sh");
    found
}

/// What a window shows of a page: the document and what went to the console.
pub(crate) struct Shown {
    pub(crate) document: String,
    pub(crate) console: Vec<String>,
}

pub(crate) fn show(browser: &Path, page: &Path, width: u32, dark: bool) -> Shown {
    let profile = tempfile::tempdir().unwrap();
    let scheme = if dark { "0" } else { "1" };
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={width},900"))
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg("--dump-dom")
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    Shown {
        document: text(&output.stdout),
        console: log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect(),
    }
}

/// What a script saw of a page in a window of `width` pixels: what it left in the body's `data-seen`.
///
/// The page stands in a frame: a window of a browser cannot be as narrow as a phone.
pub(crate) fn seen(browser: &Path, page: &Path, script: &str, (width, dark): (u32, bool)) -> Value {
    let text = fs::read_to_string(page).unwrap();
    let policy = text.lines().find(|line| line.contains("Content-Security-Policy")).expect("a page states a policy");
    let copy = page.with_file_name("measured.html");
    let tell = "<script>addEventListener('load', () => top.postMessage(document.body.dataset.seen, '*'))</script>";
    fs::write(&copy, text.replace(policy, "").replace("</body>", &format!("{script}{tell}</body>"))).unwrap();
    let frame = page.with_file_name("frame.html");
    let listen = "onmessage = event => { document.body.dataset.seen = event.data; }";
    let holder = format!(
        "<!doctype html><meta name=\"color-scheme\" content=\"light dark\"><body style=\"margin:0\"><script>{listen}</script>\
         <iframe src=\"measured.html\" style=\"border:0;width:{width}px;height:800px\"></iframe></body>"
    );
    fs::write(&frame, holder).unwrap();
    let shown = show(browser, &frame, 1300, dark);
    let (_, rest) = shown.document.split_once("data-seen=\"").expect("the script has run");
    let json = rest.split('"').next().unwrap().replace("&quot;", "\"").replace("&amp;", "&");
    serde_json::from_str(&json.replace("&lt;", "<").replace("&gt;", ">")).unwrap()
}

/// A report on two cases, two seeds and two lengths.
fn reported(bench: &Bench) -> PathBuf {
    let sweep = "
[sweep]
seeds = [0, 1]
[sweep.case.attention]
model.layers = ['attention * 2']
[sweep.case.hybrid]
model.layers = ['mamba', 'attention']
";
    bench.write("run.toml", &format!("{SMALL}{sweep}"));
    bench.succeed(&["sweep", "run.toml", "--set", "train.steps=40"]);
    bench.path("runs/small/report.html")
}

#[test]
fn a_browser_shows_the_report_whole_in_every_window_light_and_dark() {
    let Some(browser) = chromium() else { return };
    let bench = Bench::new();
    let page = reported(&bench);
    let policy =
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">";
    assert!(fs::read_to_string(&page).unwrap().contains(policy), "the page allows more than its own style");
    let plain = show(&browser, &page, 1200, false);
    assert!(plain.console.is_empty(), "{:?}", plain.console);
    let figures = plain.document.matches("<figure").count() as u64;
    // Curves of accuracy and loss; state, speed, attention; length (pairs rise with it), distance, depth, and both.
    assert!(figures >= 9, "{figures} figures");
    let mut pages = Vec::new();
    for (width, dark) in [(1200, false), (1200, true), (360, false), (360, true)] {
        let seen = seen(&browser, &page, MEASURE, (width, dark));
        let window = format!("{width} pixels, dark: {dark}: {seen}");
        assert_eq!(seen["width"], width, "{window}");
        assert!(seen["needed"].as_u64().unwrap() <= u64::from(width), "the page is too wide: {window}");
        // Each figure once: the wide form or the narrow one.
        assert_eq!((seen["figures"].as_u64(), seen["drawn"].as_u64()), (Some(figures), Some(figures)), "{window}");
        for fault in ["clipped", "overlapping"] {
            assert_eq!(seen[fault].as_array().map(Vec::len), Some(0), "{fault}: {window}");
        }
        assert_eq!((&seen["unreachable"], &seen["unnamed"]), (&0.into(), &0.into()), "{window}");
        pages.push((seen["page"].clone(), seen["text"].clone()));
    }
    let (light, dark) = (&pages[0], &pages[1]);
    assert!(light.0 != dark.0 && light.1 != dark.1, "dark is light: {pages:?}");
    assert_eq!((light, dark), (&pages[2], &pages[3]));
}
