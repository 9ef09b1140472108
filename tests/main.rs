//! Tests that cross crates or go through the program.

mod harness;

mod book;
mod config;
mod evaluation;
mod faults;
mod generate;
mod inspect;
mod interrupt;
mod layout;
mod learning;
mod mixers;
mod model;
mod pretrained;
mod references;
mod reliability;
mod report;
mod results;
mod resume;
mod runs;
mod slurm;
mod tasks;
mod tensorboard;
mod training;
