//! The machine: its name, and its identity.

use std::fs::File;
use std::io::Read;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::hex;

/// Where systemd, dbus and container images keep the identity of an installed system (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";
/// Walward's application id: what is made with it is of no use to find the machine's id, or what others made of it.
const APPLICATION: [u8; 16] =
    [0x9f, 0x1c, 0x52, 0x3a, 0x6e, 0x84, 0x4d, 0x0b, 0xb7, 0x35, 0x2a, 0xc9, 0x10, 0xe6, 0x7d, 0x48];

/// The host name as the kernel knows it; bytes that are not UTF-8 are replaced.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What tells this machine from another of the same name: made of its id as `sd_id128_get_machine_app_specific(3)` does it, so that the
/// id itself is not shown. `None` where the machine has none, as in most containers.
pub fn machine() -> Option<String> {
    let mut text = String::new();
    File::open(MACHINE_ID).ok()?.take(64).read_to_string(&mut text).ok()?;
    of_machine_id(&text)
}

/// The first half of HMAC-SHA256 over the application's id, with the machine's id as the key. Pure.
fn of_machine_id(text: &str) -> Option<String> {
    let text = text.trim_end();
    let id: [u8; 16] = hex::decode_array(text)?;
    if id == [0; 16] {
        return None;
    }
    let mut made = Hmac::<Sha256>::new_from_slice(&id).ok()?;
    made.update(&APPLICATION);
    made.finalize().into_bytes().get(..16).map(hex::encode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_name() {
        assert_eq!(name(), std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim());
    }

    #[test]
    fn a_machine_is_told_by_its_id_which_is_not_shown() {
        let one = of_machine_id("0123456789abcdef0123456789abcdef\n").unwrap();
        assert_eq!(one.len(), 32);
        assert!(!one.contains("0123456789abcdef"));
        assert_ne!(one, of_machine_id("1123456789abcdef0123456789abcdef\n").unwrap());
        for none in [
            "",
            "uninitialized\n",
            "00000000000000000000000000000000\n",
            "0123456789abcdef",
            "zz23456789abcdef0123456789abcdef",
        ] {
            assert_eq!(of_machine_id(none), None, "{none:?}");
        }
    }
}
