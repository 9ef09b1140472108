//! Links from the page to the runs.

use std::fs;
use std::path::{Component, Path};

/// A link from a page in directory `from` to directory `to`, percent-encoded (RFC 3986).
///
/// Both are resolved first; where no relative way leads from one to the other, the link is the whole path.
pub(crate) fn relative_link(from: &Path, to: &Path) -> String {
    let resolved = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (from, to) = (resolved(from), resolved(to));
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let mut parts: Vec<String> = from.components().skip(shared).map(|_| "..".to_owned()).collect();
    parts.extend(to.components().skip(shared).map(|part| encoded(part)));
    if parts.is_empty() { "./".to_owned() } else { parts.join("/") + "/" }
}

fn encoded(part: Component<'_>) -> String {
    let text = part.as_os_str().to_string_lossy();
    let mut link = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            link.push(char::from(byte));
        } else {
            link.push_str(&format!("%{byte:02X}"));
        }
    }
    link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_climb_to_the_shared_directory_and_are_encoded() {
        let home = tempfile::tempdir().unwrap();
        let (page, run) = (home.path().join("reports/one"), home.path().join("runs/a b:c"));
        fs::create_dir_all(&page).unwrap();
        fs::create_dir_all(&run).unwrap();
        assert_eq!(relative_link(&page, &run), "../../runs/a%20b%3Ac/");
        assert_eq!(relative_link(&page, &page), "./");
    }
}
