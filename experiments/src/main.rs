//! The `heddle` program.

use std::process::ExitCode;

/// Training allocates and frees the same large tensors at every step; the system's allocator gives them back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    experiments::cli::main(&experiments::Registry::default())
}
