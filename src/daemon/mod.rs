//! The agent: wiring only.
