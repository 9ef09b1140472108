//! Tests that cross crates or go through the program.

mod harness;

mod faults;
mod generate;
mod layout;
mod mixers;
mod model;
mod pretrained;
mod quickstart;
mod resume;
mod tensorboard;
