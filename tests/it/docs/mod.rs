//! The documents: their links, their commands, their pieces of configuration and what they list.

mod commands;
mod configuration;
mod examples;
mod links;
mod markdown;
mod reference;
mod shell;
