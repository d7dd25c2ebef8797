//! The SQL session.
