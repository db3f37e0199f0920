//! One line that is overwritten, on a terminal only.

use std::io::{IsTerminal, stderr};

/// Shows how far it is.
pub fn progress(text: &str) {
    if stderr().is_terminal() {
        eprint!("\r  {text:<60}");
    }
}

/// Takes the line away.
pub fn progress_end() {
    if stderr().is_terminal() {
        eprint!("\r{:<62}\r", "");
    }
}
