//! The protocol between client and agent; std only.
