//! Counters in a shared page per process, readable from outside.
