//! Facts for monitors.
