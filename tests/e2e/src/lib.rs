//! Tests of the daemon from outside; they are in `tests/`.
