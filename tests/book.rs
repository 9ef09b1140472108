//! The book in `docs/`: its chapters, its links, and every command that it tells a reader to type.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::harness::{Bench, files_below, root, text};

/// What stands before a block of commands that no test runs, followed by the reason.
const NOT_RUN: &str = "<!-- not run by the tests:";

/// A page of the book, or the README.
#[derive(Default)]
struct Page {
    path: PathBuf,
    links: Vec<String>,
    anchors: BTreeSet<String>,
    blocks: Vec<Block>,
    /// Commands within the text.
    inline: Vec<String>,
}

/// A fenced block.
struct Block {
    language: String,
    text: String,
    /// Why no test runs it.
    not_run: Option<String>,
}

/// The anchor of a heading, as both mdBook and code hosts make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, '_' | '-') || c.is_whitespace());
    kept.map(|c| if c.is_whitespace() { '-' } else { c.to_ascii_lowercase() }).collect()
}

impl Page {
    fn read(path: &Path) -> Self {
        let source = fs::read_to_string(path).unwrap();
        let mut page = Self { path: path.to_owned(), ..Self::default() };
        let (mut heading, mut html) = (None::<String>, String::new());
        for event in Parser::new_ext(&source, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    page.anchors.extend(heading.take().map(|heading| anchor(&heading)));
                }
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                    let reason = html.trim().strip_prefix(NOT_RUN).and_then(|rest| rest.strip_suffix("-->"));
                    let not_run = reason.map(|reason| reason.trim().to_owned());
                    page.blocks.push(Block { language: language.into_string(), text: String::new(), not_run });
                    html.clear();
                    heading = Some(String::new());
                }
                Event::End(TagEnd::CodeBlock) => {
                    let text = heading.take().expect("a block begins before it ends");
                    page.blocks.last_mut().expect("a block begins before it ends").text = text;
                }
                Event::Html(text) => html.push_str(&text),
                Event::Text(text) => {
                    if let Some(collected) = &mut heading {
                        collected.push_str(&text);
                    }
                }
                Event::Code(text) => {
                    if let Some(collected) = &mut heading {
                        collected.push_str(&text);
                    }
                    page.inline.push(text.split_whitespace().collect::<Vec<_>>().join(" "));
                }
                Event::Start(Tag::HtmlBlock) => html.clear(),
                Event::End(TagEnd::HtmlBlock) => {}
                Event::Start(_) => html.clear(),
                _ => {}
            }
        }
        page
    }

    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }

    fn commands(&self) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(|block| block.language == "sh")
    }
}

/// The README and the pages of the book.
fn pages() -> Vec<Page> {
    let files = files_below(&root().join("docs"), "md");
    files.into_iter().chain([root().join("README.md")]).map(|path| Page::read(&path)).collect()
}

#[test]
fn every_page_is_a_chapter() {
    let summary = root().join("docs/SUMMARY.md");
    let chapters: BTreeSet<String> = Page::read(&summary).links.into_iter().collect();
    let pages = files_below(&root().join("docs"), "md").into_iter().filter(|path| *path != summary);
    let pages: BTreeSet<String> = pages.map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(chapters, pages, "docs/SUMMARY.md and the files beside it");
}

#[test]
fn links_lead_somewhere() {
    let mut broken = vec![];
    for page in pages() {
        for link in page.links.iter().filter(|link| !link.contains("://")) {
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.path.clone() } else { page.path.with_file_name(file) };
            let inside = page.name() == "README.md" || !file.starts_with("..");
            let found = target.exists() && (fragment.is_empty() || Page::read(&target).anchors.contains(fragment));
            if !(inside && found) {
                broken.push(format!("{}: {link}", page.name()));
            }
        }
    }
    assert!(broken.is_empty(), "links without a target, or out of the book: {broken:#?}");
}

#[test]
fn the_page_on_extending_quotes_the_example() {
    let source = fs::read_to_string(root().join("examples/custom-mixer/src/main.rs")).unwrap();
    // A method is quoted without the indentation of its module.
    let flat = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let source = flat(&source);
    let page = Page::read(&root().join("docs/extending.md"));
    let quotes: Vec<_> = page.blocks.iter().filter(|block| block.language.starts_with("rust")).collect();
    assert!(quotes.len() > 4);
    for quote in quotes {
        assert!(source.contains(flat(&quote.text).trim()), "not in the example:\n{}", quote.text);
    }
    let config = fs::read_to_string(root().join("examples/custom-mixer/lightning.toml")).unwrap();
    for line in page.blocks.iter().filter(|block| block.language == "toml").flat_map(|block| block.text.lines()) {
        assert!(config.contains(line), "not in lightning.toml: {line}");
    }
}

/// The options that `heddle VERB --help` knows of the verb that a command names.
fn help(words: &[&str]) -> String {
    let verbs = words.iter().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
    let verbs: Vec<&str> = verbs.take_while(|word| !word.starts_with('-')).copied().collect();
    // What follows a verb may be the name of something, such as a task.
    for taken in (1..=verbs.len().min(2)).rev() {
        let output = Bench::new().command(&verbs[..taken]).arg("--help").output().expect("the program starts");
        if output.status.success() {
            return text(&output.stdout);
        }
    }
    String::new()
}

#[test]
fn options_in_commands_exist() {
    let mut unknown = vec![];
    for page in pages() {
        let lines = page.commands().flat_map(|block| block.text.lines());
        for line in lines.chain(page.inline.iter().map(String::as_str)) {
            let line = line.split(" # ").next().unwrap_or_default();
            let Some(start) = ["heddle ", "cargo run --release -- "].iter().find_map(|start| line.strip_prefix(start))
            else {
                continue;
            };
            let words: Vec<&str> = start.split_whitespace().collect();
            let options: Vec<&str> = words.iter().filter(|word| word.starts_with("--")).copied().collect();
            let help = if options.is_empty() { String::new() } else { help(&words) };
            let known = |option: &&str| help.contains(option.split('=').next().unwrap_or_default());
            let missing = options.iter().filter(|option| !known(option)).map(ToString::to_string);
            let configs = words.iter().filter(|word| word.starts_with("configs/") && word.ends_with(".toml"));
            // Stars and capitals stand for names.
            let named = configs.filter(|path| !path.contains(|c: char| c == '*' || c.is_ascii_uppercase()));
            let absent = named.filter(|path| !root().join(path).exists());
            unknown.extend(
                missing
                    .chain(absent.map(ToString::to_string))
                    .map(|what| format!("{}: {what} in `{line}`", page.name())),
            );
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn commands_run_as_they_are_written() {
    let program = Path::new(env!("CARGO_BIN_EXE_heddle")).parent().unwrap();
    let mut search = OsString::from(program);
    search.push(":");
    search.push(std::env::var_os("PATH").unwrap_or_default());
    let mut blocks = 0;
    for page in pages() {
        let bench = Bench::new();
        for shared in ["configs", "examples"] {
            symlink(root().join(shared), bench.path(shared)).unwrap();
        }
        // A file that begins with its name is on the reader's disk from there on.
        for block in page.blocks.iter().filter(|block| block.language == "toml") {
            let first = block.text.lines().next().unwrap_or_default();
            if let Some(name) = first.strip_prefix("# ").filter(|name| name.ends_with(".toml") && !name.contains(' ')) {
                bench.write(name, &block.text);
            }
        }
        let mut script = String::from("set -euo pipefail\n");
        for block in page.commands() {
            match &block.not_run {
                Some(reason) => assert!(reason.len() > 10, "{}: say why", page.name()),
                None => {
                    script.push_str(&block.text.replace("cargo run --release -- ", "heddle "));
                    blocks += 1;
                }
            }
        }
        let shell =
            Command::new("bash").args(["-c", &script]).env("PATH", &search).current_dir(bench.path("")).output();
        let output = shell.expect("bash starts");
        assert!(output.status.success(), "{}:\n{}", page.name(), text(&output.stderr));
    }
    assert!(blocks > 30, "{blocks} blocks of commands were found");
}

#[test]
fn the_book_builds() {
    // `tests/run.sh` says so where there is none.
    let Some(mdbook) = std::env::var_os("HEDDLE_TEST_MDBOOK") else { return };
    let built = tempfile::tempdir().unwrap();
    let output = Command::new(mdbook)
        .arg("build")
        .arg(root().join("docs"))
        .arg("--dest-dir")
        .arg(built.path())
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(output.status.success() && !said.contains("WARN") && !said.contains("ERROR"), "{said}");
    for chapter in Page::read(&root().join("docs/SUMMARY.md")).links {
        let page = fs::read_to_string(built.path().join(&chapter).with_extension("html")).expect("a page a chapter");
        assert!(page.contains("<h1"), "{chapter}");
    }
}
