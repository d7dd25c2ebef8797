//! Raw TOML to checked, resolved values.
