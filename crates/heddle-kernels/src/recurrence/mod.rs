//! The time loops of recurrent layers, each inside one kernel, with back-propagation through time inside another.
//!
//! - [`linear_recurrence`]: one real state a channel, whose decay each token chooses.
//! - [`complex_recurrence`]: several complex states a channel, whose decay is fixed.
//! - [`lstm`] and [`gru`]: a state that is multiplied by a matrix from token to token; they share `cell`.

mod cell;
mod diagonal;
mod gru;
mod linear;
mod lstm;

pub use diagonal::{ComplexInput, complex_recurrence, complex_recurrence_by_definition};
pub use gru::{GruInput, gru, gru_by_definition};
pub use linear::{linear_recurrence, linear_recurrence_by_definition};
pub use lstm::{LstmInput, lstm, lstm_by_definition};
