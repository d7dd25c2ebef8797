//! The machine's name.

/// The host name as the kernel knows it; bytes that are not UTF-8 are replaced.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_machine_has_a_name() {
        assert_eq!(super::name(), std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    }
}
