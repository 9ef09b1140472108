//! Progress on a terminal, and silence elsewhere.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over `total` steps on the terminal that standard error is; hidden in a pipe.
pub(crate) fn bar(total: u64, visible: bool) -> ProgressBar {
    let target = match visible && std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} [{elapsed} < {eta}]").expect("the template is fixed");
    ProgressBar::with_draw_target(Some(total), target).with_style(style)
}
