//! Tests that cross crates or go through the program.

mod harness;

mod faults;
mod generate;
mod layout;
mod learning;
mod mixers;
mod model;
mod pretrained;
mod references;
mod report;
mod results;
mod resume;
mod tasks;
mod tensorboard;
