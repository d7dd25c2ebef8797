//! Panics, told where the rest is told. A panic is a fault of the program; what it takes with it is decided where it is caught.

use std::any::Any;
use std::panic::PanicHookInfo;

/// What a panic said.
pub fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without words")
}

/// From now on every panic of the process is a line of its log, with the place, whichever task or thread it ends.
pub fn log_them() {
    std::panic::set_hook(Box::new(log));
}

fn log(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let words = panic.payload_as_str().unwrap_or("a panic without words");
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    tracing::error!(
        place,
        thread,
        panic = words,
        "a part of the program failed; this is a fault of it, please report it"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_panic_said_is_found_in_either_shape() {
        for payload in [Box::new("said") as Box<dyn Any + Send>, Box::new("said".to_owned())] {
            assert_eq!(message(&*payload), "said");
        }
        assert_eq!(message(&7), "a panic without words");
    }
}
