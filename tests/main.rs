//! Tests that cross crates or go through the program.

mod harness;

mod faults;
mod layout;
mod mixers;
mod quickstart;
mod references;
mod resume;
mod tensorboard;
