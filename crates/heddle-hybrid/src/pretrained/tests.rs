//! Reading what is damaged.
